import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import Plan, plan_1d
from transportjax.sliced import (
    barycentric_projection,
    expected_sliced_plan,
    min_sliced_plan,
    plan_cost,
    random_directions,
    sliced_plans,
    smoothed_sliced_plan_cost,
)

REFERENCE = np.load(DATA / "plans_unbalanced.npz")


def euclidean(x, y):
    return jnp.linalg.norm(x - y, axis=-1)


def city_block(x, y):
    return jnp.sum(jnp.abs(x - y), axis=-1)


def cubic_norm(x, y):  # the norm itself, not its third power
    return jnp.sum(jnp.abs(x - y) ** 3, axis=-1) ** (1 / 3)


METRICS = {"euclidean": euclidean, "cityblock": city_block, "minkowski": cubic_norm}


def problem(n=6, m=5, num=7, d=3):
    rng = np.random.default_rng(0)
    x, y, directions = (rng.normal(size=(k, d)) for k in (n, m, num))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return x, y + 0.5, directions, rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)


def least_cost(cost, a, b):
    """Of all plans, by linear programming."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    matrix, masses = np.concatenate([rows, columns]), np.concatenate([a, b])
    return scipy.optimize.linprog(cost.ravel(), A_eq=matrix[:-1], b_eq=masses[:-1]).fun


# --- against reference data --------------------------------------------------------


@pytest.mark.parametrize("metric", ["sqeuclidean", *METRICS])
def test_reference(metric, x64):
    x, y, directions = (REFERENCE[f"plans/{f}"] for f in "XYP")
    case = {
        f: REFERENCE[f"plans/{metric}/{f}"]
        for f in (
            *("costs", "min_plan", "min_cost"),
            *("exp_cost", "exp_plan_beta5", "exp_cost_beta5"),
        )
    }
    options = {"cost": METRICS[metric]} if metric in METRICS else {}

    @jax.jit
    def run(x, y, directions, beta):
        arguments = x, y, directions
        _, costs = sliced_plans(*arguments, chunk=3, **options)
        expected = expected_sliced_plan(*arguments, beta=beta, **options)
        return costs, min_sliced_plan(*arguments, **options), expected

    costs, least, (plan, cost) = run(x, y, directions.T, 5.0)
    close = functools.partial(assert_close, rtol=1e-11)
    close(costs, case["costs"])
    close(least.cost, case["min_cost"])
    assert int(least.index) == np.argmin(case["costs"])
    close(least.plan.to_dense(12, 12), case["min_plan"])
    close(plan.to_dense(12, 12), case["exp_plan_beta5"])
    close(cost, case["exp_cost_beta5"])
    close(run(x, y, directions.T, 0.0)[2][1], case["exp_cost"])


def test_weights_and_sizes_against_linear_programs(x64):
    fields = "X", "Y", "P", "a", "b", "exp_plan", "exp_cost", "pot_costs"
    x, y, directions, a, b, mean, mean_cost, wrong = (
        REFERENCE[f"weighted_plans/{f}"] for f in fields
    )
    weights = {"x_weights": a, "y_weights": b}
    plans, costs = sliced_plans(x, y, directions.T, **weights)
    dense = np.array(plans.to_dense(10, 14))
    assert_close(dense.sum(2), np.tile(a / a.sum(), (10, 1)), rtol=1e-12)
    assert_close(dense.sum(1), np.tile(b / b.sum(), (10, 1)), rtol=1e-12)
    cost = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    assert_close(costs, np.sum(dense * cost, axis=(1, 2)), rtol=1e-12)
    # along its direction each plan is optimal
    for direction, plan in zip(directions.T[:3], dense[:3], strict=True):
        gaps = np.abs((x @ direction)[:, None] - (y @ direction)[None])
        best = least_cost(gaps, a / a.sum(), b / b.sum())
        assert_close(np.sum(gaps * plan), best, rtol=1e-8)
    plan, value = expected_sliced_plan(x, y, directions.T, **weights)
    assert_close(plan.to_dense(10, 14), mean, rtol=1e-11)
    assert_close(value, mean_cost, rtol=1e-11)
    found = min_sliced_plan(x, y, directions.T, **weights)
    assert int(found.index) == np.argmin(costs)
    assert_close(found.cost, costs.min(), rtol=1e-12)
    assert least_cost(cost, a / a.sum(), b / b.sum()) < found.cost
    # POT 0.9.7 looks masses up by row: its cheapest plan costs more than it says, and
    # more than another
    chosen = np.argmin(wrong)
    assert wrong[chosen] < 0.9 * found.cost < 0.9 * np.sum(dense[chosen] * cost)


# --- known answers -----------------------------------------------------------------


def test_translation(x64):
    x, _, directions, *_ = problem()
    shift = np.array([1.0, -2.0, 3.0])
    order = np.array([3, 1, 0, 2, 5, 4])
    plans, costs = sliced_plans(x, (x + shift)[order], directions)
    assert plans.mass.shape == (7, 6)  # permutations
    assert np.array_equal(order[plans.columns], plans.rows)
    assert_close(costs, np.full(7, 14.0), rtol=1e-12)
    one = jax.tree.map(lambda a: a[0], plans)
    moved = barycentric_projection(one, (x + shift)[order], 6)
    assert_close(moved, x + shift, rtol=1e-12)


def test_sizes_of_the_plans(x64):
    x, y, directions, a, _ = problem(n=6, m=4)
    for weights, num in (({}, 6 + 4 - 2), ({"x_weights": a}, 6 + 4 - 1)):
        plans, costs = sliced_plans(x, y, directions, **weights)
        assert plans.rows.shape == plans.columns.shape == plans.mass.shape == (7, num)
        assert_close(plans.mass.sum(1), np.ones(7))
        assert_close(plan_cost(plans, x, y), costs, rtol=1e-12)


def test_it_is_an_upper_bound(x64):
    x, y, directions, *_ = problem(n=8, m=8, d=2, num=200)
    cost = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    exact = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    result = min_sliced_plan(x, y, directions)
    assert exact - 1e-12 <= result.cost < 1.2 * exact
    few = min_sliced_plan(x, y, directions[:3])
    assert result.cost <= few.cost


def test_expected_plan(x64):
    x, y, directions, a, b = problem()
    weights = {"x_weights": a, "y_weights": b}
    _, costs = sliced_plans(x, y, directions, **weights)
    run = jax.jit(
        lambda beta: expected_sliced_plan(x, y, directions, beta=beta, **weights)
    )
    for beta in (0.0, 2.0):
        plan, cost = run(beta)
        shares = np.exp(-beta * costs) / np.sum(np.exp(-beta * costs))
        assert_close(cost, shares @ costs, rtol=1e-12)
        assert_close(plan_cost(plan, x, y), cost, rtol=1e-12)
        assert_close(plan.to_dense(6, 5).sum(1), a / a.sum(), rtol=1e-12)
    plan, cost = run(1e6)
    best = min_sliced_plan(x, y, directions, **weights)
    assert_close(cost, best.cost, rtol=1e-12)
    assert_close(plan.to_dense(6, 5), best.plan.to_dense(6, 5), rtol=1e-12)


def test_barycentric_projection(x64):
    x, y, directions, a, _ = problem()
    a[2] = 0
    plan, _ = expected_sliced_plan(x, y, directions, x_weights=a)
    dense = np.array(plan.to_dense(6, 5))
    moved = barycentric_projection(plan, y, 6)
    kept = np.arange(6) != 2
    expected = (dense @ y)[kept] / dense[kept].sum(1, keepdims=True)
    assert_close(moved[kept], expected, rtol=1e-12)
    assert np.isnan(moved[2]).all()  # it goes nowhere


def test_weights_are_repetitions(x64):
    x, y, directions, *_ = problem(n=4, m=4)
    counts = np.array([2, 1, 0, 3])
    _, weighted = sliced_plans(x, y, directions, x_weights=counts)
    _, repeated = sliced_plans(np.repeat(x, counts, axis=0), y, directions)
    assert_close(weighted, repeated, rtol=1e-12)


# --- derivatives -------------------------------------------------------------------


def test_derivatives_by_finite_differences(x64):
    x, y, directions, a, b = problem()
    shares = np.random.default_rng(1).normal(size=7)

    @jax.jit
    def value(x, y, a, b, beta):
        options = {"x_weights": a, "y_weights": b, "cost": euclidean}
        arguments = x, y, directions
        _, costs = sliced_plans(*arguments, chunk=3, **options)
        _, mean = expected_sliced_plan(*arguments, beta=beta, **options)
        return shares @ costs + 2 * mean + min_sliced_plan(*arguments, **options).cost

    check_gradient(value, x, y, a, b, np.array(0.7))


def test_the_plan_can_be_held(x64):
    x, y, directions, *_ = problem(n=5)
    plan = min_sliced_plan(x, y, directions).plan
    slope = jax.jit(jax.grad(lambda x: plan_cost(plan, x, y)))(x)
    expected = 2 / 5 * (x - barycentric_projection(plan, y, 5))
    assert_close(slope, expected, rtol=1e-12)
    cost = lambda x: min_sliced_plan(x, y, directions).cost  # noqa: E731
    whole = jax.jit(jax.grad(cost))(x)
    assert_close(whole, expected, rtol=1e-12)


# --- generalised slices ------------------------------------------------------------


def along_angle(angle, points):
    return points @ jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def test_the_gradient_is_that_of_the_smoothed_cost(key, x64):
    # One parameter, so that the smoothed cost can be had by quadrature.
    x, y, *_ = problem(n=6, m=6, d=2)
    angle, scale = 0.4, 0.3
    grid = angle + scale * np.linspace(-6, 6, 4001)
    circle = np.stack([np.cos(grid), np.sin(grid)], axis=1)
    costs = np.array(sliced_plans(x, y, circle)[1])
    z = (grid - angle) / scale
    density = np.exp(-(z**2) / 2)
    density /= density.sum()

    def smoothed(angle, x):
        return smoothed_sliced_plan_cost(
            *(along_angle, angle, x, y),
            key=key,
            scale=scale,
            num_samples=20_000,
            chunk=4000,
        )

    value, (slope, x_slope) = jax.jit(jax.value_and_grad(smoothed, (0, 1)))(angle, x)
    assert_close(value, density @ costs, rtol=0.02)
    assert_close(slope, density @ (costs * z) / scale, rtol=0.1, atol=0.05)
    # in the points: with the plans held, the mean over them
    plan, _ = expected_sliced_plan(x, y, circle[::10])
    mass = plan.mass.reshape(-1, 6) * density[::10, None] / density[::10].sum() * 401
    held = Plan(plan.rows, plan.columns, mass.reshape(-1))
    expected = jax.jit(jax.grad(lambda x: plan_cost(held, x, y)))(x)
    assert_close(x_slope, expected, rtol=0.05, atol=0.02)


def test_derivatives_in_the_points(key, x64):
    x, y, _, a, b = problem()

    @jax.jit
    def value(x, y, a, b):
        return smoothed_sliced_plan_cost(
            *(lambda theta, x: x @ theta, np.ones(3), x, y),
            key=key,
            num_samples=4,
            x_weights=a,
            y_weights=b,
        )

    check_gradient(value, x, y, a, b)


def perceptron(params, x):
    return jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"]


def test_a_slice_can_be_learned(key):
    # The first coordinate tells who belongs to whom; nine others are noise.
    keys = jr.split(key, 4)
    x, y = jr.normal(keys[0], (40, 10)), jr.normal(keys[1], (40, 10))
    scales = jnp.array([3.0] + 9 * [1.0])[None]
    x, y = x * scales, y * scales
    directions = random_directions(keys[2], 100, 10)
    best, _, index = min_sliced_plan(x, y, directions)
    least = plan_cost(best, x, y)
    draws = jr.normal(keys[3], (8, 10, 16))
    network = {"in": 0.2 * draws[0], "bias": jnp.zeros(16), "out": 0.2 * draws[1, 0]}
    starts = [(lambda theta, x: x @ theta, directions[index]), (perceptron, network)]
    for project, params in starts:
        assert learned_cost(project, params, x, y, key) < 0.9 * least


def learned_cost(project, params, x, y, key, num_steps=120):
    """The least cost of the plans of a slice while it is optimised."""
    optimiser = optax.adam(0.03)

    def step(state, key):
        params, moments = state
        gradient = jax.grad(smoothed_sliced_plan_cost, 1)(
            project, params, x, y, key=key, scale=0.1, num_samples=20
        )
        updates, moments = optimiser.update(gradient, moments)
        params = optax.apply_updates(params, updates)
        plan = plan_1d(project(params, x), project(params, y))
        return (params, moments), plan_cost(plan, x, y)

    state = params, optimiser.init(params)
    keys = jr.split(key, num_steps)
    with jax.numpy_dtype_promotion("standard"):  # for optax
        return jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys)[1].min()


# --- transformations, sizes, errors ------------------------------------------------


def test_transformations_and_dtypes():
    x, y, directions, a, b = (np.float32(z) for z in problem())

    def run(x):
        options = {"x_weights": a, "y_weights": b}
        plan, cost = expected_sliced_plan(x, y, directions, beta=1.0, **options)
        return (
            plan.mass,
            cost,
            min_sliced_plan(x, y, directions, chunk=2, **options).cost,
        )

    eager = run(x)
    mapped = jax.jit(jax.vmap(run))(jnp.stack([x, 2 * x]))
    for one, other in zip(eager, mapped, strict=True):
        assert one.dtype == "float32"
        assert_close(one, other[0])
    half = sliced_plans(*(jnp.asarray(z, "bfloat16") for z in (x, y, directions)))
    assert half[1].dtype == half[0].mass.dtype == "bfloat16"
    bytes_ = sliced_plans(np.uint8([[3]]), np.uint8([[250]]), np.ones((1, 1)))
    assert bytes_[1] == 247.0**2


def test_devices():
    x, y, directions, *_ = (np.float32(z) for z in problem(num=8))
    expected = sliced_plans(x, y, directions)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        sliced_plans, mesh=mesh, in_specs=(P(), P(), P("i")), out_specs=P("i")
    )
    mesh = jax.make_mesh((4,), ("i",))  # of explicit axes
    split = jax.device_put(directions, NamedSharding(mesh, P("i")))
    for found in (jax.jit(mapped)(x, y, directions), sliced_plans(x, y, split)):
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert_close(one, other, rtol=1e-5)
    with jax.set_mesh(mesh):
        least = jax.jit(min_sliced_plan)(x, y, split)
    assert_close(least.cost, expected[1].min())


def test_no_matrix_is_formed():
    n, d, num = 4000, 2, 8
    clouds = [jax.ShapeDtypeStruct((n, d), "float32")] * 2
    directions = jnp.asarray(problem(d=d, num=num)[2], "float32")

    def cost(x, y):
        return min_sliced_plan(x, y, directions, chunk=1).cost

    compiled = jax.jit(jax.grad(cost)).lower(*clouds).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * n  # a quarter of it


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    x, y, directions, a, _ = problem()
    for function in (sliced_plans, min_sliced_plan, expected_sliced_plan):
        for arguments, options, message in [
            ((x, y[:, :2], directions), {}, "`y`"),
            ((x * np.nan, y, directions), {}, "`x`"),
            ((x, y, 2 * directions), {}, "norm 1"),
            ((x, y, directions), {"x_weights": -a}, "x_weights"),
            ((x, y, directions), {"y_weights": a}, "y_weights"),
            ((x, y, directions), {"chunk": 0}, "chunk"),
            ((x, y, directions), {"cost": lambda x, y: x - y}, "one cost for each"),
        ]:
            with pytest.raises(ValueError, match=message):
                function(*arguments, **options)
    with pytest.raises(ValueError, match="beta"):
        expected_sliced_plan(x, y, directions, beta=-1)
    plans, _ = sliced_plans(x, y, directions)
    with pytest.raises(ValueError, match="rows"):
        plan_cost(plans, x[:5], y)
    with pytest.raises(ValueError, match="columns"):
        plan_cost(plans, x, y[:4])
    with pytest.raises(ValueError, match="one plan"):
        barycentric_projection(plans, y, 6)
    for options, message in [({"scale": 0}, "scale"), ({"num_samples": 0}, "num_s")]:
        with pytest.raises(ValueError, match=message):
            smoothed_sliced_plan_cost(
                *(lambda t, x: x @ t, directions[0], x, y), key=jr.key(0), **options
            )
    with pytest.raises(ValueError, match="project"):
        smoothed_sliced_plan_cost(lambda t, x: x, 1.0, x, y, key=jr.key(0))
