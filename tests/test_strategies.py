import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax.sliced import (
    AbstractDirections,
    FixedDirections,
    GreedyRotations,
    IndependentDirections,
    MaxSlicedDirections,
    OrthonormalDirections,
    PatchDirections,
    RandomDirections,
    SobolDirections,
    SpiralDirections,
    greedy_rotations,
    half_circle_directions,
    orthonormal_directions,
    spiral_directions,
)

DIM = 3
TABLE = np.stack([np.eye(3), np.eye(3)[::-1]])
# Every strategy is here: its instance, rows a step, orthonormal steps, random.
STRATEGIES = {
    "random": (RandomDirections(5), 5, False, True),
    "orthonormal": (OrthonormalDirections(5), 5, False, True),
    "rotation": (OrthonormalDirections(), DIM, True, True),
    "sobol": (SobolDirections(5), 5, False, True),
    "spiral": (SpiralDirections(5), 5, False, True),
    "greedy": (GreedyRotations(length=2), DIM, True, True),
    "max-sliced": (MaxSlicedDirections(1, num_starts=1), 1, False, False),
    "fixed": (FixedDirections(TABLE), DIM, True, False),
    "independent": (IndependentDirections(2), DIM, True, True),
    "patches": (PatchDirections((1, 3), [(1, 3)]), DIM, True, True),
}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


@functools.cache
def compiled(name):
    strategy = STRATEGIES[name][0]
    return jax.jit(lambda key: walk(strategy, key))


def walk(strategy, key, dtype="float32", num_steps=5):
    """Directions and weights of some steps, by a scan."""
    x, y = jnp.ones((6, DIM), dtype), jnp.zeros((4, DIM), dtype)

    def step(state, key):
        directions, weights, state = strategy.sample(key, state, x, y)
        return state, (directions, weights)

    state = strategy.init(key, DIM)
    return jax.lax.scan(step, state, jr.split(key, num_steps))[1]


@every_strategy
def test_steps_are_unit_rows_with_weights(name, key):
    _, num, orthonormal, _ = STRATEGIES[name]
    directions, weights = compiled(name)(key)
    assert directions.shape == (5, num, DIM)
    assert weights.shape == (5, num)
    assert_close(jnp.linalg.norm(directions, axis=-1), np.ones((5, num)), atol=1e-6)
    assert_close(jnp.sum(weights, axis=-1), np.ones(5), atol=1e-6)
    assert np.all(np.asarray(weights) > 0)
    if orthonormal:
        products = directions @ directions.mT
        assert_close(products, np.broadcast_to(np.eye(DIM), products.shape), atol=3e-6)


@every_strategy
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_dtype_is_that_of_the_points(name, dtype, key, x64):
    out = jax.eval_shape(lambda k: walk(STRATEGIES[name][0], k, dtype), key)
    assert [array.dtype for array in out] == [dtype, dtype]


@every_strategy
def test_the_compiled_scan_is_the_loop(name, key):
    strategy = STRATEGIES[name][0]
    directions, weights = compiled(name)(key)
    state = strategy.init(key, DIM)
    x, y = jnp.ones((6, DIM)), jnp.zeros((4, DIM))
    for step, each in enumerate(jr.split(key, 5)):
        rows, masses, state = strategy.sample(each, state, x, y)
        assert_close(rows, directions[step], atol=1e-6)
        assert_close(masses, weights[step])


@every_strategy
def test_the_key_decides(name, key):
    random = STRATEGIES[name][3]
    one, again = compiled(name)(key)[0], compiled(name)(key)[0]
    other = compiled(name)(jr.fold_in(key, 1))[0]
    assert np.array_equal(one, again)
    assert np.allclose(one[4], other[4], atol=1e-3) != random
    if random:  # and no two late steps are alike
        assert not np.allclose(one[2], one[4], atol=1e-3)


@every_strategy
def test_the_state_keeps_its_structure(name, key):
    strategy = STRATEGIES[name][0]
    state = strategy.init(key, DIM)
    after = strategy.sample(key, state, jnp.ones((6, DIM)), jnp.ones((4, DIM)))[2]
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)


@pytest.mark.parametrize("name", ["rotation", "greedy"])
def test_vmap_over_keys(name, key):
    keys = jr.split(key, 3)
    batched = jax.jit(jax.vmap(lambda k: walk(STRATEGIES[name][0], k)[0]))(keys)
    assert_close(batched[1], compiled(name)(keys[1])[0], atol=1e-6)


@every_strategy
def test_leaves_are_arrays(name):
    strategy = STRATEGIES[name][0]
    assert isinstance(strategy, AbstractDirections)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(strategy))
    hash(jax.tree.structure(strategy))


def test_samplers_are_the_pure_ones(key):
    x = jnp.ones((6, DIM))
    strategy = OrthonormalDirections(7)
    rows = strategy.sample(key, strategy.init(key, DIM), x, x)[0]
    assert np.array_equal(rows, orthonormal_directions(key, 7, DIM))
    strategy = SpiralDirections(7)
    rows = strategy.sample(key, strategy.init(key, DIM), x, x)[0]
    assert np.array_equal(rows, spiral_directions(7, key=key))


def test_greedy_cycles_are_turned_tables(key):
    steps = walk(GreedyRotations(length=3), key, num_steps=8)[0]
    table = greedy_rotations(3, DIM)
    assert np.array_equal(steps[:3], table)
    for start, num in ((3, 3), (6, 2)):
        # One rotation carries the whole table: R_k = T_k Q, so that T_k^T R_k = Q.
        turns = table[:num].mT @ steps[start : start + num]
        assert_close(turns, np.broadcast_to(turns[0], turns.shape), atol=3e-6)
        assert not np.allclose(turns[0], np.eye(DIM), atol=1e-2)


def test_fixed_directions_cycle(key):
    steps = walk(FixedDirections(TABLE), key)[0]
    assert np.array_equal(steps, TABLE[[0, 1, 0, 1, 0]])
    single = FixedDirections(half_circle_directions(5))
    state = single.init(key, 2)
    rows = single.sample(key, state, jnp.ones((3, 2)), jnp.ones((3, 2)))[0]
    assert np.array_equal(rows, half_circle_directions(5))


def test_fixed_directions_can_be_learned(key):
    x = jnp.arange(6.0).reshape(2, 3)

    def spread(strategy):
        rows, _, _ = strategy.sample(key, strategy.init(key, 3), x, x)
        return jnp.sum((rows @ x.T) ** 2)

    slope = jax.grad(spread)(FixedDirections(TABLE)).table
    assert_close(slope[0], 2 * x.T @ x)
    assert_close(slope[1], np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: RandomDirections(0), "`num` must be an integer >= 1; got 0"),
        (lambda k: OrthonormalDirections(2.5), "`num` must be an integer >= 1"),
        (lambda k: GreedyRotations(length=-1), "`length` must be an integer >= 1"),
        (lambda k: FixedDirections(np.ones(3)), r"must have shape \(p, d\) or \(l, p"),
        (lambda k: FixedDirections(2 * np.eye(3)), "rows of norm 1; got a row of norm"),
        (
            lambda k: FixedDirections(np.eye(3)).init(k, 2),
            "`table` must have 2 columns",
        ),
        (
            lambda k: SpiralDirections(3).sample(
                k, (), np.ones((3, 2)), np.ones((3, 2))
            ),
            "Spiral directions exist in dimension 3; got dimension 2",
        ),
        (
            lambda k: SobolDirections(3).sample(k, (), np.ones((3, 30)), None),
            "Sobol directions exist in dimension 1 to 21; got dimension 30. Use",
        ),
    ],
)
def test_errors(call, message, key, user_errors):
    with pytest.raises(ValueError, match=message):
        call(key)
