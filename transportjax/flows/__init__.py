"""Learnable laws: a density and a sampler, trained on samples."""

from .constructors import (
    coupling_flow as coupling_flow,
    gaussianisation_flow as gaussianisation_flow,
    spline_flow as spline_flow,
)
from .couplings import (
    sinkhorn_coupling as sinkhorn_coupling,
    sliced_coupling as sliced_coupling,
)
from .drifting import (
    drift_loss as drift_loss,
    l2_drift as l2_drift,
    score_drift as score_drift,
    sliced_drift as sliced_drift,
    two_sided_drift as two_sided_drift,
)
from .fit import fit_flow as fit_flow
from .flow import Flow as Flow, normal_log_prob as normal_log_prob
from .likelihood import maximum_likelihood as maximum_likelihood
from .paths import (
    MatchingBatch as MatchingBatch,
    bridge_path as bridge_path,
    gaussian_path as gaussian_path,
    ideal_field as ideal_field,
    linear_path as linear_path,
    matching_batch as matching_batch,
    matching_loss as matching_loss,
    trigonometric_path as trigonometric_path,
)
