"""Sums of Gaussians by Fourier series: error bound, tiles, fallback, choice."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.mixtures import (
    fourier,
    fourier_modes,
    gauss_l2,
    gauss_sum,
    gauss_transform,
    modes,
)

MODES = {1: (20,), 2: (20, 14), 3: (14, 18, 16)}


def clouds(n, m, d, dtype="float64"):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (n, d)), rng.uniform(-0.8, 1.1, (m, d))
    a, b = rng.uniform(0.1, 1, n), rng.uniform(-0.3, 1, m)
    return tuple(jnp.asarray(array, dtype) for array in (x, y, a / n, b / m))


# --- known answers -----------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 4, 9])
@pytest.mark.parametrize("extent", [0.0, 0.5, 3.0])
def test_error_bound(num, extent, x64):
    """The kernel between the first point and points all over the extent."""
    x, y = jnp.zeros((1, 1)), jnp.linspace(0, extent, 50)[:, None]
    scale = jnp.asarray(0.7)
    where = fourier.frame(x, y, scale, (num,))
    c = (where.period[0] - extent) / scale
    # what is cut off and what comes back are equal
    np.testing.assert_allclose(num, where.period[0] * c / (math.pi * scale), rtol=1e-12)
    p = fourier.coefficients(x, jnp.ones(1), where, (num,))
    amplitudes = fourier.mode_weights(where, scale, (num,)) * p
    found = fourier.series(y, amplitudes, where, (num,))
    error = np.max(np.abs(found - np.exp(-(np.asarray(y[:, 0]) ** 2) / 0.49)))
    assert error <= 2.6 * np.exp(-(c**2)) + 1e-15
    if extent > 0:
        assert error >= 0.05 * np.exp(-(c**2))  # the bound is not idle


def test_near_clouds_lose_nothing():
    """Of two points nearby, l2 = -2 expm1(-r^2 / s^2), far below rounding of 1."""
    x = jnp.asarray([[0.25, 0.5]], "float32")
    y = x + jnp.asarray([[2.0**-12, 0]], "float32")
    value = gauss_l2(x, y, 0.5, num_modes=8).l2
    np.testing.assert_allclose(value, -2 * np.expm1(-(2.0**-22)), rtol=1e-3)
    assert gauss_l2(x, x, 0.5, num_modes=8).l2 == 0


# --- the same as tiles -------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "dtype", "rtol"),
    [(1, "float64", 2e-12), (3, "float64", 2e-12), (2, "float32", 3e-6)],
)
def test_agrees_with_tiles(d, dtype, rtol, x64, monkeypatch):
    monkeypatch.setattr(fourier, "_CHUNK", 10)  # many chunks, filled up
    monkeypatch.setattr(fourier, "_FEWEST", 8)
    x, y, a, b = clouds(37, 21, d, dtype)
    scale = jnp.asarray(1.1, dtype)

    @functools.partial(jax.jit, static_argnums=5)
    def everything(x, y, scale, a, b, num_modes):
        def value(x, y, scale, a, b):
            sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b, num_modes=num_modes)
            at = gauss_transform(x, y, scale, weights=b, num_modes=num_modes)
            return sums.l2 + sums.pq + jnp.sum(jnp.sin(at)), (sums, at)

        slopes = jax.grad(value, (0, 1, 2, 3, 4), has_aux=True)
        args = x, y, scale, a, b
        return jax.jvp(slopes, args, args) if d == 3 else slopes(*args)

    found = everything(x, y, scale, a, b, MODES[d])
    expected = everything(x, y, scale, a, b, 0)
    assert fourier.is_enough(fourier.extent_of(x, y), scale, MODES[d])
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert one.dtype == dtype
        assert_close(one, other, rtol=10 * rtol, atol=rtol)


def test_finite_differences(x64):
    x, y, a, b = clouds(6, 4, 2)

    def value(x, y, scale, a, b):
        sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b, num_modes=24)
        at = gauss_transform(x, y, scale, weights=b, num_modes=24)
        return sums.l2 + sums.pp * sums.pq + jnp.sum(at**2)

    scale = jnp.asarray(1.1)
    assert fourier.is_enough(fourier.extent_of(x, y), scale, (24, 24))
    check_gradient(jax.jit(value), x, y, 1.1, a, b, rtol=1e-7)


def test_one_point_and_duplicates(x64):
    x = jnp.ones((1, 3))
    for y in (x, jnp.ones((4, 3))):
        value, slope = jax.value_and_grad(
            lambda x, y=y: gauss_sum(x, y, 0.5, num_modes=12)
        )(x)
        np.testing.assert_allclose(value, 1, rtol=1e-12)
        np.testing.assert_allclose(slope, 0, atol=1e-12)


# --- too few modes -----------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often a series was traced."""
    calls = []
    series = fourier.coefficients

    def count(*args):
        calls.append(1)
        return series(*args)

    monkeypatch.setattr(fourier, "coefficients", count)
    jax.clear_caches()
    yield calls
    jax.clear_caches()


def test_too_few_modes_fall_back(counted):
    x, y, _, _ = clouds(30, 20, 3, "float32")
    narrow = gauss_sum(x, y, 0.05, num_modes=0)
    assert_close(gauss_sum(x, y, 0.05, num_modes=6), narrow, atol=0)
    assert not counted  # it could be known beforehand
    traced = jax.jit(functools.partial(gauss_sum, num_modes=6))
    assert_close(traced(x, y, 0.05), narrow, atol=0)
    assert counted
    assert_close(traced(x, y, 5.0), gauss_sum(x, y, 5.0, num_modes=0))
    far = traced(x, y + 100, 5.0)
    assert far == 0  # by tiles; a series could not say so
    many = jax.vmap(traced, (None, None, 0))(x, y, jnp.asarray([0.05, 5.0]))
    assert_close(many, [narrow, traced(x, y, 5.0)], atol=0)
    slope = jax.jit(jax.grad(lambda s: gauss_sum(x, y, s, num_modes=6)))
    assert_close(slope(0.05), jax.grad(lambda s: gauss_sum(x, y, s))(0.05), atol=0)


# --- the choice --------------------------------------------------------------------


def test_modes_of_data():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(20_000, 3)).astype("float32")
    found = fourier_modes(x, x, 0.5)
    assert found == (8, 8, 8)
    assert fourier.is_enough(jnp.ones(3), jnp.float32(0.5), found)
    flat = x * np.asarray([1, 2, 0], "float32")
    assert fourier_modes(flat, flat, 0.5) == (8, 12, 6)
    assert fourier_modes(x, x, 0.5, margin=2) == (12, 12, 12)
    assert fourier_modes(x, x, 0.02) == ()  # tiles are cheaper
    assert fourier_modes(x[:5000], x, 0.5) == found
    assert fourier_modes(x[:100], x[:100], 0.5) == ()
    few = x[:10_000]  # one sum over all pairs is faster by tiles, two are not
    assert fourier_modes(few, few, 0.2) == ()
    assert fourier_modes(few, few, 0.2, num_sums=2) == (12, 12, 12)
    with pytest.raises(ValueError, match="`num_sums`"):
        fourier_modes(few, few, 0.2, num_sums=0)
    wide = rng.uniform(size=(20_000, 4)).astype("float32")
    assert fourier_modes(wide, wide, 0.5) == ()
    assert jax.jit(lambda x: jnp.asarray(len(fourier_modes(x, x, 0.5))))(x) == 0


def test_is_chosen_for_concrete_points(counted, monkeypatch):
    monkeypatch.setattr(modes, "_FEW", 1)
    monkeypatch.setattr(modes, "_PER_POINT", 1)
    monkeypatch.setattr(modes, "_PER_MODE", 0)
    x, y, _, _ = clouds(30, 20, 3, "float32")
    expected = gauss_sum(x, y, 1.0, num_modes=0)
    assert not counted
    assert_close(gauss_sum(x, y, 1.0), expected)
    assert len(counted) == 2
    jax.clear_caches()
    jax.grad(gauss_sum)(x, y, 1.0)  # eager: the values can be read
    assert len(counted) > 2
    num = len(counted)
    jax.jit(lambda x: gauss_sum(x, y, 1.0))(x)
    assert len(counted) == num


@pytest.mark.parametrize("order", ["gradient", "product"])
def test_memory(order):
    points = jax.ShapeDtypeStruct((50_000, 3), "float32")

    def value(x, y):
        return gauss_l2(x, y, 0.2, num_modes=12).l2

    def product(x, y):
        return jax.jvp(lambda x: jax.grad(value)(x, y), (x,), (y,))[1]

    function = {"gradient": jax.grad(value), "product": product}[order]
    compiled = jax.jit(function).lower(points, points).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 64e6


def test_shard_map():
    from jax.sharding import NamedSharding, PartitionSpec as P

    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x, y = (np.asarray(points) for points in clouds(64, 21, 2, "float32")[:2])
    spread = jax.device_put(x, NamedSharding(mesh, P("i")))

    def value(x, y):
        return jax.lax.pmean(gauss_sum(x, y, 0.8, num_modes=14), "i")

    mapped = jax.shard_map(value, mesh=mesh, in_specs=(P("i"), P()), out_specs=P())
    found = jax.jit(jax.grad(mapped, (0, 1)))(spread, y)
    expected = jax.grad(functools.partial(gauss_sum, num_modes=0), (0, 1))(
        jnp.asarray(x), y, 0.8
    )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=1e-6)
