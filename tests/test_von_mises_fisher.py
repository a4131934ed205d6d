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
    VonMisesFisherMixture,
    l2_divergence,
    log_normaliser,
    log_overlap,
    mean_resultant,
    overlap,
)

REFERENCE = np.load(DATA / "von_mises_fisher.npz")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def problem(d=3, dtype="float64", symmetric=False, k=5):
    """Two mixtures of k and k - 1 components, with one antipodal pair."""
    rng = np.random.default_rng(d)
    directions, others = (
        unit(rng.normal(size=(k, d))),
        unit(rng.normal(size=(k - 1, d))),
    )
    others[0] = -directions[0]
    kappa, other_kappa = rng.uniform(0.5, 20, k), rng.uniform(0.5, 20, k - 1)
    other_kappa[0] = kappa[0]
    sides = [(directions, kappa), (others, other_kappa)]
    return [
        VonMisesFisherMixture(
            *(jnp.asarray(a, dtype) for a in (u, c, rng.uniform(size=len(c)))),
            symmetric=symmetric,
        )
        for u, c in sides
    ]


def table(p, q):
    """The logarithms of the inner products of all pairs of components."""
    (left, log_kernel), (right, _) = p.items(), q.items()
    return jax.vmap(jax.vmap(log_kernel, (None, 0)), (0, None))(left, right)


# --- inner products ----------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 1.1e-5)])
@pytest.mark.parametrize("dim", [2, 3, 5, 16])
def test_reference(dim, dtype, limit, x64):
    compute = jax.jit(table)
    slopes = jax.jit(jax.grad(log_overlap, (0, 1)))
    has_slopes = dim < 4 if dtype == "float64" else dim == 3
    for case in range(5):
        names = ["U", "kappa_u", "V", "kappa_v", "log_inner"]
        arrays = [REFERENCE[f"inner_d{dim}_c{case}_{name}"] for name in names]
        u, kappa, v, other, expected = (jnp.asarray(a, dtype) for a in arrays)
        p, q = VonMisesFisherMixture(u, kappa), VonMisesFisherMixture(v, other)
        found = np.asarray(compute(p, q), np.float64)
        assert np.max(np.abs(found - arrays[4]) / np.maximum(1, abs(arrays[4]))) < limit
        # gradients are finite, at identical and at antipodal pairs too
        for slope in jax.tree.leaves(slopes(p, q)) if has_slopes else ():
            assert np.all(np.isfinite(slope))


def test_quadrature_on_the_circle(x64):
    p, q = problem(2)
    angle = 2 * np.pi * np.arange(400) / 400
    points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    densities = [jnp.exp(jax.jit(jax.vmap(m.log_prob))(points)) for m in (p, q)]
    integral = 2 * np.pi * jnp.mean(densities[0] * densities[1])
    assert_close(overlap(p, q), integral, rtol=1e-12)
    assert_close(2 * np.pi * jnp.mean(densities[0]), jnp.sum(p.weights), rtol=1e-12)
    difference = densities[0] - densities[1]
    assert_close(l2_divergence(p, q), 2 * np.pi * jnp.mean(difference**2), rtol=1e-11)


def test_axes_are_both_directions(x64):
    p, q = problem(3, symmetric=True)
    both = [
        VonMisesFisherMixture(
            np.concatenate([m.directions, -m.directions]),
            np.concatenate([m.concentrations] * 2),
            np.concatenate([m.weights] * 2) / 2,
        )
        for m in (p, q)
    ]
    assert_close(overlap(p, q), overlap(*both), rtol=1e-13)
    u = unit(np.array([0.3, -0.2, 0.5]))
    assert_close(p.log_prob(u), both[0].log_prob(u), rtol=1e-13)
    assert_close(p.log_prob(-u), p.log_prob(u), rtol=1e-13)
    turned = VonMisesFisherMixture(
        q.directions.at[1].multiply(-1), q.concentrations, q.weights, symmetric=True
    )
    assert_close(l2_divergence(p, turned), l2_divergence(p, q), rtol=1e-12)


def with_leaves(mixture, *leaves):
    return VonMisesFisherMixture(*leaves, symmetric=mixture.symmetric)


@pytest.mark.parametrize(
    ("dim", "symmetric", "twice"),
    [(2, False, False), (3, False, True), (3, True, False), (5, False, False)],
)
def test_gradients(dim, symmetric, twice, x64):
    # the antipodal pair has R = 0, where R itself has no derivative
    p, q = problem(dim, symmetric=symmetric, k=3)

    @jax.jit
    def value(*leaves):
        left, right = with_leaves(p, *leaves[:3]), with_leaves(q, *leaves[3:])
        return log_overlap(left, right)

    leaves = (*jax.tree.leaves(p), *jax.tree.leaves(q))
    check_gradient(value, *leaves)

    def slope(*leaves):
        return sum(jnp.sum(s**2) for s in jax.grad(value, (0, 1))(*leaves))

    if twice:
        check_gradient(jax.jit(slope), *leaves, rtol=1e-5)


def test_slopes_in_large_concentrations_keep_their_digits():
    # two nearly equal, concentrated components: d log <f, g> / d log kappa is about 1/2
    kappa, other = 3e5, 2e5
    p, q = (
        VonMisesFisherMixture(np.float32([[0, 0, 1]]), np.float32([c]))
        for c in (kappa, other)
    )
    slope = jax.jit(jax.grad(log_overlap))(p, q).concentrations[0]
    # log C(kappa) + log C(lambda) - log C(kappa + lambda), with A = 1 - 1 / kappa
    expected = 1 / kappa - 1 / (kappa + other)
    assert_close(slope * kappa, expected * kappa, rtol=1e-4)
    assert log_overlap(p, q) == pytest.approx(
        np.log(kappa * other / (kappa + other) / (2 * np.pi)), rel=1e-5
    )


def test_limits(x64):
    # without concentration all densities are uniform, and so is their product
    p = VonMisesFisherMixture(np.eye(3), np.zeros(1))
    q = VonMisesFisherMixture(np.eye(3)[:1], np.zeros(1))
    assert_close(overlap(p, q), np.exp(log_normaliser(0.0, 3)), rtol=1e-14)
    for slope in jax.tree.leaves(jax.jit(jax.grad(overlap))(p, q)):
        assert np.all(np.isfinite(slope))
    assert_close(l2_divergence(p, q), 0.0, atol=1e-15)
    # a sharp density picks out a value of the other one
    p, _ = problem(3, k=3)
    u = unit(np.array([[1.0, 2.0, -1.0]]))
    sharp = VonMisesFisherMixture(u, np.array([1e9]))
    assert_close(log_overlap(p, sharp), p.log_prob(u[0]), rtol=1e-6)


def test_rotation_and_norm_of_directions(x64):
    p, q = problem(3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = [with_leaves(m, m.directions @ turn.T, *m_rest(m)) for m in (p, q)]
    assert_close(l2_divergence(*moved), l2_divergence(p, q), rtol=1e-12)
    # a step of an optimiser leaves the sphere, and changes nothing by that
    longer = eqx.tree_at(lambda m: m.directions, p, 3 * p.directions)
    assert_close(overlap(longer, q), overlap(p, q), rtol=1e-13)
    slope = jax.jit(jax.grad(overlap))(longer, q).directions
    assert_close(jnp.sum(slope * p.directions, axis=1), np.zeros(5), atol=1e-15)


def m_rest(mixture):
    return mixture.concentrations, mixture.weights


def test_shared_concentration(x64):
    p, q = problem(3)
    one = with_leaves(p, p.directions, np.array([4.0]), p.weights)
    all_ = with_leaves(p, p.directions, np.full(5, 4.0), p.weights)
    assert_close(overlap(one, q), overlap(all_, q), rtol=1e-14)
    assert_close(overlap(one, one), overlap(all_, all_), rtol=1e-14)
    assert_close(one.log_prob(p.directions[1]), all_.log_prob(p.directions[1]))


# --- density and samples -----------------------------------------------------------


def test_log_prob_gradient(x64):
    p, _ = problem(3, symmetric=True, k=3)
    raw = np.array([0.4, -1.0, 0.7])

    @jax.jit
    def value(raw, *leaves):
        return with_leaves(p, *leaves).log_prob(raw / jnp.linalg.norm(raw))

    check_gradient(value, raw, *jax.tree.leaves(p))


def test_log_prob_by_the_plain_formula(x64):
    p, _ = problem(5)
    u = unit(np.arange(1.0, 6.0))
    logs = np.asarray(log_normaliser(p.concentrations, 5))
    logs = logs + p.concentrations * (p.directions @ u)
    assert_close(p.log_prob(u), np.log(p.weights @ np.exp(logs)), rtol=1e-13)


@functools.partial(jax.jit, static_argnums=1)
def resultant_slope(kappa, dim):
    return jax.grad(mean_resultant)(kappa, dim)


@pytest.mark.parametrize("kappa", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_samples(dim, kappa):
    num, m = 20_000, unit(np.arange(1.0, dim + 1)).astype("float32")
    p = VonMisesFisherMixture(m[None], np.float32([kappa]))
    x = np.asarray(p.sample(jr.key(dim), num), np.float64)
    assert x.shape == (num, dim)
    assert_close(np.linalg.norm(x, axis=1), np.ones(num), rtol=1e-6)
    below = np.sum((x - m) ** 2, axis=1) / 2
    resultant = float(mean_resultant(np.float32(kappa), dim))
    slope = float(resultant_slope(np.float32(kappa), dim))
    missing = (dim - 1) / 2 / kappa if kappa > 1e3 else 1 - resultant
    # the mean and the variance of m.x are A and A', five standard errors wide
    deviation = slope**0.5
    assert abs(below.mean() - missing) < 5 * deviation / num**0.5
    assert abs(below.std() / deviation - 1) < 0.05
    across = x - (x @ m)[:, None] * m
    limit = 5 * np.sqrt((1 - (resultant**2 + slope)) / num)
    assert np.all(np.abs(across.mean(axis=0)) < limit + 1e-7)


def test_samples_of_mixtures():
    directions = np.float32([[1, 0, 0], [0, 1, 0]])
    p = VonMisesFisherMixture(directions, np.float32([500.0]), np.float32([3.0, 1.0]))
    x = p.sample(jr.key(0), 4000)
    assert abs(np.mean(x[:, 0] > 0.7) - 0.75) < 0.04
    assert np.array_equal(x, p.sample(jr.key(0), 4000))
    axes = VonMisesFisherMixture(
        directions, p.concentrations, p.weights, symmetric=True
    )
    x = axes.sample(jr.key(0), 4000)
    assert abs(np.mean(x[:, 0] > 0.7) - 0.375) < 0.04
    assert abs(np.mean(x[:, 0] < -0.7) - 0.375) < 0.04


def test_samples_on_the_sphere_follow_the_concentration(x64):
    p, _ = problem(3, k=2)

    def value(directions, concentrations):
        moved = with_leaves(p, directions, concentrations, p.weights)
        return jnp.sum(jnp.sin(3 * moved.sample(jr.key(0), 4)))

    check_gradient(jax.jit(value), p.directions, p.concentrations)


# --- transformations, devices, errors ----------------------------------------------


def test_jit_and_vmap(x64):
    p, q = problem(3, k=3)
    points = np.asarray(p.directions)
    batched = jax.jit(jax.vmap(p.log_prob))(points)
    assert_close(batched, [p.log_prob(u) for u in points], rtol=1e-14)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), p, p)
    assert_close(jax.jit(jax.vmap(overlap, (0, None)))(stacked, q), [overlap(p, q)] * 2)


def test_dtypes():
    p, q = problem(3, dtype="float16")
    wide = [jax.tree.map(lambda a: a.astype("float32"), m) for m in (p, q)]
    assert overlap(p, q).dtype == p.log_prob(p.directions[0]).dtype == "float16"
    assert p.sample(jr.key(0), 3).dtype == "float16"
    assert_close(overlap(p, q), overlap(*wide))
    integers = VonMisesFisherMixture(np.eye(3, dtype=int), np.array([2]))
    assert integers.directions.dtype == integers.concentrations.dtype == "float32"


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded(kind):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    p, q = problem(3, dtype="float32", k=8)[0], problem(3, dtype="float32")[1]
    shards = jax.device_put(p, NamedSharding(mesh, P("data")))
    assert_close(overlap(shards, q), overlap(p, q))
    u = p.directions[0]
    assert_close(shards.log_prob(u), p.log_prob(u))


def test_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    p, q = problem(3, dtype="float32", k=8)[0], problem(3, dtype="float32")[1]

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    def local(p, q):
        return (
            overlap(p, q)[None],
            p.sample(jr.key(0), 2),
            p.log_prob(q.directions[1])[None],
        )

    values, samples, logs = local(p, q)
    assert_close(jnp.sum(values), overlap(p, q))
    assert_close(jnp.sum(jnp.exp(logs)), jnp.exp(p.log_prob(q.directions[1])))
    assert samples.shape == (8, 3)


@pytest.mark.usefixtures("user_errors")
def test_errors():
    make, rows = VonMisesFisherMixture, np.eye(3)[:2]
    with pytest.raises(ValueError, match="`directions` must lie on the unit sphere"):
        make(2 * rows, [1.0])
    with pytest.raises(ValueError, match=r"`directions` must have shape \(n, d\)"):
        make(rows[0], [1.0])
    with pytest.raises(ValueError, match="`concentrations` must have shape"):
        make(rows, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="`concentrations` must be >= 0"):
        make(rows, [-1.0])
    with pytest.raises(ValueError, match=r"`weights` must have shape \(2,\)"):
        make(rows, [1.0], [1.0])
    p = make(rows, [1.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="`weights` must be >= 0"):
        p.sample(jr.key(0), 3)
    with pytest.raises(ValueError, match="`u` must lie on the unit sphere"):
        make(rows, [1.0]).log_prob([1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"`u` must be one event of shape \(3,\)"):
        make(rows, [1.0]).log_prob([1.0, 0.0])
    with pytest.raises(ValueError, match="same static options"):
        overlap(make(rows, [1.0]), make(rows, [1.0], symmetric=True))
