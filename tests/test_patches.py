import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jss
import numpy as np
import pytest
from helpers import assert_close

from transportjax.sliced import (
    IndependentDirections,
    MaxSlicedDirections,
    OrthonormalDirections,
    PatchDirections,
    PrincipalDirections,
)
from transportjax.solvers import gaussianise


def walk(strategy, key, dim, num_steps, dtype="float32"):
    x, y = jnp.ones((6, dim), dtype), jnp.zeros((4, dim), dtype)

    def step(state, key):
        directions, weights, state = strategy.sample(key, state, x, y)
        return state, (directions, weights)

    state = strategy.init(key, dim)
    return jax.lax.scan(step, state, jr.split(key, num_steps))[1]


def patches_of(rows):
    """The sets of values that rows look at, as a row of bools each."""
    return np.unique(np.asarray(rows) != 0, axis=0)


def test_every_step_tiles_the_picture_with_orthonormal_rows(key):
    shape = (4, 8)
    strategy = PatchDirections(shape, (4, 2, (1, 4)))
    keys = jr.split(key, 2)
    both = jax.jit(jax.vmap(lambda key: walk(strategy, key, 32, 9)))(keys)
    rows, weights = (leaf[1] for leaf in both)
    assert_close(
        rows @ rows.mT, np.broadcast_to(np.eye(32), (9, 32, 32)), atol=1e-6, rtol=1e-6
    )
    assert_close(weights, np.full((9, 32), 1 / 32))
    offsets = set()
    for step, each in enumerate(rows):
        patches = patches_of(each).reshape(-1, *shape)
        size = ((4, 4), (2, 2), (1, 4))[step % 3]
        assert len(patches) == 32 // (size[0] * size[1])
        np.testing.assert_array_equal(patches.sum(axis=0), np.ones(shape))
        for patch in patches:  # joined at the edges, a shifted block of its size
            down, right = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
            for places, side, length in (
                (down, size[0], shape[0]),
                (right, size[1], shape[1]),
            ):
                assert len(places) == side
                gaps = np.diff(np.append(places, places[0] + length))
                assert side == length or (gaps == 1).sum() == side - 1
            offsets.add((size, tuple(down), tuple(right)))
    assert len(offsets) > 2 + 8 + 8  # more than one tiling has
    assert not np.array_equal(rows[0], rows[3])
    x = jnp.ones((6, 32))  # and without a compiler, the same
    first = strategy.sample(jr.split(keys[1], 9)[0], strategy.init(keys[1], 32), x, x)
    assert_close(first[0], rows[0], atol=1e-6)


def test_patches_hold_all_channels(key):
    rows = walk(PatchDirections((2, 4, 3), 2), key, 24, 1)[0][0]
    patches = patches_of(rows).reshape(-1, 2, 4, 3)
    assert len(patches) == 2
    assert np.array_equal(patches.all(axis=3), patches.any(axis=3))


def test_the_inner_strategy_looks_at_the_pixels_of_its_patch(key):
    # one direction of each patch has all its variance, and is found
    strategy = PatchDirections((2, 6), ((2, 3),), PrincipalDirections(1))
    x = jr.normal(key, (500, 2, 6)) + 5 * jr.normal(jr.fold_in(key, 1), (500, 1, 1))
    x = x.reshape(500, 12)
    rows, weights, _ = strategy.sample(key, strategy.init(key, 12), x, x)
    assert rows.shape == (2, 12)
    assert_close(weights, [0.5, 0.5])
    wanted = np.where(patches_of(rows), 6**-0.5, 0)
    found = np.abs(rows)[np.argsort(np.asarray(rows[:, 0] != 0))]
    assert_close(found, wanted, atol=0.03)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_dtype_is_that_of_the_points(dtype, key, x64):
    for inner in (None, IndependentDirections(2), MaxSlicedDirections(2)):
        strategy = PatchDirections((4, 4), 2, inner)
        out = jax.eval_shape(lambda k, s=strategy: walk(s, k, 16, 2, dtype), key)
        assert [array.dtype for array in out] == [dtype, dtype]


def local_pictures(key, num):
    """8 x 8 pictures whose pixels depend on their neighbours, by more than moments."""
    keys = jr.split(key, 3)
    x = jr.normal(keys[0], (num, 8, 8))
    neighbour = jnp.roll(x, 1, axis=2)
    x = x + 0.7 * jnp.abs(neighbour) + 0.3 * jnp.roll(x, 1, axis=1) ** 2
    return x.reshape(num, 64)


def test_patches_beat_whole_rotations_on_local_dependence():
    x, held = local_pictures(jr.key(0), 1500), local_pictures(jr.key(1), 500)
    options = {"key": jr.key(2), "num_steps": 8, "patience": 8, "num_knots": 16}
    losses = {}
    for name, directions in (
        ("whole", OrthonormalDirections()),
        ("patches", PatchDirections((8, 8))),
        ("independent", PatchDirections((8, 8), (4, 2), IndependentDirections())),
    ):
        solution = gaussianise(x, directions=directions, held_out=held, **options)
        losses[name] = float(np.nanmin(solution.stats["held_out"]))
        if name == "independent":
            z, log_det = jax.jit(jax.vmap(solution.map.transform_and_log_det))(held)
            density = jnp.sum(jss.norm.logpdf(z), axis=1) + log_det
            assert_close(-density.mean(), losses[name], rtol=1e-4)
            back = jax.jit(jax.vmap(solution.map.inverse))(z)
            assert_close(back, held, atol=2e-3)
    assert losses["patches"] < losses["whole"] - 0.3
    # by 0.17 to 0.31, as the compiler rounds
    assert losses["independent"] < losses["patches"] - 0.1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shape", [(8,)]),
        ("shape", [(0, 8)]),
        ("shape", [8]),
        ("sizes", [(8, 8), 3]),
        ("sizes", [(8, 8), ()]),
        ("sizes", [(8, 8), ((2, 2, 2),)]),
        ("sizes", [(8, 8), 0]),
        ("inner", [(8, 8), 2, "random"]),
    ],
)
def test_errors_name_the_argument(name, arguments, user_errors):
    with pytest.raises(ValueError, match=f"`{name}`"):
        PatchDirections(*arguments)


def test_pictures_and_inner_directions_must_fit(user_errors):
    with pytest.raises(ValueError, match="`shape`"):
        PatchDirections((8, 8)).init(jr.key(0), 63)
    with pytest.raises(ValueError, match="`inner`"):
        walk(PatchDirections((4, 4), inner=PrincipalDirections(2)), jr.key(0), 16, 1)
