"""Sums of Gaussians over all pairs: numbers of another program, laws, tiles."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import NamedSharding, PartitionSpec as P

from transportjax.mixtures import gauss_l2, gauss_sum, gauss_transform, tiles

FILES = np.load(DATA / "gauss_transform.npz")
CASES = sorted({name.split("/")[0] for name in FILES})
SIZE = 64, 5  # all cases are filled up to one shape, which is compiled once


def clouds(n, m, d, dtype="float64"):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.3
    a, b = rng.uniform(0.1, 1, n), rng.uniform(-0.3, 1, m)
    return tuple(jnp.asarray(array, dtype) for array in (x, y, a, b))


def dense(x, y, scale, b):
    gaps = x[:, None, :] - y[None, :, :]
    return jnp.exp(-jnp.sum(gaps * gaps, axis=-1) / scale**2) @ b


def dense_sum(x, y, scale, a, b):
    return a @ dense(x, y, scale, b)


def ours(x, y, scale, a, b):
    return gauss_sum(x, y, scale, x_weights=a, y_weights=b)


def loops(function, *args):
    """How many loops the compiled function has."""
    text = str(jax.jit(function).lower(*args).compile().as_text())
    return len(re.findall(" while", text))


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few points, so that there are many of them, filled up unevenly."""
    monkeypatch.setattr(tiles, "_ROWS", 8)
    monkeypatch.setattr(tiles, "_COLUMNS", 5)
    jax.clear_caches()
    yield
    jax.clear_caches()


# --- known answers -----------------------------------------------------------------


def test_one_pair(x64):
    x, y = jnp.array([[1.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 0.0]])
    np.testing.assert_allclose(gauss_sum(x, y, 1.5), np.exp(-4), rtol=1e-14)
    np.testing.assert_allclose(gauss_transform(x, y, 3), [np.exp(-1)], rtol=1e-14)
    sums = gauss_l2(x, y, 3.0)
    np.testing.assert_allclose(sums, (1, np.exp(-1), 1, 2 - 2 * np.exp(-1)), rtol=1e-14)


@functools.partial(jax.jit, static_argnames="what")
def _slopes(x, y, a, b, scale, what):
    def value(x, y, a, b, scale):
        sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b)
        return sums.pp - 2 * sums.pq if what == "l2e" else sums.pq

    return jax.grad(value, (0, 1, 2, 3, 4))(x, y, a, b, scale)


def _filled(case, weighted=True):
    """The points of a case and weights, filled up by points that weigh nothing."""

    def fill(array):
        missing = [(0, s - k) for s, k in zip(SIZE, array.shape, strict=False)]
        return np.pad(array, missing)

    x, y = FILES[f"{case}/A"], FILES[f"{case}/B"]
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    if weighted:
        a, b = FILES[f"{case}/wa"], FILES[f"{case}/wb"]
    return tuple(map(fill, (x, y, a, b)))


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_another_program(case, x64):
    def expected(key):
        return FILES[f"{case}/{key}"]

    x, y, a, b = _filled(case, weighted=False)
    (n, d), scale = expected("A").shape, expected("s")
    sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    close(sums.pq, expected("gt"))
    close(sums.pp - 2 * sums.pq, expected("l2e"))
    close(sums.l2, expected("l2_full"))
    unit = 1 / (n * scale)  # of the slope of one pair
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14 * unit)
    close(_slopes(x, y, a, b, scale, "l2e")[0][:n, :d], expected("l2e_grad"))
    close(_slopes(x, y, a, b, scale, "pq")[0][:n, :d], expected("gt_grad"))


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}/wa" in FILES])
def test_weighted_numbers_of_another_program(case, x64):
    x, y, a, b = _filled(case)
    scale = FILES[f"{case}/s"]
    sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    close(sums.pq, FILES[f"{case}/w_cross"])
    close(sums.l2, FILES[f"{case}/w_l2_full"])
    for key, slope in zip("ABabs", _slopes(x, y, a, b, scale, "pq"), strict=True):
        expected = FILES[f"{case}/w_cross_g{key}"]
        slope = slope[tuple(map(slice, expected.shape))]
        size = max(1e-30, np.max(np.abs(expected)))
        np.testing.assert_allclose(slope, expected, rtol=1e-11, atol=1e-13 * size)


def test_underflow_is_zero():
    x, y = np.zeros((2, 1), "float32"), np.full((3, 1), 1e4, "float32")
    value, slope = jax.value_and_grad(gauss_sum)(jnp.asarray(x), y, 1.0)
    assert value == 0
    assert np.all(np.asarray(slope) == 0)
    assert gauss_l2(x, y, 1.0).l2 == 2


# --- the exponential ---------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1.3e-7), ("float64", 3e-16)])
def test_exponential(dtype, error, x64):
    most = 126 if dtype == "float32" else 1022
    s = jnp.linspace(0, most, 100_001, dtype=dtype)
    expected = np.exp2(-np.asarray(s, np.longdouble))
    found = jax.jit(tiles._exp2_minus)(s)
    assert np.max(np.abs(np.asarray(found, np.longdouble) / expected - 1)) < error
    special = jax.jit(tiles._exp2_minus)(
        jnp.asarray([0, 5000, jnp.inf, jnp.nan], dtype)
    )
    np.testing.assert_array_equal(special, np.array([1, 0, 0, np.nan]))


# --- tiles and their derivatives ---------------------------------------------------


def _along(function, args):
    """The gradient in all arguments, and the derivative along each alone."""
    every = tuple(range(len(args)))

    @jax.jit
    def derivatives(*args):
        slopes = jax.grad(function, every)(*args)
        for place in every:
            moves = [jnp.zeros_like(array) for array in args]
            moves[place] = jnp.cos(args[place])
            slopes += (jax.jvp(function, args, tuple(moves))[1],)
        return slopes

    return derivatives(*args)


@pytest.mark.parametrize("d", [3, 20])
def test_many_tiles(d, small_tiles, x64):
    x, y, a, b = clouds(21, 13, d)
    scale = jnp.asarray(0.9 * d**0.5)
    args = x, y, scale, a, b
    np.testing.assert_allclose(ours(*args), dense_sum(*args), rtol=1e-13)
    np.testing.assert_allclose(
        gauss_transform(x, y, scale, weights=b), dense(x, y, scale, b), rtol=1e-12
    )
    for one, other in zip(_along(ours, args), _along(dense_sum, args), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("order", ["forward over reverse", "reverse over reverse"])
def test_second_derivatives(order, small_tiles, x64):
    x, y, a, b = clouds(21, 13, 2)
    args = x, y, jnp.asarray(0.9), a, b
    rng = np.random.default_rng(1)
    moves = tuple(jnp.asarray(rng.normal(size=array.shape)) for array in args)
    every = tuple(range(5))

    def products(function):
        slopes = jax.grad(lambda *args: function(*args) ** 2, every)
        if order == "forward over reverse":
            return jax.jit(lambda *args: jax.jvp(slopes, args, moves)[1])(*args)

        def along(*args):
            return sum(map(jnp.vdot, slopes(*args), moves))

        return jax.jit(jax.grad(along, every))(*args)

    for one, other in zip(products(ours), products(dense_sum), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_sum_of_a_cloud_with_itself(small_tiles, x64):
    x, _, a, _ = clouds(21, 1, 2)

    def own(x, scale, a):
        return gauss_sum(x, x, scale, x_weights=a, y_weights=a)

    def expected(x, scale, a):
        return dense_sum(x, x, scale, a, a)

    def products(function):
        slopes = jax.grad(function, (0, 1, 2))
        args = x, jnp.asarray(0.8), a
        return jax.jit(lambda *args: jax.jvp(slopes, args, args))(*args)

    for one, other in zip(
        jax.tree.leaves(products(own)), jax.tree.leaves(products(expected)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
    of_own = loops(jax.grad(lambda x: own(x, 0.8, a)), x)
    of_two = loops(jax.grad(lambda x: ours(x, x[::-1], 0.8, a, a)), x)
    assert of_two == 2 * of_own > 0


def test_reverse_through_the_transform(small_tiles, x64):
    x, y, _, b = clouds(21, 13, 2)

    def flow(transform, x):  # a loop around it, which may not keep the tiles
        def step(x, _):
            return x - 0.1 * jnp.sin(transform(x, y, 0.9, b))[:, None], None

        return jnp.sum(jax.lax.scan(step, x, None, length=3)[0] ** 2)

    def transform(x, y, scale, b):
        return gauss_transform(x, y, scale, weights=b)

    found = jax.jit(jax.grad(functools.partial(flow, transform)))(x)
    expected = jax.jit(jax.grad(functools.partial(flow, dense)))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_finite_differences(x64):
    x, y, a, b = clouds(6, 4, 2)

    def value(x, y, scale, a, b):
        sums = gauss_l2(x, y, scale, x_weights=a, y_weights=b)
        at = gauss_transform(x, y, scale, weights=b)
        return sums.l2 + sums.pp * sums.pq + jnp.sum(at**2)

    check_gradient(jax.jit(value), x, y, 1.1, a, b, rtol=1e-7)


# --- laws --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_laws(dtype, x64):
    x, y, a, b = clouds(30, 20, 3, dtype)
    value = ours(x, y, 0.8, a, b)
    assert value.dtype == dtype
    assert_close(ours(5 * x + 3, 5 * y + 3, 4.0, a, b), value)
    assert_close(ours(x[::-1], y, 0.8, a[::-1], b), value)
    assert_close(ours(x, y, 0.8, 2 * a, -b), -2 * value)
    assert_close(ours(y, x, 0.8, b, a), value)
    assert_close(jnp.vdot(a, gauss_transform(x, y, 0.8, weights=b)), value)
    assert_close(gauss_l2(x, x, 0.8).l2, 0)
    counts = np.arange(20) % 3
    repeated = gauss_sum(x, np.repeat(y, counts, axis=0), 0.8)
    assert_close(gauss_sum(x, y, 0.8, y_weights=counts / counts.sum()), repeated)
    assert_close(jax.jit(ours)(x, y, 0.8, a, b), value)
    many = jax.vmap(ours, (0, None, 0, None, None))
    scales = jnp.asarray([0.8, 1.6], dtype)
    assert_close(many(jnp.stack([x, 2 * x]), y, scales, a, b)[0], value)


def test_few_points_and_other_dtypes():
    x = np.array([[0, 0], [3, 4], [3, 4]])
    expected = (5 + 4 * np.exp(-1)) / 9
    for array in (x, x.astype("uint8"), x.astype("float16"), x.astype("bfloat16")):
        value = gauss_sum(array, array, 5)
        assert value.dtype == (array.dtype if array.dtype.itemsize == 2 else "float32")
        assert_close(value, expected)
    assert_close(gauss_transform(x[:1], x, 5), [(1 + 2 * np.exp(-1)) / 3])
    assert_close(gauss_l2(x[:1], x[:1], 5), (1, 1, 1, 0))


# --- size --------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_precision_of_large_sums(rows):
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(size=(100_000, 3)).astype("float32") for _ in range(2))
    x = x[:rows]

    def value(x):
        return gauss_sum(x, y, 0.3, num_modes=0)

    # the other tests are compiled with little effort; this one runs long
    options = {"xla_backend_optimization_level": 3}
    both = jax.jit(jax.value_and_grad(value), compiler_options=options)
    found, slope = both(x)
    gaps = x[:100, None].astype("float64") - y[None].astype("float64")
    kernel = np.exp(-np.sum(gaps**2, axis=-1) / 0.3**2)
    expected = np.einsum("ij,ijk->ik", kernel, gaps) * (-2 / 0.3**2)
    at = np.asarray(gauss_transform(x[:100], y, 0.3, num_modes=0), "float64")
    np.testing.assert_allclose(at, kernel.mean(axis=1), rtol=2e-6)
    size = np.max(np.abs(expected)) / 1e5
    slope = np.asarray(slope[:100], "float64") * rows
    np.testing.assert_allclose(slope, expected / 1e5, rtol=0, atol=1e-5 * size)
    with jax.enable_x64(True):
        modes = 0 if rows < 1000 else 28
        exact = gauss_sum(
            x.astype("float64"), y.astype("float64"), 0.3, num_modes=modes
        )
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("order", ["gradient", "product"])
def test_memory(order):
    points = jax.ShapeDtypeStruct((50_000, 3), "float32")

    def value(x, y):
        sums = gauss_l2(x, y, 0.2)
        return sums.pp - 2 * sums.pq

    def product(x, y):
        return jax.jvp(lambda x: jax.grad(value)(x, y), (x,), (y,))[1]

    function = {"gradient": jax.grad(value), "product": product}[order]
    compiled = jax.jit(function).lower(points, points).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 64e6


def test_what_is_not_used_is_not_computed(small_tiles):
    x, y, _, _ = clouds(21, 13, 3, "float32")

    def l2e(x, y):
        sums = gauss_l2(x, y, 0.5)
        return sums.pp - 2 * sums.pq

    cross = loops(lambda x, y: gauss_l2(x, y, 0.5).pq, x, y)
    assert cross > 0
    assert loops(l2e, x, y) == 2 * cross
    assert loops(lambda x, y: gauss_l2(x, y, 0.5).l2, x, y) == 3 * cross
    assert loops(jax.value_and_grad(l2e), x, y) == 2 * cross


# --- devices -----------------------------------------------------------------------


def _on_devices(mesh):
    x, y = (np.asarray(points) for points in clouds(64, 21, 3, "float32")[:2])
    return x, jax.device_put(x, NamedSharding(mesh, P("i"))), y


def test_sharded_rows():
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x, spread, y = _on_devices(mesh)
    function = jax.jit(jax.value_and_grad(lambda x: gauss_sum(x, y, 0.8)))
    for one, other in zip(function(spread), function(x), strict=True):
        assert_close(one, other)


def test_shard_map(small_tiles):
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x, spread, y = _on_devices(mesh)

    def value(x, y):
        own = jnp.vdot(gauss_transform(x, y, 0.8), jnp.ones_like(x[:, 0])) / 64
        return jax.lax.psum(own + gauss_sum(x, y, 0.8) / 4, "i")

    specs = {"mesh": mesh, "in_specs": (P("i"), P())}
    outside = jax.grad(jax.shard_map(value, out_specs=P(), **specs), (0, 1))
    expected = jax.grad(lambda x, y: 2 * gauss_sum(x, y, 0.8), (0, 1))(x, y)
    for one, other in zip(jax.jit(outside)(spread, y), expected, strict=True):
        assert_close(one, other)
    compiled = jax.jit(
        jax.shard_map(jax.value_and_grad(value), out_specs=(P(), P("i")), **specs)
    )
    text = str(compiled.lower(spread, y).compile().as_text())
    assert len(re.findall(r"all-reduce\(|all-reduce-start\(", text)) == 1
    assert_close(compiled(spread, y)[1], expected[0])


def test_explicit_mesh():
    mesh = jax.make_mesh((4,), ("i",))
    x, spread, y = _on_devices(mesh)
    expected = jax.value_and_grad(gauss_sum)(x, y, 0.8)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(gauss_sum))(spread, y, 0.8)
        at = gauss_transform(spread, y, 0.8)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    assert_close(np.mean(np.asarray(at)), expected[0])


# --- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(3)}, r"`x` must have shape \(n, d\)"),
        ({"x": np.ones((0, 3))}, "`x` must not be empty"),
        ({"y": np.ones((4, 2))}, "`y` must have 3 columns"),
        ({"y": np.full((4, 3), np.nan)}, "`y` must be finite; got NaN"),
        ({"scale": 0.0}, "`scale` must be positive; got 0"),
        ({"scale": -1}, "`scale` must be positive; got -1"),
        ({"scale": np.nan}, "`scale` must be positive; got nan"),
        ({"scale": np.ones(2)}, "`scale` must be one number"),
        ({"x_weights": np.ones(4)}, r"`x_weights` must have shape \(5,\)"),
        ({"y_weights": np.full(4, np.inf)}, "`y_weights` must be finite"),
        ({"num_modes": -1}, "`num_modes` must be an integer >= 0"),
        ({"num_modes": (3, 3)}, "`num_modes` must be an integer >= 0, or 3 integers"),
        ({"x": np.ones((5, 4)), "y": np.ones((4, 4)), "num_modes": 3}, "`num_modes`"),
    ],
)
def test_bad_input(change, message, user_errors):
    good = {"x": np.ones((5, 3)), "y": np.ones((4, 3)), "scale": 1.0}
    for function in (gauss_sum, gauss_l2):
        with pytest.raises(ValueError, match=message):
            function(**(good | change))


def test_errors_of_the_transform_name_its_arguments(user_errors):
    with pytest.raises(ValueError, match=r"`weights` must have shape \(4,\)"):
        gauss_transform(np.ones((5, 3)), np.ones((4, 3)), 1.0, weights=np.ones(3))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("num_modes", [0, 8])
def test_bad_traced_scale_gives_nan(scale, num_modes):
    x = np.ones((5, 3), "float32")
    function = functools.partial(gauss_sum, num_modes=num_modes)
    assert np.isnan(jax.jit(function)(x, x, scale))
