from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax import maps as tm
from transportjax.flows import (
    Flow,
    coupling_flow,
    fit,
    fit_flow,
    likelihood,
    spline_flow,
)


def small(x):
    return coupling_flow(jr.key(5), 2, data=x, num_layers=2, width=16, depth=1)


def mean_log_prob(flow, x):
    return float(jnp.mean(jax.jit(jax.vmap(flow.log_prob))(x)))


def bent(key, n):
    """A parabola with noise, and its exact mean log density under itself."""
    x, y = jr.normal(key, (2, n))
    return jnp.stack([x, x * x + 0.3 * y], axis=1)


def bent_log_prob(x):
    score = (x[:, 1] - x[:, 0] ** 2) / 0.3
    return -(x[:, 0] ** 2 + score**2) / 2 - jnp.log(2 * jnp.pi * 0.3)


def test_the_trained_flow_takes_the_place_of_the_fitted_one():
    x, held, test = bent(jr.key(0), 4000), bent(jr.key(1), 500), bent(jr.key(2), 4000)
    seen = []
    result = fit_flow(
        x,
        key=jr.key(3),
        flow=small(x),
        held_out=held,
        num_steps=1500,
        block=250,
        progress=lambda *news: seen.append(news),
    )
    stats = result.stats
    assert stats["held_out"].shape == (7,)
    assert stats["loss"].shape == (1500,)
    steps = [step for _, step, _ in seen]
    num_fits = steps.count(0)
    assert num_fits > 1  # of mixtures, too
    assert steps[num_fits:] == list(range(250, 4501, 250))  # three times
    losses = [loss for _, _, loss in seen]
    assert losses == sorted(losses, reverse=True)
    assert losses[num_fits - 1] == pytest.approx(float(stats["fitted"]), rel=1e-6)
    assert losses[-1] == float(jnp.min(stats["held_out"])) < losses[num_fits - 1]
    for flow, _, loss in (seen[0], seen[-1]):
        assert -mean_log_prob(flow, held) == pytest.approx(loss, abs=1e-4)
    truth = float(jnp.mean(bent_log_prob(test)))
    reached = mean_log_prob(result.model, test)
    assert truth - 0.1 < reached < truth + 0.03


def test_few_samples_keep_the_fit():
    x = bent(jr.key(0), 60)
    run = {"key": jr.key(1), "flow": small(x), "held_out": 0.25}
    first, second = (fit_flow(x, **run, num_steps=20, block=10) for _ in range(2))
    assert first.stats["fitted"] < jnp.min(first.stats["held_out"])
    assert isinstance(first.model.map.maps[-1].layers, tm.SlicedMap)
    for a, b in zip(*map(jax.tree.leaves, (first.model, second.model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_fitted_before_and_weights():
    normal = Flow(tm.Affine(jnp.eye(2), jnp.zeros(2)), 2)
    near, held = jr.normal(jr.key(0), (300, 2)), jr.normal(jr.key(1), (500, 2))
    run = {"key": jr.key(2), "flow": small(near), "num_steps": 60, "block": 20}
    kept = fit_flow(near, **run, fitted=normal, held_out=held)
    assert float(kept.stats["fitted"]) == pytest.approx(-mean_log_prob(normal, held))
    assert kept.model is normal  # the truth: nothing is better
    both = jnp.concatenate([near, 30 + near])
    weights = jnp.repeat(jnp.array([2.0, 0.0]), 300)
    seen = fit_flow(both, **run, weights=weights, held_out=held)
    blind = fit_flow(both, **run, held_out=held)
    assert mean_log_prob(seen.model, held) > -3.2  # 2.84 nats under the truth
    assert seen.stats["fitted"] < blind.stats["fitted"] - 0.5
    assert seen.stats["held_out"][-1] < blind.stats["held_out"][-1] - 0.2


def test_the_flow_that_is_trained_starts_with_the_weights():
    """Samples without weight far away do not decide its units."""
    near, held = jr.normal(jr.key(0), (300, 2)), jr.normal(jr.key(1), (500, 2))
    both = jnp.concatenate([near, 1000 + near])
    weights = jnp.repeat(jnp.array([2.0, 0.0]), 300)
    run = {"key": jr.key(2), "held_out": held, "num_steps": 10, "block": 5}
    start = fit_flow(both, **run, weights=weights).stats["held_out"][0]
    assert abs(start - fit_flow(near, **run).stats["held_out"][0]) < 0.1


def test_held_out_samples_have_weights():
    """A weight is a repetition, for the fit and for what is trained."""
    x, held = jr.normal(jr.key(0), (200, 2)), 2 * jr.normal(jr.key(1), (100, 2))
    normal = Flow(tm.Affine(jnp.eye(2), jnp.zeros(2)), 2)
    run = {"key": jr.key(2), "flow": small(x), "num_steps": 20, "block": 10}
    weights = jnp.arange(100) % 3
    weighted, repeated, equal = (
        fit_flow(x, **run, fitted=normal, held_out=given).stats
        for given in ((held, 2 * weights), jnp.repeat(held, weights, axis=0), held)
    )
    for name in ("fitted", "held_out"):
        assert_close(weighted[name], repeated[name], 1e-5)
        assert abs(weighted[name] - equal[name]).max() > 1e-2


def test_the_average_has_the_stated_weights(x64):
    optimiser = fit._averaging()
    path = [jnp.array([0.0])]
    pair = fit._Averaged(path[0], path[0])
    state = optimiser.init(pair)
    for t in range(1, 31):
        slopes = fit._Averaged(jnp.array([-1.0]), jnp.array([0.0]))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slopes, state, pair)
        pair = eqx.apply_updates(pair, updates)
        path.append(pair.flow)
        if t == 1:
            assert_close(pair.average, path[1])  # the start has no weight
    assert float(pair.flow[0]) > 0
    s = np.arange(1.0, 31.0)
    weights = np.prod([s + i for i in range(10)], axis=0)  # about the power ten
    expected = weights @ np.concatenate(path[1:]) / np.sum(weights)
    assert_close(pair.average[0], expected, 1e-6)


@pytest.mark.parametrize(("noise", "shrinks"), [(300, True), (1, False)])
def test_the_steps_shrink_where_the_average_is_better(x64, noise, shrinks):
    """In a quadratic valley, with noise: by how much it is better is known there."""
    optimiser, rng = fit._averaging(), np.random.default_rng(0)
    pair = fit._Averaged(jnp.zeros(8), jnp.zeros(8))
    state = optimiser.init(pair)

    @jax.jit
    def step(pair, state, error):
        slope = 200 * pair.flow + error
        slopes = fit._Averaged(slope, slope)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slopes, state, pair)
        return eqx.apply_updates(pair, updates), state

    better, seen = [], []
    for _ in range(3000):
        lost = 100 * (jnp.sum(pair.flow**2) - jnp.sum(pair.average**2))
        pair, state = step(pair, state, noise * rng.normal(size=8))
        better.append(float(lost))
        seen.append(float(state.gap))
    if shrinks:
        assert float(state.log_rate) < -0.5
        assert np.mean(better[-500:]) < 1.5 * fit._GAP < 2 * fit._GAP < max(seen)
    else:
        assert float(state.log_rate) == 0
        assert np.mean(seen[1000:]) == pytest.approx(np.mean(better[1000:]), rel=0.2)


def test_only_leaves_that_may_move_are_averaged():
    layer = tm.Cayley.create(jr.key(0), 2)
    flow = Flow(layer, 2)
    x = jr.normal(jr.key(1), (40, 2))
    result = fit_flow(x, key=jr.key(2), flow=flow, num_steps=4, block=2)
    assert result.state.parameters.flow.shape == result.state.best.average.shape == (1,)
    np.testing.assert_array_equal(cast(Any, result.model.map).base, layer.base)


def test_bad_input_is_named(user_errors):
    key = jr.key(0)
    x = jr.normal(key, (50, 2))
    given = coupling_flow(key, 2, num_layers=1, num_conditions=1)
    cases = [
        ("`x`", lambda: fit_flow(x[0], key=key)),
        ("`x` must be continuous", lambda: fit_flow(jnp.ones((9, 2), int), key=key)),
        ("`x` must hold numbers", lambda: fit_flow(np.array([["a"]]), key=key)),
        ("what is masked", lambda: fit_flow(np.ma.array(np.ones((9, 2))), key=key)),
        ("`x` must be finite", lambda: fit_flow(x * jnp.nan, key=key)),
        ("`x` must vary in every", lambda: fit_flow(x[:, jnp.zeros(2, int)], key=key)),
        (
            "`fit_flow` cannot be called within",
            lambda: jax.vmap(lambda k: fit_flow(x, key=k).stats)(jr.split(key, 2)),
        ),
        ("`flow`", lambda: fit_flow(x, key=key, flow=cast(Any, jnp.tanh))),
        (
            r"`x` must have shape \(n, 3\)",
            lambda: fit_flow(x, key=key, flow=coupling_flow(key, 3, num_layers=1)),
        ),
        ("`flow` has conditional layers", lambda: fit_flow(x, key=key, flow=given)),
        ("`fitted`", lambda: fit_flow(x, key=key, fitted=cast(Any, jnp.tanh))),
        ("`weights`", lambda: fit_flow(x, key=key, weights=-jnp.ones(50))),
        # before anything is fitted
        ("`num_steps`", lambda: fit_flow(x * jnp.nan, key=key, num_steps=0)),
        ("`patience`", lambda: fit_flow(x * jnp.nan, key=key, patience=0)),
        ("`block`", lambda: fit_flow(x * jnp.nan, key=key, block=0)),
        ("`held_out`", lambda: fit_flow(x, key=key, held_out=0)),
        ("`held_out`", lambda: fit_flow(x, key=key, held_out=1.0)),
        ("`held_out`", lambda: fit_flow(x, key=key, held_out=x[:, :1])),
        (
            "`held_out` must have 2",
            lambda: fit_flow(x, key=key, held_out=cast(Any, (x,))),
        ),
        (r"`held_out\[1\]`", lambda: fit_flow(x, key=key, held_out=(x, x[:, 0]))),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()


def test_few_samples_are_looked_at_often_and_generalise():
    sizes = ((20, 500), (21, 100), (22, 4000))
    x, held, test = (bent(jr.key(seed), num) for seed, num in sizes)
    seen = []
    options = {"key": jr.key(23), "held_out": held, "num_steps": 300}
    best = fit_flow(x, progress=lambda *news: seen.append(news[1]), **options)
    assert seen == [0, *range(50, 901, 50)]  # three trainings
    sharp = spline_flow(jr.key(24), 2, data=x, num_bins=16, sharpness=2.0)
    worse = fit_flow(x, flow=sharp, **options)
    assert mean_log_prob(best.model, test) > mean_log_prob(worse.model, test) + 0.01


def test_a_large_table_on_a_mesh_with_explicit_axes(monkeypatch):
    monkeypatch.setattr(
        likelihood, "_MOST_FITTED", 300
    )  # a third of the samples for the fit
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    x, held = bent(jr.key(0), 960), jax.device_put(bent(jr.key(1), 80), rows)
    options = {"key": jr.key(2), "flow": small(x), "num_steps": 20, "block": 10}
    options |= {"weights": jnp.ones(960)}
    for held_out in (0.25, held):
        alone = fit_flow(x, held_out=held_out, **options)
        shared = fit_flow(jax.device_put(x, rows), held_out=held_out, **options)
        for name in ("fitted", "held_out"):
            assert_close(shared.stats[name], alone.stats[name], atol=1e-3)


def test_noise_keeps_few_samples_from_being_learnt_by_heart(monkeypatch):
    def bent_twice(key, num):
        return jnp.concatenate([bent(k, num) for k in jr.split(key)], axis=1)

    x, held, test = (bent_twice(jr.key(n), n) for n in (100, 101, 4000))
    options = {"key": jr.key(0), "held_out": held, "num_steps": 300}
    with_noise = fit_flow(x, **options)
    monkeypatch.setattr(fit, "_NOISES", (0.0,))
    without = fit_flow(x, **options)
    lead = mean_log_prob(with_noise.model, test) - mean_log_prob(without.model, test)
    least = [float(jnp.min(run.stats["held_out"])) for run in (with_noise, without)]
    assert lead > 0.1
    assert least[0] < least[1]


def test_the_part_of_very_many_samples_has_no_period(monkeypatch):
    """Whether rows have a period, as weeks do, or not: each place is there as often."""
    monkeypatch.setattr(likelihood, "_MOST_FITTED", 1000)
    x = np.arange(7000.0)
    part, none = likelihood.thinned((jnp.asarray(x), None))
    assert none is None
    assert part.shape == (1000,)
    assert (
        np.asarray(part) // 7 == np.arange(1000)
    ).all()  # one of each seven in a row
    counts = np.bincount(np.asarray(part, int) % 7)
    assert (np.abs(counts - 1000 / 7) < 5 * np.sqrt(1000 / 7)).all()
    assert len(likelihood.thinned(x[:1999])) == 1999
