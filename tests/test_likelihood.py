import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jss
import numpy as np
import optax
import pytest
from helpers import assert_close, images, preimages
from problems import ring_cloud

from transportjax import maps as tm
from transportjax.flows import (
    Flow,
    coupling_flow,
    likelihood,
    maximum_likelihood,
    spline_flow,
)
from transportjax.solvers import gaussianise

SMALL = {"width": 8, "depth": 1, "num_layers": 2}
ADAM = optax.adam(1e-2)


def mean_log_prob(flow, *data):
    return float(jnp.mean(jax.jit(jax.vmap(flow.log_prob))(*data)))


@pytest.fixture(scope="module")
def x():
    return ring_cloud(jr.key(0), 600, 2)


def test_a_gaussian_is_fitted(x64):
    matrix, mean = jnp.array([[2.0, 0.0], [1.0, 0.5]]), jnp.array([3.0, -1.0])
    z = jr.normal(jr.key(0), (400, 2))
    x = z @ matrix.T + jnp.broadcast_to(mean, z.shape)
    start = Flow(tm.Affine(jnp.eye(2), jnp.zeros(2)), 2)
    fitted = maximum_likelihood(
        start, x, key=jr.key(1), held_out=0, num_steps=600, batch_size=400,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.1, 600)),
    ).model  # fmt: skip
    # the greatest likelihood is that of the moments of the sample
    cov = jnp.asarray(np.cov(x.T, ddof=0))
    best = -(np.linalg.slogdet(2 * np.pi * cov)[1] + 2) / 2
    assert mean_log_prob(fitted, x) == pytest.approx(float(best), abs=1e-4)


def test_a_flow_learns_a_ring(x):
    start = spline_flow(jr.key(1), 2, data=x, **SMALL)
    result = maximum_likelihood(
        start, x, key=jr.key(2), num_steps=300, optimiser=ADAM, held_out=0.2
    )
    fresh = ring_cloud(jr.key(3), 1000, 2)
    assert mean_log_prob(result.model, fresh) > mean_log_prob(start, fresh) + 0.2
    held = result.stats["held_out"]
    assert float(held[0]) - float(result.state.best_loss) > 0.2
    assert result.stats["loss"].shape == (300,)


def test_a_fitted_flow_is_trained_further_and_keeps_its_rotations(x):
    fitted = Flow(gaussianise(x, key=jr.key(1), num_steps=4, num_knots=8).map, 2)
    optimiser = optax.adamw(1e-2, weight_decay=0.1)  # it moves what has no gradient too
    result = maximum_likelihood(
        fitted, x, key=jr.key(2), num_steps=150, optimiser=optimiser, held_out=0.2
    )
    before, after = (flow.map.maps[-1].layers for flow in (fitted, result.model))
    np.testing.assert_array_equal(before.directions, after.directions)
    assert not np.array_equal(before.marginals.y0, after.marginals.y0)
    fresh = ring_cloud(jr.key(3), 1000, 2)
    assert mean_log_prob(result.model, fresh) > mean_log_prob(fitted, fresh) + 0.05
    z = jr.normal(jr.key(4), (50, 2))
    assert_close(images(result.model.map, preimages(result.model.map, z)), z, atol=5e-3)


def test_a_conditional_law_is_learnt():
    # x given c is N(c, (1 + c^2)^2 / 16)
    def draw(key, n):
        c_key, x_key = jr.split(key)
        c = jr.uniform(c_key, (n, 1), minval=-1, maxval=1)
        return c + (1 + c**2) / 4 * jr.normal(x_key, (n, 1)), c

    x, c = draw(jr.key(0), 1000)
    flow = coupling_flow(jr.key(1), 1, num_conditions=1, **SMALL)
    result = maximum_likelihood(
        flow, x, key=jr.key(2), conditions=c, num_steps=400, optimiser=ADAM,
        held_out=draw(jr.key(3), 200),
    )  # fmt: skip
    fresh = draw(jr.key(4), 2000)
    truth = jss.norm.logpdf(fresh[0], fresh[1], (1 + fresh[1] ** 2) / 4)
    assert mean_log_prob(result.model, *fresh) > float(jnp.mean(truth)) - 0.05
    for value in (-0.8, 0.5):
        sample = result.model.sample(jr.key(5), 2000, jnp.full(1, value))
        assert float(jnp.mean(sample)) == pytest.approx(value, abs=0.08)
        assert float(jnp.std(sample)) == pytest.approx((1 + value**2) / 4, rel=0.2)


def test_a_weight_is_a_repetition(x, x64):
    x = x[:40].astype("float64")
    counts = jnp.arange(40) % 3
    repeated = jnp.repeat(x, counts, axis=0)
    flow = coupling_flow(jr.key(1), 2, **SMALL)
    more = {"key": jr.key(2), "num_steps": 5, "optimiser": ADAM}
    weighted = maximum_likelihood(
        flow, x, weights=2 * counts, batch_size=40, held_out=0, **more
    )
    twice = maximum_likelihood(
        flow, repeated, batch_size=len(repeated), held_out=0, **more
    )
    assert_close(weighted.stats["loss"], twice.stats["loss"])
    for a, b in zip(*map(jax.tree.leaves, (weighted.model, twice.model)), strict=True):
        assert_close(a, b, 1e-6)


def test_going_on_is_one_run_bit_for_bit(x):
    flow = coupling_flow(jr.key(1), 2, **SMALL)
    more = {"block": 10, "optimiser": ADAM, "weights": jnp.arange(600.0)}
    whole = maximum_likelihood(flow, x, key=jr.key(2), num_steps=30, **more)
    half = maximum_likelihood(flow, x, key=jr.key(2), num_steps=10, **more)
    rest = maximum_likelihood(
        flow, x, key=jr.key(7), num_steps=30, state=half.state, **more
    )
    pairs = zip(*map(jax.tree.leaves, (rest.model, whole.model)), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    held = [*half.stats["held_out"], *rest.stats["held_out"]]
    np.testing.assert_array_equal(held, whole.stats["held_out"])


def test_held_out_samples_are_not_trained_on(x):
    seen = []
    flow = Flow(tm.Affine(jnp.eye(2), jnp.zeros(2)), 2)
    more = {"key": jr.key(0), "num_steps": 20, "block": 5, "optimiser": ADAM}
    given = maximum_likelihood(
        flow, x[:500], held_out=x[500:], progress=lambda *a: seen.append(a), **more
    )
    assert given.state.order.shape == (500,)
    assert len(seen) == 4
    assert_close(-mean_log_prob(given.model, x[500:]), given.state.best_loss, 1e-4)
    assert maximum_likelihood(flow, x, **more).state.order.shape == (540,)
    none = maximum_likelihood(flow, x, held_out=0, **more)
    assert none.state.order.shape == (600,)
    assert set(none.stats) == {"loss"}


def test_on_a_mesh_with_explicit_axes(x):
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    flow = coupling_flow(jr.key(1), 2, num_conditions=1, **SMALL)
    options = {"key": jr.key(2), "num_steps": 4, "block": 2, "weights": jnp.ones(600)}
    sets = [(x, x[:, :1]), tuple(jax.device_put((x, np.asarray(x)[:, :1]), rows))]
    runs = [maximum_likelihood(flow, x, conditions=c, **options) for x, c in sets]
    for name in ("loss", "held_out"):
        assert_close(runs[1].stats[name], runs[0].stats[name], atol=1e-5)


@pytest.mark.parametrize("num_conditions", [0, 1])
def test_very_many_samples_are_judged_in_blocks(num_conditions):
    """The same value and slopes, in memory that hardly grows with their number."""
    flow = coupling_flow(jr.key(1), 2, num_conditions=num_conditions, **SMALL)

    def batch(num):
        x = jr.normal(jr.key(0), (num, 2))
        c = x[:, :1] if num_conditions else None
        return {"x": x, "conditions": c, "weights": 1 + x[:, 1] ** 2}

    def value(flow, data):
        return likelihood.mean_loss(flow, data, jr.key(0))

    few, many = batch(likelihood._BLOCK), batch(9 * likelihood._BLOCK + 5)
    rows = (many["x"], many["conditions"])[: 1 + num_conditions]
    truth = -jax.jit(jax.vmap(flow.log_prob))(*rows)
    run = eqx.filter_jit(eqx.filter_value_and_grad(value))
    found, slopes = run(flow, many)
    expected = np.average(truth, weights=many["weights"]) * np.mean(many["weights"])
    assert_close(found, np.float32(expected), 1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    memory = [
        jax.jit(value).lower(flow, data).compile().memory_analysis()
        for data in (few, many)
    ]
    # beyond the samples themselves, which are rearranged
    sizes = [
        each.temp_size_in_bytes - 2 * each.argument_size_in_bytes for each in memory
    ]
    assert sizes[1] < 1.2 * memory[0].temp_size_in_bytes


def test_a_sample_outside_of_the_support_stops_it():
    x = jr.uniform(jr.key(0), (50, 2)).at[3, 0].set(1.5)
    flow = Flow(tm.SupportMap(jnp.zeros(2), jnp.ones(2)), 2)
    flow = Flow(tm.Chain((flow.map, tm.Affine(jnp.eye(2), jnp.zeros(2)))), 2)
    with pytest.warns(RuntimeWarning, match="not finite at step 0"):
        result = maximum_likelihood(flow, x, key=jr.key(0), num_steps=5, held_out=0)
    np.testing.assert_array_equal(result.model.map.maps[1].matrix, np.eye(2))


def test_bad_input_is_named(user_errors, x):
    flow = coupling_flow(jr.key(1), 2, **SMALL)
    on_condition = coupling_flow(jr.key(1), 2, num_conditions=2, **SMALL)
    c = jnp.zeros((600, 2))
    cases = [
        (flow, "`flow` must be a Flow", {"flow": flow.map}),
        (flow, r"`x` must have shape \(n, 2\)", {"x": x[:, :1]}),
        (flow, r"`x` must have shape \(n, 2\)", {"x": x[0]}),
        (flow, "`x` must not be empty", {"x": x[:0]}),
        (flow, "`x` must be finite; got NaN", {"x": x.at[0, 0].set(jnp.nan)}),
        (flow, "`weights`", {"weights": jnp.ones(3)}),
        (flow, "`weights`", {"weights": -jnp.ones(600)}),
        (flow, "takes no condition", {"conditions": c}),
        (flow, "`state` must be a MinimiseState; got a int", {"state": 3}),
        (on_condition, "`flow` has conditional layers: give", {}),
        (on_condition, "`conditions` must have shape", {"conditions": c[:5]}),
        (on_condition, r"`conditions` do not fit .*must be", {"conditions": c[:, :1]}),
        (on_condition, "`conditions` must be finite", {"conditions": c + jnp.inf}),
        (on_condition, "pair", {"conditions": c, "held_out": x}),
        (on_condition, "`held_out` must have 2", {"conditions": c, "held_out": (x,)}),
        (flow, "`x` must be continuous", {"x": (10 * x).astype(int)}),
        (flow, "`held_out` must be a share", {"held_out": None}),
        (flow, "`held_out` must be a share", {"held_out": 1.0}),
        (flow, "`held_out` must be a share", {"held_out": -0.1}),
        (flow, "`held_out` must be a share", {"held_out": 1e-6}),
        (flow, "`held_out` must be a share", {"held_out": float("nan")}),
        (flow, "`held_out` must not be empty", {"held_out": x[:0]}),
        (flow, "`held_out` must be finite", {"held_out": x * jnp.nan}),
        (flow, "`batch_size` must not exceed .* 540; got 600", {"batch_size": 600}),
        (flow, "`num_steps`", {"num_steps": 0}),
    ]
    for model, match, options in cases:
        with pytest.raises(ValueError, match=match):
            maximum_likelihood(**{"flow": model, "x": x, "key": jr.key(0), **options})
    with pytest.raises(
        ValueError, match="`maximum_likelihood` cannot be called within"
    ):
        jax.vmap(lambda key: maximum_likelihood(flow, x, key=key).stats["loss"])(
            jr.split(jr.key(0), 2)
        )
