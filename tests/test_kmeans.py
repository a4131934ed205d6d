import functools
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.cluster.vq
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.mixtures import kmeans
from transportjax.mixtures.kmeans import _kmeans


def clouds(n=60, k=4, d=2, spread=0.5, seed=0):
    """Points around the corners of a simplex-like set, well apart; their labels."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    centres = (
        10 * rng.permutation(np.eye(max(k, d)))[:k, :d] + 7 * np.arange(k)[:, None]
    )
    return centres[truth] + spread * rng.normal(size=(n, d)), truth


def in_order(clusters):
    order = np.lexsort(np.asarray(clusters.centres).T)
    return np.asarray(clusters.centres)[order], np.asarray(clusters.weights)[order]


def cost(x, centres, weights=None):
    squares = np.sum((x[:, None] - centres[None]) ** 2, axis=-1).min(axis=1)
    return np.average(squares, weights=weights)


@pytest.mark.parametrize(("d", "dtype"), [(2, "float64"), (20, "float32")])
def test_clouds_apart_are_found(d, dtype, key, x64):
    x, truth = clouds(d=d)
    found = kmeans(jnp.asarray(x, dtype), 4, key=key)
    assert found.centres.dtype == found.weights.dtype == found.cost.dtype == dtype
    labels = np.asarray(found.labels)
    assert labels.dtype == np.int32
    for j in range(4):
        assert len(set(labels[truth == j])) == 1
        own = np.asarray(found.centres)[labels[truth == j][0]]
        assert_close(own, x[truth == j].mean(axis=0), rtol=1e-6)
    assert_close(found.weights, np.full(4, 0.25), rtol=1e-6)
    assert_close(found.cost, cost(x, np.asarray(found.centres)), rtol=1e-5)


def test_is_a_fixed_point_of_a_step_in_numpy(key, x64):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(300, 3)), rng.uniform(size=300)
    found = kmeans(x, 7, key=key, weights=weights)
    centres = np.asarray(found.centres)
    labels = np.sum((x[:, None] - centres[None]) ** 2, axis=-1).argmin(axis=1)
    assert np.array_equal(labels, found.labels)
    for j in range(7):
        own = labels == j
        assert_close(centres[j], np.average(x[own], axis=0, weights=weights[own]))
        assert_close(found.weights[j], weights[own].sum() / weights.sum())
    assert_close(found.cost, cost(x, centres, weights))


def test_as_good_as_scipy(x64):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    found = jax.vmap(lambda key: kmeans(x, 8, key=key))(jr.split(jr.key(0), 10))
    theirs = [
        cost(x, scipy.cluster.vq.kmeans2(x, 8, iter=100, minit="++", rng=i)[0])
        for i in range(10)
    ]
    assert np.median(found.cost) < 1.02 * np.median(theirs)
    assert np.min(found.cost) < 1.01 * np.min(theirs)
    # fewer steps, and none of Lloyd's gain is lost in more of them
    short = kmeans(x, 8, key=jr.key(0), num_steps=1)
    assert kmeans(x, 8, key=jr.key(0)).cost <= short.cost


def test_weights_are_repetitions(key, x64):
    x, _ = clouds()
    counts = np.random.default_rng(0).integers(0, 4, 60)
    repeated = np.repeat(x, counts, axis=0)
    one = in_order(kmeans(x, 4, key=key, weights=counts))
    other = in_order(kmeans(repeated, 4, key=key))
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, rtol=1e-12)


def test_seeds_and_traces(key):
    x = np.random.default_rng(2).normal(size=(50, 2)).astype("float32")
    before = _kmeans._cache_size()
    runs = [kmeans(x, 5, key=key, num_steps=num) for num in (100, 100, 3)]
    kmeans(x + 1, 5, key=jr.key(0))
    assert _kmeans._cache_size() == before + 1
    assert np.array_equal(runs[0].centres, runs[1].centres)


def test_far_from_the_origin(key):
    x, truth = clouds(spread=0.1)
    found = kmeans(np.float32(x + 1e4), 4, key=key)
    own = np.asarray(found.centres, np.float64)[np.asarray(found.labels)]
    expected = np.float32(x + 1e4).astype("float64")
    means = np.stack([expected[truth == j].mean(axis=0) for j in range(4)])[truth]
    assert np.abs(own - means).max() < 2e-3  # two units of rounding of the points


@pytest.mark.parametrize("d", [3, 12, 16])
def test_small_clusters_far_apart(d, key):
    """Single precision, and squared norms in which the distances would drown."""
    rng = np.random.default_rng(3)
    corners = np.zeros((4, d))
    corners[:, 0] = [-1e4, -1e4 + 2, 1e4, 1e4 + 2]
    x = np.repeat(corners, 50, axis=0) + 0.1 * rng.normal(size=(200, d))
    found = kmeans(jnp.asarray(x, "float32"), 4, key=key)
    assert_close(found.weights, np.full(4, 0.25), rtol=1e-5)
    assert float(found.cost) < 0.02 * d


@pytest.mark.parametrize("k", [1, 3])
def test_fewer_points_than_clusters(k, key):
    x = np.float32([[1, 2]] * 4 + [[5, 5]])[: 4 + (k > 1)]
    found = kmeans(x, k, key=key)
    assert_close(found.cost, 0.0)
    assert_close(jnp.sum(found.weights), 1.0)
    assert np.sum(np.asarray(found.weights) > 0) == min(k, 2)
    assert np.all(np.isfinite(found.centres))
    assert set(map(tuple, np.asarray(found.centres).tolist())) <= set(
        map(tuple, x.tolist())
    )
    assert_close(kmeans(x[:1], 1, key=key).centres, x[:1])


def test_gradients(key, x64):
    x, _ = clouds(n=12, k=3)

    @jax.jit
    def value(x, weights):
        found = kmeans(x, 3, key=key, weights=weights)
        moments = jnp.sum(jnp.sin(found.centres) * found.weights[:, None])
        return moments + found.cost

    check_gradient(value, x, np.random.default_rng(0).uniform(0.5, 1, 12))


def test_blocks_and_integers(key, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, size=(500, 3)).astype("uint8")
    whole = kmeans(x, 6, key=key)
    assert whole.centres.dtype == "float32"
    monkeypatch.setattr(sys.modules["transportjax.mixtures.kmeans"], "_ROWS", 64)
    jax.clear_caches()
    parts = kmeans(x, 6, key=key)
    assert_close(parts.centres, whole.centres)
    assert np.array_equal(parts.labels, whole.labels)
    jax.clear_caches()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded(kind, key):
    x, _ = clouds()
    x = np.float32(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    shards = jax.device_put(x, NamedSharding(mesh, P("data")))
    found, whole = kmeans(shards, 4, key=key), kmeans(x, 4, key=key)
    for a, b in zip(in_order(found), in_order(whole), strict=True):
        assert_close(a, b)


def test_shard_map(key):
    x, _ = clouds()
    x = np.float32(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    def local(x):
        return kmeans(x, 4, key=key).cost[None]

    expected = [kmeans(part, 4, key=key).cost for part in np.split(x, 4)]
    assert_close(local(x), expected)


@pytest.mark.usefixtures("user_errors")
def test_errors(key):
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="`k` must be at most 3, the number of points"):
        kmeans(x, 4, key=key)
    with pytest.raises(ValueError, match="`k` must be an integer >= 1; got 0"):
        kmeans(x, 0, key=key)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, d\)"):
        kmeans(x[0], 1, key=key)
    with pytest.raises(ValueError, match="`x` must be finite; got NaN"):
        kmeans(x * np.nan, 1, key=key)
    with pytest.raises(ValueError, match="`weights` must not be all zero"):
        kmeans(x, 1, key=key, weights=np.zeros(3))
    with pytest.raises(ValueError, match="`num_steps` must be an integer >= 1"):
        kmeans(x, 1, key=key, num_steps=0)
