"""Gaussian warps; the laws of all maps are in test_maps.py."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from transportjax.maps import GaussianWarp


@pytest.fixture
def controls():
    return np.random.default_rng(0).normal(size=(8, 4))


def test_by_numpy(controls, x64):
    rng = np.random.default_rng(1)
    bumps, matrix, shift, x = (rng.normal(size=s) for s in ((8, 4), (4, 4), 4, 4))
    warp = GaussianWarp(controls, matrix, shift, bumps, np.log(0.7))
    squares = np.sum((controls - x) ** 2, axis=1)
    expected = matrix @ x + shift + np.exp(-squares / (2 * 0.7**2)) @ bumps
    assert_close(warp(x), expected)
    assert_close(warp.jacobian(x), jax.jit(jax.jacfwd(warp))(x))
    gram = np.exp(-np.sum((controls[:, None] - controls) ** 2, -1) / (2 * 0.7**2))
    assert_close(warp.bending_energy(), np.trace(bumps.T @ gram @ bumps))


def test_identity(controls):
    warp = GaussianWarp.identity(controls)
    assert_close(warp(controls[0]), controls[0].astype("float32"))
    assert warp.bending_energy() == 0
    assert_close(jnp.exp(GaussianWarp.identity(controls, width=2).log_width), 2.0)


def test_the_width_suits_the_grid():
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * 10
    assert_close(jnp.exp(GaussianWarp.identity(grid).log_width), 15.0)


def test_far_points_move_affinely(controls):
    warp = GaussianWarp.identity(controls)
    warp = eqx.tree_at(lambda w: w.coefficients, warp, warp.controls)
    x = jnp.full(4, 100.0)
    np.testing.assert_array_equal(warp(x), x)
    assert_close(warp.inverse(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be in"),
        ({"controls": np.zeros((3, 3))}, "`controls` must be more than 3 points"),
        ({"controls": np.full((5, 3), np.nan)}, "`controls` must be finite"),
    ],
)
def test_errors(controls, options, message, user_errors):
    with pytest.raises(ValueError, match=message):
        GaussianWarp.identity(**({"controls": controls} | options))
