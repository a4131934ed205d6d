"""Is it there yet? Distances of samples, calibration, and what each layer does."""

from .calibration import Calibration as Calibration, calibration as calibration
from .divergences import (
    energy_distance as energy_distance,
    mmd as mmd,
    nearest_neighbour_kl as nearest_neighbour_kl,
)
from .information import (
    TotalCorrelation as TotalCorrelation,
    negentropy as negentropy,
    spacing_entropy as spacing_entropy,
    total_correlation as total_correlation,
)
from .layers import layer_outputs as layer_outputs
from .plots import (
    plot_calibration as plot_calibration,
    plot_layers as plot_layers,
    plot_negentropy as plot_negentropy,
    plot_ricci as plot_ricci,
    plot_two_sample_test as plot_two_sample_test,
)
from .ricci import (
    RicciCoefficients as RicciCoefficients,
    ricci_coefficients as ricci_coefficients,
)
from .straightness import (
    path_curvature as path_curvature,
    step_costs as step_costs,
    straightness as straightness,
)
from .two_sample import (
    TwoSampleTest as TwoSampleTest,
    two_sample_test as two_sample_test,
)
