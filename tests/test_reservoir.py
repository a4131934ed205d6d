import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close

from transportjax.sliced import (
    ReservoirDirections,
    half_circle_directions,
    projected_costs,
    random_directions,
    reservoir_init,
    reservoir_loss,
    sliced_wasserstein,
)

KEPT, NEW, STEPS = 8, 4, 16


def clouds(scale=1.0, dtype="float32"):
    """Very anisotropic in the plane: costs differ much between directions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 2)) * [4, 0.2] + [2, 0]
    return scale * jnp.asarray(x, dtype), scale * jnp.asarray(y, dtype)


def walk(key, scale=1.0, num_steps=STEPS, naive=False, **options):
    """Losses of clouds that stand still, and the states after each step."""
    take = functools.partial(reservoir_loss, *clouds(scale), num_new=NEW, **options)

    def step(state, key):
        loss, after = take(state, key=key)
        if naive:  # a threshold that forgets all but this step
            _, after = take(state._replace(threshold=jnp.float32(jnp.inf)), key=key)
        return after, (loss, after)

    return jax.lax.scan(step, reservoir_init(KEPT, 2), jr.split(key, num_steps))[1]


@functools.cache
def truth(p=2):
    return sliced_wasserstein(*clouds(), half_circle_directions(1000), p=p)


@functools.cache
def many(estimator, naive=False):
    """Losses and states of many independent walks; independent directions."""
    one = functools.partial(
        walk,
        estimator=estimator,
        naive=naive,
        reset=0,
        decay=10,
        sampler=random_directions,
    )
    return jax.jit(jax.vmap(one))(jr.split(jr.key(3), 3000))


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(walk, **options))


# --- what the estimators estimate --------------------------------------------------


def test_the_unbiased_loss_has_no_bias():
    losses = np.asarray(many("unbiased")[0]) / truth()
    error = losses.std(axis=0) / len(losses) ** 0.5
    assert np.all(error < 0.02)
    assert np.all(np.abs(losses.mean(axis=0) - 1) < 4.5 * error)
    late = losses[:, -6:].mean(axis=1)
    assert abs(late.mean() - 1) < 3.5 * late.std() / len(late) ** 0.5


def test_the_threshold_must_remember():
    # With the smallest key that this step turned away in place of the smallest ever,
    # places seem likelier than they were: the loss is too small.
    late = np.asarray(many("unbiased", naive=True)[0])[:, -6:].mean(axis=1) / truth()
    assert late.mean() < 1 - 6 * late.std() / len(late) ** 0.5
    _, states = many("unbiased")
    assert np.all(np.max(states.log_keys, axis=-1) <= np.asarray(states.threshold))


def test_the_other_losses():
    unbiased, snis, paper = (
        np.asarray(many(name)[0])[:, -6:] / truth()
        for name in ("unbiased", "snis", "paper")
    )
    assert 0.9 < snis.mean() < 1.35
    x, y = clouds()
    costs = projected_costs(x, y, half_circle_directions(1000))
    tilted = jnp.mean(costs**2) / jnp.mean(costs) / truth()
    assert 1.4 < paper.mean() < 1.3 * tilted  # costs twice: in choice and in weight
    assert paper.std() < unbiased.std()


def test_the_first_step_is_the_plain_mean(key):
    x, y = clouds()
    table = random_directions(jr.key(1), KEPT + NEW, 2)

    def sampler(key, num, dim):
        return table[:KEPT] if num == KEPT else table[KEPT:]

    loss, state = reservoir_loss(
        x, y, reservoir_init(KEPT, 2), key=key, num_new=NEW, sampler=sampler
    )
    assert_close(loss, projected_costs(x, y, table).mean())
    assert state.count == KEPT + NEW
    assert np.all(np.asarray(state.valid))
    assert np.all(np.asarray(state.log_keys) <= state.threshold)


# --- the reservoir -----------------------------------------------------------------


@pytest.mark.parametrize("decay", [10.0, np.inf])
def test_ageing(decay, key):
    _, states = compiled(reset=0)(key, decay=decay)
    x, y = clouds()
    costs = jax.vmap(lambda rows: projected_costs(x, y, rows))(states.directions)
    # the weight of a direction falls by e in `decay` steps, and by half in 0.69 of it
    assert_close(
        states.log_weights,
        jnp.log(costs) - states.ages.astype(float) / decay,
        atol=1e-4,
    )
    assert states.ages.max() > 1
    ages = np.arange(STEPS)
    drawn = np.full(STEPS, NEW)
    drawn[0] += KEPT
    for t in (0, 3, STEPS - 1):
        expected = np.sum(drawn[: t + 1] * np.exp(-(t - ages[: t + 1]) / decay))
        assert_close(states.count[t], expected, rtol=1e-5)
    # an entry that stays ages: its key rises by 1 / decay
    stays = np.asarray(states.ages[-1] > 0)
    before = np.asarray(states.log_keys[-2])
    for key_now in np.asarray(states.log_keys[-1])[stays]:
        assert np.min(np.abs(before + 1 / decay - key_now)) < 1e-5


def test_the_largest_costs_are_kept():
    _, states = many("unbiased")
    x, y = clouds()
    kept = projected_costs(x, y, states.directions[:, -1].reshape(-1, 2))
    assert kept.mean() > 1.3 * truth()


def test_reset(key):
    x, y = clouds()
    step = functools.partial(reservoir_loss, num_new=NEW, estimator="paper")
    state = step(x, y, reservoir_init(KEPT, 2), key=key, reset=0)[1]
    kept = step(x, y, state, key=key, reset=0)[1]
    assert np.all(np.asarray(kept.valid))
    dropped = step(x, y, state, key=key, reset=1)[1]  # weights are never all equal
    assert not np.any(np.asarray(dropped.valid))
    assert dropped.count == 0
    assert dropped.threshold == np.inf
    again = step(x, y, dropped, key=jr.fold_in(key, 1), reset=0)[1]
    assert again.count == KEPT + NEW
    assert np.all(np.asarray(again.ages) == 0)


def test_a_stale_reservoir_is_dropped(key):
    x, y = clouds()
    turned = 3 * y[:, ::-1]
    state = jax.tree.map(lambda a: a[-1], compiled(reset=0)(key, decay=np.inf)[1])
    step = functools.partial(reservoir_loss, x, key=key, num_new=16)
    assert np.all(np.asarray(step(y, state)[1].valid))
    # one place that counts for everything
    stale = state._replace(log_weights=state.log_weights.at[0].add(-20.0))
    assert not np.any(np.asarray(step(turned, stale)[1].valid))
    assert np.all(np.asarray(step(turned, stale, reset=0)[1].valid))


@pytest.mark.parametrize("scale", [1e-3, 1e-12])
def test_no_cost_is_too_small(scale, key):
    # scaling the clouds scales the losses, and changes no choice
    run = compiled(num_steps=10, p=1)
    loss, states = run(key, 1.0)
    small, other = run(key, scale)
    assert_close(small / np.float32(scale), loss, rtol=1e-4)
    assert_close(other.directions, states.directions)


def test_equal_clouds(key):
    x, _ = clouds()

    @jax.jit
    def run(x):
        def loss(z, state):
            return reservoir_loss(z, x, state, key=key, num_new=NEW)

        state = reservoir_init(KEPT, 2)
        for _ in range(2):
            slope, state = jax.grad(loss, has_aux=True)(x, state)
        return loss(x, state)[0], slope

    value, slope = run(x)
    assert value == 0
    assert np.array_equal(slope, 0 * x)


@pytest.mark.parametrize("estimator", ["unbiased", "paper"])
def test_the_gradient_goes_through_the_costs_alone(estimator, key):
    x, y = clouds()
    step = functools.partial(reservoir_loss, num_new=NEW, estimator=estimator)
    strategy = ReservoirDirections(KEPT, NEW, estimator=estimator)

    @jax.jit
    def run(x):
        _, state = step(x, y, reservoir_init(KEPT, 2), key=key, reset=0)
        directions, weights, _ = strategy.sample(key, state, x, y)
        own = jax.value_and_grad(lambda x: step(x, y, state, key=key)[0])(x)
        plain = functools.partial(sliced_wasserstein, weights=weights)
        return own, jax.value_and_grad(plain)(x, y, directions)

    (value, slope), (expected, direct) = run(x)
    scale = value / expected  # the sum of the weights
    assert_close(slope, scale * direct, rtol=1e-4, atol=1e-5)
    if estimator == "paper":
        assert_close(scale, 1)
    else:
        assert 0.3 < scale < 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_state_keeps_its_shapes(dtype, key, x64):
    x, y = clouds(dtype=dtype)
    state = reservoir_init(KEPT, 2, dtype=dtype)
    loss, after = jax.eval_shape(
        lambda s: reservoir_loss(x, y, s, key=key, num_new=NEW), state
    )
    assert loss.dtype == dtype
    for one, other in zip(state, after, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_weights_are_repetition(key):
    x, y = clouds()
    state = reservoir_init(KEPT, 2)
    counts = np.arange(1, 13)
    step = functools.partial(reservoir_loss, state=state, key=key, num_new=NEW)
    weighted = step(x, y, x_weights=counts)[0]
    assert_close(weighted, step(jnp.repeat(x, counts, axis=0), y)[0], rtol=1e-4)


# --- use ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["unbiased", "snis", "paper"])
def test_optimisation_converges(estimator, key):
    x, _ = clouds()
    shift = jnp.array([3.0, -2.0])
    optimiser = optax.adam(optax.cosine_decay_schedule(0.2, 150))

    def loss(offset, state, key):
        return reservoir_loss(
            x + offset[None, :],
            x + shift[None, :],
            state,
            key=key,
            num_new=NEW,
            estimator=estimator,
        )

    def step(carry, key):
        offset, memory, state = carry
        (value, state), slope = jax.value_and_grad(loss, has_aux=True)(
            offset, state, key
        )
        update, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(offset, update), memory, state), value

    start = jnp.zeros(2)
    carry = start, optimiser.init(start), reservoir_init(KEPT, 2)
    with jax.numpy_dtype_promotion("standard"):  # for optax
        (offset, _, _), values = jax.lax.scan(step, carry, jr.split(key, 150))
    assert_close(offset, shift, atol=0.1)
    assert values[-1] < 1e-3 * values[0]


def test_the_strategy_in_a_scan(key):
    x, y = clouds()
    strategy = ReservoirDirections(KEPT, NEW)

    def step(state, key):
        directions, weights, state = strategy.sample(key, state, x, y)
        return state, (directions, weights)

    _, (directions, weights) = jax.lax.scan(
        step, strategy.init(key, 2), jr.split(key, 5)
    )
    assert directions.shape == (5, KEPT + NEW, 2)
    assert_close(jnp.sum(weights, axis=1), np.ones(5))
    assert_close(jnp.linalg.norm(directions, axis=-1), np.ones((5, KEPT + NEW)))
    assert len(np.unique(np.asarray(weights[0]).round(5))) == 1
    assert len(np.unique(np.asarray(weights[4]).round(5))) > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(3)}, r"`x` must have shape \(n, d\)"),
        ({"state": reservoir_init(3, 5)}, "`state.directions` must have 2 columns"),
        ({"num_new": 0}, "`num_new` must be an integer >= 1"),
        ({"decay": 0}, "`decay` must be in"),
        ({"reset": 2}, "`reset` must be in"),
        ({"estimator": "best"}, "must be one of 'unbiased', 'snis', 'paper'"),
        ({"p": 0}, "`p` must be in"),
        ({"y_weights": np.zeros(2)}, "`y_weights` must not be all zero"),
    ],
)
def test_errors(change, message, key, user_errors):
    options = {"x": np.ones((3, 2)), "y": np.ones((2, 2)), "key": key}
    options["state"] = reservoir_init(3, 2)
    with pytest.raises(ValueError, match=message):
        reservoir_loss(**(options | change))
    with pytest.raises(ValueError, match="`num_kept` must be an integer"):
        reservoir_init(0, 2)
    with pytest.raises(ValueError, match="`decay` must be in"):
        ReservoirDirections(decay=-1.0)
