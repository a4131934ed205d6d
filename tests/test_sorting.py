import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import check_gradient
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import argsort, ranks, sort, sort_with_permutation
from transportjax.onedim.sorting import permute, unpermute

FLOATS = ("float16", "bfloat16", "float32", "float64")


def awkward(dtype):
    """Numbers whose order is easy to get wrong, and the order by hand."""
    tiny = jnp.finfo(dtype).smallest_subnormal
    zero = jnp.zeros((), dtype)
    nan = jnp.full((), jnp.nan, dtype)
    values = [3, tiny, -tiny, nan, -zero, zero, -jnp.inf, jnp.inf, -nan, -3, 1e-3]
    with jax.numpy_dtype_promotion("standard"):
        x = np.array([np.asarray(v, jnp.dtype(dtype)) for v in values])
    return x, [6, 9, 2, 4, 5, 1, 10, 0, 7, 3, 8]


@pytest.mark.parametrize("dtype", FLOATS)
def test_order_of_awkward_numbers(dtype, x64):
    x, order = awkward(dtype)
    assert np.signbit(x[8])
    np.testing.assert_array_equal(argsort(x), order)
    np.testing.assert_array_equal(np.asarray(ranks(x))[order], np.arange(len(x)))
    values, permutation = sort_with_permutation(x)
    assert values.dtype == x.dtype
    assert permutation.dtype == jnp.int32
    np.testing.assert_array_equal(permutation, order)
    bits = f"int{8 * x.dtype.itemsize}"
    assert (np.asarray(sort(x)).view(bits) == np.asarray(values).view(bits)).all()
    # the bits of the input, but for one zero and one NaN
    kept = slice(0, 9)
    expected = np.where(x == 0, np.zeros_like(x), x)[order]
    assert (np.asarray(values)[kept].view(bits) == expected[kept].view(bits)).all()
    assert np.isnan(np.asarray(values)[9:]).all()


@hypothesis.given(hnp.arrays(np.uint32, 23, elements=st.integers(0, 2**32 - 1)))
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
def test_every_bit_pattern_of_float32_is_ordered_like_numpy(bits):
    x = bits.view(np.float32)
    values, permutation = sort_with_permutation(x)
    np.testing.assert_array_equal(permutation, np.argsort(x, kind="stable"))
    np.testing.assert_array_equal(values, np.sort(x))
    np.testing.assert_array_equal(sort(x), np.sort(x))


@hypothesis.given(
    hnp.arrays(np.uint32, 23, elements=st.sampled_from([0, 1, 2**31, 2**32 - 1])),
    hnp.arrays(np.uint32, 23, elements=st.sampled_from([0, 1, 2**30, 3 * 2**30])),
)
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
def test_both_halves_of_float64_are_ordered_like_numpy(lower, upper):
    bits = (upper.astype(np.uint64) << np.uint64(32)) | lower
    with jax.enable_x64(True):
        x = bits.view(np.float64)
        values, permutation = sort_with_permutation(x)
        np.testing.assert_array_equal(permutation, np.argsort(x, kind="stable"))
        np.testing.assert_array_equal(values, np.sort(x))
        np.testing.assert_array_equal(sort(x), np.sort(x))


@hypothesis.given(hnp.arrays(np.float32, 23, elements=st.integers(-2, 2)))
@hypothesis.settings(deadline=None, max_examples=50, derandomize=True)
def test_ties_keep_their_order(x):
    np.testing.assert_array_equal(argsort(x), np.argsort(x, kind="stable"))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "uint32"])
def test_integers_stay_exact(dtype):
    rng = np.random.default_rng(0)
    info = jnp.iinfo("uint8" if dtype == "bool" else dtype)
    x = rng.integers(info.min, int(info.max) + 1, (2, 9)).astype(dtype)
    values, permutation = sort_with_permutation(x)
    expected = "float32" if dtype == "bool" else dtype
    assert values.dtype == sort(x).dtype == expected
    np.testing.assert_array_equal(values, np.sort(x).astype(expected))
    np.testing.assert_array_equal(sort(x), np.sort(x).astype(expected))
    np.testing.assert_array_equal(permutation, np.argsort(x, kind="stable"))


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (3, 0), (2, 3, 4), (7000, 2)])
def test_shapes(shape, key):
    x = jr.normal(key, shape)
    values, permutation = sort_with_permutation(x)
    np.testing.assert_array_equal(sort(x), np.sort(x))
    np.testing.assert_array_equal(values, np.sort(x))
    np.testing.assert_array_equal(permutation, np.argsort(x))
    np.testing.assert_array_equal(ranks(x), np.argsort(np.argsort(x)))


def test_lists_and_strided_arrays(user_errors):
    x = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
    np.testing.assert_array_equal(sort(x.T[::2]), np.sort(x.T[::2]))
    np.testing.assert_array_equal(sort([2, 1]), [1.0, 2.0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1.0, "last axis"),
        (np.zeros(3, "complex64"), "real numbers"),
        ("text", "array of numbers"),
    ],
)
@pytest.mark.parametrize("function", [sort, argsort, sort_with_permutation, ranks])
def test_bad_input_raises(function, x, message, user_errors):
    with pytest.raises(ValueError, match=message):
        function(x)


def test_permute_and_unpermute_are_inverse_and_adjoint(key):
    x = jr.normal(key, (3, 5, 7))
    permutation = argsort(jnp.sin(100 * x))
    forth = permute(x, permutation)
    np.testing.assert_array_equal(forth, np.take_along_axis(x, permutation, -1))
    np.testing.assert_array_equal(unpermute(forth, permutation), x)
    _, pull = jax.vjp(lambda x: permute(x, permutation), x)
    np.testing.assert_array_equal(pull(forth)[0], x)
    infinite = x.at[0, 0, 0].set(jnp.inf)
    assert unpermute(infinite, permutation).sum() == jnp.inf


@pytest.mark.parametrize(
    "function", [sort, lambda x: sort_with_permutation(x)[0]], ids=["sort", "pairs"]
)
def test_derivatives(function, key, x64):
    x = jr.normal(key, (3, 5))
    c = jnp.arange(15.0).reshape(3, 5)

    def value(x, c=c):
        return jnp.sum(c * function(x) ** 3)

    @jax.jit
    def derivatives(x):
        second = jax.hessian(value)(x), jax.jacfwd(jax.jacfwd(value))(x)
        return jax.grad(value)(x), *second, jax.vmap(jax.grad(value))(x, c)

    check_gradient(value, x)
    slope, hessian, forward, rows = derivatives(x)
    places = ranks(x)
    by_hand = 3 * x**2 * jnp.take_along_axis(c, places, -1)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-12)
    second = np.diag((6 * x * jnp.take_along_axis(c, places, -1)).reshape(-1))
    np.testing.assert_allclose(hessian.reshape(15, 15), second, rtol=1e-12)
    np.testing.assert_allclose(forward.reshape(15, 15), second, rtol=1e-12)
    np.testing.assert_allclose(rows, by_hand, rtol=1e-12)


def test_derivative_at_ties_sums_to_that_of_distinct_points():
    c = jnp.asarray([1.0, 10.0, 100.0])
    gradient = jax.grad(lambda x: jnp.vdot(c, sort(x)))(jnp.asarray([2.0, 1.0, 1.0]))
    np.testing.assert_array_equal(gradient, [100.0, 1.0, 10.0])


@pytest.mark.parametrize("function", [sort, sort_with_permutation])
def test_value_and_gradient_sort_once(function, key):
    x = jr.normal(key, (3, 8))

    def value(x):
        return jnp.sum(jax.tree.leaves(function(x))[0] ** 2)

    text = jax.jit(jax.value_and_grad(value)).lower(x).compile().as_text()
    assert text.count(" sort(") == 1
    assert "custom-call" not in text


def test_values_alone_are_sorted_without_a_permutation(key):
    x = jr.normal(key, (3, 8))
    text = jax.jit(sort).lower(x).as_text().split("stablehlo.sort")[1]
    assert "(tensor<3x8xi32>) -> tensor<3x8xi32>" in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_platforms_sort_unsigned_keys(dtype):
    x = jax.ShapeDtypeStruct((3, 8), dtype)
    width = 8 * jnp.dtype(dtype).itemsize
    for function, operands in ((sort, 1), (argsort, 2)):
        for platform in ("cuda", "tpu"):
            lowered = export.export(jax.jit(function), platforms=[platform])(x)
            text = lowered.mlir_module()
            assert text.count("stablehlo.sort") == 1
            block = text.split("stablehlo.sort")[1].split("-> ")[0]
            assert f"tensor<ui{width}>" in block
            assert block.count("%arg") - block.count("compare") == 2 * operands + 1
            assert "i64>" not in block.replace("dimension = 1 : i64", "")


def test_unsigned_pairs_agree_with_packed_ones(key):
    # what a GPU runs, run here
    from transportjax.onedim import sorting

    x = jnp.round(jr.normal(key, (3, 50)), 1)
    keys = sorting._to_key(x)
    for found in (sorting._unsigned_with_index(keys), sorting._with_index(keys)):
        for a, b in zip(found, sorting._packed_with_index(keys), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def _everything(x):
    values, permutation = sort_with_permutation(x)
    gradient = jax.grad(lambda x: jnp.sum(sort(x) ** 2 + sort_with_permutation(x)[0]))
    return sort(x), values, permutation, argsort(x), ranks(x), gradient(x)


def test_under_jit_vmap_scan_remat_and_while(key):
    x = jr.normal(key, (3, 8))
    expected = _everything(x)

    def same(found):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)

    same(jax.jit(_everything)(x))
    same(jax.vmap(_everything)(x))
    same(lax.scan(lambda carry, row: (carry, _everything(row)), 0, x)[1])
    same(jax.jit(jax.checkpoint(_everything))(x))
    looped = lax.fori_loop(0, 2, lambda _, y: sort(-y), x)
    np.testing.assert_array_equal(looped, np.sort(x))


def test_on_several_devices(key):
    x = jr.normal(key, (8, 16))
    expected = _everything(x)
    auto = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(auto, P("rows")))
    program = jax.jit(_everything).lower(split).compile()
    for word in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert word not in program.as_text()
    mapped = jax.shard_map(
        _everything, mesh=auto, in_specs=P("rows"), out_specs=P("rows"), check_vma=True
    )
    explicit = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,))
    for found in (
        program(split),
        jax.jit(mapped)(x),
        jax.jit(_everything)(jax.device_put(x, NamedSharding(explicit, P("rows")))),
    ):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_traces_once(key):
    traces = []

    @jax.jit
    def function(x):
        traces.append(1)
        return sort(x), ranks(x)

    function(jr.normal(key, (3,)))
    function(jr.normal(key, (3,)) + 1)
    assert len(traces) == 1
