"""Differentiable transport of distributions in JAX.

Functions on arrays (`transportjax.onedim`, `transportjax.sliced`), maps that are
pytrees (`transportjax.maps`), solvers that return maps (`transportjax.solvers`), and
pictures (`transportjax.apps`). The core is here, flat: `import transportjax as tj`.
"""

__version__ = "0.1.0"

from transportjax.apps import colour_transfer as colour_transfer
from transportjax.maps import (
    AbstractBijection as AbstractBijection,
    Affine as Affine,
    Chain as Chain,
    Invert as Invert,
    ModelFileError as ModelFileError,
    MonotoneGrid as MonotoneGrid,
    MonotoneLinear as MonotoneLinear,
    RationalQuadraticSpline as RationalQuadraticSpline,
    Scan as Scan,
    SlicedMap as SlicedMap,
    gaussian_map as gaussian_map,
    load as load,
    monge_kantorovich_linear as monge_kantorovich_linear,
    save as save,
)
from transportjax.onedim import (
    Plan as Plan,
    argsort as argsort,
    binned_atoms as binned_atoms,
    distribution as distribution,
    histogram as histogram,
    histogram_distribution as histogram_distribution,
    histogram_quantile as histogram_quantile,
    histogram_transfer as histogram_transfer,
    order_statistics as order_statistics,
    plan_1d as plan_1d,
    potentials_1d as potentials_1d,
    quantile as quantile,
    quantile_transfer as quantile_transfer,
    ranks as ranks,
    soft_transfer as soft_transfer,
    sort as sort,
    sort_with_permutation as sort_with_permutation,
    transfer_knots as transfer_knots,
    wasserstein_1d as wasserstein_1d,
)
from transportjax.sliced import (
    AbstractDirections as AbstractDirections,
    FixedDirections as FixedDirections,
    GreedyRotations as GreedyRotations,
    OrthonormalDirections as OrthonormalDirections,
    RandomDirections as RandomDirections,
    SobolDirections as SobolDirections,
    SpiralDirections as SpiralDirections,
    default_directions as default_directions,
    greedy_rotations as greedy_rotations,
    haar_rotation as haar_rotation,
    half_circle_directions as half_circle_directions,
    orthonormal_directions as orthonormal_directions,
    projected_costs as projected_costs,
    random_directions as random_directions,
    sliced_wasserstein as sliced_wasserstein,
    sobol_directions as sobol_directions,
    spiral_directions as spiral_directions,
)
from transportjax.solvers import (
    Solution as Solution,
    gaussianise as gaussianise,
    idt as idt,
)
