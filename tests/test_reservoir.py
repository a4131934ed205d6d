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


def clouds(scale=1.0):
    """Very anisotropic in the plane: costs differ much between directions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) * [4, 0.2] + [2, 0]
    return np.float32(scale * x), np.float32(scale * y)


def walk(key, scale=1.0, num_steps=STEPS, **options):
    """Losses of clouds that stand still, and the states after each step."""
    x, y = clouds(scale)

    def step(state, key):
        loss, state = reservoir_loss(x, y, state, key=key, num_new=NEW, **options)
        return state, (loss, state)

    return jax.lax.scan(step, reservoir_init(KEPT, 2), jr.split(key, num_steps))[1]


@functools.cache
def truth(p=2):
    return sliced_wasserstein(*clouds(), half_circle_directions(1000), p=p)


@functools.cache
def many(estimator, reset=0.0, decay=10.0):
    """Losses and states of many independent walks; independent directions."""
    one = functools.partial(
        walk, estimator=estimator, reset=reset, decay=decay, sampler=random_directions
    )
    return jax.jit(jax.vmap(one))(jr.split(jr.key(3), 3000))


# --- what the estimators estimate --------------------------------------------------


def test_the_unbiased_loss_has_no_bias():
    losses = np.asarray(many("unbiased")[0]) / truth()
    error = losses.std(axis=0) / len(losses) ** 0.5
    assert np.all(error < 0.02)
    assert np.all(np.abs(losses.mean(axis=0) - 1) < 4.5 * error)
    late = losses[:, -6:].mean(axis=1)
    assert abs(late.mean() - 1) < 3.5 * late.std() / len(late) ** 0.5


def test_the_threshold_must_remember():
    # With the smallest key of this step that was not kept, in place of the smallest
    # ever, places are held to be likelier than they were: the loss is too small.
    _, states = many("unbiased")
    x, y = clouds()
    costs = jax.vmap(lambda rows: projected_costs(x, y, rows))
    costs = costs(states.directions[:, -1])
    discounts = jnp.exp(-states.ages[:, -1] / 10.0)

    def estimate(threshold):
        weights = jnp.exp(states.log_weights[:, -1] + threshold[:, None])
        parts = discounts * costs / -jnp.expm1(-weights)
        return np.asarray(jnp.sum(parts, axis=1) / states.count[:, -1] / truth())

    right = estimate(states.threshold[:, -1])
    assert abs(right.mean() - 1) < 4 * right.std() / len(right) ** 0.5
    # this step's: those that left, and the new ones that did not enter, are unknown
    # here, but none is below the largest key that was kept
    kept_most = jnp.max(states.log_keys[:, -1], axis=1)
    assert np.all(kept_most <= states.threshold[:, -1])
    naive = estimate(_threshold_of_one_step(states))
    assert naive.mean() < 1 - 6 * naive.std() / len(naive) ** 0.5


def _threshold_of_one_step(states):
    """The smallest key that the last step turned away: from one more step of a twin."""
    # A candidate of the last step is turned away if it is not among the kept; the new
    # ones have keys log E - log w, the old ones those of the state before.
    before = jax.tree.map(lambda a: a[:, -2], states)
    after = jax.tree.map(lambda a: a[:, -1], states)
    left = jnp.all(
        jnp.any(
            before.directions[:, :, None, :] != after.directions[:, None, :, :], axis=-1
        ),
        axis=2,
    )
    of_old = jnp.min(jnp.where(left, before.log_keys + 0.1, jnp.inf), axis=1)
    entered = jnp.sum(after.ages == 0, axis=1)
    # the new ones that did not enter: drawn again, above the largest kept key
    largest = jnp.max(after.log_keys, axis=1)
    x, y = clouds()
    keys = jr.split(jr.key(8), len(largest))

    def redraw(key, largest, missing):
        one, other = jr.split(key)
        rows = random_directions(one, 64, 2)
        fresh = -jr.gumbel(other, (64,)) - jnp.log(projected_costs(x, y, rows))
        above = fresh > largest
        rank = jnp.cumsum(above)
        return jnp.min(jnp.where(above & (rank <= missing), fresh, jnp.inf))

    of_new = jax.vmap(redraw)(keys, largest, NEW - entered)
    return jnp.minimum(of_old, of_new)


def test_the_other_losses():
    unbiased, snis, paper = (
        np.asarray(many(name)[0])[:, -6:] / truth()
        for name in ("unbiased", "snis", "paper")
    )
    assert 0.85 < snis.mean() < 1.25
    x, y = clouds()
    costs = projected_costs(x, y, half_circle_directions(1000))
    tilted = jnp.mean(costs**2) / jnp.mean(costs) / truth()
    assert 1.3 < paper.mean() < tilted  # costs twice: in the choice and in the weight
    assert paper.std() < unbiased.std()


def test_the_first_step_is_the_plain_mean(key):
    x, y = clouds()
    seen = []

    def sampler(key, num, dim):
        seen.append(random_directions(key, num, dim))
        return seen[-1]

    with jax.disable_jit():
        loss, state = reservoir_loss(
            x, y, reservoir_init(KEPT, 2), key=key, num_new=NEW, sampler=sampler
        )
    assert [len(rows) for rows in seen] == [KEPT, NEW]
    costs = projected_costs(x, y, jnp.concatenate(seen))
    assert_close(loss, costs.mean())
    assert state.count == KEPT + NEW
    assert np.all(np.asarray(state.valid))
    assert np.all(np.asarray(state.log_keys) <= state.threshold)


# --- the reservoir -----------------------------------------------------------------


@pytest.mark.parametrize("decay", [10.0, np.inf])
def test_ageing(decay, key):
    _, states = walk(key, decay=decay, reset=0)
    x, y = clouds()
    costs = jax.vmap(lambda rows: projected_costs(x, y, rows))(states.directions)
    # the weight of a direction falls by e in `decay` steps, and by half in 0.69 of it
    assert_close(states.log_weights, jnp.log(costs) - states.ages / decay, atol=1e-4)
    assert states.ages.max() > 1
    assert_close(0.5 ** (6.9 / (10 * np.log(2))), np.exp(-0.69))
    ages = np.arange(STEPS)
    drawn = np.where(ages[::-1] == 0, NEW, NEW)
    drawn[0] += KEPT
    for t in (0, 3, STEPS - 1):
        expected = np.sum(drawn[: t + 1] * np.exp(-(t - ages[: t + 1]) / decay))
        assert_close(states.count[t], expected, rtol=1e-5)
    # an entry that stays ages: its key rises by 1 / decay
    stays = np.asarray(states.ages[-1] > 0)
    before = np.asarray(states.log_keys[-2])
    for key_now in np.asarray(states.log_keys[-1])[stays]:
        assert np.min(np.abs(before + 1 / decay - key_now)) < 1e-5


def test_the_largest_costs_are_kept(key):
    _, states = walk(key, num_steps=60, decay=np.inf, reset=0)
    x, y = clouds()
    kept = projected_costs(x, y, states.directions[-1])
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
    turned = np.float32(y[:, ::-1] * [1, -1] * 3)
    state = jax.tree.map(lambda a: a[-1], walk(key, decay=np.inf, reset=0)[1])
    step = functools.partial(reservoir_loss, x, key=key, num_new=16)
    assert np.all(np.asarray(step(y, state)[1].valid))
    # one place that counts for everything
    stale = state._replace(log_weights=state.log_weights.at[0].add(-20.0))
    assert not np.any(np.asarray(step(turned, stale)[1].valid))
    assert np.all(np.asarray(step(turned, stale, reset=0)[1].valid))


@pytest.mark.parametrize("scale", [1e-3, 1e-12])
def test_no_cost_is_too_small(scale, key):
    # scaling the clouds scales the losses, and changes no choice
    options = {"num_steps": 10, "p": 1}
    loss, states = walk(key, **options)
    small, other = walk(key, scale, **options)
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


@pytest.mark.parametrize("estimator", ["unbiased", "snis", "paper"])
def test_the_gradient_goes_through_the_costs_alone(estimator, key, x64):
    x, y = (np.float64(cloud) for cloud in clouds())
    state = reservoir_init(KEPT, 2)
    step = functools.partial(reservoir_loss, num_new=NEW, estimator=estimator)
    _, state = step(x, y, state, key=key, reset=0)
    strategy = ReservoirDirections(KEPT, NEW, estimator=estimator)
    directions, weights, _ = strategy.sample(key, state, x, y)
    value, slope = jax.value_and_grad(lambda x: step(x, y, state, key=key)[0])(x)
    expected, direct = jax.value_and_grad(sliced_wasserstein)(
        x, y, directions, weights=weights
    )
    scale = value / expected  # the sum of the weights
    assert_close(slope, scale * direct)
    if estimator != "unbiased":
        assert_close(scale, 1)
    else:
        assert 0.3 < scale < 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_state_keeps_its_shapes(dtype, key, x64):
    x, y = (jnp.asarray(cloud, dtype) for cloud in clouds())
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
    assert_close(weighted, step(np.repeat(x, counts, axis=0), y)[0], rtol=1e-4)


# --- use ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["unbiased", "snis", "paper"])
def test_optimisation_converges(estimator, key):
    x, _ = clouds()
    shift = np.float32([3.0, -2.0])
    optimiser = optax.adam(optax.cosine_decay_schedule(0.2, 100))

    def loss(offset, state, key):
        return reservoir_loss(
            x + offset[None, :],
            x + shift,
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
    (offset, _, _), values = jax.lax.scan(step, carry, jr.split(key, 100))
    assert_close(offset, shift, atol=0.05)
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
