import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    check_gradient,
    images,
    images_and_log_dets,
    jacobians,
    preimages,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from problems import gaussian_cloud, ring_cloud, sliced_cost

from transportjax.maps import load, save
from transportjax.sliced import FixedDirections, OrthonormalDirections
from transportjax.solvers import idt


@pytest.fixture(scope="module")
def clouds():
    return ring_cloud(jr.key(0), 300, 2), gaussian_cloud(
        jr.key(1), 250, [1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]]
    )


@pytest.mark.parametrize(("dim", "n"), [(2, 4000), (3, 4000), (10, 4000)])
def test_twelve_steps_reach_the_sampling_floor(dim, n):
    source = jr.normal(jr.key(0), (n, dim)) * 0.5 + 1
    target, fresh = ring_cloud(jr.key(1), n, dim), ring_cloud(jr.key(2), n, dim)
    solution = idt(source, target, key=jr.key(3), num_steps=12)
    floor = sliced_cost(fresh, target)
    assert sliced_cost(source, target) > 100 * floor
    assert sliced_cost(solution.points, target) < 1.5 * floor
    assert float(solution.stats["cost"][-1]) < 0.05 * float(solution.stats["cost"][0])


def test_gaussian_to_gaussian_is_the_closed_form():
    n, mean = 20_000, [2.0, -1.0]
    cov = np.array([[2.0, 0.5], [0.5, 0.6]])
    source = gaussian_cloud(jr.key(0), n, [0.0, 0.0], np.eye(2))
    target = gaussian_cloud(jr.key(1), n, mean, cov)
    # along the axes of the covariance one step is the optimal map, A = cov^(1/2)
    values, axes = np.linalg.eigh(cov)
    directions = FixedDirections(jnp.asarray(axes.T[None], "float32"))
    solution = idt(source, target, key=jr.key(2), directions=directions, num_steps=1)
    root = axes @ np.diag(np.sqrt(values)) @ axes.T
    expected = np.asarray(source) @ root + np.array(mean)
    error = np.asarray(solution.points) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05


@pytest.mark.parametrize("num_bins", [64, None])
def test_source_equal_to_target_is_a_fixed_point(num_bins, clouds):
    points = clouds[0]
    solution = idt(points, points, key=jr.key(0), num_steps=5, num_bins=num_bins)
    assert_close(solution.points, points, atol=1e-5)
    assert float(jnp.max(solution.stats["cost"])) < 1e-6


@pytest.mark.parametrize("num_bins", [64, None])
def test_the_map_gives_the_points_and_inverts(num_bins, x64):
    source = ring_cloud(jr.key(0), 200, 2, "float64")
    target = gaussian_cloud(jr.key(1), 150, [1.0, -1.0], np.eye(2), "float64")
    solution = idt(source, target, key=jr.key(0), num_steps=4, num_bins=num_bins)
    assert_close(images(solution.map, source), solution.points)
    back = preimages(solution.map, solution.points)
    assert_close(images(solution.map, back), solution.points)
    # where the map is nearly flat, its inverse loses digits: 1e-4 a step, at the worst
    errors = np.max(np.abs(back - source), axis=1)
    assert np.quantile(errors, 0.9) < 1e-9
    assert np.max(errors) < 1e-3
    _, log_det = images_and_log_dets(solution.map, source + 1e-4)
    jacobian = jacobians(solution.map, source + 1e-4)
    assert_close(log_det, jnp.linalg.slogdet(jacobian).logabsdet, rtol=1e-6)


def test_equal_points_stay_equal():
    source = jnp.concatenate([jnp.zeros((60, 2)), jr.normal(jr.key(0), (140, 2))])
    target = jr.normal(jr.key(1), (150, 2)) + 3
    for num_bins in (64, None):
        moved = idt(source, target, key=jr.key(0), num_steps=5, num_bins=num_bins)
        assert float(jnp.max(jnp.ptp(moved.points[:60], axis=0))) == 0


def test_translation_and_scaling_commute_with_the_transfer(clouds):
    source, target = clouds
    plain = idt(source, target, key=jr.key(0), num_steps=3).points
    moved = idt(source + 5.0, target + 5.0, key=jr.key(0), num_steps=3).points
    scaled = idt(source * 0.01, target * 0.01, key=jr.key(0), num_steps=3).points
    assert_close(moved - 5.0, plain, rtol=1e-3, atol=2e-3)
    assert_close(scaled * 100.0, plain, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("num_bins", [64, None])
def test_weights_are_repetitions(num_bins, clouds):
    source, target = clouds
    counts = np.arange(len(target)) % 3 + 1
    repeated = jnp.repeat(target, counts, axis=0, total_repeat_length=counts.sum())
    options = {"key": jr.key(0), "num_steps": 3, "num_bins": num_bins}
    weighted = idt(source, target, target_weights=jnp.asarray(counts), **options)
    expected = idt(source, repeated, **options)
    assert_close(weighted.points, expected.points, rtol=1e-3, atol=1e-3)


def test_weight_zero_counts_for_nothing(clouds):
    source, target = clouds
    far = jnp.full((20, 2), 1e3)
    options = {"key": jr.key(0), "num_steps": 3}
    plain = idt(source, target, **options)
    padded = idt(
        jnp.concatenate([source, far]),
        jnp.concatenate([target, far]),
        source_weights=jnp.concatenate([jnp.ones(300), jnp.zeros(20)]),
        target_weights=jnp.concatenate([jnp.ones(250), jnp.zeros(20)]),
        **options,
    )
    assert_close(padded.points[:300], plain.points, rtol=1e-4, atol=1e-4)


def test_relaxed_steps_go_part_of_the_way(clouds):
    source, target = clouds
    directions = FixedDirections(jnp.eye(2)[None])
    options = {"key": jr.key(0), "directions": directions, "num_steps": 1}
    full = idt(source, target, **options).points
    half = idt(source, target, step_size=0.5, **options).points
    assert_close(half, (source + full) / 2, rtol=1e-3, atol=1e-4)


def test_the_target_is_learned_through_the_fit(x64):
    source = ring_cloud(jr.key(0), 40, 2, "float64")
    target = gaussian_cloud(jr.key(1), 30, [0.0, 0.0], np.eye(2), "float64")

    def loss(target, weights):
        solution = idt(
            source,
            target,
            key=jr.key(0),
            num_steps=1,
            num_bins=16,
            target_weights=weights,
        )
        return jnp.sum(jnp.sin(solution.points))

    check_gradient(loss, target, jnp.linspace(0.5, 1.5, 30), eps=1e-7, rtol=1e-4)


def test_the_held_map_passes_gradients_to_its_input(x64):
    source = ring_cloud(jr.key(0), 40, 2, "float64")
    target = gaussian_cloud(jr.key(1), 30, [0.0, 0.0], np.eye(2), "float64")
    solution = idt(source, target, key=jr.key(0), num_steps=3, num_bins=None)
    held = jax.lax.stop_gradient(solution.map)

    def loss(x):
        return jnp.sum(jnp.sin(jax.vmap(held)(x)))

    inside = source + 1e-3  # off the knots
    check_gradient(loss, inside, eps=1e-7, rtol=1e-4)
    assert float(jnp.abs(jax.grad(loss)(inside)).max()) > 0.1


def test_exact_fit_and_apply_has_no_derivative_in_the_source(x64):
    source = ring_cloud(jr.key(0), 40, 2, "float64")
    target = gaussian_cloud(jr.key(1), 40, [0.0, 0.0], np.eye(2), "float64")

    def points(source):
        directions = FixedDirections(jnp.eye(2, dtype="float64")[None])
        options = {"key": jr.key(0), "num_steps": 1, "num_bins": None}
        return idt(source, target, directions=directions, **options).points

    assert float(jnp.abs(jax.jacfwd(points)(source)).max()) < 1e-5


def test_swept_numbers_do_not_compile_again(clouds):
    from transportjax.solvers.idt import _idt

    before = _cache_size(_idt)
    for step_size in (0.3, 0.6, 0.9):
        idt(*clouds, key=jr.key(1), num_steps=2, step_size=step_size)
    assert _cache_size(_idt) == before + 1


def _cache_size(function):
    return function._cached._cache_size()


def test_more_steps_do_not_make_a_larger_program(clouds):
    def size(num_steps):
        lowered = jax.jit(
            lambda x, y: idt(x, y, key=jr.key(0), num_steps=num_steps).points
        ).lower(*clouds)
        return len(lowered.as_text())

    assert size(40) < 1.05 * size(4)


def test_jit_vmap_and_reuse(clouds, tmp_path):
    source, target = clouds

    def points(source):
        return idt(source, target, key=jr.key(0), num_steps=2, num_bins=32).points

    plain = points(source)
    assert_close(jax.jit(points)(source), plain, atol=1e-5)
    batch = jnp.stack([source, source + 1.0])
    chex.assert_trees_all_close(
        jax.vmap(points)(batch)[1], points(source + 1.0), atol=1e-5
    )
    solution = idt(source, target, key=jr.key(0), num_steps=2, num_bins=32)
    save(tmp_path / "map", solution.map)
    again = load(tmp_path / "map")
    chex.assert_trees_all_equal(again, solution.map)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_points_give_the_same_map(kind):
    source = ring_cloud(jr.key(0), 400, 2)
    target = gaussian_cloud(jr.key(1), 200, [1.0, 0.0], np.eye(2))
    options = {"key": jr.key(0), "num_steps": 2, "num_bins": 32}
    plain = idt(source, target, **options)
    mesh = jax.make_mesh((4,), ("data",), (kind,))
    sharding = NamedSharding(mesh, P("data"))
    sharded = idt(
        jax.device_put(source, sharding), jax.device_put(target, sharding), **options
    )
    assert_close(sharded.points, plain.points, rtol=1e-4, atol=1e-4)


def test_points_are_never_gathered_on_sharded_data():
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    cloud = jax.ShapeDtypeStruct(
        (4096, 3), "float32", sharding=NamedSharding(mesh, P("data"))
    )

    def points(source, target):
        return idt(source, target, key=jr.key(0), num_steps=2, num_bins=32).points

    text = jax.jit(points).lower(cloud, cloud).compile().as_text()
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert not any("4096" in line for line in gathered)
    assert " all-reduce(" in text


def test_other_dtypes_and_directions(key):
    source = jr.randint(key, (100, 2), 0, 255).astype("uint8")
    target = jr.randint(jr.fold_in(key, 1), (90, 2), 100, 200).astype("uint8")
    moved = idt(source, target, key=key, num_steps=2).points
    assert moved.dtype == jnp.float32
    mean = np.asarray(target, float).mean(0)
    assert np.abs(np.asarray(moved).mean(0) - mean).max() < 1
    five = jr.normal(key, (100, 5))
    solution = idt(
        five, five + 1.0, key=key, num_steps=2, directions=OrthonormalDirections(3)
    )
    assert solution.map.layers.directions.shape == (2, 3, 5)
    line = jr.normal(key, (50, 1))
    moved = idt(line, 2 * line + 1, key=key, num_steps=1, num_bins=None).points
    assert_close(moved, 2 * line + 1, atol=1e-4)
    one = idt(jnp.ones((1, 3)), jnp.zeros((1, 3)), key=key, num_steps=2)
    assert_close(one.points, jnp.zeros((1, 3)), atol=1e-6)


def test_bad_input_is_named(user_errors):
    x = jnp.ones((5, 2))
    options = {"key": jr.key(0)}
    cases = [
        ("`source`", (jnp.ones(3), x), {}),
        ("`target`", (x, jnp.ones((5, 3))), {}),
        ("`target`", (x, jnp.ones((0, 2))), {}),
        ("NaN", (x.at[0, 0].set(jnp.nan), x), {}),
        ("`num_steps`", (x, x), {"num_steps": 0}),
        ("`num_bins`", (x, x), {"num_bins": 1}),
        ("`step_size`", (x, x), {"step_size": 0.0}),
        ("`step_size`", (x, x), {"step_size": 1.5}),
        ("`source_weights`", (x, x), {"source_weights": -jnp.ones(5)}),
        ("`source_weights`", (x, x), {"source_weights": jnp.zeros(5)}),
        ("`target_weights`", (x, x), {"target_weights": jnp.ones(4)}),
    ]
    for match, clouds, more in cases:
        with pytest.raises(ValueError, match=match):
            idt(*clouds, **options, **more)
