"""What a transport does on its way, step by step or layer by layer."""

from .ricci import (
    RicciCoefficients as RicciCoefficients,
    plot_ricci as plot_ricci,
    ricci_coefficients as ricci_coefficients,
)
from .straightness import path_curvature as path_curvature, step_costs as step_costs
