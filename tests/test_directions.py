import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

from transportjax.sliced import (
    default_directions,
    haar_rotation,
    half_circle_directions,
    orthonormal_directions,
    random_directions,
    sobol_directions,
    spiral_directions,
)

# Every sampler in one signature; the dimensions that it exists in.
SAMPLERS = {
    "random": (random_directions, (1, 2, 5)),
    "orthonormal": (orthonormal_directions, (1, 2, 5)),
    "sobol": (lambda k, n, d, t=None: sobol_directions(n, d, key=k, dtype=t), (1, 5)),
    "spiral": (lambda k, n, d, t=None: spiral_directions(n, key=k, dtype=t), (3,)),
    "half circle": (
        lambda k, n, d, t=None: half_circle_directions(n, key=k, dtype=t),
        (2,),
    ),
    "default": (default_directions, (1, 2, 3, 4)),
}
CASES = [(name, d) for name, (_, dims) in SAMPLERS.items() for d in dims]


def norms(directions):
    return np.linalg.norm(np.asarray(directions, np.float64), axis=-1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("name", "dim"), CASES)
def test_rows_are_unit_vectors_of_the_dtype(name, dim, dtype, key, x64):
    directions = SAMPLERS[name][0](key, 7, dim, dtype)
    assert directions.shape == (7, dim)
    assert directions.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(norms(directions), 1, atol=4 * eps)


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_depends_on_the_key_alone_also_under_jit(name, dim, key):
    sampler = SAMPLERS[name][0]
    one = sampler(key, 7, dim)
    again = jax.jit(lambda k: sampler(k, 7, dim))(key)
    assert_close(one, again)
    if dim > 1:
        assert not np.allclose(one, sampler(jr.fold_in(key, 1), 7, dim), atol=1e-3)


@pytest.mark.parametrize(("name", "dim"), [c for c in CASES if c[1] > 1])
def test_directions_are_unbiased(name, dim, key):
    # E[theta theta^T] = I/d, and odd moments do not matter (the half circle has some).
    keys = jr.split(key, 400)
    sets = jax.jit(jax.vmap(lambda k: SAMPLERS[name][0](k, 6, dim)))(keys)
    moment = jnp.einsum("spi,spj->ij", sets, sets) / (400 * 6)
    assert_close(moment, np.eye(dim) / dim, atol=0.03)


@pytest.mark.parametrize(("num", "dim"), [(3, 8), (8, 8), (20, 8), (5, 2), (4, 1)])
def test_orthonormal_blocks(num, dim, key, x64):
    directions = orthonormal_directions(key, num, dim, "float64")
    for start in range(0, num, dim):
        block = directions[start : start + dim]
        assert_close(block @ block.T, np.eye(len(block)), atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_haar_rotation_is_orthogonal(dim, key):
    rotation = haar_rotation(key, dim)
    assert_close(rotation @ rotation.T, np.eye(dim), atol=2e-6)


def test_haar_rotation_has_the_haar_distribution(key):
    # In the plane: uniform angle, reflections in half of the cases. Without the sign
    # fix, R would keep a negative diagonal and both tests fail.
    turns = jax.jit(jax.vmap(lambda k: haar_rotation(k, 2)))
    rotations = np.asarray(turns(jr.split(key, 4000)))
    angle = np.arctan2(rotations[:, 0, 1], rotations[:, 0, 0])
    uniform = scipy.stats.uniform(-np.pi, 2 * np.pi)
    assert scipy.stats.kstest(angle, uniform.cdf).pvalue > 1e-3
    assert abs(np.mean(np.linalg.det(rotations))) < 0.06


def test_half_circle_is_equispaced(key):
    angle = np.sort(np.arctan2(*np.asarray(half_circle_directions(5, key=key)).T[::-1]))
    assert_close(np.diff(angle), np.full(4, np.pi / 5), rtol=1e-5)
    assert angle[0] >= 0
    assert angle[-1] < np.pi


def test_spiral_heights_are_equispaced_and_points_apart():
    directions = np.asarray(spiral_directions(200))
    assert_close(directions[:, 2], 1 - (2 * np.arange(1, 201) - 1) / 200, atol=1e-6)
    cosines = directions @ directions.T - 2 * np.eye(200)
    nearest = np.arccos(cosines.max(axis=1))
    # An equal share of the sphere is a cap of angular radius 0.14 = 2/sqrt(200).
    assert nearest.min() > 0.2
    assert nearest.max() < 0.3


def test_a_rotation_keeps_the_spiral(key):
    still, turned = spiral_directions(20), spiral_directions(20, key=key)
    assert_close(turned @ turned.T, still @ still.T, atol=2e-6)


def test_better_sets_integrate_better(key):
    # The mean over the sphere of a smooth even function, here exp((a.theta)^2).
    def error(sampler, dim, num=64, repeats=100):
        a = 1.5 * jnp.ones(dim) / jnp.sqrt(dim)

        def estimate(directions):
            return jnp.mean(jnp.exp((directions @ a) ** 2))

        values = jax.lax.map(
            lambda k: estimate(sampler(k, num, dim)), jr.split(key, repeats)
        )
        reference = estimate(random_directions(key, 400_000, dim))
        return float(jnp.sqrt(jnp.mean((values - reference) ** 2)))

    independent = {dim: error(random_directions, dim) for dim in (2, 3, 4)}
    for dim, gain in ((2, 5), (3, 5), (4, 1.5)):
        assert error(default_directions, dim) < independent[dim] / gain
    sobol = SAMPLERS["sobol"][0]
    assert error(sobol, 3) < independent[3] / 1.5


def test_vmap_over_keys_is_a_loop_over_keys(key):
    keys = jr.split(key, 3)
    batched = jax.jit(jax.vmap(lambda k: orthonormal_directions(k, 5, 3)))(keys)
    for one, each in zip(batched, keys, strict=True):
        assert_close(one, orthonormal_directions(each, 5, 3))


def test_old_style_keys_work():
    assert random_directions(jr.PRNGKey(0), 3, 2).shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: random_directions(k, 0, 3), "`num` must be an integer >= 1; got 0"),
        (lambda k: orthonormal_directions(k, 3, 2.0), "`dim` must be an integer >= 1"),
        (lambda k: default_directions(k, 3, -1), "`dim` must be an integer >= 1"),
        (lambda k: haar_rotation(k, 0), "`dim` must be an integer >= 1"),
        (lambda k: spiral_directions(True), "`num` must be an integer"),
        (lambda k: half_circle_directions("3"), "`num` must be an integer"),
        (lambda k: sobol_directions(8, 22), "dimension 1 to 21; got dimension 22. Use"),
        (lambda k: random_directions(k, 3, 3, "int32"), "`dtype` must be a floating"),
    ],
)
def test_errors(call, message, key, user_errors):
    with pytest.raises(ValueError, match=message):
        call(key)
