import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import (
    frcs_marginal_transfer,
    histogram_transfer,
    quantile,
    quantile_transfer,
    transfer_knots,
)

REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference" / "transfer"
CASES = sorted(
    name[2:] for name in np.load(DATA / "frcs_pdf_transfer1d.npz") if name[:2] == "f_"
)


def samples(seed=0, shape=(40,)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plan_means(x, y, a, b):
    """The barycentric map by brute force in float64: one unit of mass at a time."""
    a, b = a / a.sum(), b / b.sum()
    order, target = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    ends, levels = np.cumsum(a[order]), np.cumsum(b[target])
    starts = np.concatenate([[0], levels[:-1]])
    image = np.zeros(x.size)
    for value in np.unique(x):
        tied = x[order] == value
        high = ends[tied].max()
        low = high - a[order][tied].sum()
        overlap = np.minimum(high, levels) - np.maximum(low, starts)
        overlap = np.maximum(overlap, 0)
        image[x == value] = (overlap * y[target]).sum() / overlap.sum()
    return image


# quantile_transfer


def test_known_answers():
    x, y = jnp.array([0, 0, 0, 1, 2, 3]), jnp.array([60, 50, 40, 30, 20, 10])
    assert_close(quantile_transfer(x, y), [20, 20, 20, 40, 50, 60])
    assert_close(
        quantile_transfer(jnp.array([1.0, 0.0]), jnp.arange(3.0)), [5 / 3, 1 / 3]
    )
    assert_close(quantile_transfer(jnp.arange(3.0), jnp.array([8.0, 2.0])), [2, 5, 8])
    assert_close(quantile_transfer(jnp.array([9.0]), y), [35.0])
    assert_close(quantile_transfer(x, jnp.array([7.0])), np.full(6, 7.0), rtol=0)
    one_third = jnp.array([1.0, 2.0])
    moved = quantile_transfer(jnp.arange(2.0), jnp.arange(2.0), x_weights=one_third)
    assert_close(moved, [0.0, 0.75])


@pytest.mark.parametrize("sizes", [(40, 40), (40, 31)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_plan_by_brute_force(sizes, weighted):
    n, m = sizes
    x, y = np.round(samples(0, (n,)) * 4), samples(1, (m,))
    a, b = np.ones(n), np.ones(m)
    weights = {}
    if weighted:
        a, b = np.abs(samples(2, (n,))), np.abs(samples(3, (m,)))
        weights = dict(x_weights=a, y_weights=b)
    expected = plan_means(x, y, a.astype(float), b.astype(float))
    assert_close(quantile_transfer(x, y, **weights), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_onto_itself_is_the_identity_bit_for_bit(weighted):
    x = samples(shape=(3, 40)) * np.float32(1e6)
    ties = np.round(samples(1, (3, 40)) * 3).astype(np.int32)
    weights = np.abs(samples(2, (3, 40)))
    weights = dict(x_weights=weights, y_weights=weights) if weighted else {}
    np.testing.assert_array_equal(quantile_transfer(x, x, **weights), x)
    moved = quantile_transfer(ties, ties, **weights)
    np.testing.assert_array_equal(moved, ties.astype(np.float32))


def test_onto_itself_at_a_million_weighted_samples():
    x = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    w = np.random.default_rng(1).random(1_000_000).astype(np.float32)
    moved = jax.jit(lambda x, w: quantile_transfer(x, x, x_weights=w, y_weights=w))(
        x, w
    )
    np.testing.assert_array_equal(moved, x)


def test_a_million_onto_fewer_far_from_zero_stays_in_the_right_quantile():
    # each sample's interval of levels meets at most two target samples
    n, m = 300_000, 299_999
    x = np.random.default_rng(0).permutation(n).astype(np.float32)
    y = 1e6 + np.arange(m, dtype=np.float32)
    moved = np.asarray(jax.jit(quantile_transfer)(x, y))
    error = moved - (1e6 + (x.astype(float) + 0.5) * m / n - 0.5)
    assert np.abs(error).max() <= 0.6


@pytest.mark.parametrize("weighted", [False, True])
def test_monotone_and_inside_the_range(weighted):
    x, y = np.round(samples(0, (200,)) * 8), samples(1, (150,))
    weights = {}
    if weighted:
        a, b = np.abs(samples(2, (200,))), np.abs(samples(3, (150,)))
        a[::3], b[::4] = 0, 0
        weights = dict(x_weights=a, y_weights=b)
    moved = np.asarray(quantile_transfer(x, y, **weights))
    assert np.diff(moved[np.argsort(x, kind="stable")]).min() >= 0
    assert moved.min() >= y.min()
    assert moved.max() <= y.max()
    for value in np.unique(x):
        assert np.ptp(moved[x == value]) == 0


def test_laws():
    x, y = np.round(samples(0) * 4) / 4, samples(1, (31,))
    moved = quantile_transfer(x, y)
    assert_close(quantile_transfer(8 * x + 16, y), moved, rtol=0)
    assert_close(quantile_transfer(x, 4 * y - 3), 4 * moved - 3)
    shuffle = np.random.default_rng(2).permutation(40)
    assert_close(quantile_transfer(x[shuffle], y), moved[shuffle], rtol=0)
    assert_close(quantile_transfer(-x, -y), -moved)
    weights = np.abs(samples(3))
    once = quantile_transfer(x, y, x_weights=weights)
    half = quantile_transfer(np.tile(x, 2), y, x_weights=np.tile(weights / 2, 2))
    assert_close(half, np.tile(once, 2))
    half = quantile_transfer(
        x, np.tile(y, 2), x_weights=weights, y_weights=np.full(62, 0.5, np.float32)
    )
    assert_close(half, once)


def test_weights_are_repetitions():
    x, y = np.array([3.0, 1.0, 2.0]), np.array([5.0, 9.0, 7.0, 6.0])
    repeated = quantile_transfer(np.repeat(x, [2, 1, 3]), y)
    weighted = quantile_transfer(x, y, x_weights=np.array([2.0, 1.0, 3.0]))
    assert_close(np.repeat(weighted, [2, 1, 3]), repeated)


def test_weight_zero():
    x, y = np.array([0.0, 1.0, 2.0, 9.0]), np.array([-1e30, 10.0, 20.0, 30.0, 1e30])
    a, b = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0, 0.0])
    moved = quantile_transfer(x, y, x_weights=a, y_weights=b)
    assert_close(moved, [10, 10, 10, 20])
    last = quantile_transfer(x, y, x_weights=a[::-1], y_weights=b)
    assert_close(last, [10, 10, 20, 20])
    tiny = quantile_transfer(x, y, x_weights=a * 1e-30, y_weights=b * 1e30)
    assert_close(tiny, moved)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "uint8"])
def test_dtypes(dtype):
    x, y = (jnp.asarray(z * 20 + 100, dtype) for z in (samples(), samples(1, (31,))))
    moved = quantile_transfer(x, y)
    assert moved.dtype == ("float32" if dtype == "uint8" else dtype)
    exact = quantile_transfer(x.astype("float32"), y.astype("float32"))
    np.testing.assert_array_equal(moved, exact.astype(moved.dtype))


def test_batches_compiled_and_mapped():
    x, y = samples(0, (3, 40)), samples(1, (3, 31))
    a, b = np.abs(samples(2, (3, 40))), np.abs(samples(3, (3, 31)))

    def move(x, y, a, b):
        plain = quantile_transfer(x, y)
        return plain, quantile_transfer(x, y, x_weights=a, y_weights=b)

    eager = move(x, y, a, b)
    rows = [move(*row) for row in zip(x, y, a, b, strict=True)]
    for k in range(2):
        np.testing.assert_array_equal(eager[k], np.stack([row[k] for row in rows]))
        np.testing.assert_array_equal(jax.vmap(move)(x, y, a, b)[k], eager[k])
        assert_close(jax.jit(move)(x, y, a, b)[k], eager[k])
    shared = quantile_transfer(x, y[:1])
    assert_close(shared[2], quantile_transfer(x[2], y[0]), rtol=0)


def test_meshes():
    x, y = samples(0, (4, 40)), samples(1, (4, 31))
    expected = quantile_transfer(x, y)
    manual = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    rows = jax.shard_map(
        lambda x, y: quantile_transfer(x, y, x_weights=jnp.abs(x)),
        mesh=manual,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    weighted = quantile_transfer(x, y, x_weights=np.abs(x))
    assert_close(jax.jit(rows)(x, y), weighted)
    explicit = jax.make_mesh((4,), ("data",))
    sharded = jax.device_put(x, NamedSharding(explicit, P(None, "data")))
    np.testing.assert_array_equal(quantile_transfer(sharded, y), expected)


def test_derivatives(x64):
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=20) * 3), rng.normal(size=17)
    a, b = rng.random(20) + 0.1, rng.random(17) + 0.1

    @jax.jit
    def weighted(y, a, b):
        moved = quantile_transfer(x, y, x_weights=a, y_weights=b)
        return jnp.sum(jnp.sin(moved) * jnp.arange(20.0))

    check_gradient(weighted, y, a, b)
    check_gradient(jax.jit(lambda y: jnp.sum(jnp.sin(quantile_transfer(x, y)))), y)
    in_x = jax.grad(lambda x: jnp.sum(quantile_transfer(x, y) ** 2))(x)
    np.testing.assert_array_equal(in_x, np.zeros(20))


def test_derivative_of_the_identity_with_ties_is_the_mean_over_them():
    y = jnp.array([1.0, 1.0, 2.0])
    jacobian = jax.jacobian(lambda y: quantile_transfer(jnp.array([1, 1, 2]), y))(y)
    assert_close(jacobian, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("x", "y", "weights", "message"),
    [
        ([], [1.0], {}, "`x` must hold at least one sample"),
        ([1.0], [], {}, "`y` must hold at least one sample"),
        ([1.0], [jnp.inf], {}, "`y` must be finite; got infinity"),
        ([1.0], [1.0], dict(x_weights=[-1.0]), "`x_weights` must be >= 0"),
        ([1.0], [1.0], dict(y_weights=[0.0]), "`y_weights` must not be all zero"),
        ([1.0], [1.0], dict(y_weights=[1.0, 1.0]), "`y_weights` must have shape"),
        ([[1.0]] * 2, [[1.0]] * 3, {}, "must have leading axes that broadcast"),
    ],
)
def test_errors(user_errors, x, y, weights, message):
    weights = {name: jnp.array(w) for name, w in weights.items()}
    with pytest.raises(ValueError, match=message):
        quantile_transfer(x, y, **weights)


# transfer_knots


def test_knots_of_atoms_are_averaged():
    x, y = jnp.array([0, 1, 1, 1, 2]), jnp.array([0.0, 2.0, 3.0, 7.0, 9.0])
    x_knots, y_knots = transfer_knots(x, y)
    assert_close(x_knots, [0, 1, 1, 1, 2])
    assert_close(y_knots, [0, 4, 4, 4, 9])
    both = transfer_knots(jnp.stack([x, x]), jnp.stack([y, 2 * y]))
    assert_close(both[1][1], 2 * y_knots)
    np.testing.assert_array_equal(transfer_knots(x, x)[1], x.astype("float32"))


def test_map_through_knots_is_the_transfer_at_the_samples():
    x, y = samples(), samples(1)
    levels = (np.arange(40, dtype=np.float32) + 0.5) / 40
    knots = transfer_knots(quantile(x, levels), quantile(y, levels))
    assert_close(jnp.interp(x, *knots), quantile_transfer(x, y), atol=1e-4)


def test_knots_ascend_in_spite_of_rounding_and_pass_derivatives(x64):
    x = np.array([0.0, 1.0, 1.0, 2.0, np.nextafter(2.0, 0.0)])
    y = np.array([1.0, 1.5, 2.5, 3.0, 4.0])
    knots = transfer_knots(x, y)
    assert all(bool((jnp.diff(k) >= 0).all()) for k in knots)
    mark = jnp.arange(5.0)

    def value(x, y):
        x_knots, y_knots = transfer_knots(x, y)
        return jnp.sum(mark * x_knots) + jnp.sum(mark * y_knots**2)

    gradient = jax.grad(value)(x, y)
    np.testing.assert_array_equal(gradient, mark)
    check_gradient(lambda y: value(x, y), y)


def test_errors_of_knots(user_errors):
    with pytest.raises(ValueError, match="`x_quantiles` must ascend"):
        transfer_knots(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="must have equal shapes"):
        transfer_knots(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="`y_quantiles` must be finite"):
        transfer_knots(jnp.zeros(2), jnp.array([0.0, jnp.nan]))


# The published histogram transfer


@pytest.fixture(scope="module")
def histograms():
    return dict(np.load(DATA / "frcs_pdf_transfer1d.npz"))


@pytest.fixture(scope="module")
def marginals():
    data = dict(np.load(DATA / "frcs_samples1d.npz"))
    data |= {name: data[name] / 255 for name in ("s3", "t3")}
    return data | {"s4": data["s3"], "t4": data["s3"]}


@pytest.mark.parametrize("case", CASES)
def test_histogram_transfer_repeats_the_published_program(x64, histograms, case):
    p_x, p_y, f = (histograms[f"{name}_{case}"] for name in ("pX", "pY", "f"))
    assert_close(histogram_transfer(p_x, p_y), f, rtol=0, atol=1e-9)


def test_there_are_27_cases():
    assert len(CASES) == 27


def test_histogram_transfer_of_integers_is_that_of_floats():
    p_x, p_y = np.array([4, 0, 9, 1]), np.array([1, 1, 0, 12])
    expected = histogram_transfer(p_x.astype("f4"), p_y.astype("f4"))
    assert_close(histogram_transfer(p_x, p_y), expected, rtol=0)


def test_histogram_transfer_in_float32_errs_only_where_there_is_no_mass(histograms):
    p_x, p_y = histograms["pX_gappy"], histograms["pY_gappy"]
    f = np.asarray(histogram_transfer(p_x.astype("f4"), p_y.astype("f4")))
    level = np.cumsum(p_y) / p_y.sum()
    reached = np.interp(f, np.arange(f.size), level)
    wanted = np.interp(histograms["f_gappy"], np.arange(f.size), level)
    assert np.abs(reached - wanted).max() < 1e-3
    assert np.diff(f).min() >= 0


def test_derivatives_of_the_histogram_transfer(x64, histograms):
    rng = np.random.default_rng(0)
    mark = jnp.asarray(rng.normal(size=16))

    @jax.jit
    def value(p_x, p_y):
        return jnp.sum(mark * histogram_transfer(p_x, p_y))

    check_gradient(value, 1 + rng.random(16), 1 + rng.random(16))
    for case in ("n16", "n256"):
        p_x, p_y = histograms[f"pX_{case}"], histograms[f"pY_{case}"]
        gradients = jax.grad(lambda *p: histogram_transfer(*p).sum(), (0, 1))(p_x, p_y)
        assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_errors_of_the_histogram_transfer(user_errors):
    with pytest.raises(ValueError, match="must have equal shapes"):
        histogram_transfer(jnp.ones(3), jnp.ones(4))
    with pytest.raises(ValueError, match="`p_y` must hold masses in"):
        histogram_transfer(jnp.ones(2), jnp.array([1.0, -1.0]))


@pytest.mark.parametrize("i", [2, 3, 4, 5, 6])
def test_marginal_transfer_repeats_the_published_program(x64, marginals, i):
    moved = frcs_marginal_transfer(marginals[f"s{i}"], marginals[f"t{i}"])
    assert_close(moved[::10], marginals[f"o{i}"], rtol=0, atol=1e-12)


def test_the_defects_of_the_published_program_are_not_in_quantile_transfer(
    x64, marginals
):
    x = marginals["s4"]  # it does not return its input, but one bin less
    shift = np.mean(np.asarray(frcs_marginal_transfer(x, x)) - x)
    assert -0.0034 < shift < -0.0032
    np.testing.assert_array_equal(quantile_transfer(x, x), x)
    x, y = marginals["s5"], marginals["t5"]  # it does not move saturated samples
    assert np.max(frcs_marginal_transfer(x, y)) > 0.99
    top = np.sort(y)[-round(np.mean(x == 1) * y.size) :]
    assert_close(np.max(quantile_transfer(x, y)), top.mean(), rtol=1e-4)
    signed = 100 * samples()  # it returns NaN for some data beyond [0, 1]
    assert np.isfinite(frcs_marginal_transfer(signed, -signed)).all()


def test_marginal_transfer_in_rows():
    x, y = samples(0, (2, 40)), samples(1, (2, 31))
    rows = frcs_marginal_transfer(x, y, num_bins=20)
    assert_close(rows[1], frcs_marginal_transfer(x[1], y[1], num_bins=20), rtol=0)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data are not here")
def test_ten_iterations_in_three_dimensions_repeat_the_published_program(x64):
    data, rotations = (
        np.load(REFERENCE / f"{f}.npz") for f in ("cloud3d", "rotations")
    )
    x, y = data["X0"], data["X1"]
    for t, rotation in enumerate(rotations["R_frcs"]):
        projected = rotation @ x
        moved = np.asarray(frcs_marginal_transfer(projected, rotation @ y))
        x = x + np.linalg.pinv(rotation) @ (moved - projected)
        bound = 1e-12 if t == 0 else 1e-11
        assert_close(x, data["frcs_iters"][t], rtol=0, atol=bound)
