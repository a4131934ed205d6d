import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import erf, ndtri

from transportjax.diagnostics import (
    divergences,
    energy_distance,
    mmd,
    nearest_neighbour_kl,
)


def clouds(n=40, m=30, d=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), 0.5 + 1.5 * rng.normal(size=(m, d))


def mean(kernel, x, y):
    return (
        kernel(cdist(x, x)).mean()
        + kernel(cdist(y, y)).mean()
        - 2 * kernel(cdist(x, y)).mean()
    )


@pytest.mark.parametrize("d", [1, 3, 20])
def test_all_pairs(d, x64, monkeypatch):
    x, y = clouds(d=d)
    assert_close(energy_distance(x, y), -mean(lambda r: r, x, y))
    expected = mean(lambda r: np.exp(-(r**2) / 2.42), x, y)
    assert_close(mmd(x, y, bandwidth=1.1), expected)
    jax.clear_caches()
    monkeypatch.setattr(divergences, "_BLOCK", 64)  # blocks of one and two points
    assert_close(energy_distance(x, y), -mean(lambda r: r, x, y))


def test_the_chosen_bandwidth_is_the_median_distance(x64):
    x, y = clouds()
    both = np.concatenate([x, y])
    distances = cdist(both, both)[np.triu_indices(70, 1)]
    median = float(np.median(distances))
    near = np.sort(distances)[len(distances) // 2 - 2 : len(distances) // 2 + 2]
    chosen = float(divergences.median_distance(jnp.asarray(x), jnp.asarray(y)))
    assert near[0] <= chosen <= near[-1]
    assert_close(mmd(x, y), mmd(x, y, bandwidth=median), rtol=1e-2)
    assert mmd(np.ones((4, 2)), np.ones((3, 2))) == 0
    # many ties do not shrink it
    tied = np.concatenate([np.zeros((30, 2)), [[3.0, 4.0]]])
    assert_close(divergences.median_distance(jnp.asarray(tied), jnp.asarray(tied)), 5)


def test_neighbours_by_a_tree(x64):
    x, y = clouds(200, 150)
    for k in (1, 4):
        own = cKDTree(x).query(x, [k + 1])[0][:, 0]
        other = cKDTree(y).query(x, [k])[0][:, 0]
        expected = 3 * np.mean(np.log(other / own)) + np.log(150 / 199)
        assert_close(nearest_neighbour_kl(x, y, num_neighbours=k), expected)


def test_ranks_of_tied_values():
    values = jnp.array([3.0, 1.0, 1.0, 1.0, 2.0, 5.0])
    found = [float(divergences._smallest(values, rank)) for rank in range(1, 7)]
    assert found == [1, 1, 1, 2, 3, 5]


def test_kullback_leibler_of_gaussians(key):
    # log det of the covariances, trace and shift, in closed form
    x, y = jr.normal(key, (2, 6000, 2))
    y = 1 + 2 * y
    expected = (2 / 4 + 2 / 4 - 2 + 2 * np.log(4)) / 2
    np.testing.assert_allclose(nearest_neighbour_kl(x, y), expected, atol=0.06)


def test_energy_distance_of_gaussians(x64):
    # E|N(a, 2)| in closed form, for unit Gaussians a apart
    x = ndtri((np.arange(2000)[:, None] + 0.5) / 2000)
    expected = 4 / np.pi**0.5 * (np.exp(-1 / 4) - 1) + 2 * erf(1 / 2)
    np.testing.assert_allclose(energy_distance(x, x + 1), expected, atol=2e-3)


@pytest.mark.parametrize("function", [energy_distance, mmd, nearest_neighbour_kl])
def test_laws(function, x64):
    x, y = clouds(40, 40)
    value = function(x, y)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert_close(function(x @ turn + 5, y @ turn + 5), value)
    assert_close(function(x[::-1], y[::-1]), value, rtol=1e-6)
    scaled = function(3 * x, 3 * y)
    assert_close(scaled, 3 * value if function is energy_distance else value)
    if function is not nearest_neighbour_kl:
        assert_close(function(y, x), value)
        assert_close(function(x, x), 0)
    assert_close(jax.jit(function)(x, y), value)


@pytest.mark.parametrize("function", [energy_distance, mmd, nearest_neighbour_kl])
@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_any_unit_in_float32(function, scale):
    """Squares of these distances are no numbers of the dtype."""
    x, y = (jnp.asarray(points, "float32") for points in clouds())
    unit = scale if function is energy_distance else 1
    assert_close(function(x * scale, y * scale) / unit, function(x, y), rtol=1e-4)
    slopes = jax.grad(function)
    found = slopes(x * scale, y * scale) * (scale / unit)
    assert_close(found, slopes(x, y), rtol=1e-3, atol=1e-5)


def test_dtype_and_repetition():
    x, y = (jnp.asarray(points, "float32") for points in clouds())
    value = energy_distance(x, y)
    assert value.dtype == jnp.float32
    assert_close(energy_distance(jnp.concatenate([x, x]), y), value)
    half = energy_distance(x.astype("float16"), y.astype("float16"))
    assert half.dtype == jnp.float16
    assert_close(half, value, rtol=1e-2)
    whole = energy_distance(np.arange(4)[:, None], np.arange(2, 6)[:, None])
    gaps = np.abs(np.arange(4)[:, None] - np.arange(4)[None])
    across = np.abs(np.arange(4)[:, None] - np.arange(2, 6)[None])
    assert_close(whole, 2 * across.mean() - 2 * gaps.mean())


def test_gradients(x64):
    x, y = clouds(12, 12, 2)
    check_gradient(energy_distance, x, y)
    check_gradient(lambda x, y: mmd(x, y, bandwidth=0.8), x, y)
    check_gradient(nearest_neighbour_kl, x, y)
    slope = jax.grad(energy_distance)(jnp.asarray(x), jnp.asarray(x))
    assert np.all(np.isfinite(slope))


def test_bad_input(user_errors):
    x, y = clouds()
    for function in (energy_distance, mmd, nearest_neighbour_kl):
        with pytest.raises(ValueError, match="`y` must have 3 columns"):
            function(x, y[:, :2])
        with pytest.raises(ValueError, match="`x` must be finite"):
            function(x * np.nan, y)
    for bandwidth in (0, np.inf):
        with pytest.raises(ValueError, match="`bandwidth` must be in"):
            mmd(x, y, bandwidth=bandwidth)
    with pytest.raises(ValueError, match="`num_neighbours` must be below"):
        nearest_neighbour_kl(x, y, num_neighbours=30)
    with pytest.raises(ValueError, match="`num_neighbours` must be an integer >= 1"):
        nearest_neighbour_kl(x, y, num_neighbours=0)
