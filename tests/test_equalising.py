import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from transportjax.onedim import binned_atoms, quantile_transfer, uniform_transfer

MASSES = np.random.default_rng(0).gamma(0.5, size=(3, 17))


def slow_limited(masses, limit):
    """From the definition: pieces cut at the limit, the lift by sorting."""
    masses = masses / masses.sum()
    rises = (masses[1:] + masses[:-1]) / 2
    rises[0] += masses[0] / 2
    rises[-1] += masses[-1] / 2
    most = limit / len(rises)
    ordered = np.sort(rises)
    for free in range(len(rises), 0, -1):  # the greatest are cut, one more at a time
        lift = (1 - most * (len(rises) - free) - ordered[:free].sum()) / free
        if ordered[free - 1] + lift <= most:
            rises = np.minimum(rises + lift, most)
            break
    else:
        rises = np.full_like(rises, most)
    return np.concatenate([[0], np.cumsum(rises)])


def test_levels_go_to_their_mid_ranks():
    counts = np.array([3, 0, 5, 2, 1])
    samples = np.repeat(np.arange(5) / 4, counts)
    values = uniform_transfer(counts)
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    assert_close(values, ranks)
    assert_close(np.sum(counts * np.asarray(values)) / 11, 0.5)
    # the same as the optimal plan onto a fine uniform sample
    uniform = (np.arange(1100) + 0.5) / 1100
    assert_close(quantile_transfer(samples, uniform), np.repeat(ranks, counts))


def test_the_published_program_counts_equals_whole(x64):
    # its map, in bins, reads the levels at the upper ends of bins, less one bin
    data = np.load(DATA / "frcs_pdf_transfer1d.npz")
    counts, expected = data["pX_equalise256"], data["f_equalise256"]
    upper = uniform_transfer(counts) + counts / counts.sum() / 2
    np.testing.assert_allclose(jnp.maximum(256 * upper - 1, 0), expected, atol=1e-5)


def test_masses_of_triangles_give_the_distribution_function(x64):
    # a sample at 0.3 of the way is the triangles of two places: its F is a parabola
    places, masses = binned_atoms(np.array([0.0, 0.3 / 4, 1.0]), num_bins=5)
    assert_close(places, np.arange(5) / 4)
    assert_close(masses, np.array([1.7, 0.3, 0, 0, 1.0]) / 3)
    assert_close(uniform_transfer(masses), np.array([0.85, 1.85, 2, 2, 2.5]) / 3)


@pytest.mark.parametrize("limit", [1.0, 1.01, 1.7, 3.0, 9.0, 16.0, 1000.0])
def test_a_limit_is_kept(limit, x64):
    values = np.asarray(uniform_transfer(MASSES, limit=limit))
    slopes = np.diff(values, axis=-1) * 16
    assert slopes.max() <= limit * (1 + 1e-12)
    assert slopes.min() >= 0
    assert (values[:, 0] == 0).all()
    assert_close(values[:, -1], 1)
    for row, masses in zip(values, MASSES, strict=True):
        assert_close(row, slow_limited(masses, limit))


def test_the_limit_one_is_the_identity():
    assert_close(
        uniform_transfer(MASSES, limit=1.0), np.tile(np.arange(17) / 16, (3, 1))
    )


def test_equal_masses_are_uniform_already(x64):
    half = np.array([0.5, 1, 1, 1, 0.5])  # of a uniform law, shared out
    assert_close(uniform_transfer(half, limit=2.0), np.arange(5) / 4)
    assert_close(uniform_transfer(half)[1:-1], np.arange(1, 4) / 4)


def test_units_of_masses_and_kinds_of_numbers():
    counts = np.array([5, 0, 2, 9], np.int32)
    for limit in (1.5, np.inf):
        values = uniform_transfer(counts, limit=limit)
        assert values.dtype == jnp.float32
        assert_close(uniform_transfer(counts / 7, limit=limit), values)
        half = uniform_transfer(counts.astype(np.float16), limit=limit)
        assert half.dtype == jnp.float16
        assert_close(half, values, rtol=1e-3)


def test_two_masses():
    assert_close(uniform_transfer(np.array([3.0, 1.0])), [0.375, 0.875])
    assert_close(uniform_transfer(np.array([3.0, 1.0]), limit=1.0), [0, 1])


def test_derivatives(x64):
    weights = np.random.default_rng(1).normal(size=17)
    masses = MASSES[0] + 0.1
    check_gradient(lambda m: jnp.vdot(uniform_transfer(m), weights), masses)
    check_gradient(
        lambda m, g: jnp.vdot(uniform_transfer(m, limit=g), weights), masses, 1.7
    )
    slope = jax.grad(lambda g: uniform_transfer(masses, limit=g)[8])(1.0)
    assert np.isfinite(slope)


def test_jit_vmap_and_one_trace():
    expected = uniform_transfer(MASSES, limit=2.0)
    for function in (
        jax.jit(lambda m, g: uniform_transfer(m, limit=g)),
        jax.vmap(lambda m, g: uniform_transfer(m, limit=g), in_axes=(0, None)),
    ):
        assert_close(function(jnp.asarray(MASSES, jnp.float32), 2.0), expected)
    from transportjax.onedim.equalising import _limited

    before = _limited._cache_size()
    for limit in (1.2, 3, jnp.asarray(4.5)):
        uniform_transfer(MASSES, limit=limit)
    assert _limited._cache_size() == before


def test_sharded_rows():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    masses = np.tile(MASSES[0], (8, 1)).astype(np.float32)
    placed = jax.device_put(masses, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        assert_close(
            uniform_transfer(placed, limit=2.0), uniform_transfer(masses, limit=2.0)
        )


@pytest.mark.parametrize(
    ("masses", "limit", "words"),
    [
        ([1.0], 2.0, "must be an integer >= 2"),
        (1.0, 2.0, "must be an integer >= 2"),
        ([1.0, -1.0], 2.0, "must be >= 0"),
        ([0.0, 0.0], 2.0, "must not be all zero"),
        ([1.0, np.nan], 2.0, "must be finite"),
        ([1.0, 1.0], 0.9, "`limit` must be in"),
        ([1.0, 1.0], np.nan, "`limit` must be in"),
    ],
)
def test_errors(masses, limit, words, user_errors):
    with pytest.raises(ValueError, match=words):
        uniform_transfer(np.asarray(masses), limit=limit)
