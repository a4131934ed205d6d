"""The published program's own outputs, where the reference folder is at hand."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transportjax.maps import gaussian_map, monge_kantorovich_linear

REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference" / "transfer"

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference outputs are not beside the checkout"
)


def test_the_linear_map_of_a_picture(x64):
    files = np.load(REFERENCE / "small_f64.npz")
    source, target = (files[k].reshape(-1, 3) for k in ("house", "plain"))
    moved = jax.vmap(monge_kantorovich_linear(source, target))(jnp.asarray(source))
    np.testing.assert_allclose(moved, files["mkl"].reshape(-1, 3), rtol=0, atol=1e-10)


def test_the_linear_map_of_full_moments(x64):
    files = np.load(REFERENCE / "mkl.npz")
    mean_x, cov_x, mean_y, cov_y = (files[k] for k in ("muA", "covA", "muB", "covB"))
    fitted = gaussian_map(mean_x.ravel(), cov_x, mean_y.ravel(), cov_y)
    # the program adds 2.2e-16 to eigenvalues that are as small as 1e-7
    np.testing.assert_allclose(fitted.matrix, files["T"], rtol=0, atol=1e-9)
