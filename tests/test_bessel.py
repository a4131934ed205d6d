import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient

from transportjax.mixtures import log_normaliser, mean_resultant
from transportjax.mixtures.bessel import (
    bessel_ratio,
    concentration_of,
    resultant_deficit,
)

REFERENCE = np.load(DATA / "von_mises_fisher.npz")
DIMS = [2, 3, 4, 5, 16, 128, 2048]
SLOPE_DIMS = [int(d) for d in REFERENCE["slope_d"]]


def error(found, expected):
    """The largest error, relative to the value or to one, whichever is larger."""
    found = np.asarray(found, np.float64)
    return np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected)))


def relative_error(found, expected):
    found = np.asarray(found, np.float64)
    return np.max(np.abs(found / np.where(expected == 0, 1, expected) - (expected > 0)))


@functools.partial(jax.jit, static_argnums=1)
def values(kappa, dim):
    return log_normaliser(kappa, dim), mean_resultant(kappa, dim)


@functools.partial(jax.jit, static_argnums=1)
def slopes(kappa, dim):
    """The value and derivatives of the normaliser; what the resultant lacks to one."""
    one = functools.partial(log_normaliser, dim=dim)
    first = jax.vmap(jax.grad(one))
    second = jax.vmap(jax.grad(functools.partial(mean_resultant, dim=dim)))
    return one(kappa), first(kappa), second(kappa), resultant_deficit(kappa, dim)


@pytest.mark.parametrize(
    ("dtype", "limits"), [("float64", (2e-14, 1e-15)), ("float32", (2.4e-6, 4e-7))]
)
@pytest.mark.parametrize("dim", DIMS)
def test_reference(dim, dtype, limits, x64):
    row = list(REFERENCE["norm_d"]).index(dim)
    kappa = jnp.asarray(REFERENCE["norm_kappa"], dtype)
    log_c, resultant = values(kappa, dim)
    assert log_c.dtype == resultant.dtype == dtype
    assert error(log_c, REFERENCE["norm_logC"][row]) < limits[0]
    assert relative_error(resultant, REFERENCE["norm_A"][row]) < limits[1]


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [("float64", (2e-14, 2e-15, 1e-13)), ("float32", (2.4e-6, 1e-6, 1e-5))],
)
@pytest.mark.parametrize("dim", SLOPE_DIMS)
def test_derivatives(dim, dtype, limits, x64):
    row = SLOPE_DIMS.index(dim)
    kappa = jnp.asarray(REFERENCE["slope_kappa"], dtype)
    log_c, first, second, deficit = slopes(kappa, dim)
    missing = REFERENCE["slope_deficit"][row]
    # kappa is rounded to float32, which moves the value by its slope
    moved = (np.asarray(kappa, np.float64) - REFERENCE["slope_kappa"]) * (1 - missing)
    assert error(log_c, REFERENCE["slope_logC"][row] - moved) < limits[0]
    assert error(first, missing - 1) < limits[1]
    assert relative_error(second, REFERENCE["slope_A"][row]) < limits[2]
    assert relative_error(deficit, missing) < limits[2]


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_at_zero(dim, x64):
    log_c, first, second, deficit = slopes(jnp.zeros(9), dim)
    area = (
        2
        * np.pi ** (dim / 2)
        / {2: 1, 3: np.sqrt(np.pi) / 2, 7: 15 * np.sqrt(np.pi) / 8}[dim]
    )
    assert_close(log_c, [-np.log(area)] * 9, rtol=1e-14)
    assert_close(first, [0.0] * 9, atol=0)
    assert_close(second, [1 / dim] * 9, rtol=1e-14)
    assert_close(deficit, [1.0] * 9, rtol=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_finite_differences(dim, x64):
    kappa = np.array([0.2, 1.0, 1.9, 5.0, 40.0])
    ratio = functools.partial(bessel_ratio, dim=dim)

    @jax.jit
    def value(x):
        terms = log_normaliser(x, dim) + mean_resultant(x, dim) ** 2 + ratio(x**2)
        return jnp.sum(terms)

    check_gradient(value, kappa)
    if dim < 6:
        slope = jax.grad(lambda x: jnp.sum(ratio(x)))
        check_gradient(jax.jit(lambda x: jnp.sum(slope(x) ** 2)), kappa[:3] ** 2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_concentration_is_found_again(dim, dtype, x64):
    kappa = jnp.asarray(np.logspace(-6, 8, 29), dtype)

    @jax.jit
    def back(kappa):
        resultant = kappa * bessel_ratio(kappa**2, dim)
        return concentration_of(resultant, resultant_deficit(kappa, dim), dim)

    rtol = {"float64": 1e-12, "float32": 2e-5}[dtype]
    assert_close(back(kappa), kappa, rtol=rtol, atol=0)


def test_half_precision_and_integers():
    assert mean_resultant(jnp.asarray(2, "bfloat16"), 3).dtype == "bfloat16"
    assert_close(mean_resultant(2, 3), 1 / np.tanh(2) - 0.5)
    assert_close(mean_resultant(jnp.asarray(2.0, "float16"), 3), 0.5373)


@pytest.mark.usefixtures("user_errors")
def test_errors():
    with pytest.raises(ValueError, match="`concentration` must be >= 0; got a minimum"):
        mean_resultant(jnp.array([1.0, -2.0]), 3)
    with pytest.raises(ValueError, match="`concentration` must be finite; got infin"):
        log_normaliser(jnp.inf, 3)
    with pytest.raises(ValueError, match="`dim` must be an integer >= 2; got 1"):
        mean_resultant(1.0, 1)
