import functools

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient, images
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from problems import gaussian_cloud, ring_cloud, sliced_cost

from transportjax.maps import SlicedStep, load, save
from transportjax.sliced import (
    FixedDirections,
    OrthonormalDirections,
    RandomDirections,
    half_circle_directions,
    sliced_wasserstein,
)
from transportjax.solvers import idt, sliced_flow

HALF_CIRCLE = FixedDirections(half_circle_directions(9))


@pytest.fixture(scope="module")
def clouds():
    return ring_cloud(jr.key(0), 300, 2), gaussian_cloud(
        jr.key(1), 250, [1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]]
    )


@pytest.fixture(scope="module")
def fitted(clouds):
    return sliced_flow(*clouds, key=jr.key(0), num_steps=8)


# --- known answers -----------------------------------------------------------------


def test_a_step_along_a_rotation_is_one_of_distribution_transfer(x64):
    data = np.load(DATA / "idt_step.npz")
    options = {
        "key": jr.key(0),
        "directions": FixedDirections(data["Q"].T),
        "num_steps": 1,
        "num_bins": None,
    }
    solution = sliced_flow(data["X"], data["Y"], **options)
    assert_close(solution.points, data["out"])
    assert_close(images(solution.map, data["X"]), data["out"])
    assert_close(solution.points, idt(data["X"], data["Y"], **options).points)


def test_a_step_is_a_newton_step_on_the_sliced_distance(x64):
    source = ring_cloud(jr.key(0), 30, 2, "float64")
    target = gaussian_cloud(jr.key(1), 30, [0.0, 1.0], np.eye(2), "float64")
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6], [0.8, 0.6]])

    def energy(x):
        return len(x) / 2 * sliced_wasserstein(x, target, rows)

    hessian = rows.T @ rows / len(rows)
    expected = source - 0.7 * jax.grad(energy)(source) @ np.linalg.inv(hessian)
    options = {"directions": FixedDirections(rows), "num_steps": 1, "num_bins": None}
    solution = sliced_flow(source, target, key=jr.key(0), step_size=0.7, **options)
    assert_close(solution.points, expected)
    assert_close(solution.stats["cost"][0], 2 * energy(source) / len(source))


def test_a_translation_takes_one_step(key):
    x = jr.normal(key, (60, 4))
    step = jnp.array([[1.0, -2.0, 3.0, 0.5]])
    solution = sliced_flow(x, x + step, key=key, num_steps=1, num_bins=None)
    assert_close(solution.points, x + step, atol=1e-4)
    new = jr.normal(jr.fold_in(key, 1), (5, 4))
    assert_close(images(solution.map, new), new + step, atol=1e-3)
    same = sliced_flow(x, x, key=key, num_steps=1, num_bins=None)
    assert_close(same.points, x, atol=1e-5)
    assert_close(same.stats["cost"], [0.0], atol=1e-9)


def test_gaussian_to_gaussian_is_near_the_closed_form():
    n, mean = 4000, [2.0, -1.0]
    cov = np.array([[2.0, 0.5], [0.5, 0.6]])
    source = gaussian_cloud(jr.key(0), n, [0.0, 0.0], np.eye(2))
    target = gaussian_cloud(jr.key(1), n, mean, cov)
    solution = sliced_flow(source, target, key=jr.key(2), num_steps=10)
    values, axes = np.linalg.eigh(cov)
    root = axes @ np.diag(np.sqrt(values)) @ axes.T
    expected = np.asarray(source) @ root + np.array(mean)
    error = np.asarray(solution.points) - expected
    assert np.sqrt(np.mean(error**2)) < 0.1
    assert_close(np.cov(np.asarray(solution.points).T), cov, atol=0.05)


def test_the_energy_decreases_to_the_sampling_floor():
    n = 2000
    source = jr.normal(jr.key(0), (n, 3)) * 0.5 + 1
    target, fresh = ring_cloud(jr.key(1), n, 3), ring_cloud(jr.key(2), n, 3)
    solution = sliced_flow(source, target, key=jr.key(3))
    cost = np.asarray(solution.stats["cost"])
    assert np.all(cost[1:6] < cost[:5])
    assert cost[-1] < 0.01 * cost[0]
    assert sliced_cost(solution.points, target) < 1.5 * sliced_cost(fresh, target)


# --- the map -----------------------------------------------------------------------


def test_the_map_gives_the_points_and_inverts(x64):
    source = ring_cloud(jr.key(0), 60, 2, "float64")
    target = gaussian_cloud(jr.key(1), 50, [1.0, -1.0], np.eye(2), "float64")
    solution = sliced_flow(
        source,
        target,
        key=jr.key(0),
        directions=HALF_CIRCLE,
        num_steps=2,
        num_bins=64,
    )
    off = source + 1e-4  # of the knots, where the derivative jumps

    @jax.jit
    def evaluate(map, x):
        y, log_det = jax.vmap(map.transform_and_log_det)(x)
        back, inverse_log_det = jax.vmap(map.inverse_and_log_det)(y)
        again, jacobian = jax.vmap(map)(back), jax.vmap(jax.jacfwd(map))(x)
        return y, log_det, back, inverse_log_det, again, jacobian

    y, _, back, _, again, _ = evaluate(solution.map, source)
    assert_close(y, solution.points)
    assert_close(again, y)
    errors = np.max(np.abs(back - source), axis=1)
    assert np.quantile(errors, 0.9) < 1e-9
    assert np.max(errors) < 1e-3
    _, log_det, _, inverse_log_det, _, jacobian = evaluate(solution.map, off)
    assert_close(np.median(np.abs(log_det + inverse_log_det)), 0.0)
    assert_close(log_det, jnp.linalg.slogdet(jacobian).logabsdet, rtol=1e-6)


def test_new_points_follow_the_law(fitted):
    new = ring_cloud(jr.key(7), 300, 2)
    target = gaussian_cloud(jr.key(8), 300, [1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]])
    assert sliced_cost(images(fitted.map, new), target) < 0.05
    assert sliced_cost(new, target) > 1


def test_the_inverse_brings_the_points_back_in_single_precision(fitted, clouds):
    back = jax.jit(jax.vmap(fitted.map.inverse))(fitted.points)
    assert_close(back, clouds[0], rtol=1e-4, atol=1e-4)
    # what lies in steep places forth is sensitive to rounding
    again = jax.jit(jax.vmap(fitted.map))(back)
    assert np.quantile(np.abs(again - fitted.points), 0.9) < 1e-3


def test_save_and_load(fitted, tmp_path):
    assert isinstance(fitted.map.layers, SlicedStep)
    save(tmp_path / "map", fitted.map)
    chex.assert_trees_all_equal(load(tmp_path / "map"), fitted.map)


# --- options -----------------------------------------------------------------------


def test_weights_are_repetitions(clouds):
    source, target = clouds
    counts = np.arange(len(target)) % 3 + 1
    repeated = jnp.repeat(target, counts, axis=0, total_repeat_length=counts.sum())
    flow = functools.partial(
        sliced_flow,
        source,
        key=jr.key(0),
        directions=HALF_CIRCLE,
        num_steps=2,
        num_bins=None,
    )
    weighted, expected = flow(target, target_weights=counts), flow(repeated)
    assert_close(weighted.points, expected.points, rtol=1e-3, atol=1e-3)


def test_weights_of_the_directions_count(x64):
    class Weighted(FixedDirections):
        def sample(self, key, state, x, y):
            rows, _, state = super().sample(key, state, x, y)
            return rows, jnp.array([0.5, 0.25, 0.25]), state

    source = ring_cloud(jr.key(0), 20, 2, "float64")
    target = gaussian_cloud(jr.key(1), 20, [0.0, 1.0], np.eye(2), "float64")
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    options = {"key": jr.key(0), "num_steps": 1, "num_bins": None}
    flow = functools.partial(sliced_flow, source, target, **options)
    weighted = flow(directions=Weighted(rows))
    twice = flow(directions=FixedDirections(rows[[0, 0, 1, 2]]))
    assert_close(weighted.points, twice.points)
    assert_close(weighted.stats["cost"], twice.stats["cost"])


def test_diffusion_keeps_the_mean_and_adds_its_variance():
    # towards a target with the profile of the source, the drift is small: noise alone
    points = gaussian_cloud(jr.key(0), 4000, [1.0, 2.0], np.eye(2))
    solution = sliced_flow(
        points, points, key=jr.key(1), num_steps=1, step_size=0.1, diffusion=0.5
    )
    spread = np.asarray(solution.points)
    assert_close(spread.mean(0), [1.0, 2.0], atol=0.03)
    assert_close(np.cov(spread.T), 1.1 * np.eye(2), atol=0.06)
    # many steps: the variance v of the stationary law has an increase of 2 diffusion h
    # where the drift (1 - sqrt(v)) takes as much: sqrt(v) (sqrt(v) - 1) = diffusion
    solution = sliced_flow(
        points, points, key=jr.key(1), num_steps=60, step_size=0.1, diffusion=0.5
    )
    # in discrete time: deviation s -> (1 - h) s + h, then s^2 grows by 2 diffusion h
    s = 1.0
    for _ in range(60):
        s = np.sqrt((0.9 * s + 0.1) ** 2 + 0.1)
    spread = np.asarray(solution.points)
    assert_close(spread.mean(0), [1.0, 2.0], atol=0.1)
    assert_close(np.cov(spread.T), s**2 * np.eye(2), atol=0.15)
    assert np.all(np.isfinite(solution.stats["cost"]))


# --- derivatives and transformations -----------------------------------------------


def test_the_target_is_learned_through_the_fit(x64):
    source = ring_cloud(jr.key(0), 40, 2, "float64")
    target = gaussian_cloud(jr.key(1), 30, [0.0, 0.0], np.eye(2), "float64")

    def loss(target, weights):
        solution = sliced_flow(
            source,
            target,
            key=jr.key(0),
            directions=HALF_CIRCLE,
            num_steps=1,
            num_bins=16,
            target_weights=weights,
        )
        return jnp.sum(jnp.sin(solution.points))

    check_gradient(loss, target, jnp.linspace(0.5, 1.5, 30), eps=1e-7, rtol=1e-4)


def test_the_diffusivity_can_be_learned(clouds):
    def spread(diffusion, step_size):
        solution = sliced_flow(
            *clouds,
            key=jr.key(0),
            directions=HALF_CIRCLE,
            num_steps=1,
            num_bins=16,
            step_size=step_size,
            diffusion=diffusion,
        )
        return jnp.var(solution.points)

    slopes = jax.jit(jax.grad(spread, (0, 1)))(0.3, 0.5)
    assert np.all(np.isfinite(slopes))
    assert slopes[0] > 0.1


def test_swept_numbers_do_not_compile_again(clouds):
    from transportjax.solvers.sliced_flow import _flow

    flow = functools.partial(
        sliced_flow, *clouds, key=jr.key(1), num_steps=2, num_bins=16
    )
    before = _flow._cached._cache_size()
    for step_size, diffusion in ((0.3, 0.1), (0.6, 0.2), (0.9, 3)):
        flow(step_size=step_size, diffusion=diffusion)
    assert _flow._cached._cache_size() == before + 1


def test_more_steps_do_not_make_a_larger_program(clouds):
    def size(num_steps):
        lowered = jax.jit(
            lambda x, y: sliced_flow(x, y, key=jr.key(0), num_steps=num_steps).points
        ).lower(*clouds)
        return len(lowered.as_text())

    assert size(40) < 1.05 * size(4)


def test_jit_vmap_and_sharding(clouds):
    source, target = clouds[0][:200], clouds[1][:200]

    def points(source):
        options = {"key": jr.key(0), "num_steps": 2, "num_bins": 32}
        return sliced_flow(source, target, directions=HALF_CIRCLE, **options).points

    plain = points(source)
    batch = jax.jit(jax.vmap(points))(jnp.stack([source, source + 1.0]))
    assert_close(batch[0], plain, atol=1e-4)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharded = jax.device_put(source, NamedSharding(mesh, P("data")))
    assert_close(points(sharded), plain, rtol=1e-4, atol=1e-4)


def test_other_dtypes_and_directions(key):
    options = {"key": key, "num_steps": 2, "num_bins": 32, "directions": HALF_CIRCLE}
    source = jr.randint(key, (60, 2), 0, 255).astype("uint8")
    moved = sliced_flow(source, 255 - source, **options).points
    assert moved.dtype == jnp.float32
    mean = 255 - np.asarray(source, float).mean(0)
    assert np.abs(np.asarray(moved).mean(0) - mean).max() < 1
    half = jr.normal(key, (60, 2), "float16")
    moved = sliced_flow(half, half + 1, **options)
    assert moved.points.dtype == moved.stats["cost"].dtype == "float16"
    assert moved.map.layers.directions.dtype == "float32"
    assert_close(moved.points, half + 1, atol=2e-2)
    # fewer directions than dimensions, and no more points than one
    options["directions"] = OrthonormalDirections(2)
    few = sliced_flow(jnp.ones((1, 3)), jnp.zeros((1, 3)), **options)
    rows = few.map.layers.directions
    assert rows.shape == (2, 2, 3)
    rest = jnp.ones(3) - rows[0].T @ rows[0] @ jnp.ones(3)
    assert_close(few.points[0], rest - rows[1].T @ rows[1] @ rest, atol=1e-5)
    options["directions"] = RandomDirections(40)
    line = jr.normal(key, (50, 1))
    moved = sliced_flow(line, 2 * line + 1, **options | {"num_bins": None})
    assert_close(moved.points, 2 * line + 1, atol=1e-3)


@pytest.mark.parametrize(
    ("clouds", "options", "message"),
    [
        ((np.ones(3), np.ones((5, 2))), {}, "`source` must have shape"),
        ((np.ones((5, 2)), np.ones((5, 3))), {}, "`target` must have 2 columns"),
        ((np.full((5, 2), np.nan), np.ones((5, 2))), {}, "NaN"),
        (None, {"num_steps": 0}, "`num_steps` must be"),
        (None, {"num_bins": 1}, "`num_bins` must be"),
        (None, {"step_size": 1.5}, "`step_size` must be in"),
        (None, {"diffusion": -1}, "`diffusion` must be in"),
        (None, {"source_weights": -np.ones(5)}, "`source_weights` must be >= 0"),
        (None, {"target_weights": np.ones(4)}, "`target_weights` must have shape"),
    ],
)
def test_bad_input_is_named(clouds, options, message, user_errors):
    clouds = (np.ones((5, 2)), np.ones((5, 2))) if clouds is None else clouds
    with pytest.raises(ValueError, match=message):
        sliced_flow(*clouds, key=jr.key(0), **options)
