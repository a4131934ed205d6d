import jax
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.mixtures import kernel_density, l2_divergence, paired_divergence


def test_paired_divergence(x64):
    rng = np.random.default_rng(0)
    x, y, weights = (
        rng.normal(size=(6, 3)),
        rng.normal(size=(6, 3)),
        rng.uniform(size=6),
    )
    losses = 2 - 2 * np.exp(-np.sum((x - y) ** 2, axis=1) / 1.7**2)
    value = jax.jit(paired_divergence)
    assert_close(value(x, y, 1.7), losses.mean(), rtol=1e-12)
    assert_close(value(x, y, 1.7, weights=weights), weights @ losses, rtol=1e-12)
    assert_close(value(y, x, 1.7), losses.mean(), rtol=1e-12)
    assert value(x, x, 1.7) == 0

    # the L2 distance of two kernels, in units of their peak
    p, q = kernel_density(x[:1], 0.85), kernel_density(y[:1], 0.85)
    expected = l2_divergence(p, q, normalisation="peak")
    assert_close(value(x[:1], y[:1], 1.7), expected, rtol=1e-10)

    def loss(x, y, scale, weights):
        return paired_divergence(x, y, scale, weights=weights)

    check_gradient(jax.jit(loss), x, y, np.array(1.7), weights)


def test_near_and_wrong_pairs(x64):
    x = np.zeros((2, 3), np.float32)
    y = np.array([[1e-5, 0, 0], [300, 0, 0]], np.float32)
    value, slope = jax.value_and_grad(paired_divergence)(x[:1], y[:1], 1.0)
    assert_close(value, 2e-10, atol=0)  # not lost in 2 - 2
    assert_close(slope, [[-4e-5, 0, 0]], atol=0)
    value, slope = jax.value_and_grad(paired_divergence)(x, y, 1.0)
    assert_close(value, 1.0)
    assert np.array_equal(slope[1], np.zeros(3))


def test_bytes_are_numbers():
    x, y = np.array([[0, 255]], np.uint8), np.array([[1, 254]], np.uint8)
    assert_close(paired_divergence(x, y, 2), 2 - 2 * np.exp(-0.5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_computes_in_single(dtype):
    x = np.linspace(0, 1, 40).reshape(20, 2)
    x, y = (jax.numpy.asarray(a, dtype) for a in (x, x**2))
    wide = paired_divergence(x.astype("float32"), y.astype("float32"), 0.5)
    value = paired_divergence(x, y, 0.5)
    assert value.dtype == dtype
    assert value == wide.astype(dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(2)}, r"`x` must have shape \(n, d\)"),
        ({"y": np.ones((4, 2))}, "`x` and `y` must have equal shapes"),
        ({"y": np.full((3, 2), np.nan)}, "`y` must be finite"),
        ({"scale": 0.0}, "`scale` must be positive"),
        ({"weights": np.ones(2)}, r"`weights` must have shape \(3,\)"),
        ({"weights": np.zeros(3)}, "`weights` must not be all zero"),
    ],
)
def test_errors_of_pairs(change, message, user_errors):
    options = {"x": np.ones((3, 2)), "y": np.ones((3, 2)), "scale": 1.0} | change
    with pytest.raises(ValueError, match=message):
        paired_divergence(**options)
