"""Columns made normal by themselves, before the steps of `gaussianise`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, images, images_and_log_dets, jacobians, preimages

from transportjax import maps as tm
from transportjax.flows import Flow, fit_flow, spline_flow
from transportjax.solvers import columns, gaussianise
from transportjax.solvers.columns import choose_columns, fit_columns

DIM = 5
COV = 0.36 + 0.64 * np.eye(DIM)


def scores(key, n):
    """Normal, and correlated by 0.36."""
    common, own = jr.normal(key, (n, 1)), jr.normal(jr.fold_in(key, 1), (n, DIM))
    return 0.6 * common + 0.8 * own


def sharp(z):
    """A peaks tail, two narrow peaks, an edge, and two columns as they are."""
    peaks = 3 * jnp.sign(z[:, 1]) + 0.05 * z[:, 1]
    edge = z[:, 2] ** 3 + z[:, 2] / 9
    return jnp.stack([jnp.exp(z[:, 0]), peaks, edge, z[:, 3], z[:, 4]], axis=1)


def sharp_log_prob(z):
    """Of sharp(z), by the change of variables."""
    z = np.asarray(z, float)
    size = np.sum(z * np.linalg.solve(COV, z.T).T, axis=1)
    slopes = np.log(0.05) + z[:, 0] + np.log(3 * z[:, 2] ** 2 + 1 / 9)
    return -size / 2 - np.linalg.slogdet(2 * np.pi * COV).logabsdet / 2 - slopes


def mean_log_prob(map, x):
    flow = Flow(map, x.shape[1])
    return float(jnp.mean(jax.jit(jax.vmap(flow.log_prob))(x)))


@pytest.fixture(scope="module")
def fitted() -> Any:
    return gaussianise(sharp(scores(jr.key(0), 3000)), key=jr.key(1), num_steps=40)


def test_sharp_columns_are_learned(fitted):
    x, z = sharp(scores(jr.key(0), 3000)), scores(jr.key(2), 4000)
    assert [type(map) for map in fitted.map.maps[:2]] == [tm.Affine, tm.SlicedMap]
    truth = sharp_log_prob(z).mean()
    gap = truth - mean_log_prob(fitted.map, sharp(z))
    plain: Any = gaussianise(x, key=jr.key(1), num_steps=40, columns=False)
    assert len(plain.map) == 3
    assert -0.03 < gap < 0.4
    assert gap < 0.3 * (truth - mean_log_prob(plain.map, sharp(z)))


def test_it_is_a_map(fitted, tmp_path):
    z = sharp(scores(jr.key(3), 50))
    image, log_det = images_and_log_dets(fitted.map, z)
    back = preimages(fitted.map, image)
    assert_close(back, z, rtol=2e-3, atol=2e-3)
    jacobian = jacobians(fitted.map, z[:5])
    assert_close(jnp.linalg.slogdet(jacobian)[1], log_det[:5], rtol=1e-3, atol=1e-3)
    tm.save(tmp_path / "map.npz", fitted.map)
    loaded = tm.load(tmp_path / "map.npz")
    assert_close(images(loaded, z), image, rtol=1e-6, atol=1e-6)


def test_the_held_out_losses_are_those_of_the_maps():
    x, held = sharp(scores(jr.key(4), 1000)), sharp(scores(jr.key(5), 400))
    solution: Any = gaussianise(x, key=jr.key(1), num_steps=20, held_out=held)
    losses = np.asarray(solution.stats["held_out"])
    assert np.nanmin(losses) == pytest.approx(
        -mean_log_prob(solution.map, held), abs=2e-4
    )
    *start, steps = solution.map.maps
    assert losses[0] == pytest.approx(-mean_log_prob(tm.Chain(start), held), abs=2e-4)
    assert losses.argmin() == jax.tree.leaves(steps)[0].shape[0] < len(losses)


def test_columns_that_do_not_help_stay():
    # the slopes beside narrow peaks throw what is held out there still further out
    x = jr.normal(jr.key(0), (400, DIM))
    held = jnp.concatenate([jr.normal(jr.key(1), (100, DIM)), jnp.full((2, DIM), 80.0)])
    peaks = x.at[:, 0].set(3 * jnp.sign(x[:, 0]) + 0.05 * x[:, 0])
    choice = choose_columns(
        jnp.concatenate([peaks, held]),
        jnp.append(jnp.ones(400), jnp.zeros(102)),
        jnp.append(jnp.zeros(400), jnp.ones(102)),
    )
    assert choice.is_empty()
    # the choice without judges differs
    assert not choose_columns(peaks, jnp.ones(400), None).is_empty()
    # nor do columns that would become the same: a loss that is no number never wins
    z, ones = jnp.stack([x[:, 0], x[:, 1], x[:, 1]]), jnp.ones(400)
    assert jnp.isnan(columns.loss_when_normal(z, 0 * ones, ones, ones))


def test_when_columns_come_first():
    x = sharp(scores(jr.key(6), 500))

    def num_maps(x, **options):
        solution: Any = gaussianise(x, key=jr.key(0), num_steps=1, **options)
        return len(solution.map)

    assert num_maps(x) == 5
    assert num_maps(x, held_out=0) == 3
    assert num_maps(x, held_out=0, columns=True) == 5
    assert num_maps(x[:, :3]) == 3
    assert num_maps(x[:, :3], columns=True) == 5
    assert num_maps(x, columns=False) == 3


def test_weights_and_units():
    x = sharp(scores(jr.key(7), 600))
    weights = jnp.where(jnp.arange(600) < 400, 1.0, 0.0)
    every, part = jnp.ones(400), choose_columns(x, weights, None)
    assert_close(part.mean, choose_columns(x[:400], every, None).mean, rtol=1e-4)
    first = fit_columns(x, weights, part)
    second = fit_columns(x[:400], every, part)
    assert_close(first.points[:400], second.points, rtol=1e-4, atol=1e-4)
    assert_close(first.log_dets[:400], second.log_dets, rtol=1e-4, atol=1e-3)
    # other units: the same images, other densities
    units = jnp.array([1000.0, 1e-3, 1.0, 5.0, 0.2])
    scaled = x * units[None, :]
    third = fit_columns(scaled, weights, choose_columns(scaled, weights, None))
    assert_close(third.points, first.points, rtol=1e-3, atol=2e-3)
    shift = jnp.sum(jnp.log(units))
    assert_close(third.log_dets, first.log_dets - shift, rtol=1e-3, atol=5e-3)
    moved, log_dets = images_and_log_dets(tm.Chain(first.maps), x)
    assert_close(moved, first.points, rtol=1e-4, atol=1e-4)
    assert_close(log_dets, first.log_dets, rtol=1e-4, atol=1e-3)


def test_compiled_it_is_the_same():
    x = sharp(scores(jr.key(8), 400))

    def images(x, y):
        solution = gaussianise(x, key=jr.key(1), num_steps=4)
        return jax.vmap(solution.map)(y), solution.stats["held_out"]

    sets = jnp.stack([x, jr.normal(jr.key(9), (400, DIM))])
    fresh = sharp(scores(jr.key(10), 30))
    compiled = jax.jit(jax.vmap(images, (0, None)))(sets, fresh)
    for i, one in enumerate(sets):
        image, losses = images(one, fresh)
        assert_close(compiled[0][i], image, rtol=5e-3, atol=5e-3)
        assert_close(compiled[1][i][: len(losses)], losses, rtol=1e-3)


def test_a_flow_is_trained_behind_the_columns():
    x, held = sharp(scores(jr.key(11), 1500)), sharp(scores(jr.key(12), 300))
    seen = []
    result = fit_flow(
        x,
        key=jr.key(1),
        held_out=held,
        num_steps=100,
        block=25,
        progress=lambda *news: seen.append(news),
    )
    for flow, _, loss in (seen[0], seen[-1]):
        assert -mean_log_prob(flow.map, held) == pytest.approx(loss, abs=1e-3)
    assert result.state.best_loss < result.stats["held_out"][0] - 0.01
    # a flow of one's own sees the samples as they are
    own = spline_flow(jr.key(2), DIM, data=x, num_layers=2, width=8, depth=1)
    result = fit_flow(x, key=jr.key(1), flow=own, held_out=held, num_steps=1, block=1)
    assert -mean_log_prob(own.map, held) == pytest.approx(
        float(result.stats["held_out"][0]), abs=1e-3
    )
