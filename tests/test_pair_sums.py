import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.mixtures import log_pair_sum, pair_sum

SMALL, LARGE = (5, 7), (900, 1100)  # one tile; two blocks of rows, the last filled up
BOTH = pytest.mark.parametrize("total", [pair_sum, log_pair_sum])


def log_kernel(left, right):
    """Of points with a width each, and one exponent that all on the left share."""
    (x, width, power), (y, other) = left, right
    square = (x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2
    return -power * jnp.log(1 + square / (width + other))


def log_distance(x, y):
    return -((x - y) ** 2)


def problem(shape=SMALL, seed=0):
    """Items of both sides, and weights."""
    rng = np.random.default_rng(seed)
    n, m = shape
    left = (rng.normal(size=(n, 2)), rng.uniform(0.5, 1.5, n), np.array([1.5]))
    right = (rng.normal(size=(m, 2)) + 1, rng.uniform(0.5, 1.5, m))
    return left, right, rng.uniform(0.5, 1.5, n) / n, rng.uniform(0.5, 1.5, m) / m


def sum_of(total, left, right, a, b):
    return total(log_kernel, left, right, left_weights=a, right_weights=b)


def dense(total, left, right, a, b):
    """The same by plain arrays."""
    (x, width, power), (y, other) = left, right
    square = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)
    logs = -power[0] * jnp.log(1 + square / (width[:, None] + other[None]))
    if total is pair_sum:
        return a @ jnp.exp(logs) @ b
    return jax.nn.logsumexp(logs + jnp.log(a)[:, None] + jnp.log(b)[None])


def everything(function, arguments, tangents):
    """Value, gradient, directional derivative, and second derivatives in two modes."""
    gradient = jax.grad(function, range(len(arguments)))
    return (
        jax.value_and_grad(function, range(len(arguments)))(*arguments),
        jax.jvp(function, arguments, tangents)[1],
        jax.jvp(gradient, arguments, tangents)[1],
        jax.grad(lambda *at: jax.jvp(function, at, tangents)[1])(*arguments),
        jax.grad(lambda *at: sum(map(_square, jax.tree.leaves(gradient(*at)))))(
            *arguments
        ),
    )


def _square(x):
    return jnp.sum(x**2)


@BOTH
def test_values_and_all_derivatives(total, x64):
    arguments = jax.tree.map(jnp.asarray, problem(LARGE))
    tangents = jax.tree.map(lambda x, y: x + y[:1] * 0.5, arguments, arguments)
    found, expected = (
        jax.jit(functools.partial(everything, functools.partial(function, total)))(
            arguments, tangents
        )
        for function in (sum_of, dense)
    )
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        scale = np.abs(other).max()
        assert_close(one / scale, other / scale, rtol=1e-10)


@BOTH
def test_gradients_by_finite_differences(total, x64):
    (x, width, power), (y, other), a, b = problem()

    @jax.jit
    def value(x, width, power, y, other, a, b):
        return sum_of(total, (x, width, power), (y, other), a, b)

    check_gradient(value, x, width, power, y, other, a, b)


@BOTH
def test_derivative_in_one_argument_alone(total, x64):
    left, right, a, b = problem(LARGE)
    slope = jax.jit(jax.grad(functools.partial(sum_of, total), (0, 1, 2, 3)))
    every = slope(left, right, a, b)

    @jax.jit
    def alone(left, right, a, b):
        value = functools.partial(sum_of, total)
        hessian = jax.grad(lambda b: jnp.sum(jax.grad(value, 2)(left, right, a, b)))(b)
        power = jax.jacfwd(lambda power: value((*left[:2], power), right, a, b))
        return jax.grad(value, 2)(left, right, a, b), power(left[2]), hessian

    weights, power, hessian = alone(left, right, a, b)
    assert_close(weights, every[2])
    assert_close(power, every[0][2])
    if total is pair_sum:  # linear in each: sum_i K_ij = d/db_j for a = 1
        ones = slope(left, right, np.ones_like(a), b)[3]
        assert_close(hessian, ones)


# --- laws --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_laws(total, shape, x64):
    left, right, a, b = problem(shape)
    value_of = jax.jit(functools.partial(sum_of, total))
    value = value_of(left, right, a, b)
    order = np.random.default_rng(1).permutation(len(a))
    moved = (left[0][order], left[1][order], left[2])
    assert_close(value_of(moved, right, a[order], b), value, rtol=1e-12)
    # a shared array is one that is repeated
    own = (*left[:2], np.full(len(a), left[2][0]))
    assert_close(value_of(own, right, a, b), value, rtol=1e-12)
    # weights are repetitions; those of zero remove an item
    a[:3] = [0, 2 * a[1], 0]
    own = (np.concatenate([own[0][1:2], own[0][1:2], own[0][3:]]),)
    own += (np.concatenate([left[1][1:2], left[1][1:2], left[1][3:]]), left[2])
    halves = np.concatenate([a[1:2] / 2, a[1:2] / 2, a[3:]])
    expected = value_of(own, right, halves, b)
    assert_close(value_of(left, right, a, b), expected, rtol=1e-12)


def test_the_logarithm_is_the_logarithm(x64):
    arguments = problem(LARGE)
    value = sum_of(pair_sum, *arguments)
    assert_close(sum_of(log_pair_sum, *arguments), np.log(value), rtol=1e-12)


def test_weights_may_be_negative(x64):
    left, right, a, b = problem()
    signs = np.array([1, -1, 1, -2, 0.5])
    value = sum_of(pair_sum, left, right, signs * a, b)
    assert_close(value, dense(pair_sum, left, right, signs * a, b), rtol=1e-12)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_weights_of_zero_in_the_logarithm(shape, x64):
    # log sum: its derivative in a_i is sum_j b_j K_ij / sum, also where a_i = 0.
    left, right, a, b = problem(shape)
    a[:2], b[-1] = 0, 0
    value = jax.value_and_grad(functools.partial(sum_of, log_pair_sum), (2, 3))
    found, slopes = jax.jit(value)(left, right, a, b)
    linear = jax.jit(jax.value_and_grad(functools.partial(dense, pair_sum), (2, 3)))
    expected, expected_slopes = linear(left, right, a, b)
    assert_close(found, np.log(expected), rtol=1e-12)
    for one, other in zip(slopes, expected_slopes, strict=True):
        assert_close(one, other / expected, rtol=1e-10)


@pytest.mark.parametrize("n", [3, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_apart(n, dtype, x64):
    # All kernels underflow; a weight that is small, but near, decides.
    x = jnp.concatenate([jnp.zeros(n), jnp.full(1, 90.0)]).astype(dtype)
    y = jnp.full(1000, 100.0, dtype)
    a = jnp.concatenate([jnp.ones(n), jnp.full(1, 1e-35)]).astype(dtype)
    value, slopes = jax.value_and_grad(
        lambda x, a: log_pair_sum(log_distance, x, y, left_weights=a), (0, 1)
    )(x, a)
    assert_close(value, -100 + np.log(np.float64(a[-1])), rtol=1e-6)
    assert_close(slopes[0], np.append(np.zeros(n), 20.0), rtol=1e-5)
    assert np.all(np.isfinite(slopes[1]))


def test_weight_of_zero_on_the_nearest_item():
    x, weights = jnp.array([0.0, 99.0]), jnp.array([1.0, 0.0])
    value, slopes = jax.value_and_grad(
        lambda x, a: log_pair_sum(log_distance, x, jnp.full(1, 99.0), left_weights=a),
        (0, 1),
    )(x, weights)
    assert_close(value, -(99.0**2))
    assert_close(slopes[0], [198.0, 0.0])
    assert np.all(np.isfinite(slopes[1]))
    assert slopes[1][1] > 1e8


@BOTH
def test_one_item_and_copies(total, x64):
    one = np.array([0.3])
    value = total(log_distance, one, np.array([0.8]))
    expected = np.exp(-0.25) if total is pair_sum else -0.25
    assert_close(value, expected, rtol=1e-12)
    assert_close(total(log_distance, np.full(9, 0.3), np.full(4, 0.8)), expected)


# --- memory, precision -------------------------------------------------------------


@BOTH
def test_memory_does_not_grow_with_the_number_of_pairs(total):
    def value(x, y, a, b):
        return total(log_distance, x, y, left_weights=a, right_weights=b)

    gradient = jax.grad(value, (0, 1, 2, 3))

    def product(*arrays):  # of the Hessian and a vector
        return jax.jvp(gradient, arrays, arrays)[1]

    def second(*arrays):
        return jax.grad(lambda *at: sum(map(jnp.sum, gradient(*at))), (0, 3))(*arrays)

    x = jax.ShapeDtypeStruct((40_000,), "float32")
    for function in {pair_sum: (value, second), log_pair_sum: (gradient, product)}[
        total
    ]:
        compiled = jax.jit(function).lower(x, x, x, x).compile()
        temp = compiled.memory_analysis().temp_size_in_bytes
        assert temp < 32e6  # the kernel has 6.4e9


def test_many_items_in_single_precision(x64):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 3, size=(2, 15_000)).astype("float32")
    # the other tests are compiled with little effort; this one runs long
    options = {"xla_backend_optimization_level": 3}
    for total in (pair_sum, log_pair_sum):
        value = jax.jit(
            functools.partial(total, log_distance), compiler_options=options
        )
        exact = value(np.float64(x), np.float64(y))
        assert_close(value(x, y), exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_single(dtype):
    x = jnp.linspace(0, 2, 300).astype(dtype)
    value = pair_sum(log_distance, x, x[:200])
    wide = x.astype("float32")
    assert value.dtype == dtype
    assert value == pair_sum(log_distance, wide, wide[:200]).astype(dtype)


def test_integers_are_numbers():
    x = np.array([0, 1, 255], np.uint8)
    expected = (3 + 2 * np.exp(-1)) / 9
    assert_close(pair_sum(log_distance, x, x), expected)


# --- transformations ---------------------------------------------------------------


@pytest.mark.parametrize(("total", "shape"), [(pair_sum, LARGE), (log_pair_sum, SMALL)])
def test_jit_and_vmap(total, shape):
    left, right, a, b = jax.tree.map(np.float32, problem(shape))
    value = jax.value_and_grad(functools.partial(sum_of, total), (0, 3))
    expected = value(left, right, a, b)
    lefts = jax.tree.map(lambda x: jnp.stack([2 * x, x]), left)
    found = jax.jit(jax.vmap(value, (0, None, None, None)))(lefts, right, a, b)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(one[1], other, rtol=1e-4, atol=1e-6)


def clouds(n):
    """Points on the left and right, and weights."""
    spans = ((3, n), (2, 1500), (1, n))
    return tuple(np.linspace(0, end, num, dtype="float32") for end, num in spans)


@pytest.fixture
def on_devices():
    """A mesh; both sides, the left one and its weights spread over four devices."""
    x, y, a = clouds(800)
    mesh = jax.make_mesh((4,), ("i",), (AxisType.Auto,))
    put = functools.partial(jax.device_put, device=NamedSharding(mesh, P("i")))
    return mesh, (x, y, a), (put(x), y, put(a))


def value_of(total, x, y, a):
    return total(log_distance, x, y, left_weights=a)


@BOTH
def test_sharded_rows(total, on_devices):
    _, arrays, spread = on_devices
    value = jax.jit(jax.value_and_grad(functools.partial(value_of, total), (0, 1, 2)))
    for one, other in zip(
        jax.tree.leaves(value(*spread)), jax.tree.leaves(value(*arrays)), strict=True
    ):
        assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_shard_map(on_devices):
    # Two blocks on each device; the gradient in what all devices share is summed.
    mesh, _, _ = on_devices
    x, y, a = clouds(3200)

    def value(x, y, a):
        return jax.lax.psum(value_of(pair_sum, x, y, a), "i")

    specs = {"mesh": mesh, "in_specs": (P("i"), P(), P("i"))}
    outside = jax.grad(jax.shard_map(value, out_specs=P(), **specs), (0, 1, 2))
    inside = jax.shard_map(
        jax.grad(value, (0, 1, 2)), out_specs=(P("i"), P(), P("i")), **specs
    )
    expected = jax.grad(functools.partial(value_of, pair_sum), (0, 1, 2))(x, y, a)
    for slopes in (jax.jit(outside), jax.jit(inside)):
        for one, other in zip(slopes(x, y, a), expected, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_explicit_mesh(on_devices):
    _, (x, y, a), _ = on_devices
    slope = jax.value_and_grad(functools.partial(value_of, log_pair_sum), (0, 1))
    expected = slope(x, y, a)
    mesh = jax.make_mesh((4,), ("i",))
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, NamedSharding(mesh, P("i")))
        found = jax.jit(slope)(spread, y, a)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(np.asarray(one), other, rtol=1e-4, atol=1e-6)


# --- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": {"x": np.ones(3), "y": np.ones(2)}}, "`left` must hold arrays with"),
        ({"right": ()}, "`right` must hold arrays with"),
        ({"right": np.ones(())}, "`right` must hold arrays with"),
        ({"right": np.ones(0)}, "`right` must hold arrays with"),
        ({"left": np.array(["a"])}, "`left` must be an array of numbers"),
        ({"left_weights": np.ones(2)}, r"`left_weights` must have shape \(3,\)"),
        ({"right_weights": np.zeros(4)}, "`right_weights` must not be all zero"),
        ({"right_weights": np.full(4, np.nan)}, "`right_weights` must be finite"),
        ({"left_weights": -np.ones(3)}, "`left_weights` must be >= 0"),
        ({"left": np.ones((3, 2))}, "`log_kernel` must return a scalar"),
    ],
)
def test_errors(change, message, user_errors):
    options = {"left": np.ones(3), "right": np.ones(4)} | change
    with pytest.raises(ValueError, match=message):
        log_pair_sum(log_distance, options.pop("left"), options.pop("right"), **options)
