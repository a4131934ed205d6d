import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from helpers import assert_close, check_gradient

from transportjax.maps.lanes import lanes

W, X, Y = (
    jr.normal(jr.key(i), shape) for i, shape in enumerate([(3, 2), (5, 2), (5,)])
)


def _columns(w, x, y):
    return {"z": jnp.tanh(w @ x) * y[None, :], "sum": jnp.sum(x, axis=0)}


def one(w, x, y):
    return lanes(_columns, w, x, y)


def plain(w, x, y):
    return {"z": jnp.tanh(w @ x) * y, "sum": jnp.sum(x)}


def both(transform):
    return transform(one), transform(plain)


@pytest.mark.parametrize(
    "axes", [(None, 0, 0), (None, 0, None), (None, None, 0), (0, None, 0), (0, 0, 0)]
)
def test_vmap_over_events_and_over_what_they_share(axes):
    whole = jnp.stack([W * (i + 1) for i in range(5)]), X, Y
    arrays = [
        a if axis == 0 else (W, X[0], Y[0])[i]
        for i, (a, axis) in enumerate(zip(whole, axes, strict=True))
    ]
    mine, expected = both(lambda f: jax.jit(jax.vmap(f, axes))(*arrays))
    jax.tree.map(assert_close, mine, expected)


def test_the_batch_is_last_in_the_program():
    text = str(jax.make_jaxpr(jax.vmap(one, (None, 0, 0)))(W, X, Y))
    assert "lanes" not in text
    assert "f32[3,5] = tanh" in text


def test_one_event_and_vmap_in_vmap():
    jax.tree.map(assert_close, one(W, X[0], Y[0]), plain(W, X[0], Y[0]))
    twice = jnp.stack([X, 2 * X])
    inner = (None, 0, 0)
    mine, expected = both(
        lambda f: jax.vmap(jax.vmap(f, inner), (None, 0, None))(W, twice, Y)
    )
    jax.tree.map(assert_close, mine, expected)


def test_derivatives_in_all_orders(x64):
    w, x, y = (jnp.asarray(a, "float64") for a in (W, X, Y))

    def value(f):
        def total(w, x, y):
            parts = f(w, x, y)
            return jnp.sum(jnp.sin(parts["z"])) * parts["sum"]

        return total

    def summed(f):
        over = jax.vmap(value(f), (None, 0, 0))
        return lambda w, x, y: jnp.sum(over(w, x, y))

    check_gradient(summed(one), w, x, y)
    for transform in (
        lambda f: jax.grad(value(f), (0, 1, 2))(w, x[0], y[0]),
        lambda f: jax.vmap(jax.grad(value(f), (0, 1)), (None, 0, 0))(w, x, y),
        lambda f: jax.jacfwd(f, 1)(w, x[0], y[0]),
        lambda f: jax.hessian(summed(f))(w, x, y),
    ):
        mine, expected = jax.jit(lambda t=transform: both(t))()
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-10), mine, expected)


def test_the_batch_in_a_scan_is_last_too():
    def run(f, w, x):
        def step(x, _):
            return f(w, x, jnp.ones(()))["z"][:2], None

        return jax.lax.scan(step, x, length=3)[0]

    mine, expected = both(
        lambda f: jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: run(f, w, x))(X)))(W)
    )
    assert_close(mine, expected)
