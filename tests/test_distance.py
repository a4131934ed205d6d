import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import wasserstein_1d
from transportjax.sliced import (
    haar_rotation,
    orthonormal_directions,
    projected_costs,
    random_directions,
    sliced_wasserstein,
)

REFERENCE = np.load(DATA / "sliced_wasserstein.npz")


def problem(seed=0, n=7, m=7, d=3, num=6, weighted=False):
    """Float64 clouds, directions and, if wanted, weights."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    arrays = [rng.normal(size=(n, d)), 0.5 * rng.normal(size=(m, d)) + 1, directions]
    if weighted:
        arrays += [rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)]
    return arrays


def distance(x, y, directions, a=None, b=None, **options):
    return sliced_wasserstein(x, y, directions, x_weights=a, y_weights=b, **options)


# --- against reference data --------------------------------------------------------


def parity_case(name, p, dtype):
    fields = ["X", "Y", "P", "a", "b"]
    arrays = [REFERENCE[f"{name}/{f}"] for f in fields if f"{name}/{f}" in REFERENCE]
    arrays[2] = arrays[2].T
    expected = [REFERENCE[f"{name}_p{p}/gradient_{f}"] for f in fields[: len(arrays)]]
    expected[2] = expected[2].T
    value, costs = (REFERENCE[f"{name}_p{p}/{f}"] for f in ("value", "projected"))
    return [jnp.asarray(a, dtype) for a in arrays], value, costs, expected


def everything(arrays, p, chunk):
    """The distance and its gradient in every array; the costs."""
    value = functools.partial(distance, p=p, chunk=chunk)
    x, y, directions, *weights = arrays
    masses = dict(zip(["x_weights", "y_weights"], weights, strict=False))
    slope = jax.value_and_grad(value, range(len(arrays)))(*arrays)
    return slope, projected_costs(x, y, directions, p=p, chunk=chunk, **masses)


@pytest.fixture(scope="module")
def by_static_exponent():
    return jax.jit(everything, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def by_traced_exponent():
    return jax.jit(everything, static_argnums=2)


PARITY = [(name, 2, "float64", None) for name in "abcde"]
PARITY += [(name, float(p), "float64", None) for name in "abcde" for p in (1, 3)]
PARITY += [("b", 3, "float32", None), ("c", 2, "float32", None)]
PARITY += [("b", 2, "float64", 7), ("c", 1, "float32", 7)]


@pytest.mark.parametrize(("name", "p", "dtype", "chunk"), PARITY)
def test_parity(name, p, dtype, chunk, x64, by_static_exponent, by_traced_exponent):
    run = by_traced_exponent if isinstance(p, float) else by_static_exponent
    arrays, root, costs, gradients = parity_case(name, int(p), dtype)
    (value, slopes), found = run(arrays, p, chunk)
    assert value.dtype == found.dtype == dtype
    rtol, slope_rtol = {"float64": (1e-9, 1e-9), "float32": (2e-5, 1e-4)}[dtype]
    assert_close(value ** (1 / p), root, rtol=rtol)
    assert_close(found, costs, rtol=rtol)
    for slope, expected in zip(slopes, gradients, strict=True):
        assert slope.dtype == dtype
        slope = np.asarray(slope, np.float64)
        if slope.ndim == 1:  # of weights: up to a constant
            slope, expected = slope - slope.mean(), expected - expected.mean()
        scale = np.abs(expected).max()
        assert_close(slope / scale, expected / scale, rtol=slope_rtol, atol=slope_rtol)


# --- known answers -----------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 5])
def test_translation(d, key, x64):
    x, shift = problem(n=9, d=d)[0], np.arange(1.0, d + 1)
    directions = orthonormal_directions(key, 2 * d, d)
    value = jax.jit(sliced_wasserstein)(x, x + shift, directions)
    assert_close(value, np.sum(shift**2) / d, rtol=1e-12)


def test_scaling_and_translation(x64):
    # Along every axis the map x -> 2x + v is increasing, so points keep their partners.
    x, shift = problem(n=9)[0], np.array([1.0, -2.0, 0.5])
    directions, _ = np.linalg.qr(problem(num=3)[2])
    expected = np.mean(np.sum((x + shift) ** 2, axis=1)) / 3
    value = jax.jit(sliced_wasserstein)(x, 2 * x + shift, directions)
    assert_close(value, expected, rtol=1e-12)


def test_gaussians():
    rng = np.random.default_rng(0)
    scales = np.array([[1.0, 2.0, 0.5], [1.5, 0.5, 1.0]])
    mean = np.array([1.0, 0.0, 2.0])
    x, y = (np.float32(s * rng.normal(size=(20_000, 3))) for s in scales)
    directions = np.float32(problem(num=50)[2])
    spread = np.sqrt(directions**2 @ (scales**2).T)
    expected = (directions @ mean) ** 2 + (spread[:, 0] - spread[:, 1]) ** 2
    costs = jax.jit(projected_costs)(np.float32(x + mean), y, directions)
    assert_close(costs, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("p", "weighted"), [(1, True), (2, False), (1.5, False)])
def test_one_dimension_is_the_line(p, weighted, x64):
    x, y, _, a, b = problem(n=6, m=9, d=1, weighted=True)
    a, b = (a, b) if weighted else (None, None)
    expected = wasserstein_1d(x[:, 0], y[:, 0], p=p, x_weights=a, y_weights=b)
    for sign in (1.0, -1.0):
        value = distance(x, y, np.array([[sign]]), a, b, p=p)
        assert_close(value, expected, rtol=1e-12)


def test_is_a_lower_bound_of_the_distance(x64):
    x, y, directions = problem(n=12, m=12, d=3, num=3)
    basis, _ = np.linalg.qr(directions)
    cost = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    exact = cost[rows, columns].mean()
    assert sliced_wasserstein(x, y, basis) <= exact / 3
    assert np.all(projected_costs(x, y, basis) <= exact)


# --- laws --------------------------------------------------------------------------


def test_laws(key, x64):
    x, y, directions, a, b = problem(n=8, m=8, weighted=True)
    value_of = jax.jit(functools.partial(distance, p=3))
    value = value_of(x, y, directions, a, b)
    close = functools.partial(assert_close, rtol=1e-11)
    # exchange, order of the points, scale of the weights, opposite directions
    close(value_of(y, x, directions, b, a), value)
    order = np.random.default_rng(1).permutation(8)
    close(value_of(x[order], y, directions, a[order], b), value)
    close(value_of(x, y, -directions, 7 * a, b), value)
    # a common translation and rotation; a common scale
    turn, shift = np.asarray(haar_rotation(key, 3)), np.array([5.0, -3.0, 1.0])
    moved = [x @ turn.T + shift, y @ turn.T + shift, directions @ turn.T]
    close(value_of(*moved, a, b), value)
    close(value_of(-2 * x, -2 * y, directions, a, b), 8 * value)
    # weights are repetitions; a weight of zero removes a point, wherever it is
    twice = np.concatenate([x[:6], x[:2]])
    counts = np.array([2.0, 2, 1, 1, 1, 1, 0, 0])
    x[6:] = 1e6
    close(
        value_of(x, y, directions, counts, np.ones(8)),
        jax.jit(functools.partial(sliced_wasserstein, p=3))(twice, y, directions),
    )


def test_the_value_is_the_weighted_mean_of_the_costs(x64):
    x, y, directions = problem(m=9)
    weights = np.array([0.5, 0, 1, 2, 1, 1])
    costs = projected_costs(x, y, directions)
    assert_close(sliced_wasserstein(x, y, directions), costs.mean())
    for chunk in (None, 4):
        value = sliced_wasserstein(x, y, directions, weights=weights, chunk=chunk)
        assert_close(value, np.average(costs, weights=weights))


@pytest.mark.parametrize(("p", "chunk"), [(1, None), (2, None), (1.5, None), (2, 2)])
def test_zero_distance(p, chunk, x64):
    x, _, directions = problem()

    @jax.jit
    def slopes(x, y, directions):
        options = {"p": p, "chunk": chunk}
        return [
            jax.value_and_grad(
                functools.partial(sliced_wasserstein, root=root, **options), (0, 2)
            )(x, y, directions)
            for root in (False, True)
        ]

    for zero in jax.tree.leaves(slopes(x, x[::-1], directions)):
        assert np.array_equal(zero, 0 * zero)


def test_root(x64):
    x, y, directions = problem()
    for p in (1, 2, 3):
        value = sliced_wasserstein(x, y, directions, p=p)
        root = sliced_wasserstein(x, y, directions, p=p, root=True)
        assert_close(root, value ** (1 / p))
    traced = jax.jit(lambda p: sliced_wasserstein(x, y, directions, p=p, root=True))
    assert_close(traced(3.0), root)
    check_gradient(lambda x, d: sliced_wasserstein(x, y, d, root=True), x, directions)


def test_a_single_point():
    x, y = np.array([[1.0, 2.0]]), np.array([[4.0, 6.0], [4.0, 6.0]])
    assert_close(projected_costs(x, y, np.eye(2)), [9.0, 16.0])
    assert_close(sliced_wasserstein(x, y, np.eye(2), p=1), 3.5)


# --- derivatives -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "m", "weighted", "chunk"),
    [
        (2, 7, False, None),
        (3, 9, False, None),
        (1, 7, True, None),
        (2, 9, True, 4),
        (3, 9, False, 4),
    ],
)
def test_derivatives_by_finite_differences(p, m, weighted, chunk, x64):
    arrays = problem(m=m, weighted=weighted)
    weights = np.random.default_rng(3).uniform(0.5, 1.5, len(arrays[2]))

    @jax.jit
    def value(weights, *arrays):
        return distance(*arrays, p=p, weights=weights, chunk=chunk)

    check_gradient(value, weights, *arrays)


@pytest.mark.parametrize("chunk", [None, 4])
def test_derivative_in_the_exponent(chunk, x64):
    x, y, directions = problem(m=9)
    check_gradient(
        jax.jit(lambda p: sliced_wasserstein(x, y, directions, p=p, chunk=chunk)),
        np.array(2.5),
    )


@pytest.mark.parametrize("chunk", [None, 4])
def test_second_derivative(chunk, x64):
    # Of each point: 2/n times the mean of theta theta^T, and nothing across points.
    x, y, directions = problem()
    value = functools.partial(sliced_wasserstein, chunk=chunk)
    block = 2 / 7 * directions.T @ directions / len(directions)
    expected = np.einsum("ij,ab->iajb", np.eye(7), block)
    outer, inner = (jax.jacfwd, jax.jacrev) if chunk is None else (jax.jacfwd,) * 2
    hessian = jax.jit(outer(inner(value)))(x, y, directions)
    assert_close(hessian, expected, rtol=1e-10)


def test_gradient_of_the_costs_in_chunks(x64):
    x, y, directions = problem(num=7)

    def jacobians(chunk):
        costs = functools.partial(projected_costs, chunk=chunk)
        return jax.jit(jax.jacrev(costs, (0, 1, 2)))(x, y, directions)

    for one, other in zip(jacobians(None), jacobians(3), strict=True):
        assert_close(one, other, rtol=1e-10)


def test_gradient_in_some_arguments(x64):
    # Only the derivatives that are asked for are computed: the same numbers.
    x, y, directions = problem()
    value = functools.partial(sliced_wasserstein, chunk=4)
    every = jax.jit(jax.grad(value, (0, 1, 2)))(x, y, directions)
    assert_close(jax.jit(jax.grad(value))(x, y, directions), every[0])
    assert_close(jax.jit(jax.grad(value, 2))(x, y, directions), every[2])


# --- transformations ---------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 4])
def test_transformations_agree(chunk):
    x, y, directions = (np.float32(a) for a in problem())
    value = functools.partial(sliced_wasserstein, chunk=chunk)
    slope = jax.value_and_grad(value)
    expected, expected_slope = slope(x, y, directions)  # without jit
    xs = jnp.stack([2 * x, x])
    values, slopes = jax.jit(jax.vmap(slope, (0, None, None)))(xs, y, directions)
    assert_close(values[1], expected)
    assert_close(slopes[1], expected_slope)
    forward = jax.jit(jax.jacfwd(value, 2))(x, y, directions)
    assert_close(forward, jax.jit(jax.grad(value, 2))(x, y, directions))

    def descend(x, _):
        loss, direction = slope(x, y, directions)
        return x - direction, loss

    losses = jax.jit(lambda x: jax.lax.scan(descend, x, None, length=2))(x)[1]
    assert_close(losses, [expected, value(x - expected_slope, y, directions)])


def test_closed_over_constants_are_checked_and_used():
    x, y, directions = (jnp.asarray(a, "float32") for a in problem())
    inside = jax.jit(lambda x: sliced_wasserstein(x, y, directions))(x)
    assert_close(inside, sliced_wasserstein(x, y, directions))
    twice = 2 * directions
    with pytest.raises(ValueError, match="`directions` must have rows of norm 1"):
        jax.jit(lambda x: sliced_wasserstein(x, y, twice))(x)


def test_gradient_sorts_the_target_by_values_alone():
    # One sort of pairs, for the points that move: 64 bits of key and index.
    x, y, directions = (jnp.asarray(a, "float32") for a in problem())

    def sorts(function):
        text = jax.jit(function).lower(x, y, directions).compile().as_text()
        return sorted(re.findall(r" = (\w+)\[6,7\]\S* sort\(", text))

    assert sorts(sliced_wasserstein) == ["s32", "s32"]
    assert sorts(jax.value_and_grad(sliced_wasserstein)) == ["s32", "s64"]


def test_chunks_bound_the_memory_of_the_gradient():
    x, y, directions = (
        jax.ShapeDtypeStruct(shape, "float32")
        for shape in ((500, 3), (400, 3), (64, 3))
    )

    def memory(chunk):
        slope = jax.grad(functools.partial(sliced_wasserstein, chunk=chunk))
        compiled = jax.jit(slope).lower(x, y, directions).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4) < memory(None) / 6
    assert memory(4) < 4 * 10 * (4 * 900)  # ten numbers for each projection held


# --- dtypes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_single(dtype):
    x, y, directions = (jnp.asarray(a, dtype) for a in problem(n=300, m=300))
    run = jax.jit(jax.value_and_grad(sliced_wasserstein))
    value, slope = run(x, y, directions)
    assert value.dtype == slope.dtype == dtype
    expected = run(*(a.astype("float32") for a in (x, y, directions)))
    assert_close(value, expected[0].astype(dtype), rtol=1e-2)
    assert_close(slope, expected[1].astype(dtype), rtol=1e-2, atol=1e-4)


def test_bytes_are_numbers():
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (50, 3), dtype=np.uint8) for _ in range(2))
    value = sliced_wasserstein(x, y, np.eye(3, dtype=np.float32))
    expected = np.mean((np.sort(np.float64(x), 0) - np.sort(np.float64(y), 0)) ** 2)
    assert value.dtype == "float32"
    assert_close(value, expected)


def test_lists_are_arrays(user_errors):
    value = sliced_wasserstein([[0, 1]], [[3, 5]], [[1, 0], [0, 1]])
    assert value.dtype == "float32"
    assert value == (9 + 16) / 2


def test_data_far_from_the_origin(x64):
    # At an offset of 1e4 a float32 has three decimals; the projections keep them.
    x, y, directions = (np.float32(a) for a in problem(n=50, m=60, num=20))
    x, y = x + np.float32(1e4), y + np.float32(1e4)
    exact = sliced_wasserstein(*(np.float64(a) for a in (x, y, directions)))
    assert_close(sliced_wasserstein(x, y, directions), exact, rtol=1e-6)


def test_many_points_in_single_precision(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200_000, 2)), rng.normal(size=(150_000, 2))
    directions = np.eye(2)
    exact = sliced_wasserstein(x, y, directions)
    narrow = sliced_wasserstein(*(np.float32(a) for a in (x, y, directions)))
    assert_close(narrow, exact, rtol=1e-4)


# --- many devices ------------------------------------------------------------------


def collectives(compiled):
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    text = compiled.as_text()
    return {
        n: count
        for n in names
        if (count := len(re.findall(rf" {n}(?:-start)?\(", text)))
    }


@pytest.fixture
def on_devices():
    """Clouds, and directions spread over four devices."""
    x, y, directions = (jnp.asarray(a, "float32") for a in problem(m=9, num=16))
    mesh = jax.make_mesh((4,), ("i",), (AxisType.Auto,))
    return mesh, x, y, jax.device_put(directions, NamedSharding(mesh, P("i")))


@pytest.mark.parametrize("chunk", [None, 8])
def test_sharded_directions_cost_one_reduction(chunk, on_devices):
    _, x, y, directions = on_devices
    value = functools.partial(sliced_wasserstein, chunk=chunk)
    expected = jax.jit(jax.value_and_grad(value))(x, y, np.asarray(directions))
    compiled = jax.jit(value).lower(x, y, directions).compile()
    assert collectives(compiled) == {"all-reduce": 1}
    assert_close(compiled(x, y, directions), expected[0])
    compiled = jax.jit(jax.value_and_grad(value)).lower(x, y, directions).compile()
    assert collectives(compiled) == {"all-reduce": 1}
    found = compiled(x, y, directions)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@pytest.mark.parametrize("chunk", [None, 2])
def test_shard_map(chunk, on_devices):
    mesh, x, y, directions = on_devices

    def value(x, y, directions):
        own = sliced_wasserstein(x, y, directions, chunk=chunk)
        return jax.lax.pmean(own, "i")

    specs = {"mesh": mesh, "in_specs": (P(), P(), P("i"))}
    outside = jax.grad(jax.shard_map(value, out_specs=P(), **specs), (0, 2))
    inside = jax.shard_map(jax.grad(value, (0, 2)), out_specs=(P(), P("i")), **specs)
    slopes_of = jax.jit(jax.grad(sliced_wasserstein, (0, 2)))
    expected = slopes_of(x, y, np.asarray(directions))
    for slopes in (jax.jit(outside), jax.jit(inside)):
        for one, other in zip(slopes(x, y, directions), expected, strict=True):
            assert_close(one, other)


def test_explicit_mesh(on_devices):
    _, x, y, directions = on_devices
    directions = np.asarray(directions)
    run = jax.jit(jax.value_and_grad(sliced_wasserstein))
    expected = run(x, y, directions)
    mesh = jax.make_mesh((4,), ("i",))
    with jax.set_mesh(mesh):
        spread = jax.device_put(directions, NamedSharding(mesh, P("i")))
        value, slope = run(x, y, spread)
        costs = projected_costs(x, y, spread)
    assert_close(value, expected[0])
    assert_close(slope, expected[1])
    assert_close(np.mean(np.asarray(costs)), expected[0])


# --- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(3)}, r"`x` must have shape \(n, d\)"),
        ({"y": np.ones((4, 2))}, "`y` must have 3 columns"),
        ({"x": np.ones((0, 3))}, "`x` must not be empty"),
        ({"y": np.full((4, 3), np.nan)}, "`y` must be finite; got NaN"),
        ({"directions": np.eye(3)[0]}, r"`directions` must have shape \(p, d\)"),
        ({"directions": np.ones((0, 3))}, r"`directions` must have shape \(p, d\)"),
        ({"directions": np.eye(3)[:, :2]}, "must have 3 columns, one for each coord"),
        (
            {"directions": 3 * np.eye(3)},
            "must have rows of norm 1; got a row of norm 3",
        ),
        ({"directions": np.full((1, 3), np.inf)}, "`directions` must be finite"),
        ({"x_weights": np.ones(3)}, r"`x_weights` must have shape \(5,\)"),
        ({"y_weights": -np.ones(4)}, "`y_weights` must be >= 0"),
        ({"weights": np.zeros(3)}, "`weights` must not be all zero"),
        ({"p": 0.5}, "`p` must be in"),
        ({"chunk": 0}, "`chunk` must be an integer >= 1"),
        ({"x": "cloud"}, "`x` must be an array of numbers"),
    ],
)
def test_errors(change, message, user_errors):
    options = {"x": np.ones((5, 3)), "y": np.ones((4, 3)), "directions": np.eye(3)}
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(**(options | change))


def test_directions_of_rounded_norm_are_accepted(key):
    directions = random_directions(key, 6, 3, "bfloat16")
    x = jnp.ones((4, 3), "bfloat16")
    assert sliced_wasserstein(x, x, directions) == 0
