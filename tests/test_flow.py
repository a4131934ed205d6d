import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jss
import numpy as np
import pytest
from helpers import assert_close, check_gradient, perturbed
from problems import gaussian_cloud

from transportjax import maps as tm
from transportjax.flows import (
    Flow,
    coupling_flow,
    gaussianisation_flow,
    normal_log_prob,
    spline_flow,
)

SMALL = {"width": 8, "depth": 1, "num_layers": 2}
MAKERS = {
    "coupling": lambda key, d, **more: coupling_flow(key, d, **SMALL, **more),
    "coupling, rotated": lambda key, d, **more: coupling_flow(
        key, d, rotate=True, **SMALL, **more
    ),
    "spline": lambda key, d, **more: spline_flow(key, d, **SMALL, **more),
    "gaussianisation": lambda key, d, **more: gaussianisation_flow(
        key, d, num_layers=3, num_knots=5, **more
    ),
}
each_flow = pytest.mark.parametrize("name", MAKERS)


def log_prob(flow, x, condition=None):
    return jax.jit(jax.vmap(lambda x: flow.log_prob(x, condition)))(x)


def normal_density(x, mean, cov):
    each = jax.vmap(lambda x: jss.multivariate_normal.logpdf(x, mean, cov))
    return each(x)


def moved(flow, key, size=0.1):
    """A flow as training could have moved it."""
    parts, rest = eqx.partition(flow, tm.trainable_leaves(flow))
    return eqx.combine(perturbed(parts, key, size), rest)


def test_outside_of_the_support_the_density_is_zero():
    bounds = tm.SupportMap(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, jnp.inf]))
    affine = tm.Affine(jnp.array([[1.0, 0.3], [0.2, 2.0]]), jnp.array([0.5, 1.0]))
    inside, far = jnp.array([0.4, 5.0]), 1e6
    outside = jnp.array([[0.0, 1.0], [1.0, 1.0], [-0.1, 1.0], [far, 1.0], [-far, 1.0]])
    first = tm.Affine(2.0 * jnp.eye(2), jnp.array([-0.5, 0.0]))  # bounds 0.25, 0.75
    maps = (
        bounds,
        tm.Chain((tm.Chain((bounds, affine)), affine)),
        tm.Chain((first, bounds, affine)),
    )
    for map in maps:
        flow = Flow(map, 2)
        value, slope = jax.value_and_grad(flow.log_prob)(inside)
        assert np.isfinite(value)
        assert np.all(slope != 0)
        gradients = jax.vmap(jax.grad(lambda flow, x: flow.log_prob(x), argnums=(0, 1)))
        flows = jax.tree.map(lambda leaf: jnp.stack(5 * [leaf]), flow)
        np.testing.assert_array_equal(log_prob(flow, outside), -np.inf)
        for leaf in jax.tree.leaves(gradients(flows, outside)):
            np.testing.assert_array_equal(leaf, 0.0)
        for event in ([jnp.nan, 1.0], [-1.0, jnp.nan], [jnp.inf, jnp.nan]):
            assert np.isnan(flow.log_prob(jnp.array(event)))
        with pytest.raises(ValueError, match=r"must be one event of shape \(2,\)"):
            flow.log_prob(jnp.ones(3))


@each_flow
def test_at_infinity_the_density_is_zero(name):
    flow = moved(MAKERS[name](jr.key(0), 2), jr.key(1))
    inf = jnp.inf
    far = jnp.array([[inf, 0.0], [0.0, -inf], [inf, inf], [-inf, inf]])
    slope = eqx.filter_grad(lambda both: both[1].log_prob(both[0]))
    np.testing.assert_array_equal(log_prob(flow, far), -inf)
    slopes = jax.jit(jax.vmap(lambda x: slope((x, flow))))(far)
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0.0)
    assert np.isnan(flow.log_prob(jnp.array([jnp.nan, inf])))


def test_the_density_of_a_gaussian_is_exact(x64):
    matrix = jnp.array([[2.0, 0.5], [0.0, -1.0]])
    flow = Flow(tm.Affine(matrix, jnp.array([1.0, 2.0])), 2)
    inverse = np.linalg.inv(matrix)
    x = jr.normal(jr.key(0), (20, 2))
    mean, cov = -inverse @ np.array([1.0, 2.0]), inverse @ inverse.T
    expected = normal_density(x, jnp.asarray(mean), jnp.asarray(cov))
    assert_close(log_prob(flow, x), expected)
    sample, value = flow.sample_and_log_prob(jr.key(1), 20000)
    assert_close(value, log_prob(flow, sample))
    np.testing.assert_array_equal(flow.sample(jr.key(1), 20000), sample)
    assert_close(np.mean(sample, 0), mean, atol=0.05)
    assert_close(np.cov(sample.T), cov, atol=0.05)
    assert_close(normal_log_prob(jnp.zeros(3)), -1.5 * math.log(2 * math.pi))


@each_flow
def test_a_new_flow_is_the_gaussian_of_the_data(name):
    mean, cov = jnp.array([1.0, -3.0]), jnp.array([[4.0, 1.0], [1.0, 2.0]])
    data = gaussian_cloud(jr.key(0), 500, mean, cov)
    x = data[:50]
    flow = MAKERS[name](jr.key(1), 2, data=data)
    # the unbiased covariance, over n - 1
    expected = normal_density(x, mean, cov * 500 / 499)
    assert_close(log_prob(flow, x), expected, 1e-4)
    plain = MAKERS[name](jr.key(1), 2)
    assert_close(log_prob(plain, x), jnp.sum(jss.norm.logpdf(x), axis=1), 1e-4)


@each_flow
def test_compile_time_does_not_grow_with_depth(name):
    maker = {"coupling": coupling_flow, "spline": spline_flow}.get(name.split(",")[0])
    maker = maker or gaussianisation_flow

    def count(num_layers):
        flow = maker(jr.key(0), 2, num_layers=num_layers)
        parts, rest = eqx.partition(flow, tm.trainable_leaves(flow))
        slope = jax.grad(lambda parts, x: eqx.combine(parts, rest).log_prob(x))
        jaxpr = jax.make_jaxpr(slope)(parts, jnp.zeros(2))
        return len(str(jaxpr).splitlines())

    assert count(2) == count(8)


def test_rotations_start_in_the_axes_and_turn_after_each_pair():
    flow = spline_flow(jr.key(0), 4, num_layers=6, width=8, depth=1)
    bases = np.asarray(flow.map.maps[1].layers.maps[0].base)
    for number, base in enumerate(bases):
        is_turned = number in (2, 4)
        assert np.all(np.isin(base, (0, 1))) != is_turned
        assert_close(base @ base.T, np.eye(4), 1e-5)
    # the second layer of a pair moves the coordinates that the first one left
    assert np.all(bases[1][:2, :2] == 0)
    assert not np.allclose(bases[2], bases[4])


def test_the_first_layer_has_the_axes_that_matter():
    """Columns with edges stay apart; a slanted cloud is whitened."""
    rng = np.random.default_rng(0)
    edges = np.clip(rng.normal(size=(2000, 2)) @ [[1, 0.4], [0, 1]], -0.8, 0.8)
    slanted = rng.normal(size=(2000, 2)) @ [[3, 1], [0, 0.2]] + 5
    for data, is_diagonal in ((edges, True), (slanted, False)):
        data = data.astype("float32")
        first = spline_flow(jr.key(0), 2, data=data).map.maps[0]
        other = np.asarray(first.matrix)[[0, 1], [1, 0]]
        assert (np.abs(other).max() == 0) == is_diagonal
        moved = np.asarray(jax.vmap(first)(data))
        np.testing.assert_allclose(moved.mean(axis=0), 0, atol=2e-3)
        np.testing.assert_allclose(moved.std(axis=0), 1, atol=2e-3)


@pytest.mark.parametrize("name", MAKERS)
def test_flows_are_made_within_other_programs(name):
    data, keys = jr.normal(jr.key(0), (50, 2)) + 1, jr.split(jr.key(1), 3)

    def value(key, data):
        return MAKERS[name](key, 2, data=data).log_prob(data[0])

    found = jax.jit(jax.vmap(value, (0, None)))(keys, data)
    assert found.shape == (3,)
    assert jnp.isfinite(jax.grad(lambda x: value(keys[0], x))(data)).all()
    assert jnp.isfinite(jax.vmap(value, (0, None))(keys, data)).all()


def test_networks_of_one_input_bend_at_different_places():
    flow = spline_flow(jr.key(0), 2, num_layers=2, width=64)
    network = flow.map.maps[1].layers.maps[1].conditioner
    bends = -network.first_bias / network.first[..., 0]
    inside = np.sort(bends[0][jnp.abs(bends[0]) < 3])
    assert len(inside) > 40
    assert np.max(np.diff(inside)) < 1.5
    assert not np.allclose(bends[0], bends[1])


@pytest.mark.parametrize("conditions", [0, 2])
@pytest.mark.parametrize("name", ["coupling", "spline"])
def test_one_dimensional_densities_integrate_to_one(name, conditions, x64):
    flow = MAKERS[name](jr.key(0), 1, num_conditions=conditions)
    flow = moved(flow, jr.key(1))
    x = jnp.linspace(-12, 12, 20001)
    values = []
    for c in (-1.0, 2.0) if conditions else (None,):
        given = None if c is None else jnp.full(2, c)
        values.append(jnp.exp(log_prob(flow, x[:, None], given)))
        assert float(jnp.sum(values[-1]) * (x[1] - x[0])) == pytest.approx(1, abs=1e-4)
    assert float(jnp.max(jnp.abs(values[0] - jss.norm.pdf(x)))) > 0.01
    if conditions:
        assert float(jnp.max(jnp.abs(values[0] - values[1]))) > 0.01


@pytest.mark.parametrize("name", ["coupling", "spline", "gaussianisation"])
def test_planar_densities_integrate_to_one(name, x64):
    more = {} if name == "gaussianisation" else {"num_conditions": 1}
    size = 0.05 if name == "spline" else 0.15  # its networks are sharp already
    flow = moved(MAKERS[name](jr.key(0), 2, **more), jr.key(1), size)
    side = jnp.linspace(-11, 11, 301)
    grid = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    for c in (None, 1.5) if more else (None,):
        density = jnp.exp(log_prob(flow, grid, None if c is None else jnp.full(1, c)))
        mass = jnp.sum(density) * (side[1] - side[0]) ** 2
        assert float(mass) == pytest.approx(1, abs=2e-3)
        normal = jnp.exp(jax.vmap(normal_log_prob)(grid))
        assert float(jnp.max(jnp.abs(density - normal))) > 0.01


@each_flow
def test_samples_have_the_density(name):
    flow = moved(MAKERS[name](jr.key(0), 3), jr.key(1))
    x, value = flow.sample_and_log_prob(jr.key(2), 200)
    assert_close(log_prob(flow, x), value, atol=2e-3)


def test_conditions_are_given_in_three_ways(x64):
    flow = moved(MAKERS["coupling"](jr.key(0), 2, num_conditions=2), jr.key(1))
    x, c = jr.normal(jr.key(2), (4, 2)), jr.normal(jr.key(3), (4, 2))
    values = jax.jit(jax.vmap(flow.log_prob))(x, c)
    assert_close(values[1], flow.log_prob(x[1], c[1]))
    assert_close(values[1], tm.given(flow, c[1]).log_prob(x[1]))
    assert_close(values[1], Flow(tm.given(flow.map, c[1]), 2).log_prob(x[1]))
    one = flow.sample(jr.key(4), 3, c[1])
    assert_close(one, tm.given(flow, c[1]).sample(jr.key(4), 3))
    assert float(jnp.max(jnp.abs(one - flow.sample(jr.key(4), 3, c[2])))) > 1e-3
    check_gradient(jax.jit(lambda x, c: flow.log_prob(x, c)), x[0], c[0])


def test_a_flow_is_saved_by_its_map(tmp_path):
    flow = moved(MAKERS["spline"](jr.key(0), 2, num_conditions=1), jr.key(1))
    tm.save(tmp_path / "flow", flow.map)
    loaded = Flow(tm.load(tmp_path / "flow"), 2)
    x = jr.normal(jr.key(2), (5, 2))
    c = jnp.ones(1)
    np.testing.assert_array_equal(log_prob(loaded, x, c), log_prob(flow, x, c))


def test_dtypes(x64):
    for dtype in ("float16", "float32", "float64"):
        work = "float32" if dtype == "float16" else dtype
        data = jr.normal(jr.key(0), (50, 2), dtype)
        flow = MAKERS["coupling"](jr.key(1), 2, data=data)
        floats = jax.tree.leaves(eqx.filter(flow, eqx.is_inexact_array))
        assert {leaf.dtype for leaf in floats} == {jnp.dtype(work)}
        assert jax.eval_shape(flow.log_prob, data[0]).dtype == dtype
        sample = jax.eval_shape(lambda key, flow=flow: flow.sample(key, 2), jr.key(0))
        assert sample.dtype == work
    assert MAKERS["coupling"](jr.key(1), 2).sample(jr.key(0), 1).dtype == "float64"


def test_the_law_within_bounds_has_its_mass_there():
    bounds = tm.SupportMap(jnp.array([0.0, 0.0]), jnp.array([1.0, jnp.inf]))
    inner = moved(MAKERS["coupling"](jr.key(0), 2), jr.key(1))
    flow = Flow(tm.Chain((bounds, inner.map)), 2)
    x = flow.sample(jr.key(2), 500)
    assert bool(jnp.all((x > 0) & (x[:, :1] < 1)))
    assert bool(jnp.all(jnp.isfinite(log_prob(flow, x))))


def test_units_of_columns_may_differ():
    units = jnp.array([[1e-4, 1.0, 10.0]])
    x = jr.normal(jr.key(0), (500, 3))
    x = x.at[:, 0].add(x[:, 1])
    flow = coupling_flow(jr.key(1), 3, data=x * units, num_layers=1)
    same = coupling_flow(jr.key(1), 3, data=x, num_layers=1)
    found, wanted = log_prob(flow, x * units), log_prob(same, x)
    assert_close(found + jnp.sum(jnp.log(units)), wanted, rtol=1e-4)


def test_bad_input_is_named(user_errors):
    key = jr.key(0)
    data = jr.normal(key, (20, 2))
    flat, line = data * jnp.array([[1.0, 0.0]]), data[:, :1] * jnp.array([[1.0, 1e3]])
    affine = tm.Affine(jnp.eye(2), jnp.zeros(2))
    flow = Flow(affine, 2)
    cases = [
        ("`map` must be a map", lambda: Flow(jnp.tanh, 2)),
        ("of type Flow. Give its `map`", lambda: Flow(flow, 2)),
        ("`dim`", lambda: Flow(affine, 0)),
        (r"one event of shape \(2,\)", lambda: Flow(affine, 3)),
        (r"one event of shape \(2,\)", lambda: flow.log_prob(jnp.zeros(3))),
        ("vmap", lambda: flow.log_prob(data)),
        ("takes no condition", lambda: flow.log_prob(data[0], jnp.ones(1))),
        ("`num`", lambda: flow.sample(key, 0)),
        ("`num_layers`", lambda: coupling_flow(key, 2, num_layers=0)),
        ("`dim`", lambda: spline_flow(key, 0)),
        ("`num_bins`", lambda: spline_flow(key, 2, num_bins=1)),
        ("`sharpness`", lambda: spline_flow(key, 2, sharpness=0)),
        ("`dim`", lambda: gaussianisation_flow(key, 0)),
        ("`num_knots`", lambda: gaussianisation_flow(key, 2, num_knots=1)),
        ("`interval`", lambda: gaussianisation_flow(key, 2, interval=0)),
        ("`data` must be finite", lambda: coupling_flow(key, 2, data=data * jnp.nan)),
        (r"`data` must have shape \(n, 3\)", lambda: spline_flow(key, 3, data=data)),
        ("`data` must have more samples", lambda: spline_flow(key, 2, data=data[:2])),
        ("`data` must vary", lambda: spline_flow(key, 2, data=jnp.ones((9, 2)))),
        ("column 1, counted", lambda: spline_flow(key, 2, data=flat)),
        ("in every direction", lambda: spline_flow(key, 2, data=line)),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()


class Sheared(tm.AbstractBijection):
    """A map of a user, with a network whose activations are leaves, but no arrays."""

    network: eqx.nn.MLP

    def transform_and_log_det(self, x):
        return x.at[1].add(self.network(x[:1])), jnp.zeros(())

    def inverse_and_log_det(self, y):
        return y.at[1].add(-self.network(y[:1])), jnp.zeros(())


def test_networks_of_equinox_in_a_map_of_ones_own():
    map = Sheared(eqx.nn.MLP(1, "scalar", 4, 1, key=jr.key(0)))
    flow = Flow(tm.Chain((map, map)), 2)
    x, log_prob = flow.sample_and_log_prob(jr.key(1), 5)
    assert_close(jax.vmap(flow.log_prob)(x), log_prob)
    assert_close(eqx.filter_jit(flow.sample)(jr.key(1), 5), x)
