"""Transport along directions: sets of directions and sliced distances."""

from .averaging import (
    averaged_profile as averaged_profile,
    gaussian_start as gaussian_start,
)
from .barycentre import (
    SlicedBarycentre as SlicedBarycentre,
    sliced_barycentre as sliced_barycentre,
)
from .control_variates import (
    SlicedEstimate as SlicedEstimate,
    Variate as Variate,
    controlled_mean as controlled_mean,
    gaussian_variate as gaussian_variate,
    lower_variate as lower_variate,
    upper_variate as upper_variate,
)
from .directions import (
    default_directions as default_directions,
    haar_rotation as haar_rotation,
    half_circle_directions as half_circle_directions,
    orthonormal_directions as orthonormal_directions,
    random_directions as random_directions,
    spiral_directions as spiral_directions,
)
from .distance import (
    projected_costs as projected_costs,
    sliced_wasserstein as sliced_wasserstein,
)
from .generalised import (
    CircularSlices as CircularSlices,
    PolynomialSlices as PolynomialSlices,
    generalised_sliced_wasserstein as generalised_sliced_wasserstein,
)
from .generalised_plans import (
    smoothed_sliced_plan_cost as smoothed_sliced_plan_cost,
)
from .greedy import greedy_rotations as greedy_rotations
from .independent import IndependentDirections as IndependentDirections
from .max_sliced import (
    MaxSlicedDirections as MaxSlicedDirections,
    max_sliced_wasserstein as max_sliced_wasserstein,
)
from .patches import PatchDirections as PatchDirections
from .planes import (
    circle_projections as circle_projections,
    random_planes as random_planes,
    sphere_planes as sphere_planes,
)
from .plans import (
    SlicedPlan as SlicedPlan,
    barycentric_projection as barycentric_projection,
    expected_sliced_plan as expected_sliced_plan,
    min_sliced_plan as min_sliced_plan,
    plan_cost as plan_cost,
    sliced_plans as sliced_plans,
    squared_euclidean as squared_euclidean,
)
from .principal import PrincipalDirections as PrincipalDirections
from .profiles import (
    SlicedProfile as SlicedProfile,
    pairwise_sliced_wasserstein as pairwise_sliced_wasserstein,
    profile_distance as profile_distance,
    sliced_profile as sliced_profile,
)
from .radon import (
    half_circle_angles as half_circle_angles,
    inverse_radon as inverse_radon,
    radon_barycentre as radon_barycentre,
    radon_transform as radon_transform,
)
from .reservoir import (
    ReservoirDirections as ReservoirDirections,
    ReservoirState as ReservoirState,
    reservoir_init as reservoir_init,
    reservoir_loss as reservoir_loss,
)
from .sobol import sobol_directions as sobol_directions
from .spherical import (
    linear_spherical_sliced as linear_spherical_sliced,
    spherical_sliced_uniform as spherical_sliced_uniform,
    spherical_sliced_wasserstein as spherical_sliced_wasserstein,
)
from .strategies import (
    AbstractDirections as AbstractDirections,
    FixedDirections as FixedDirections,
    GreedyRotations as GreedyRotations,
    OrthonormalDirections as OrthonormalDirections,
    RandomDirections as RandomDirections,
    SobolDirections as SobolDirections,
    SpiralDirections as SpiralDirections,
)
from .unbalanced import (
    sliced_unbalanced_wasserstein as sliced_unbalanced_wasserstein,
    unbalanced_sliced_wasserstein as unbalanced_sliced_wasserstein,
)
from .variance import (
    energy_weights as energy_weights,
    harmonic_mean_cost as harmonic_mean_cost,
    sliced_wasserstein_estimate as sliced_wasserstein_estimate,
)
