"""Transport on the line and the circle: sorting, quantiles, transfer, distances."""

from .binning import binned_atoms as binned_atoms
from .circle import (
    circle_coordinates as circle_coordinates,
    wasserstein_circle as wasserstein_circle,
)
from .circle_linear import (
    linear_circular_embedding as linear_circular_embedding,
    linear_circular_wasserstein as linear_circular_wasserstein,
    wasserstein_circle_uniform as wasserstein_circle_uniform,
)
from .equalising import uniform_transfer as uniform_transfer
from .histograms import (
    histogram as histogram,
    histogram_distribution as histogram_distribution,
    histogram_quantile as histogram_quantile,
)
from .partial import (
    PartialTransport as PartialTransport,
    partial_wasserstein_1d as partial_wasserstein_1d,
)
from .plan import Plan as Plan
from .quantiles import distribution as distribution, quantile as quantile
from .selection import order_statistics as order_statistics
from .soft import soft_transfer as soft_transfer
from .sorting import (
    argsort as argsort,
    ranks as ranks,
    sort as sort,
    sort_with_permutation as sort_with_permutation,
)
from .transfer import (
    frcs_marginal_transfer as frcs_marginal_transfer,
    histogram_transfer as histogram_transfer,
    quantile_transfer as quantile_transfer,
    transfer_knots as transfer_knots,
)
from .unbalanced import (
    UnbalancedTransport as UnbalancedTransport,
    unbalanced_wasserstein_1d as unbalanced_wasserstein_1d,
)
from .wasserstein import (
    plan_1d as plan_1d,
    potentials_1d as potentials_1d,
    wasserstein_1d as wasserstein_1d,
)
