import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient, images

from transportjax.maps import MonotoneLinear, RationalQuadraticSpline, SlicedMap
from transportjax.maps.sliced_step import SlicedStep


def rows(p, d, seed=0):
    return np.random.default_rng(seed).normal(size=(p, d))


def curves(p, k=9, seed=1):
    knots = np.sort(np.random.default_rng(seed).normal(size=(2, p, k)), axis=-1)
    return jax.jit(jax.vmap(MonotoneLinear.from_knots))(*knots)


@jax.jit
def forward(layer, x):
    return jax.vmap(layer.transform_and_log_det)(x)


@jax.jit
def backward(layer, y):
    return jax.vmap(layer.inverse_and_log_det)(y)


@jax.jit
def jacobians(layer, x):
    return jax.vmap(jax.jacfwd(layer))(x)


def test_the_move_is_the_best_compromise_of_the_wishes(x64):
    layer = SlicedStep(rows(5, 3), curves(5))
    x = np.random.default_rng(2).normal(size=(20, 3))
    z = x @ layer.directions.T
    moved = jax.vmap(lambda z: jax.vmap(lambda t, s: t(s))(layer.marginals, z))(z)
    best = np.linalg.lstsq(layer.directions, (moved - z).T)[0].T
    assert_close(images(layer, x), x + best)


@pytest.mark.parametrize(("p", "d"), [(3, 3), (2, 4)])
def test_orthonormal_rows_make_it_a_sliced_map(p, d, x64):
    axes = np.linalg.qr(rows(d, p))[0].T
    layer, expected = SlicedStep(axes, curves(p)), SlicedMap(axes, curves(p))
    x = np.random.default_rng(2).normal(size=(20, d))
    for function in (forward, backward):
        for mine, its in zip(function(layer, x), function(expected, x), strict=True):
            assert_close(mine, its)


@pytest.mark.parametrize(
    "directions",
    [
        rows(6, 3),
        rows(6, 2) @ rows(2, 3),  # in a plane
        rows(6, 3) * np.array([[0.0], [3.0], [1e-2], [1.0], [1.0], [1.0]]),
        np.repeat(np.eye(3), 2, axis=0),
    ],
    ids=["many", "plane", "norms", "repeated"],
)
def test_any_rows_make_a_bijection(directions, x64):
    # slopes from 1e-3 to 1e3, and jumps: far from what a smooth solver expects
    knots = np.sort(np.random.default_rng(0).normal(size=(2, len(directions), 40)))
    knots[:, :, 10:20] = knots[:, :, 10:11]
    marginals = jax.jit(jax.vmap(MonotoneLinear.from_knots))(*knots)
    layer = SlicedStep(directions, marginals)
    x = 2 * np.random.default_rng(2).normal(size=(200, 3))
    y, log_det = forward(layer, x)
    z, inverse_log_det = backward(layer, x)
    assert_close(forward(layer, z)[0], x, atol=1e-7)
    assert_close(inverse_log_det, -forward(layer, z)[1], atol=1e-7)
    assert_close(forward(layer, backward(layer, y)[0])[0], y, atol=1e-7)
    jacobian = np.linalg.slogdet(jacobians(layer, x))
    assert_close(log_det, jacobian.logabsdet, atol=1e-6)
    assert np.all(jacobian.sign > 0)
    if np.linalg.matrix_rank(directions) < 3:  # what no row sees stays
        normal = np.linalg.svd(directions)[2][2]
        assert_close(y @ normal, x @ normal)


def test_it_is_monotone_in_the_metric_of_the_rows(x64):
    layer = SlicedStep(rows(6, 3), curves(6))
    x, y = np.random.default_rng(2).normal(size=(2, 100, 3))
    move = images(layer, x) - images(layer, y)
    metric = layer.directions.T @ layer.directions
    assert np.all(np.einsum("ni,ij,nj->n", x - y, metric, move) > 0)


def test_single_precision_solves_to_its_rounding():
    layer = SlicedStep(rows(8, 3), curves(8, k=100))
    x = np.random.default_rng(2).normal(size=(300, 3)).astype("float32")
    assert_close(forward(layer, backward(layer, x)[0])[0], x, atol=2e-4)


def test_rows_may_be_trained(x64):
    knots = np.linspace(-2, 2, 6)
    slopes = np.exp(0.3 * rows(5, 6))
    marginals = jax.jit(jax.vmap(RationalQuadraticSpline.from_knots))(
        jnp.tile(knots, (5, 1)), jnp.sort(rows(5, 6, 3)), slopes
    )
    x = np.random.default_rng(2).normal(size=(10, 3))

    def loss(directions, x):
        layer = SlicedStep(directions, marginals)
        y, log_det = jax.vmap(layer.transform_and_log_det)(x)
        z, inverse_log_det = jax.vmap(layer.inverse_and_log_det)(x)
        values = jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(z))
        return values + jnp.sum(log_det) + 2 * jnp.sum(inverse_log_det)

    check_gradient(jax.jit(loss), rows(5, 3), x, eps=1e-7, rtol=1e-5)


def test_errors(user_errors):
    with pytest.raises(ValueError, match=r"`directions` must have shape \(p, d\)"):
        SlicedStep(np.ones(2), curves(2))
    with pytest.raises(ValueError, match="linearly independent rows.* rank 1"):
        SlicedStep(np.ones((2, 3)), curves(2))
    with pytest.raises(ValueError, match="must be finite"):
        SlicedStep(np.full((2, 3), np.nan), curves(2))
    with pytest.raises(ValueError, match="`marginals` must have a leading axis of le"):
        SlicedStep(rows(4, 2), curves(3))
    with pytest.raises(ValueError, match="`marginals` must be a map"):
        SlicedStep(rows(4, 2), jnp.sin)
