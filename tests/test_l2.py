import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.mixtures import (
    GaussianMixture,
    kernel_density,
    l2_divergence,
    log_overlap,
    overlap,
)

REFERENCE = np.load(DATA / "gmm_l2.npz")
KINDS = ("iso_shared", "iso", "diag", "full")
VARIANTS = ("l2", "l2e", "cross", "kernel_correlation", "cauchy_schwarz")
EPS = float(np.finfo("float64").eps)


def covariances_of(matrices, kind):
    """Matrices as what is stored for the kind, of which they are."""
    diagonals = np.diagonal(matrices, axis1=1, axis2=2)
    stored = {"full": matrices, "diag": diagonals, "iso": diagonals[:, 0]}
    return stored[kind] if kind in stored else stored["iso"][:1]


def reference(case, side, kind="full", dtype="float64"):
    weights, means, matrices = (REFERENCE[f"{case}_{side}_{f}"] for f in "wmS")
    leaves = (means, covariances_of(matrices, kind), weights)
    return GaussianMixture(*(jnp.asarray(leaf, dtype) for leaf in leaves))


def mixtures(kind="full", other=None, shared=False, d=2, seed=0):
    """Two mixtures in float64, of 3 and 4 components."""
    rng = np.random.default_rng(seed)
    found = []
    for k, own in ((3, kind), (4, other or kind)):
        roots = rng.normal(size=(1 if shared or own == "iso_shared" else k, d, d))
        matrices = roots @ roots.swapaxes(1, 2) + 0.3 * np.eye(d)
        weights = rng.uniform(0.5, 1.5, k) / k
        leaves = rng.normal(size=(k, d)), covariances_of(matrices, own), weights
        found.append(GaussianMixture(*leaves))
    return found


def as_full(mixture):
    """The same mixture, a matrix for each component."""
    means, cov = mixture.means, np.asarray(mixture.covariances)
    k, d = means.shape
    if cov.ndim < 3:
        cov = cov.reshape(len(cov), -1)[:, :, None] * np.eye(d)
    return GaussianMixture(means, np.broadcast_to(cov, (k, d, d)), mixture.weights)


# --- against reference data --------------------------------------------------------

CASES = [(d, kind) for d in (2, 3) for kind in KINDS]
CASES += [(1, "iso_shared"), (1, "full"), (6, "iso"), (6, "full")]


@eqx.filter_jit
def terms(p, q):
    slope = jax.value_and_grad(l2_divergence)(p, q)
    cauchy_schwarz = l2_divergence(p, q, variant="cauchy_schwarz")
    products = overlap(p, p), overlap(p, q), overlap(q, q)
    return (*products, slope[0], log_overlap(p, q), cauchy_schwarz), slope[1]


@pytest.mark.parametrize(("d", "kind"), CASES)
def test_parity(d, kind, x64):
    case = f"d{d}_{kind}"
    p, q = (reference(case, side, kind) for side in "pq")
    values, slope = terms(p, q)
    assert_close(values, REFERENCE[f"{case}_values"], rtol=1e-12, atol=1e-15)
    matrices = REFERENCE[f"{case}_gS"]
    expected = {
        "full": matrices,
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "iso": np.trace(matrices, axis1=1, axis2=2),
        "iso_shared": np.sum(np.trace(matrices, axis1=1, axis2=2))[None],
    }[kind]
    assert_close(slope.weights, REFERENCE[f"{case}_gw"], rtol=1e-10, atol=1e-14)
    assert_close(slope.means, REFERENCE[f"{case}_gm"], rtol=1e-10, atol=1e-14)
    assert_close(slope.covariances, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", ["iso_shared", "full"])
def test_parity_in_single_precision(kind, x64):
    p, q = (reference(f"d3_{kind}", side, kind, "float32") for side in "pq")
    values, slope = terms(p, q)
    expected = REFERENCE[f"d3_{kind}_values"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves((values, slope))} == {"float32"}
    assert_close(values, expected, rtol=2e-5, atol=2e-6 * expected[0])
    scale = np.abs(REFERENCE[f"d3_{kind}_gm"]).max()
    assert_close(slope.means, REFERENCE[f"d3_{kind}_gm"], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("case", ["near", "very_near"])
def test_nearly_equal_mixtures(case, x64):
    # The terms cancel: the error is one of rounding of <p, p>, not of the distance.
    own, _, _, expected, _, _ = REFERENCE[f"{case}_values"]
    p, q = (reference(case, side) for side in "pq")
    value = l2_divergence(p, q)
    assert value >= 0
    assert abs(value - expected) < 16 * EPS * own
    p, q = (reference(case, side, dtype="float32") for side in "pq")
    error = abs(float(l2_divergence(p, q)) - expected)
    assert error < 16 * np.finfo("float32").eps * own


@eqx.filter_jit
def every_variant(p, q):
    return {v: l2_divergence(p, q, variant=v) for v in VARIANTS}


def test_mixtures_far_apart(x64):
    expected = REFERENCE["far_values"][4]
    p, q = (reference("far", side) for side in "pq")
    assert overlap(p, q) == 0
    assert_close(log_overlap(p, q), expected, rtol=1e-12)
    p, q = (reference("far", side, dtype="float32") for side in "pq")
    value, slope = jax.jit(jax.value_and_grad(log_overlap))(p, q)
    assert_close(value, expected, rtol=1e-6)
    values = every_variant(p, q)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((values, slope)))
    assert np.linalg.norm(slope.means) > 1  # it still pulls
    for variant in ("l2", "kernel_correlation", "cauchy_schwarz"):
        value = functools.partial(l2_divergence, variant=variant)
        slope = jax.jit(jax.grad(value))(p, q)
        assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(slope))


# --- known answers -----------------------------------------------------------------


@pytest.mark.parametrize(("d", "kind"), [(1, "iso"), (2, "full")])
def test_quadrature(d, kind, x64):
    p, q = mixtures(kind, d=d)
    axis = np.linspace(-14, 14, 281)
    grid = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    f, g = (np.exp(jax.jit(jax.vmap(m.log_prob))(grid)) for m in (p, q))
    cell = (axis[1] - axis[0]) ** d
    pp, pq, qq = (np.sum(a * b) * cell for a, b in ((f, f), (f, g), (g, g)))
    expected = {
        "l2": np.sum((f - g) ** 2) * cell,
        "l2e": pp - 2 * pq,
        "cross": -pq,
        "kernel_correlation": -(pq**2) / pp,
        "cauchy_schwarz": -np.log(pq**2 / (pp * qq)),
    }
    found = every_variant(p, q)
    for variant in VARIANTS:
        assert_close(found[variant], expected[variant], rtol=1e-10)


@pytest.mark.parametrize(
    ("d", "h", "g"), [(1, 0.5, 0.5), (3, 0.3, 0.8), (10, 0.5, 0.5)]
)
def test_peak(d, h, g, x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, d)) / d, rng.normal(size=(6, d)) / d
    p, q = kernel_density(x, h), kernel_density(y, g)

    def mean(x, y, s2):  # of the kernels, at the height that one of p and q has
        square = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
        height = ((h**2 + g**2) / (s2 / 2)) ** (d / 2)
        return height * np.mean(np.exp(-square / s2))

    pp, pq = mean(x, x, 4 * h**2), mean(x, y, 2 * (h**2 + g**2))
    qq = mean(y, y, 4 * g**2)
    expected = (pp - 2 * pq + qq, pp - 2 * pq, -pq, -(pq**2) / pp)
    factor = (2 * np.pi * (h**2 + g**2)) ** (d / 2)
    for variant, value in zip(VARIANTS, expected, strict=False):
        found = l2_divergence(p, q, variant=variant, normalisation="peak")
        assert_close(found, value, rtol=1e-11)
        density = l2_divergence(p, q, variant=variant)
        assert_close(density * factor, found, rtol=1e-11)
    scale_free = functools.partial(l2_divergence, p, q, variant="cauchy_schwarz")
    assert_close(scale_free(normalisation="peak"), scale_free(), rtol=1e-11)


@pytest.mark.parametrize(
    "measure",
    [log_overlap, functools.partial(l2_divergence, variant="cauchy_schwarz")],
)
def test_logarithms_do_not_depend_on_where_the_origin_is(measure, key):
    x = jnp.round(64 * jr.normal(key, (40, 2))) / 64  # exact in either place
    values = [
        measure(kernel_density(y, 0.017), kernel_density(y + 0.25, 0.017))
        for y in (x, x + 1e4)
    ]
    assert_close(values[1], values[0], rtol=1e-6)


def test_peak_does_not_overflow():
    # The density's factor (pi s^2)^(-d/2) has no place in single precision.
    x = np.zeros((2, 64), np.float32)
    p, q = kernel_density(x, 1e-2), kernel_density(x + 1e-3, 1e-2)
    value = l2_divergence(p, q, variant="cross", normalisation="peak")
    assert_close(value, -np.exp(-64e-6 / 4e-4), rtol=1e-4)


# --- laws --------------------------------------------------------------------------

PAIRS = [(a, b) for a in KINDS for b in KINDS if KINDS.index(a) < KINDS.index(b)]


@eqx.filter_jit
def overlaps(p, q, *full):
    return overlap(p, q), overlap(q, p), overlap(*full)


@pytest.mark.parametrize("d", [2, 4])
@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_kinds_mix(kind, other, d, x64):
    p, q = mixtures(kind, other, d=d)
    found, exchanged, expected = overlaps(p, q, as_full(p), as_full(q))
    assert_close(found, expected, rtol=1e-12)
    assert_close(exchanged, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_shared_covariances(kind, x64):
    p, q = mixtures(kind, shared=True, d=3)
    value = l2_divergence(p, q)
    assert_close(value, l2_divergence(as_full(p), as_full(q)), rtol=1e-11)
    own = mixtures(kind, d=3)[1]
    assert_close(overlap(p, own), overlap(as_full(p), as_full(own)), rtol=1e-11)


def assert_equal_values(found, expected, variants=VARIANTS):
    for variant in variants:
        assert_close(found[variant], expected[variant], rtol=1e-11)


@pytest.mark.parametrize("kind", ["iso_shared", "full"])
def test_laws(kind, key, x64):
    p, q = mixtures(kind, d=3)
    value = every_variant(p, q)
    symmetric = ("l2", "cross", "cauchy_schwarz")
    assert_equal_values(every_variant(q, p), value, symmetric)

    def taken(order, factor):
        covariances = p.covariances if kind == "iso_shared" else p.covariances[order]
        return GaussianMixture(p.means[order], covariances, p.weights[order] * factor)

    # the order of the components
    same = taken(np.array([2, 0, 1]), np.ones(3))
    assert_equal_values(every_variant(same, q), value)
    # a weight is a repetition; a component without weight is none
    again = taken(np.array([0, 0, 1, 2, 1]), np.array([0.3, 0.7, 1, 1, 0]))
    assert_equal_values(every_variant(again, q), value)
    # a common rotation and translation
    turn, shift = np.asarray(jr.orthogonal(key, 3)), np.array([[30.0, -9, 2]])

    def moved(m):
        covariances = m.covariances
        if kind == "full":
            covariances = turn @ covariances @ turn.T
        return GaussianMixture(m.means @ turn.T + shift, covariances, m.weights)

    assert_equal_values(every_variant(moved(p), moved(q)), value)


@pytest.mark.parametrize("kind", ["iso_shared", "full"])
def test_equal_mixtures(kind, x64):
    p, _ = mixtures(kind)

    def at(shift):  # eager, to see the values
        moved = eqx.tree_at(lambda m: m.means, p, p.means + shift * jnp.ones((1, 2)))
        return l2_divergence(moved, p)

    assert 0 <= at(0.0) < 1e-15
    for variant in ("l2", "cauchy_schwarz"):
        value = functools.partial(l2_divergence, variant=variant)
        found, slope = jax.jit(jax.value_and_grad(value))(p, p)
        assert 0 <= found < 1e-14
        assert all(np.max(np.abs(leaf)) < 1e-14 for leaf in jax.tree.leaves(slope))
    # the second derivative is not lost where the value is clipped
    curvature = jax.jvp(jax.grad(at), (0.0,), (1.0,))[1]
    assert_close(curvature, 2 * at(1e-4) / 1e-8, rtol=1e-5)


def test_bilinear_in_signed_weights(x64):
    p, q = mixtures()
    r = GaussianMixture(q.means, q.covariances, q.weights * np.array([1, -2, 0.5, -1]))
    joint = GaussianMixture(
        np.concatenate([q.means, r.means]),
        np.concatenate([q.covariances, r.covariances]),
        np.concatenate([q.weights, r.weights]),
    )
    assert_close(overlap(p, joint), overlap(p, q) + overlap(p, r), rtol=1e-12)
    assert l2_divergence(p, r) > 0


def test_one_component_and_copies(x64):
    one = GaussianMixture(np.ones((1, 2)), np.full(1, 0.5))
    copies = GaussianMixture(np.ones((5, 2)), np.full(5, 0.5))
    assert_close(overlap(one, copies), 1 / (2 * np.pi), rtol=1e-12)
    assert l2_divergence(one, copies) < 1e-15


# --- derivatives -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "variant", "normalisation"),
    [
        ("iso_shared", "l2", "peak"),
        ("iso_shared", "cauchy_schwarz", "density"),
        ("iso", "kernel_correlation", "density"),
        ("diag", "cauchy_schwarz", "density"),
        ("full", "l2e", "density"),
    ],
)
def test_derivatives_by_finite_differences(kind, variant, normalisation, x64):
    p, q = mixtures(kind)

    @jax.jit
    def value(*leaves):
        found = []
        for means, covariances, weights in (leaves[:3], leaves[3:]):
            if kind == "full":
                covariances = (covariances + covariances.mT) / 2
            found.append(GaussianMixture(means, covariances, weights))
        return l2_divergence(*found, variant=variant, normalisation=normalisation)

    check_gradient(value, *jax.tree.leaves((p, q)))


@pytest.mark.parametrize("kind", ["iso_shared", "full"])
def test_second_derivatives(kind, x64):
    p, q = mixtures(kind)
    move = jax.tree.map(lambda leaf: 0.1 * jnp.cos(leaf), p)
    if kind == "full":
        move = eqx.tree_at(lambda m: m.covariances, move, replace_fn=_symmetric)

    def along(t):
        return jax.tree.map(lambda leaf, dot: leaf + t * dot, p, move)

    slope = jax.jit(jax.grad(l2_divergence))
    product = jax.jit(
        lambda p: jax.jvp(jax.grad(l2_divergence), (p, q), (move, _zero(q)))
    )
    numeric = jax.tree.map(
        lambda a, b: (a - b) / 2e-6, slope(along(1e-6), q), slope(along(-1e-6), q)
    )
    for one, other in zip(
        jax.tree.leaves(product(p)[1]), jax.tree.leaves(numeric), strict=True
    ):
        assert_close(one, other, rtol=1e-6, atol=1e-8)


def _symmetric(matrices):
    return (matrices + matrices.mT) / 2


def _zero(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def test_derivatives_in_either_bandwidth(x64):
    # Also where both are the same, and known: the terms depend on each differently.
    x, y = np.random.default_rng(0).normal(size=(2, 6, 2))

    @functools.partial(jax.jit, static_argnums=2)
    def value(h, g, normalisation="density"):
        p, q = kernel_density(x, h), kernel_density(y, g)
        return l2_divergence(p, q, normalisation=normalisation)

    check_gradient(value, np.array(0.5), np.array(0.5))
    alone = jax.grad(lambda h: value(h, 0.5, "peak"))(0.5)
    numeric = (value(0.5 + 1e-6, 0.5, "peak") - value(0.5 - 1e-6, 0.5, "peak")) / 2e-6
    assert_close(alone, numeric, rtol=1e-7)


def test_many_points_in_single_precision(x64):
    # Eagerly by a series, under jit by tiles.
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.uniform(size=(12_000, 2))) for _ in range(2))

    def value(x, y):
        options = {"variant": "l2e", "normalisation": "peak"}
        return l2_divergence(kernel_density(x, 0.1), kernel_density(y, 0.1), **options)

    exact = value(np.float64(x), np.float64(y))
    assert_close(value(x, y), exact, rtol=0, atol=1e-6)
    assert_close(jax.jit(value)(x, y), exact, rtol=0, atol=1e-6)


# --- transformations ---------------------------------------------------------------


def test_jit_and_vmap():
    pairs = [mixtures("full", seed=seed) for seed in (0, 1)]
    pairs = jax.tree.map(np.float32, pairs)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    value = jax.value_and_grad(lambda pair: l2_divergence(*pair))
    found = jax.jit(jax.vmap(value))(stacked)
    expected = value(pairs[1])
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(one[1], other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_components(axis_type):
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.normal(size=(n, 3))) for n in (800, 1000))
    diagonals = np.float32(rng.uniform(0.1, 1, (800, 3)))

    def value(x, diagonals, y):
        p = GaussianMixture(x, diagonals)
        return l2_divergence(p, kernel_density(y, 0.5), variant="l2e")

    slope = jax.jit(jax.value_and_grad(value, (0, 1)))
    expected = slope(x, diagonals, y)
    mesh = jax.make_mesh((4,), ("i",), (axis_type,))
    with jax.set_mesh(mesh):
        put = functools.partial(jax.device_put, device=NamedSharding(mesh, P("i")))
        found = slope(put(x), put(diagonals), y)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(np.asarray(one), other, rtol=1e-4, atol=1e-7)


def test_shard_map():
    # p is a sum over devices, each of which holds a part of its components.
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.normal(size=(n, 2))) for n in (40, 30))
    mesh = jax.make_mesh((4,), ("i",), (AxisType.Auto,))

    def cross(x, y):
        weights = jnp.full_like(x, 1 / 40, shape=x.shape[:1])
        p = kernel_density(x, 0.5, weights=weights)
        return jax.lax.psum(
            l2_divergence(p, kernel_density(y, 0.5), variant="cross"), "i"
        )

    spread = jax.shard_map(cross, mesh=mesh, in_specs=(P("i"), P()), out_specs=P())
    found = jax.jit(jax.value_and_grad(spread, (0, 1)))(x, y)
    expected = jax.value_and_grad(
        lambda x, y: l2_divergence(
            kernel_density(x, 0.5), kernel_density(y, 0.5), variant="cross"
        ),
        (0, 1),
    )(x, y)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(one, other, rtol=1e-4, atol=1e-7)


# --- dtypes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_computes_in_single(dtype):
    x = jnp.linspace(0, 1, 80).reshape(40, 2).astype(dtype)
    p, q = kernel_density(x, 0.5), kernel_density(2 * x, 0.5)
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), (p, q))
    value = l2_divergence(p, q)
    assert value.dtype == dtype
    assert value == l2_divergence(*wide).astype(dtype)


def test_mixed_dtypes(x64):
    p, q = mixtures("iso")
    narrow = jax.tree.map(np.float32, p)
    assert overlap(narrow, q).dtype == "float64"
    assert_close(overlap(narrow, q), overlap(p, q), rtol=1e-6)


# --- errors ------------------------------------------------------------------------


class Other(eqx.Module):
    weights: jax.Array

    def items(self):
        return (self.weights[:, None],), jnp.add


ONE = {"means": np.zeros((3, 2)), "covariances": np.ones(1)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"variant": "kl"}, "`variant` must be one of 'l2', 'l2e'"),
        ({}, {"normalisation": "unit"}, "`normalisation` must be one of 'density'"),
        ({"means": np.zeros((3, 4))}, {}, "must be of one dimension; got 4 and 2"),
        (
            {"covariances": np.ones(3)},
            {"normalisation": "peak"},
            "`normalisation` must be 'density' unless",
        ),
        (
            {"weights": np.array([1.0, -1, 1])},
            {"variant": "cauchy_schwarz"},
            "`p.weights` must be >= 0",
        ),
    ],
)
def test_errors(change, options, message, user_errors):
    p, q = GaussianMixture(**(ONE | change)), GaussianMixture(**ONE)
    with pytest.raises(ValueError, match=message):
        l2_divergence(p, q, **options)


def test_errors_of_classes(user_errors):
    q = GaussianMixture(**ONE)
    with pytest.raises(ValueError, match="`p` must be a mixture, as `kernel_density"):
        overlap(np.zeros((3, 2)), q)
    with pytest.raises(ValueError, match="got a Other and a GaussianMixture"):
        log_overlap(Other(jnp.ones(3)), q)
    with pytest.raises(ValueError, match="`q.weights` must be >= 0"):
        log_overlap(q, GaussianMixture(**ONE, weights=np.array([1.0, -1, 1])))
