"""Mixtures: densities, closed-form inner products and divergences, fitting."""

from .bessel import (
    log_normaliser as log_normaliser,
    mean_resultant as mean_resultant,
)
from .directional_expectation import (
    fit_von_mises_fisher_mixture as fit_von_mises_fisher_mixture,
)
from .expectation import fit_gaussian_mixture as fit_gaussian_mixture
from .gauss_sums import (
    GaussL2 as GaussL2,
    gauss_l2 as gauss_l2,
    gauss_sum as gauss_sum,
    gauss_transform as gauss_transform,
)
from .gaussian import (
    GaussianMixture as GaussianMixture,
    kernel_density as kernel_density,
)
from .kmeans import Clusters as Clusters, kmeans as kmeans
from .l2 import (
    l2_divergence as l2_divergence,
    log_overlap as log_overlap,
    overlap as overlap,
)
from .model_selection import (
    SelectedMixture as SelectedMixture,
    select_gaussian_mixture as select_gaussian_mixture,
)
from .modes import fourier_modes as fourier_modes
from .oriented import OrientedMixture as OrientedMixture
from .pair_sums import log_pair_sum as log_pair_sum, pair_sum as pair_sum
from .paired import paired_divergence as paired_divergence
from .von_mises_fisher import VonMisesFisherMixture as VonMisesFisherMixture
