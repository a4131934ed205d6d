import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.maps.small_matrices import cofactor, log_abs_det, solve


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_agree_with_the_library(dim, x64):
    rng = np.random.default_rng(dim)
    matrix, right = (jnp.asarray(rng.normal(size=(dim, k))) for k in (dim, 2))
    det = np.linalg.det(matrix)
    assert_close(jax.jit(cofactor)(matrix), det * np.linalg.inv(matrix).T)
    assert_close(jax.jit(log_abs_det)(matrix), np.log(np.abs(det)))
    for side in (right, right[:, 0]):
        assert_close(jax.jit(solve)(matrix, side), np.linalg.solve(matrix, side))


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_the_cofactor_is_the_gradient_of_the_determinant(dim, x64):
    matrix = jnp.asarray(np.random.default_rng(dim).normal(size=(dim, dim)))
    assert_close(jax.jit(cofactor)(matrix), jax.grad(jnp.linalg.det)(matrix))
    check_gradient(jax.jit(lambda m: jnp.sum(jnp.sin(cofactor(m)))), matrix)


def test_singular_matrices():
    flat = jnp.diag(jnp.array([2.0, 3.0, 0.0]))
    assert_close(cofactor(flat), np.diag([0.0, 0.0, 6.0]))
    assert log_abs_det(flat) == -jnp.inf
