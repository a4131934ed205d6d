import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, images_and_log_dets

from transportjax.maps import MonotoneLinear, RationalQuadraticSpline, SlicedMap


def rows(p, d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, p)))[0].T


def curves(p, k=9, seed=1):
    knots = np.sort(np.random.default_rng(seed).normal(size=(2, p, k)), axis=-1)
    return jax.jit(jax.vmap(MonotoneLinear.from_knots))(*knots)


def test_the_formula(x64):
    directions, marginals = rows(2, 3), curves(2)
    layer = SlicedMap(directions, marginals)
    x = np.random.default_rng(2).normal(size=(20, 3))
    projected = x @ directions.T
    curves_at = jax.vmap(lambda t, s: t.transform_and_log_det(s))
    moved, log_slopes = jax.jit(jax.vmap(lambda z: curves_at(marginals, z)))(projected)
    value, log_det = images_and_log_dets(layer, x)
    assert_close(value, x + (moved - projected) @ directions)
    assert_close(log_det, np.sum(log_slopes, axis=1))


def test_marginals_move_and_the_complement_stays():
    directions, marginals = rows(2, 4), curves(2)
    layer = SlicedMap(directions, marginals)
    x = np.random.default_rng(2).normal(size=4).astype("float32")
    expected = [
        jax.tree.map(lambda leaf, i=i: leaf[i], marginals)(z)
        for i, z in enumerate(directions @ x)
    ]
    assert_close(directions @ layer(x), expected)
    rest = np.eye(4) - directions.T @ directions
    assert_close(rest @ layer(x), rest @ x)


def test_identity_marginals_change_almost_nothing():
    knots = np.sort(np.random.default_rng(0).normal(size=(3, 9)), axis=1)
    layer = SlicedMap(
        rows(3, 3), jax.jit(jax.vmap(MonotoneLinear.from_knots))(knots, knots)
    )
    x = np.random.default_rng(1).normal(size=(50, 3)).astype("float32")
    value, log_det = images_and_log_dets(layer, x)
    assert np.max(np.abs(value - x)) < 2e-6
    np.testing.assert_array_equal(log_det, 0)


def test_one_dimension_is_its_marginal():
    marginal = curves(1)
    layer = SlicedMap(np.eye(1), marginal)
    curve = jax.tree.map(lambda leaf: leaf[0], marginal)
    assert_close(layer(np.array([0.3])), [curve(0.3)])


@pytest.mark.parametrize(
    ("num", "products"),
    [(3, 1), (5, 2)],  # of few rows, one is spelled out
)
def test_products_are_exact_on_every_device(num, products):
    layer = SlicedMap(rows(num, num), curves(num))
    for method in (layer.transform_and_log_det, layer.inverse_and_log_det):
        text = str(jax.make_jaxpr(method)(jnp.ones(num)))
        highest = "precision=(Precision.HIGHEST, Precision.HIGHEST)"
        assert text.count(highest) == text.count("dot_general[") == products


def test_errors(user_errors):
    with pytest.raises(ValueError, match="at most as many rows as columns"):
        SlicedMap(np.ones((3, 2)) / np.sqrt(2), curves(3))
    with pytest.raises(ValueError, match="`directions` must have rows of norm 1"):
        SlicedMap(2 * np.eye(2), curves(2))
    with pytest.raises(ValueError, match="`directions` must have orthonormal rows"):
        SlicedMap(np.ones((2, 2)) / np.sqrt(2), curves(2))
    with pytest.raises(ValueError, match=r"`directions` must have shape \(p, d\)"):
        SlicedMap(np.ones(2), curves(2))
    with pytest.raises(ValueError, match="`marginals` must have a leading axis of le"):
        SlicedMap(np.eye(2), curves(3))
    with pytest.raises(ValueError, match="`marginals` must have a leading axis of le"):
        SlicedMap(np.eye(2), RationalQuadraticSpline.identity(4))
    with pytest.raises(ValueError, match="`marginals` must be a map"):
        SlicedMap(np.eye(2), jnp.sin)
