import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, PartitionSpec as P

from transportjax.mixtures import (
    OrientedMixture,
    l2_divergence,
    log_overlap,
    overlap,
)

REFERENCE = np.load(DATA / "von_mises_fisher.npz")


def case(d, c, dtype="float64"):
    """Two mixtures of one width and one concentration; what is known of them."""
    get = {f: REFERENCE[f"oriented_d{d}_{f}"] for f in "XNYMab"}
    own = {f: REFERENCE[f"oriented_d{d}_c{c}_{f}"] for f in ("s", "kappa")}
    known = {f: REFERENCE[f"oriented_d{d}_c{c}_{f}"] for f in ("pp", "pq", "qq", "gX")}
    width, kappa = own["s"][None] ** 2 / 4, own["kappa"][None]
    sides = [(get["X"], get["N"], get["a"]), (get["Y"], get["M"], get["b"])]
    mixtures = [
        OrientedMixture(*(jnp.asarray(a, dtype) for a in (x, width, n, kappa, w)))
        for x, n, w in sides
    ]
    return mixtures, known


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("d", [2, 3])
def test_reference(d, dtype, x64):
    rtol = {"float64": 1e-13, "float32": 1e-5}[dtype]

    @jax.jit  # one program for all three cases
    def everything(p, q):
        def l2e(means):
            moved = eqx.tree_at(lambda m: m.means, p, means)
            return l2_divergence(moved, q, variant="l2e")

        products = {"pp": overlap(p, p), "pq": overlap(p, q), "qq": overlap(q, q)}
        return products, log_overlap(p, q), jax.grad(l2e)(p.means)

    for c in range(3):
        (p, q), known = case(d, c, dtype)
        products, log_product, slope = everything(p, q)
        for name, value in products.items():
            assert value.dtype == dtype
            assert_close(value, known[name], rtol=rtol, atol=0)
        assert_close(log_product, np.log(known["pq"]), rtol=rtol)
        scale = np.abs(known["gX"]).max()
        found = np.asarray(slope, np.float64)
        assert_close(found / scale, known["gX"] / scale, rtol=10 * rtol)


@pytest.mark.parametrize("turn", [1, -1])
def test_tiles_at_all_concentrations(turn, x64):
    """By the closed form in double precision; -1 is near to antipodal."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 3))
    u = rng.normal(size=(6, 3))
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    w = turn * u + 0.01 * rng.normal(size=u.shape)
    w = w / np.linalg.norm(w, axis=1, keepdims=True)

    @jax.jit
    def value(kappa, other):
        left, right = (
            OrientedMixture(
                *(a.astype(kappa.dtype) for a in (p, jnp.full(1, 0.5), m)), k[None]
            )
            for p, m, k in ((x, u, kappa), (y, w, other))
        )
        return overlap(left, right), log_overlap(left, right)

    for kappa, other in ((0, 0), (0, 3), (1e-3, 2e-3), (0.3, 0.3), (2, 3), (40, 20)):
        exact = value(np.float64(kappa), np.float64(other))
        assert_close(exact[0], np.exp(exact[1]), rtol=1e-12, atol=0)
        found = value(np.float32(kappa), np.float32(other))[0]
        assert_close(found, exact[0], rtol=2e-6, atol=0)
    if turn == 1:
        exact = value(np.float64(1e4), np.float64(1e4))
        assert_close(exact[0], np.exp(exact[1]), rtol=1e-12, atol=0)


def test_without_concentration_only_positions_count(x64):
    (p, q), _ = case(3, 1)
    p, q = (
        OrientedMixture(m.means, m.covariances, m.directions, np.zeros(1), m.weights)
        for m in (p, q)
    )
    positions = overlap(p.positions(), q.positions())
    assert_close(overlap(p, q), positions / (4 * np.pi), rtol=1e-13)


def test_at_one_position_only_directions_count(x64):
    (p, q), _ = case(3, 1)
    p, q = (
        OrientedMixture(
            0 * m.means, m.covariances, m.directions, m.concentrations, m.weights
        )
        for m in (p, q)
    )
    peak = (4 * np.pi * float(p.covariances[0])) ** -1.5
    directions = overlap(p.orientations(), q.orientations())
    assert_close(overlap(p, q), peak * directions, rtol=1e-13)


def test_normals_of_unknown_sign(x64):
    (p, q), _ = case(3, 1)
    p, q = (OrientedMixture(*jax.tree.leaves(m), symmetric=True) for m in (p, q))
    signs = np.where(np.arange(6) % 2 == 0, 1.0, -1.0)[:, None]
    turned = OrientedMixture(
        q.means,
        q.covariances,
        q.directions * signs,
        q.concentrations,
        q.weights,
        symmetric=True,
    )
    assert_close(overlap(p, turned), overlap(p, q), rtol=1e-13)
    u = p.directions[0]
    assert_close(p.log_prob(p.means[1], u), p.log_prob(p.means[1], -u), rtol=1e-13)
    assert p.orientations().symmetric


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients(symmetric, x64):
    (p, q), _ = case(3, 0)
    make = functools.partial(OrientedMixture, symmetric=symmetric)
    right = make(*(leaf[:2] for leaf in jax.tree.leaves(q)))

    @jax.jit
    def value(*leaves):
        left = make(*leaves)
        u = leaves[2][0] / jnp.linalg.norm(leaves[2][0])
        return log_overlap(left, right) + left.log_prob(leaves[0][1], u)

    check_gradient(value, *(leaf[:3] for leaf in jax.tree.leaves(p)))


def test_density_integrates_to_the_weights(x64):
    p = case(2, 0)[0][0]
    grid = np.linspace(-8, 8, 65)
    angle = 2 * np.pi * np.arange(32) / 32
    x = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    u = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    density = jax.jit(jax.vmap(jax.vmap(p.log_prob, (None, 0)), (0, None)))
    total = np.sum(np.exp(density(x, u))) * (16 / 64) ** 2 * 2 * np.pi / 32
    assert_close(total, np.sum(p.weights), rtol=1e-10)


def test_samples():
    means = np.float32([[0, 0, 0], [10, 0, 0]])
    normals = np.float32([[0, 0, 1], [0, 1, 0]])
    p = OrientedMixture(means, np.float32([1, 4]), normals, np.float32([400.0]))
    x, u = p.sample(jr.key(0), 4000)
    assert np.array_equal(x, p.sample(jr.key(0), 4000)[0])
    left = np.asarray(x[:, 0] < 5)
    assert abs(left.mean() - 0.5) < 0.05
    assert_close(x[left].std(axis=0), np.ones(3), rtol=0.1)
    assert_close(x[~left].std(axis=0), 2 * np.ones(3), rtol=0.1)
    # a position and its direction are of one component
    assert np.mean(u[left][:, 2] > 0.8) > 0.97
    assert np.mean(u[~left][:, 1] > 0.8) > 0.97


def test_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    (p, q), _ = case(3, 1, "float32")
    p = OrientedMixture(
        p.means[:4], p.covariances, p.directions[:4], p.concentrations, p.weights[:4]
    )
    specs = (P("data"), P(), P("data"), P(), P("data"))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P("data"))
    def local(*leaves):
        return overlap(OrientedMixture(*leaves), q)[None]

    assert_close(jnp.sum(local(*jax.tree.leaves(p))), jax.jit(overlap)(p, q))


@pytest.mark.usefixtures("user_errors")
def test_errors():
    x, n = np.zeros((2, 3)), np.eye(3)[:2]
    with pytest.raises(ValueError, match="`covariances` must be isotropic"):
        OrientedMixture(x, np.ones((2, 3)), n, [1.0])
    with pytest.raises(ValueError, match="`means` and `directions` must have equal"):
        OrientedMixture(x, [1.0], np.eye(3), [1.0])
    with pytest.raises(ValueError, match="`concentrations` must be >= 0"):
        OrientedMixture(x, [1.0], n, [-1.0])
    with pytest.raises(ValueError, match="`directions` must lie on the unit sphere"):
        OrientedMixture(x, [1.0], 2 * n, [1.0])
    p = OrientedMixture(x, [1.0], n, [1.0])
    with pytest.raises(ValueError, match="'peak'"):
        l2_divergence(p, p, normalisation="peak")
