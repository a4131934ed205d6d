"""Transport along directions: sets of directions and sliced distances."""

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
from .greedy import greedy_rotations as greedy_rotations
from .profiles import (
    SlicedProfile as SlicedProfile,
    pairwise_sliced_wasserstein as pairwise_sliced_wasserstein,
    profile_distance as profile_distance,
    sliced_profile as sliced_profile,
)
from .sobol import sobol_directions as sobol_directions
from .strategies import (
    AbstractDirections as AbstractDirections,
    FixedDirections as FixedDirections,
    GreedyRotations as GreedyRotations,
    OrthonormalDirections as OrthonormalDirections,
    RandomDirections as RandomDirections,
    SobolDirections as SobolDirections,
    SpiralDirections as SpiralDirections,
)
