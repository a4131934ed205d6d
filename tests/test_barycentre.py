import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.sliced import (
    FixedDirections,
    OrthonormalDirections,
    averaged_profile,
    gaussian_start,
    half_circle_directions,
    orthonormal_directions,
    sliced_barycentre,
    sliced_profile,
    sliced_wasserstein,
)

REFERENCE = np.load(DATA / "barycentre.npz")
LAMBDA = np.array([0.7, 0.3])


def problem(sizes=(9, 9), d=3, num=5, seed=0):
    """Float64 clouds, masses for each, and directions."""
    rng = np.random.default_rng(seed)
    clouds = [rng.normal(size=(n, d)) + rng.normal(size=d) for n in sizes]
    masses = [rng.uniform(0.5, 1.5, n) for n in sizes]
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return clouds, masses, directions


def quantiles(x, masses, levels):
    """The quantile function of weighted samples, by definition."""
    order = np.argsort(x)
    sums = np.cumsum(masses[order]) / np.sum(masses)
    return x[order][np.searchsorted(sums, levels).clip(0, len(x) - 1)]


# --- against reference data --------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "chunk"), [("float32", None), ("float64", None), ("float64", 7)]
)
def test_newton_steps(dtype, chunk, x64):
    start, clouds, weights, directions = (
        REFERENCE[name].astype(dtype) for name in ("X0", "Y", "lam", "theta")
    )
    options = {"directions": directions, "init": start, "num_steps": 30}
    found = sliced_barycentre(clouds, weights, **options, chunk=chunk)
    assert found.points.dtype == found.energy.dtype == dtype
    assert_close(found.energy, REFERENCE["energy"])
    if dtype == "float64":  # rounding may exchange points that tie on the way
        assert_close(found.points, REFERENCE["X30"])
        assert found.step_norm[-1] < 1e-14


# --- known answers -----------------------------------------------------------------


def test_translates_and_scalings_of_one_cloud(x64):
    # Whatever the directions, all clouds are sorted alike, so that the barycentre is
    # the cloud, by the mean of the scales and of the shifts.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    scales, shifts = np.array([1.0, 3.0]), rng.normal(size=(2, 3))
    clouds = [
        (s * x + u)[rng.permutation(9)] for s, u in zip(scales, shifts, strict=True)
    ]
    directions = orthonormal_directions(jax.random.key(0), 5, 3)
    found = sliced_barycentre(
        clouds, 7 * LAMBDA, directions=directions, init=3 * x - 1, num_steps=2
    )
    expected = (LAMBDA @ scales) * x + LAMBDA @ shifts
    assert_close(found.points, expected, atol=1e-12)
    energy = sum(
        weight / 2 * sliced_wasserstein(expected, y, directions)
        for weight, y in zip(LAMBDA, clouds, strict=True)
    )
    assert_close(found.energy[1], energy, rtol=1e-12)


def test_equal_clouds_stay(x64):
    (x, _), _, directions = problem()
    found = sliced_barycentre([x, x[::-1]], LAMBDA, directions=directions, num_steps=3)
    assert_close(found.points, x, atol=1e-14)
    assert_close(found.energy, np.zeros(3), atol=1e-28)
    assert np.all(np.asarray(found.step_norm) < 1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_in_one_dimension_quantiles_are_averaged(weighted, x64):
    clouds, masses, _ = problem((4, 6), d=1)
    rng = np.random.default_rng(1)
    start = rng.normal(size=(7, 1))
    own = np.array([1.0, 2, 0, 1, 3, 1, 2]) if weighted else np.ones(7)
    given = {"cloud_weights": masses, "init_weights": own} if weighted else {}
    found = sliced_barycentre(
        clouds, LAMBDA, init=start, directions=np.eye(1), num_steps=1, **given
    )
    used = masses if weighted else [np.ones(len(x)) for x in clouds]
    order = np.argsort(start[:, 0])
    ends = np.cumsum(own[order]) / own.sum()
    starts = np.append(0, ends[:-1])
    for place, low, high in zip(order, starts, ends, strict=True):
        levels = low + (high - low) * (np.arange(200_000) + 0.5) / 200_000
        parts = [
            quantiles(x[:, 0], a, levels) for x, a in zip(clouds, used, strict=True)
        ]
        assert_close(found.points[place, 0], LAMBDA @ np.mean(parts, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("own", "given"), [(False, False), (False, True), (True, True)]
)
def test_the_energy_is_that_of_sliced_distances(own, given, x64):
    clouds, masses, directions = problem((9, 7))
    start, own_masses = clouds[0] + 1, np.array([1.0, 2, 0, 1, 3, 1, 2, 1, 1])
    own_masses = own_masses if own else None
    masses = [None, masses[1]] if given else [None, None]
    found = sliced_barycentre(
        clouds,
        LAMBDA,
        init=start,
        directions=directions,
        init_weights=own_masses,
        cloud_weights=masses,
        num_steps=1,
    )
    energy = sum(
        share
        / 2
        * sliced_wasserstein(start, y, directions, x_weights=own_masses, y_weights=b)
        for share, y, b in zip(LAMBDA, clouds, masses, strict=True)
    )
    assert_close(found.energy[0], energy)


def test_a_step_is_the_gradient_by_the_inverse_hessian(x64):
    clouds, _, directions = problem((9, 7))
    start = clouds[0] + 0.3

    def energy(x):
        terms = (sliced_wasserstein(x, y, directions) for y in clouds)
        return sum(w / 2 * term for w, term in zip(LAMBDA, terms, strict=True))

    found = sliced_barycentre(
        clouds, LAMBDA, init=start, directions=directions, num_steps=1, step_size=0.7
    )
    hessian = directions.T @ directions / len(directions)
    slope = jax.jit(jax.grad(energy))(start) * len(start)
    step = 0.7 * slope @ np.linalg.inv(hessian)
    assert_close(found.points, start - step)
    assert_close(found.step_norm[0], np.sqrt(np.mean(np.sum(step**2, 1))))


def test_equivariance(x64):
    clouds, _, directions = problem((9, 7))
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    options = {"num_steps": 1, "init": clouds[0]}
    one = sliced_barycentre(clouds, LAMBDA, directions=directions, **options)
    options["init"] = 2.5 * clouds[0] @ rotation + 3
    other = sliced_barycentre(
        [2.5 * x @ rotation + 3 for x in clouds],
        LAMBDA,
        directions=directions @ rotation,
        **options,
    )
    assert_close(other.points, 2.5 * one.points @ rotation + 3)
    assert_close(other.energy, 2.5**2 * one.energy)


def test_masses_are_repetitions(x64):
    (x, y, z), _, directions = problem((5, 9, 9))
    times = np.array([1, 3, 2, 0, 1])
    options = {"directions": directions, "init": z, "num_steps": 4}
    one = sliced_barycentre(
        [x, y],
        np.array([1.0, 2.0]),
        cloud_weights=[np.float64(times) / 3, None],
        **options,
    )
    other = sliced_barycentre(
        [np.repeat(x, times, 0), y], np.array([1.0, 2.0]), **options
    )
    assert_close(one.points, other.points)
    assert_close(one.energy, other.energy)


def test_a_cloud_without_weight_does_not_count(x64):
    (x, y, z), _, directions = problem((9, 9, 9))
    weights = np.array([2.0, 2.0, 0.0])
    options = {"directions": directions, "init": z, "num_steps": 3}
    one = sliced_barycentre([x, y, 5 * z], weights, **options)
    other = sliced_barycentre([x, y, x], weights, **options)
    assert_close(one.points, other.points)
    # and equal weights are what is taken if there are none
    assert_close(one.points, sliced_barycentre([x, y], **options).points)


def test_few_directions_move_along_themselves(x64):
    (x, y), _, _ = problem()
    directions = np.array([[0.6, 0.8, 0.0]])
    moved = (
        sliced_barycentre([y], directions=directions, init=x, num_steps=1).points - x
    )
    assert_close(moved @ np.array([[0.8, -0.6, 0], [0, 0, 1]]).T, 0 * x[:, :2])
    assert_close(np.sort((x + moved) @ directions[0]), np.sort(y @ directions[0]))


# --- directions, starts ------------------------------------------------------------


def test_a_strategy_of_fixed_directions(x64):
    clouds, _, directions = problem()
    options = {"init": clouds[0], "num_steps": 3}
    one = sliced_barycentre(clouds, LAMBDA, directions=directions, **options)
    other = sliced_barycentre(
        clouds,
        LAMBDA,
        directions=FixedDirections(directions),
        key=jax.random.key(0),
        chunk=2,
        **options,
    )
    for found, expected in zip(other, one, strict=True):
        assert_close(found, expected, atol=1e-12)


def test_fresh_directions_reach_the_target(key):
    # one cloud: its sliced distance to the points falls to that of noise
    rng = np.random.default_rng(0)
    y = np.float32(rng.normal(size=(500, 3)) * [1, 2, 0.5] + 4)
    start = gaussian_start(key, [y], 500)
    checked = orthonormal_directions(key, 30, 3)
    found = sliced_barycentre(
        [y], init=start, directions=OrthonormalDirections(6), key=key, num_steps=60
    )
    before = sliced_wasserstein(start, y, checked)
    after = sliced_wasserstein(found.points, y, checked)
    assert after < 0.05 * before


def test_a_normal_law_between(key):
    rng = np.random.default_rng(0)
    scales = np.array([[1.0, 2.0], [3.0, 0.5]])
    clouds = [rng.normal(size=(n, 2)) for n in (400, 300)]
    masses = [None, rng.uniform(0, 1, 300)]
    for i, (mass, scale) in enumerate(zip(masses, scales, strict=True)):
        x = clouds[i] - np.average(clouds[i], 0, mass)
        cov = np.cov(x.T, ddof=0, aweights=mass)
        x = np.linalg.solve(np.linalg.cholesky(cov), x.T).T
        clouds[i] = np.float32(x * scale + i)
    points = gaussian_start(key, clouds, 40_000, weights=LAMBDA, cloud_weights=masses)
    assert points.dtype == "float32"
    assert_close(points.mean(0), LAMBDA @ np.arange(2) * np.ones(2), atol=0.05)
    assert_close(np.cov(points.T), np.diag((LAMBDA @ scales) ** 2), atol=0.08)


def test_directions_by_default(key):
    clouds, _, _ = (np.float32(a) for a in problem((40, 40), d=2))
    found = sliced_barycentre(clouds, key=key, num_steps=30)
    assert found.energy.shape == found.step_norm.shape == (30,)
    energy = np.asarray(found.energy)
    assert energy[-1] < energy[0]
    assert found.step_norm[-1] < 0.02 * found.step_norm[0]


# --- averaged profiles -------------------------------------------------------------


@pytest.mark.parametrize(("weighted", "num"), [(False, None), (True, None), (True, 5)])
def test_averaged_profiles(weighted, num, x64):
    clouds, masses, directions = problem((4, 6))
    profiles = [
        sliced_profile(x, directions, weights=a if weighted else None)
        for x, a in zip(clouds, masses, strict=True)
    ]
    found = averaged_profile(profiles, LAMBDA, num=num)
    assert found.values.shape == (5, num or 4 + 6 - 1)
    count = 60_000
    levels = (np.arange(count) + 0.5) / count
    for row, theta in enumerate(directions):
        mean = sum(
            w * quantiles(x @ theta, a if weighted else np.ones(len(x)), levels)
            for w, x, a in zip(LAMBDA, clouds, masses, strict=True)
        )
        if num is None:
            values, weights = np.asarray(found.values[row]), found.weights[row]
            seen = quantiles(values, np.asarray(weights), levels)
            assert np.mean(np.abs(seen - mean)) < 1e-3
        else:
            assert_close(found.values[row], mean.reshape(num, -1).mean(1), atol=1e-3)


def test_profiles_of_one_size_are_averaged_place_by_place(x64):
    clouds, _, directions = problem()
    profiles = [sliced_profile(x, directions) for x in clouds]
    found = averaged_profile(profiles)
    assert found.weights is None
    assert_close(found.values, np.mean([profile.values for profile in profiles], 0))


# --- transformations ---------------------------------------------------------------


def sorts(function, *arrays):
    """How many numbers each sort of the compiled program handles."""
    text = jax.jit(function).lower(*arrays).compile().as_text()
    shapes = re.findall(r"= \(?s\d+\[([\d,]+)\][^=]* sort\(", text)
    return sorted(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def test_a_step_sorts_the_moving_cloud_alone():
    clouds, _, directions = (np.float32(a) for a in problem((11, 11, 11), num=5))
    sweep = np.float32(np.random.default_rng(0).uniform(size=(7, 3)))

    def points(weights, clouds):
        return sliced_barycentre(clouds, weights, directions=directions).points

    p_n = 5 * 11
    assert sorts(points, sweep[0], clouds) == [p_n, 3 * p_n]
    # for many weights, the clouds are sorted once all the same
    assert sorts(jax.vmap(points, (0, None)), sweep, clouds) == [3 * p_n, 7 * p_n]


def test_vmap_over_weights(x64):
    clouds, _, directions = problem()
    sweep = np.random.default_rng(0).uniform(size=(4, 2))
    options = {"directions": directions, "num_steps": 3}

    @jax.jit
    @jax.vmap
    def by_weights(weights):
        return sliced_barycentre(clouds, weights, **options)

    found = by_weights(sweep)
    for i, weights in enumerate(sweep):
        one = sliced_barycentre(clouds, weights, **options)
        assert_close(found.points[i], one.points)
        assert_close(found.energy[i], one.energy)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(weighted, x64):
    (x, y), (a, b), directions = problem((6, 8 if weighted else 6), num=4)
    start, own = x[:5] + 0.1, np.array([1.0, 2, 1.5, 1, 0.7]) if weighted else None
    mix = np.random.default_rng(1).normal(size=(5, 3))

    @jax.jit
    def value(weights, x, y, a, b, directions):
        directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
        masses = [a, b] if weighted else None
        found = sliced_barycentre(
            [x, y],
            weights,
            init=start,
            directions=directions,
            num_steps=4,
            step_size=0.8,
            cloud_weights=masses,
            init_weights=own,
        )
        return jnp.sum(mix * found.points) + jnp.sum(found.energy)

    check_gradient(value, np.array([0.4, 0.6]), x, y, a, b, directions)


def test_whole_steps_forget_the_start(x64):
    clouds, _, directions = problem()

    def total(start, weights):
        found = sliced_barycentre(
            clouds, weights, init=start, directions=directions, num_steps=3
        )
        return jnp.sum(found.points[:, 0] ** 3)

    slopes = jax.jit(jax.grad(total, (0, 1)))(clouds[0], LAMBDA)
    assert_close(slopes[0], 0 * clouds[0], atol=1e-12)
    assert np.abs(slopes[1]).max() > 0.1


def test_far_from_the_origin(x64):
    clouds, _, directions = problem((30, 30))
    clouds, directions = [np.float32(x + 1e4) for x in clouds], np.float32(directions)
    options = {"num_steps": 1}
    found = sliced_barycentre(clouds, directions=directions, **options)
    wide = [np.float64(x) for x in clouds]
    exact = sliced_barycentre(wide, directions=np.float64(directions), **options)
    assert found.points.dtype == "float32"
    assert_close(found.energy, exact.energy, rtol=1e-4)
    assert_close(found.points, exact.points, rtol=3e-7)


def test_half_precision_and_integers():
    (x, y), _, directions = problem((6, 6))
    x, y = (jnp.asarray(z, "bfloat16") for z in (x, y))
    found = sliced_barycentre([x, y], directions=directions, num_steps=1)
    assert found.points.dtype == found.energy.dtype == "bfloat16"
    wide = [np.float32(z) for z in (x, y)]
    rows = np.float32(jnp.asarray(directions, "float32"))
    expected = sliced_barycentre(wide, directions=rows, num_steps=1)
    assert_close(np.float32(found.points), expected.points, rtol=1e-2, atol=2e-2)
    bytes_ = np.array([[0, 250], [200, 3]], "uint8")
    found = sliced_barycentre([bytes_, 255 - bytes_], directions=np.eye(2), num_steps=1)
    assert_close(found.points, [[27.5, 251], [227.5, 4]], rtol=1e-5)


def test_explicit_axes():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    (x, y), _, _ = problem((8, 8))
    directions = half_circle_directions(4)
    x, y = np.float32(x[:, :2]), np.float32(y[:, :2])
    placed = jax.device_put(x, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        found = sliced_barycentre([placed, y], directions=directions, num_steps=3)
    expected = sliced_barycentre([x, y], directions=directions, num_steps=3)
    assert_close(found.points, expected.points, atol=1e-5)


def test_inside_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    clouds, _, _ = problem((6,) * 8)
    clouds = np.float32(clouds)[:, :, :2].reshape(4, 2, 6, 2)
    directions = half_circle_directions(4)

    def one(pair):
        return sliced_barycentre(pair, directions=directions, num_steps=3).points

    mapped = jax.shard_map(
        lambda pair: one(pair[0])[None],
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    assert_close(jax.jit(mapped)(clouds), jax.vmap(one)(clouds), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, e: sliced_barycentre([], directions=e),
            "`clouds` must have at least",
        ),
        (
            lambda x, e: sliced_barycentre([x[0]], directions=e),
            r"`clouds\[0\]` must ha",
        ),
        (
            lambda x, e: sliced_barycentre([x, x[:, :1]], directions=e),
            r"`clouds\[1\]` must have 2 columns",
        ),
        (
            lambda x, e: sliced_barycentre([x, x * np.nan], directions=e),
            r"`clouds\[1\]` must be finite",
        ),
        (
            lambda x, e: sliced_barycentre([x, x], [1.0], directions=e),
            r"`weights` must have shape \(2,\)",
        ),
        (
            lambda x, e: sliced_barycentre([x, x], [1.0, -1.0], directions=e),
            "`weights` must be >= 0",
        ),
        (
            lambda x, e: sliced_barycentre([x, x], directions=e, cloud_weights=[None]),
            "`cloud_weights` must have 2 entries; got 1",
        ),
        (
            lambda x, e: sliced_barycentre([x], directions=e, cloud_weights=[x]),
            r"`cloud_weights\[0\]` must have shape \(4,\)",
        ),
        (
            lambda x, e: sliced_barycentre([x, x]),
            "`key` must be given, or `directions`",
        ),
        (
            lambda x, e: sliced_barycentre([x], directions=OrthonormalDirections()),
            "`key` must be given, or `directions` as an array",
        ),
        (lambda x, e: sliced_barycentre([x], directions=2 * e), "rows of norm 1"),
        (
            lambda x, e: sliced_barycentre([x], directions=e, step_size=2.5),
            r"`step_size` must be in \(0, 2\]",
        ),
        (
            lambda x, e: sliced_barycentre([x], directions=e, num_steps=0),
            "`num_steps` must be an integer >= 1",
        ),
        (
            lambda x, e: sliced_barycentre([x], directions=e, init=x[:, :1]),
            "`init` must have 2 columns",
        ),
        (
            lambda x, e: averaged_profile(
                [sliced_profile(x, e), sliced_profile(x, e[::-1])]
            ),
            "must be profiles along the same directions",
        ),
        (lambda x, e: averaged_profile([]), "`profiles` must have at least one entry"),
    ],
)
def test_errors(call, message, user_errors):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 2)), np.eye(2))
