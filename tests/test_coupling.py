"""Beyond the laws of tests/test_maps.py: formulas, starts, conditions, precision."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, perturbed

from transportjax import maps as tm

KINDS = [tm.AffineCoupling, tm.SplineCoupling]
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, key, dim, size=0.1, **more):
    layer = kind.create(key, dim, width=8, depth=1, **more)
    return perturbed(layer, jr.fold_in(key, 7), size)


@jax.jit
def both(map, x):
    return jax.vmap(map.transform_and_log_det)(x)


@jax.jit
def image(map, x):
    return map(x)


@jax.jit
def back(map, y):
    return jax.vmap(map.inverse_and_log_det)(y)


@each_kind
@pytest.mark.parametrize("dim", [1, 3])
def test_a_new_layer_is_the_identity(kind, dim, key):
    layer = kind.create(key, dim, width=8, num_conditions=2)
    x = 3 * jr.normal(key, (50, dim))
    y, log_det = both(layer, x)
    assert_close(y, x, 1e-5)
    assert_close(log_det, jnp.zeros(50), 1e-5)


def test_affine_formula_by_hand(key):
    layer = make(tm.AffineCoupling, key, 3, size=0.5)
    x = jnp.array([0.3, -1.2, 2.0])
    raw = np.asarray(layer.conditioner(x[:1]), float)
    a, b = 2 * np.tanh(raw[:2] / 2), raw[2:]
    y, log_det = layer.transform_and_log_det(x)
    assert_close(y, np.concatenate([x[:1], np.exp(a) * x[1:] + b]))
    assert_close(log_det, a.sum())


def test_the_scale_is_bounded(key):
    layer = make(tm.AffineCoupling, key, 2, size=1e3, bound=0.5)
    _, log_det = both(layer, 10 * jr.normal(key, (100, 2)))
    assert float(jnp.max(jnp.abs(log_det))) <= 0.5 + 1e-6


def _spline(layer, x):
    """The spline that a layer of dimension 1 and split 0 should be, by formula."""
    raw = np.asarray(layer.conditioner(jnp.zeros(0)), float)
    k = (raw.size + 1) // 3

    def knots(raw):
        share = 0.01 / k + 0.99 * np.exp(raw) / np.exp(raw).sum()
        return np.concatenate([[-4], -4 + 8 * np.cumsum(share)])

    inner = 0.01 + np.log1p(np.exp(raw[2 * k :] + np.log(np.expm1(0.99))))
    slopes = np.concatenate([[1], inner, [1]])
    spline = tm.RationalQuadraticSpline.from_knots(
        knots(raw[:k]), knots(raw[k : 2 * k]), slopes
    )
    return spline.transform_and_log_det(x[0])


@pytest.mark.parametrize("num_bins", [2, 20])
def test_a_spline_is_the_free_spline_with_these_knots(num_bins, key, x64):
    layer = make(tm.SplineCoupling, key, 1, size=0.5, num_bins=num_bins)
    x = jnp.linspace(-6, 6, 101)[:, None]
    y, log_det = both(layer, x)
    expected, expected_log_det = jax.vmap(lambda x: _spline(layer, x))(x)
    assert_close(y[:, 0], expected, 1e-8)
    assert_close(log_det, expected_log_det, 1e-8)


def test_the_spline_is_smooth_at_the_box_and_the_identity_beyond(key, x64):
    layer = make(tm.SplineCoupling, key, 1, size=0.5)
    ends = jnp.array([[-4.0], [4.0]])
    for step in (0, 1e-9, -1e-9):
        y, log_det = both(layer, ends + step)
        assert_close(y, ends, atol=3e-9)
        assert_close(log_det, jnp.zeros(2), atol=1e-6)
    far = jnp.array([[-4.5], [1e6]])
    np.testing.assert_array_equal(both(layer, far)[0], far)
    slope = jax.jit(jax.grad(lambda m, x: m(x)[0] + m.inverse(x)[0], (0, 1)))
    for event in (jnp.array([4.0]), jnp.array([1e30]), jnp.array([-4.0])):
        gradient = slope(layer, event)
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))


@each_kind
@pytest.mark.parametrize("split", [0, 1, 3])
def test_the_first_coordinates_stay(kind, split, key):
    layer = make(kind, key, 4, split=split)
    x = jr.normal(key, (20, 4))
    y, _ = both(layer, x)
    np.testing.assert_array_equal(y[:, :split], x[:, :split])
    assert float(jnp.min(jnp.max(jnp.abs(y - x)[:, split:], axis=0))) > 1e-3


@each_kind
def test_many_layers_keep_their_digits_in_float32(kind, key):
    layers = jax.vmap(lambda key: tm.Chain((make(kind, key, 4), tm.Permutation(order))))
    order = jnp.array([2, 3, 0, 1])
    scan = tm.Scan(layers(jr.split(key, 8)))
    x = jr.normal(key, (100, 4))
    y, log_det = both(scan, x)
    assert float(jnp.mean(jnp.abs(y - x[:, :]))) > 0.1
    z, inverse_log_det = back(scan, y)
    assert_close(z, x, atol=2e-3)
    assert_close(inverse_log_det, -log_det, atol=2e-3)


@each_kind
def test_conditions(kind, key, x64):
    layers = tm.Scan(
        jax.vmap(lambda key: make(kind, key, 2, num_conditions=3))(jr.split(key, 2))
    )
    x, c = jr.normal(key, (5, 2)), jr.normal(key, (5, 3))
    apply = jax.jit(jax.vmap(lambda x, c: tm.given(layers, c)(x)))
    one = tm.given(layers, c[1])
    assert one.layers.condition.shape == (2, 3)
    assert_close(apply(x, c)[1], image(one, x[1]))
    assert float(jnp.max(jnp.abs(apply(x, c) - apply(x, c + 1)))) > 1e-3
    whole = tm.given(layers, np.array([1, 0, 2]))
    assert_close(image(whole, x[0]), apply(x, c.at[0].set(jnp.array([1.0, 0, 2])))[0])
    whole = {"inside": (layers, jnp.zeros(2)), "not": jnp.ones(3)}
    inside = tm.given(whole, c[1])["inside"][0]
    assert_close(inside.layers.condition, one.layers.condition)
    step = 1e-6
    slope = jax.jit(jax.grad(lambda c: jnp.sum(tm.given(layers, c)(x[0]))))(c[0])
    moved = [jnp.sum(image(tm.given(layers, c[0] + s), x[0])) for s in (step, -step)]
    assert_close(jnp.sum(slope), (moved[0] - moved[1]) / (2 * step), 1e-6)


def test_training_leaves_constants_alone():
    coupling = tm.AffineCoupling.create(jr.key(0), 2, num_conditions=1, width=4)
    spline = jax.vmap(lambda low: tm.RationalQuadraticSpline.identity(3, low=low))
    sliced = tm.SlicedMap(jnp.eye(2), spline(jnp.array([-1.0, -2.0])))
    turn = tm.Cayley.around(jnp.eye(2))
    bounds = tm.SupportMap(jnp.zeros(2), jnp.ones(2))
    order = tm.Permutation(jnp.arange(2))
    chain = tm.Chain((bounds, order, turn, sliced, tm.Invert(coupling)))
    marks = tm.trainable_leaves({"map": chain, "activation": jnp.tanh, "size": 3})
    assert not marks["activation"]
    assert not marks["size"]
    parts = marks["map"].maps
    assert not any((parts[0].low, parts[0].high, parts[1].order, parts[2].base))
    assert not any((parts[3].directions, parts[4].map.condition))
    assert all(jax.tree.leaves((parts[2].skew, parts[3].marginals)))
    assert all(jax.tree.leaves(parts[4].map.conditioner))


def test_bad_input_is_named(user_errors, key):
    for kind in KINDS:
        for match, dim, more in [
            ("`dim`", 0, {}),
            ("`split`.*dimension 1", 1, {"split": 1}),
            ("`split`", 3, {"split": 3}),
            ("`split`", 3, {"split": -1}),
            ("`num_conditions`", 3, {"num_conditions": -1}),
            ("`width`", 3, {"width": 0}),
            ("`depth`", 3, {"depth": 0}),
        ]:
            with pytest.raises(ValueError, match=match):
                kind.create(key, dim, **more)
    with pytest.raises(ValueError, match="`bound`"):
        tm.AffineCoupling.create(key, 2, bound=0.0)
    with pytest.raises(ValueError, match="`interval`"):
        tm.SplineCoupling.create(key, 2, interval=-1)
    with pytest.raises(ValueError, match="`num_bins`"):
        tm.SplineCoupling.create(key, 2, num_bins=1)
    layer = tm.AffineCoupling.create(key, 2, num_conditions=2, width=4)
    with pytest.raises(ValueError, match=r"`condition` must be one .*\(2,\).*vmap"):
        tm.given(layer, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="`map` takes no condition"):
        tm.given(tm.AffineCoupling.create(key, 2, width=4), jnp.ones(2))
