import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_close

from transportjax.solvers.quasi_newton import lbfgs


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_a_curved_valley(x64):
    start = jnp.array([-1.2, 1.0])
    end = jax.jit(lambda x: lbfgs(rosenbrock, x, 300, 1e-14))(start)
    assert_close(end.point, np.ones(2), atol=1e-5)
    assert end.num_steps < 150
    assert_close(end.value, rosenbrock(end.point))


def test_a_quadratic_of_a_wide_spectrum(x64):
    scales = jnp.logspace(0, 4, 12)
    end = jax.jit(
        lambda x: lbfgs(lambda p: 3 + jnp.sum(scales * (p - 2) ** 2), x, 300, 1e-15)
    )(jnp.zeros(12))
    assert_close(end.point, np.full(12, 2.0), atol=1e-4)


def test_problems_of_a_batch_are_solved_as_alone(x64):
    starts = jnp.array([[-1.2, 1.0], [1.0, 1.0], [3.0, -4.0], [0.0, 0.0]])

    def solve(start):
        return lbfgs(rosenbrock, start, 40, 1e-8)

    together = jax.jit(jax.vmap(solve))(starts)
    for index, start in enumerate(starts):
        for one, other in zip(together, jax.jit(solve)(start), strict=True):
            assert_close(one[index], other, rtol=1e-6)
    assert together.num_steps[1] == 1  # it starts at the minimum


def test_never_ascends_and_keeps_the_best():
    def rough(x):
        return jnp.sum(x**2) + 0.1 * jnp.sum(jnp.sin(50 * x))

    start = jnp.array([0.9, -0.7])
    solve = jax.jit(lbfgs, static_argnums=(0, 2, 3))
    values = [float(solve(rough, start, num, 1e-9).value) for num in (1, 3, 10, 60)]
    assert values == sorted(values, reverse=True)
    assert values[0] == rough(start)


def test_values_that_are_not_finite_are_stepped_back_from():
    def barrier(x):  # NaN beyond one
        return -jnp.log(1 - x[0]) - x[0] * 9

    end = jax.jit(lambda x: lbfgs(barrier, x, 60, 1e-7))(jnp.zeros(1))
    assert_close(end.point, [8 / 9], atol=1e-3)
