"""Registration: shapes with known motions, laws, published experiments."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, images
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.maps import (
    Affine,
    Chain,
    GaussianWarp,
    Rigid,
    Similarity,
    ThinPlateSpline,
    control_grid,
    transport_normals,
)
from transportjax.solvers import register
from transportjax.solvers.clouds import Cloud, frame_of, steadiness
from transportjax.solvers.frames import Frame, enter, leave
from transportjax.solvers.refine import refine
from transportjax.solvers.rotations import spread_quaternions

REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference" / "mixtures"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference outputs are not beside the checkout"
)


def spiral(n=40):
    """A curve without symmetries, and its normals."""
    t = np.linspace(0.5, 5, n)
    x = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    tangent = np.stack([np.cos(t) - t * np.sin(t), np.sin(t) + t * np.cos(t)], axis=1)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return x.astype("float32"), normal.astype("float32")


def bumpy(n=150):
    """Points of a closed surface without symmetries."""
    i = np.arange(n) + 0.5
    z, angle = 1 - 2 * i / n, i * 2.399963
    x = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle)])
    x = np.stack([*x, z], axis=1)
    radius = 1 + 0.3 * x[:, :1] + 0.25 * x[:, 1:2] * x[:, 2:] + 0.2 * x[:, 2:] ** 3
    return (x * radius * np.array([1.5, 1.0, 0.8])).astype("float32")


def moved(map, x):
    return np.asarray(images(map, jnp.asarray(x)))


TURN = Rigid(0.7, jnp.array([4.0, -3.0]))
TURN3 = Rigid(jnp.array([0.8, -0.3, 0.2, 0.4]), jnp.array([1.0, 2.0, 3.0]))


def angle_between(one, other):
    cosine = (np.trace(np.asarray(one.matrix).T @ np.asarray(other.matrix)) - 1) / 2
    return np.arccos(np.clip(cosine, -1, 1))


# --- known motions -----------------------------------------------------------------


def test_a_rigid_motion_is_found():
    x, _ = spiral()
    solution = register(x, moved(TURN, x), Rigid.identity(2))
    assert_close(solution.map.rotation, 0.7, atol=1e-3)
    assert_close(solution.points, moved(TURN, x), atol=5e-3)
    assert_close(solution.points, moved(solution.map, x))
    assert solution.stats["cost"].shape == solution.stats["steps"].shape == (4,)
    assert np.all(solution.stats["steps"] >= 1)


def test_missing_parts_noise_and_outliers_are_let_be():
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 2 + 0.6 * np.sin(3 * t) + 0.4 * np.cos(5 * t + 1)
    shape = np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)
    rng = np.random.default_rng(0)
    seen = moved(TURN, shape)[:32] + 0.02 * rng.normal(size=(32, 2))
    stray = rng.uniform(-3, 3, (8, 2)) + seen.mean(0)
    target = np.concatenate([seen, stray]).astype("float32")
    x = shape[5:45].astype("float32")
    found = register(x, target, Rigid.identity(2)).map
    assert_close(found.rotation, 0.7, atol=0.03)
    assert_close(moved(found, x), moved(TURN, x), atol=0.1)


def test_many_starts_find_any_orientation():
    x = bumpy(100)
    y = moved(TURN3, x)[:80]  # a part is missing
    alone = register(x, y, Rigid.identity(3))
    solution = register(x, y, Rigid.identity(3), num_starts=24)
    assert angle_between(solution.map, TURN3) < 0.02
    assert angle_between(alone.map, TURN3) > 1
    assert_close(solution.points, moved(TURN3, x), atol=0.05)


def test_a_similarity_finds_any_scale_and_orientation():
    x, away = bumpy(), Similarity(TURN3, np.log(250.0))
    y = moved(away, x)[15:]  # a part is missing
    found = register(x, y, Similarity.identity(3), num_starts=24)
    assert_close(found.map.log_scale, np.log(250.0), atol=1e-2)
    assert angle_between(found.map.turn, TURN3) < 0.02
    assert np.abs(found.points - moved(away, x)).max() < 0.03 * 250
    curve, close = spiral()[0], Similarity(Rigid(0.2, jnp.array([1.0, 2.0])), 0.1)
    held = register(curve, moved(close, curve), close, centre=False).map
    assert_close(held.log_scale, 0.1, atol=1e-3)


def test_many_starts_in_the_plane():
    x, _ = spiral()
    turn = Rigid(3.0, jnp.array([1.0, 0.0]))
    found = register(x, moved(turn, x), Rigid.identity(2), num_starts=8).map
    assert_close(jnp.cos(found.rotation - 3), 1.0, atol=1e-4)


def test_starts_use_pairs_and_pass_over_points_without_weight():
    x, _ = spiral()
    turn = Rigid(3.0, jnp.array([1.0, 0.0]))
    far = np.full((600, 2), 50, "float32")  # weighs nothing
    source, masses = np.concatenate([far, x]), np.repeat([0, 1], [600, 40])
    options = {"source_weights": masses, "num_starts": 8}
    found = register(source, moved(turn, x), Rigid.identity(2), **options).map
    assert_close(jnp.cos(found.rotation - 3), 1.0, atol=1e-4)
    pairs = (600 + np.arange(40), np.arange(40)[::-1])  # not the order of the points
    only = {"pairs": pairs, "pair_weight": 1}
    target = moved(turn, x)[::-1]
    found = register(source, target, Rigid.identity(2), **options, **only).map
    assert_close(jnp.cos(found.rotation - 3), 1.0, atol=1e-4)


def bend(x):
    return x + 0.25 * np.stack([np.sin(0.8 * x[:, 1]), 0.3 * x[:, 0] ** 2 / 4], axis=1)


@pytest.mark.parametrize("kind", [ThinPlateSpline, GaussianWarp])
def test_a_bend_is_found(kind):
    x, _ = spiral()
    y = bend(x).astype("float32")[::-1]
    start = kind.identity(control_grid(np.concatenate([x, y]), 4))
    solution = register(x, y, start, bending=1e-4)
    before = np.sqrt(np.mean(np.sum((x - y[::-1]) ** 2, 1)))
    after = np.sqrt(np.mean(np.sum((solution.points - y[::-1]) ** 2, 1)))
    assert after < 0.1 * before
    assert type(solution.map) is kind
    assert_close(solution.points, moved(solution.map, x), atol=1e-4)
    assert_close(solution.map.controls, start.controls, rtol=1e-4)


def radius_of(x):
    return np.sqrt(np.mean(np.sum((x - x.mean(0)) ** 2, axis=1)))


def test_what_remains_decides_how_far_a_warp_follows():
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 2 + 0.6 * np.sin(3 * t) + 0.4 * np.cos(5 * t + 1)
    x = np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1).astype("float32")
    truth = bend(x)
    rng = np.random.default_rng(0)
    stray = rng.uniform(truth.min(0), truth.max(0), (15, 2))
    noisy = truth + 0.02 * radius_of(x) / np.sqrt(2) * rng.normal(size=x.shape)
    start = ThinPlateSpline.identity(control_grid(x, 5))

    def error(y, weights, **options):
        y = np.concatenate([y, stray])[::-1].astype("float32")
        options["target_weights"] = weights[::-1]
        points = np.asarray(register(x, y, start, **options).points)
        assert np.all(np.isfinite(points))
        offset = np.sqrt(np.mean(np.sum((points - truth) ** 2, axis=1)))
        return 100 * offset / radius_of(x)

    unrefined = {"bandwidths": radius_of(x) * 0.25 / 2 ** np.arange(4)}
    alone = np.repeat([1, 0], [60, 15])
    for y, weights, most in (
        (truth, alone, 0.1),
        (truth, np.ones(75), 0.1),
        (noisy, alone, 1.5),
        (truth, np.repeat([0, 1, 0], [6, 54, 15]), 5),  # a part is missing
    ):
        found = error(y, weights)
        assert found < most
        assert found < error(y, weights, **unrefined)
    some = np.repeat([1, 0], [70, 5])
    near = error(noisy, some)
    stray[10:] += 100  # what weighs nothing says nothing of where strays are
    assert_close(error(noisy, some), near, rtol=1e-3)
    twice = np.repeat(x[:2], 30, axis=0)
    for cloud in (twice, x * np.array([1, 0]), np.concatenate([0 * x[1:], x[:1]])):
        error(cloud, alone)


@pytest.mark.parametrize("num", [5, 8, 12])
def test_few_points_are_no_strays(num):
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 1 + 0.3 * np.cos(3 * t)
    x = np.stack([radius * np.cos(t), 0.7 * radius * np.sin(t)], axis=1)
    y = (x + 0.15 * np.sin(2 * x[:, ::-1]))[:: 120 // num]
    x, y = ((a - a.mean(axis=0)) / radius_of(a) for a in (x, y))
    start = ThinPlateSpline.identity(control_grid(np.concatenate([x, y])))
    points = np.asarray(register(x, y, start, bending=0.3 / 8.0 ** np.arange(4)).points)
    apart = np.linalg.norm(points[:, None] - y[None], axis=2)
    assert np.all(apart.min(axis=0) < 0.03)
    assert 0.8 < radius_of(points) < 1.2


@pytest.mark.parametrize(("seed", "is_narrow_better"), [(2, True), (5, False)])
def test_the_refinement_keeps_the_likelier_of_two_ends(seed, is_narrow_better):
    rng = np.random.default_rng(seed)

    def contour():
        t = np.sort(rng.uniform(0, 2 * np.pi, 150))
        radius = 1 + 0.2 * np.cos(3 * t + 0.4) + 0.15 * np.cos(7 * t + 2)
        return np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)

    x, y = contour(), contour()
    grid = control_grid(np.concatenate([x, y]), 3)
    bumps = 0.12 * rng.normal(size=grid.shape)
    bent = ThinPlateSpline(grid, jnp.eye(2), jnp.zeros(2), bumps)
    x, y, truth = (a.astype("float32") for a in (x, moved(bent, y), moved(bent, x)))
    clouds = [Cloud(jnp.asarray(a), jnp.full(150, 1 / 150), None) for a in (x, y)]
    radius = frame_of(*clouds).scale
    start = ThinPlateSpline.identity(control_grid(np.concatenate([x, y]), 5))
    fit = register(x, y, start, bandwidths=radius / 4 * 0.5 ** np.arange(4)).map

    def error(widths):
        given = radius / 32, jnp.float32(0.00125), jnp.asarray(200), jnp.float32(0)
        points = refine(*clouds, fit, *given, **widths)[1]
        return np.sqrt(np.mean(np.sum((points - truth) ** 2, axis=1)))

    narrow, wide = error({"widths": (1.0,)}), error({"widths": (8.0,)})
    assert (narrow < 0.5 * wide) if is_narrow_better else (wide < 0.5 * narrow)
    assert_close(error({}), min(narrow, wide), rtol=1e-3)


def test_an_affine_map_is_found():
    x, _ = spiral()
    truth = Affine(jnp.array([[1.2, 0.3], [-0.1, 0.8]]), jnp.array([5.0, 1.0]))
    solution = register(x, moved(truth, x), Affine(jnp.eye(2), jnp.zeros(2)))
    assert_close(solution.map.matrix, truth.matrix, atol=2e-3)
    assert_close(solution.map.offset, truth.offset, atol=1e-2)


def test_any_other_map_and_any_optimiser():
    x, _ = spiral()
    shift = jnp.array([0.4, -0.3])
    start = Chain((Affine(jnp.eye(2), jnp.zeros(2)),))
    solution = register(x, x + np.asarray(shift), start)
    assert_close(solution.map.maps[0].offset, shift, atol=5e-3)
    slow = register(
        *(x, x + np.asarray(shift), Rigid.identity(2)),
        bandwidths=[1.0, 0.5],
        centre=False,
        optimiser=optax.sgd(1.0),
    )
    assert_close(slow.points, x + np.asarray(shift), atol=0.02)
    assert np.all(slow.stats["steps"] == 200)


# --- what is given with the points --------------------------------------------------


def test_normals_keep_a_curve_from_the_wrong_branch():
    # Two parallel lines, one shown to either side; only one of them is in the source.
    t = np.linspace(-2, 2, 40)
    flat = np.stack([t, 0.1 * np.sin(3 * t)], axis=1).astype("float32")
    up = np.tile(np.float32([[0, 1]]), (40, 1))
    gap = np.float32([0.0, 0.8])
    target = np.concatenate([flat + gap, flat - gap])
    sides = np.concatenate([up, -up])
    start = Rigid(0.0, jnp.zeros(2))
    options = {"bandwidths": [0.5, 0.2], "centre": False}
    given = {"source_normals": up, "target_normals": sides}
    with_normals = register(flat, target, start, **given, **options)
    assert_close(with_normals.points, flat + gap, atol=0.02)
    # without a sign, they say as little as the points alone
    unsigned = register(flat, target, start, **given, symmetric=True, **options)
    assert_close(unsigned.map.translation[1], 0.0, atol=0.05)


def test_normals_of_warps():
    x, normals = spiral()
    y = bend(x).astype("float32")
    there = thin = ThinPlateSpline.identity(control_grid(np.concatenate([x, y]), 4))
    given = {
        "source_normals": normals,
        "target_normals": transport_normals(_Bend(), x, normals),
        "bending": 1e-4,
    }

    def error(**options):
        solution = register(x, y, there, **(given | options))
        assert type(solution.map) is type(thin)
        return np.sqrt(np.mean(np.sum((solution.points - y) ** 2, 1)))

    # refined afterwards, unless the bandwidths are given
    widths = radius_of(x) / 4 * 0.5 ** np.arange(4)
    low = {"concentrations": 4.0 ** np.arange(4)}
    unrefined = error(bandwidths=widths, **low)
    assert unrefined < 0.05
    assert max(error(), error(**low)) < 0.1 * unrefined
    # the default lets normals count for more
    assert error(bandwidths=widths) < 0.6 * unrefined


def sheets(n, rng, *, tilt=0.0):
    """Both sides of a thin disk with a bump, and normals that may be tilted."""
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(size=n))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    up = rng.permutation(np.where(np.arange(n) % 2, 1, -1))
    z = 0.08 * up + 0.15 * np.sin(2 * x) * np.cos(3 * y)
    slopes = 0.3 * np.cos(2 * x) * np.cos(3 * y), -0.45 * np.sin(2 * x) * np.sin(3 * y)
    normal = up[:, None] * np.stack([-slopes[0], -slopes[1], np.ones(n)], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.stack([x, y, z], axis=1), normal + tilt * rng.normal(size=(n, 3))


@pytest.mark.parametrize(("tilt", "share"), [(0.0, 0.32), (0.3, 0.45)])
def test_normals_tell_the_sheets_of_a_thin_shell(tilt, share):
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(300 + seed)
        (x, n), (y, m) = sheets(300, rng, tilt=tilt), sheets(300, rng, tilt=tilt)
        turn = Rigid(jnp.array([0.1, -0.15, 0.1, 1.0]), jnp.array([1.0, 2.0, 3.0]))
        seen = y[:, 2] > 0.15 * np.sin(2 * y[:, 0]) * np.cos(3 * y[:, 1])
        given = {
            "source_normals": n.astype("float32"),
            "target_normals": (m[seen] @ turn.matrix.T).astype("float32"),
        }
        x, y = x.astype("float32"), moved(turn, y[seen].astype("float32"))
        found = [register(x, y, Rigid.identity(3), **g).points for g in ({}, given)]
        errors.append([np.mean((points - moved(turn, x)) ** 2) for points in found])
    points, normals = np.sqrt(np.mean(errors, axis=0))
    assert normals < share * points


def test_by_normals_samples_need_not_meet():
    # Two samples of a bent star fall anywhere between each other.
    def star(t):
        radius = 1 + 0.15 * np.cos(2 * t) + 0.25 * np.cos(5 * t + 1)
        slope = -0.3 * np.sin(2 * t) - 1.25 * np.sin(5 * t + 1)
        out, round_ = (np.stack(a, axis=1) for a in _circle(t))
        normals = radius[:, None] * out - slope[:, None] * round_
        return (radius[:, None] * out).astype("float32"), normals.astype("float32")

    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        draws = [star(np.sort(rng.uniform(0, 2 * np.pi, 150))) for _ in range(2)]
        (x, x_normals), (y, y_normals) = draws
        grid = control_grid(np.concatenate([x, y]), 3)
        bumps = 0.15 * rng.normal(size=grid.shape).astype("float32")
        truth = ThinPlateSpline(grid, jnp.eye(2), jnp.zeros(2), bumps)
        y_normals = transport_normals(truth, y, y_normals)
        start = ThinPlateSpline.identity(control_grid(np.concatenate([x, y])))
        y, given = moved(truth, y), [{}]
        given.append({"source_normals": x_normals, "target_normals": y_normals})
        found = [register(x, y, start, **g).points for g in given]
        errors.append([np.mean((points - moved(truth, x)) ** 2) for points in found])
    points, normals = np.sqrt(np.mean(errors, axis=0))
    assert normals < 0.85 * points


def _circle(t):
    return (np.cos(t), np.sin(t)), (-np.sin(t), np.cos(t))


def test_the_refinement_takes_the_contour_whose_normals_agree():
    # The target is the contour, and at half its bandwidth inside of it another one,
    # which is denser and has opposite normals.
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = np.stack([1.5 * np.cos(t), np.sin(t)], axis=1)
    n = np.stack([np.cos(t), 1.5 * np.sin(t)], axis=1)
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    y = np.concatenate([x, np.repeat(x - 0.05 * n, 2, axis=0)])
    m = np.concatenate([n, -np.repeat(n, 2, axis=0)])
    x, n, y, m = (jnp.asarray(a, "float32") for a in (x, n, y, m))
    start = ThinPlateSpline.identity(control_grid(x, 5))
    given = jnp.float32(0.04), jnp.float32(0.001), jnp.asarray(50), jnp.float32(4)

    def inside(symmetric, *normals):
        clouds = [
            Cloud(a, jnp.full(len(a), 1 / len(a)), b)
            for a, b in zip((x, y), normals, strict=True)
        ]
        points = refine(*clouds, start, *given, symmetric=symmetric)[1]
        return float(jnp.mean(jnp.sum((x - points) * n, axis=1)))

    assert abs(inside(False, n, m)) < 0.003
    assert inside(False, None, None) > 0.02
    # of any length and, if that is said, of any sign
    assert abs(inside(False, 3 * n, 0.5 * m)) < 0.003
    signs = jnp.where(jnp.arange(len(n)) % 2 == 0, 1.0, -1.0)[:, None]
    assert_close(inside(True, signs * n, m), inside(True, n, m), atol=1e-4)
    assert inside(True, n, m) > 0.02


@pytest.mark.parametrize("dim", [2, 3])
def test_the_steadiness_of_normals_is_that_of_neighbours(dim):
    rng = np.random.default_rng(0)
    flat = rng.uniform(size=(4000, dim))
    flat[:, -1] = 0
    noise = 0.2 * rng.normal(size=flat.shape)
    noise[:, -1] = 1

    def of(points, normals, masses=None, *, symmetric=False):
        masses = np.ones(len(points)) if masses is None else masses
        leaves = points, masses / np.sum(masses), normals
        cloud = Cloud(*(jnp.asarray(a, "float32") for a in leaves))
        return float(steadiness(cloud, cloud, symmetric=symmetric))

    # two of variance 0.04 differ by 0.08, of which few points tell the rest
    found = of(flat, noise)
    assert 0.7 / 0.08 < found < 1.5 / 0.08
    signs = rng.choice([-1, 1], (4000, 1))
    assert_close(of(flat, signs * noise, symmetric=True), found, rtol=1e-3)
    assert of(flat, signs * noise) < 0.6 * found
    # strays, twice as many: what the others say is still heard
    strays = np.concatenate([flat, rng.uniform(-1, 2, (8000, dim))])
    normals = np.concatenate([noise, rng.normal(size=(8000, dim))])
    assert of(strays, normals) > 0.1 * found
    # repetitions of a point are no neighbours, nor is what weighs nothing
    few = flat[:60], noise[:60]
    one = of(*few)
    assert_close(of(*(np.repeat(a, 2, axis=0) for a in few)), one, rtol=0.1)
    both = np.concatenate([few[0], few[0] + 1e-4]), np.concatenate([few[1]] * 2)
    assert_close(of(*both, np.repeat([1.0, 0.0], 60)), one, rtol=1e-3)
    assert of(flat[:1], noise[:1]) > 1e3  # nothing to compare
    assert of(flat, 0 * noise + 1) > 1e3


class _Bend(Rigid):
    """The bend as a map, for its normals."""

    def __init__(self):
        self.rotation, self.translation = jnp.zeros(()), jnp.zeros(2)

    def transform_and_log_det(self, x):
        return x + 0.25 * jnp.stack([jnp.sin(0.8 * x[1]), 0.3 * x[0] ** 2 / 4]), 0.0


def test_pairs_pull():
    x = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.3, 0.5]], "float32")
    turn = Rigid(2.0, jnp.array([3.0, 1.0]))
    y = moved(turn, x)[[4, 3, 2, 1, 0]]
    pairs = (np.arange(5), np.arange(5)[::-1])
    options = {"pairs": pairs, "pair_weight": 1, "bandwidths": [2.0, 0.5, 0.1]}
    solution = register(x, y, Rigid.identity(2), **options)
    assert_close(solution.points, y[::-1], atol=1e-3)
    wrong = (np.arange(5), np.array([4, 3, 2, 1, 4]))  # one of five
    robust = register(x, y, Rigid.identity(2), **(options | {"pairs": wrong}))
    assert_close(robust.points, y[::-1], atol=0.1)


def test_weights_are_repetitions():
    x, _ = spiral()
    y = moved(TURN, x)
    counts = np.tile([1, 2, 1, 3], 10)
    weighted = register(x, y, Rigid.identity(2), source_weights=counts)
    repeated = register(np.repeat(x, counts, axis=0), y, Rigid.identity(2))
    assert_close(weighted.map.rotation, repeated.map.rotation, atol=1e-3)
    assert_close(weighted.stats["cost"], repeated.stats["cost"], rtol=1e-4)
    # a weight of zero removes a point
    masses, expected = (
        np.ones(40),
        register(x, y, Rigid.identity(2), target_weights=None),
    )
    masses[-1] = 0
    x = np.concatenate([x[:-1], np.float32([[1e3, 0]])])
    without = register(x, y, Rigid.identity(2), source_weights=masses)
    assert_close(without.map.rotation, expected.map.rotation, atol=0.01)


# --- laws --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Affine, ThinPlateSpline, GaussianWarp])
def test_units_do_not_matter(kind, x64):
    x = spiral()[0].astype("float64")
    y = bend(x)

    def fitted(x, y):
        if kind is Affine:
            start, bending = Affine(jnp.eye(2), jnp.zeros(2)), 0
        else:
            start, bending = kind.identity(control_grid(x, 3)), 0.01
        # few steps: near the end, paths part by rounding
        return register(x, y, start, bending=bending, num_steps=8)

    expected, found = fitted(x, y), fitted(100 * x + 7, 100 * y + 7)
    assert_close((found.points - 7) / 100, expected.points, rtol=1e-6, atol=1e-6)
    assert_close(found.stats["cost"], expected.stats["cost"], rtol=1e-7)


@pytest.mark.parametrize(
    "kind", ["affine", "rigid", "spline", "spline 3", "warp", "any"]
)
def test_maps_in_other_units(kind, x64):
    rng = np.random.default_rng(0)
    dim = 3 if kind == "spline 3" else 2
    leaves = (
        rng.normal(size=(7, dim)),
        *(np.eye(dim) + 0.2 * rng.normal(size=(dim, dim)), rng.normal(size=dim)),
        0.1 * rng.normal(size=(7, dim)),
    )
    map = {
        "affine": lambda: Affine(*leaves[1:3]),
        "rigid": lambda: Rigid(0.3, leaves[2]),
        "spline": lambda: ThinPlateSpline(*leaves),
        "spline 3": lambda: ThinPlateSpline(*leaves),
        "warp": lambda: GaussianWarp(*leaves, -0.2),
        "any": lambda: Chain((Affine(*leaves[1:3]),)),
    }[kind]()
    frame = Frame(*jnp.asarray(rng.normal(size=(2, dim))), jnp.asarray(2.5))
    x = jnp.asarray(rng.normal(size=dim))

    @jax.jit
    def there_and_back(map, frame, x):
        inner = enter(map, frame)
        back = leave(inner, frame)
        image = map(frame.source + frame.scale * x)
        return back, (inner(x), back(x)), (image - frame.target) / frame.scale, map(x)

    back, found, *expected = there_and_back(map, frame, x)
    assert type(back) is type(map)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("unit", [1e-15, 1e15])
def test_splines_of_any_size(unit):
    x, _ = spiral()
    y = bend(x).astype("float32")
    start = ThinPlateSpline.identity(control_grid(np.float32(unit) * x))
    points = register(np.float32(unit) * x, np.float32(unit) * y, start).points
    assert_close(points / np.float32(unit), y, atol=0.1)


def test_the_order_of_points_does_not_matter():
    x, _ = spiral()
    y = moved(TURN, x)
    order = np.random.default_rng(0).permutation(30)
    one = register(x, y, Rigid.identity(2))
    other = register(x[order], y, Rigid.identity(2))
    assert_close(one.map.rotation, other.map.rotation, atol=1e-3)


def test_a_start_is_where_it_starts():
    x, _ = spiral()
    y = moved(TURN, x)
    solution = register(*(x, y, TURN), bandwidths=[0.1], centre=False, num_steps=1)
    assert_close(solution.points, y, atol=1e-5)
    assert_close(solution.map.rotation, 0.7)


def test_traces_once():
    x, _ = spiral()
    start = Rigid.identity(2)
    count = []

    @jax.jit
    def run(x, widths):
        count.append(1)
        return register(x, 2 * x, start, bandwidths=widths, num_steps=3).points

    for factor in (1, 2):
        jax.eval_shape(run, factor * x, factor * jnp.array([1.0, 0.5]))
    assert len(count) == 1


def test_under_jit_and_vmap():
    x, _ = spiral()
    angles = jnp.array([0.2, -0.5])
    targets = jnp.stack([moved(Rigid(a, jnp.zeros(2)), x) for a in angles])
    fit = jax.jit(jax.vmap(lambda y: register(x, y, Rigid.identity(2)).map.rotation))
    assert_close(fit(targets), angles, atol=1e-3)


def test_sharded_points():
    x, _ = spiral()
    expected = register(x, x + 1, Rigid.identity(2)).points
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), (kind,))
        spread = jax.device_put(x, NamedSharding(mesh, P("data")))
        found = register(spread, x + 1, Rigid.identity(2)).points
        assert_close(np.asarray(found), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(dtype, x64):
    x, _ = spiral()
    solution = register(x.astype(dtype), (x + 0.5).astype(dtype), Rigid.identity(2))
    assert solution.points.dtype == dtype
    assert_close(solution.points, x + 0.5, atol=0.02)


def test_integers_are_points():
    x = np.random.default_rng(0).integers(0, 255, (40, 2), dtype="uint8")
    solution = register(x, x, Rigid.identity(2))
    assert_close(solution.points, x.astype("float32"), atol=0.05)


def test_rotations_are_spread():
    for num in (8, 24, 60):
        turns = spread_quaternions(num)
        assert_close(np.linalg.norm(turns, axis=1), np.ones(num))
        assert_close(turns[0], [0, 0, 0, 1], atol=1e-12)
        # the widest hole: no rotation is further from all of them
        probes = np.random.default_rng(0).normal(size=(500, 4))
        probes /= np.linalg.norm(probes, axis=1, keepdims=True)
        nearest = 2 * np.arccos(np.clip(np.abs(probes @ turns.T).max(1), 0, 1))
        assert np.degrees(nearest.max()) < {8: 130, 24: 90, 60: 70}[num]


# --- published experiments -----------------------------------------------------------


@functools.cache
def reference(name):
    return np.load(REFERENCE / f"{name}.npz")


@needs_reference
def test_fish():
    files = reference("gmmreg_results")
    x, y = (files[f"fish_full_{k}"].astype("float32") for k in "XY")
    start = ThinPlateSpline.identity(control_grid(np.concatenate([x, y])))
    points = register(x, y, start).points
    size = np.sqrt(np.mean(np.sum((y - y.mean(0)) ** 2, 1)))
    assert np.sqrt(np.mean(np.sum((points - y) ** 2, 1))) / size < 0.001


@needs_reference
@pytest.mark.slow
@pytest.mark.parametrize("pair", [(5, 7)])
def test_dragon(pair):
    files = reference("dragon_rigid")
    x, y = (files[f"scan_{24 * i}"] for i in pair)
    poses = [files["poses"][i] for i in pair]
    # a pose takes points by the conjugate of its quaternion
    first, second = (
        Rigid(pose[3:] * np.array([-1, -1, -1, 1]), pose[:3]) for pose in poses
    )
    truth = Rigid.from_matrix(second.matrix.T @ first.matrix, jnp.zeros(3))
    found = register(x, y, Rigid.identity(3), num_starts=24).map
    assert abs(found.rotation @ truth.rotation) / jnp.linalg.norm(found.rotation) > 0.99


# --- errors ------------------------------------------------------------------------

X2 = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": np.ones(3)}, r"`source` must have shape \(n, d\)"),
        ({"target": np.ones((4, 3))}, "`target` must have 2 columns"),
        ({"target": np.where(X2 > 9, X2, np.nan)}, "`target` must be finite; got NaN"),
        ({"target": np.ones((4, 2))}, "`target` must not all be the same point"),
        ({"warp": "rigid"}, "`warp` must be a map"),
        ({"warp": Rigid.identity(3)}, r"`x` must be one event of shape \(3,\)"),
        ({"bandwidths": [0.1, 0.2]}, "`bandwidths` must be positive and decrease"),
        ({"bandwidths": [0.1, 0.0]}, "`bandwidths` must be positive and decrease"),
        ({"bandwidths": 0.1}, r"`bandwidths` must have shape \(l,\)"),
        ({"variant": "kl"}, "`variant` must be one of"),
        ({"bending": 1.0}, "`bending` must be 0 for maps without"),
        ({"bending": -1.0}, "`bending` must be >= 0"),
        ({"bending": [0.0, 0.0]}, r"or have shape \(4,\), one a level; got \(2,\)"),
        ({"source_weights": np.ones(3)}, r"`source_weights` must have shape \(6,\)"),
        ({"target_weights": -np.ones(6)}, "`target_weights` must be >= 0"),
        ({"source_normals": X2}, "was given without `target_normals`"),
        (
            {"source_normals": X2, "target_normals": X2[:3]},
            r"`target_normals` must have shape \(6, 2\)",
        ),
        (
            {"source_normals": 0 * X2, "target_normals": X2},
            "`source_normals` must not be zero",
        ),
        (
            {
                "source_normals": X2,
                "target_normals": X2 * [[1], [1], [0], [0], [1], [1]],
            },
            "`target_normals` must not be zero; got 2 of 6 .* in row 2",
        ),
        ({"source": 1e-25 * X2}, "`source` extends over .* in other units"),
        ({"target": 1e25 * X2}, "`target` extends over .* in other units"),
        ({"pairs": np.ones(3)}, "`pairs` must be two vectors of indices"),
        ({"pairs": ([0, 1], [0])}, "`pairs` must be as many indices"),
        ({"pairs": ([0, 1], [0, 6])}, "`pairs` must be in 0 ... 5"),
        ({"pairs": ([0.5], [1.0])}, "`pairs` must hold integers"),
        ({"pairs": ([0], [1]), "pair_weight": 2}, "`pair_weight` must be in"),
        (
            {"warp": Affine(np.eye(2), np.zeros(2)), "num_starts": 4},
            "`num_starts` must be 1 for maps that are not Rigid",
        ),
        ({"num_steps": 0}, "`num_steps` must be an integer >= 1"),
        (
            {"source": X2[:, :1] * [1, 2], "warp": Affine(np.eye(2), np.zeros(2))},
            "`source` must fill the plane.* --warp rigid",
        ),
    ],
)
def test_errors(change, message, user_errors):
    options = {"source": X2, "target": X2, "warp": Rigid.identity(2)}
    with pytest.raises(ValueError, match=message):
        register(**(options | change))
