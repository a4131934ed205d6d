import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import NamedSharding, PartitionSpec

from transportjax.apps import regrain as room_regrain
from transportjax.apps.regrain import (
    _double,
    _halve,
    _solve,
    _tap_weights,
    regrain,
)

REFERENCE = pathlib.Path(__file__).parents[2] / "shared/reference/transfer"
SHAPE = (43, 46, 2)  # two levels, one side odd
SWEEPS = (4, 16, 32, 64, 64, 64)
solve = jax.jit(_solve, static_argnums=(4, 5))
halve, double = jax.jit(_halve), jax.jit(_double, static_argnums=1)


def pictures(shape, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=shape), 0), 1)
    original = (smooth - smooth.min()) / (np.ptp(smooth) + 1e-9)
    original = 0.9 * original + 0.1 * rng.uniform(size=shape)
    return original, original**2 + 0.1 * rng.normal(size=shape)


def slow_resize(x, size, axis):
    """MATLAB's imresize(..., "bilinear") along one axis, from its definition."""
    n = x.shape[axis]
    scale = size / n
    width = max(1.0, 1 / scale)
    matrix = np.zeros((size, n))
    for i in range(size):
        centre = (i + 0.5) / scale - 0.5
        for j in range(-3 * n, 4 * n):
            weight = max(0.0, 1 - abs(j - centre) / width)
            if weight > 0:
                k = j % (2 * n)
                matrix[i, k if k < n else 2 * n - 1 - k] += weight
    matrix /= matrix.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)


def slow_regrain(original, graded, smoothness=1.0, num_sweeps=SWEEPS):
    """The published algorithm pixel by pixel of its definition, in numpy."""

    def shifted(x):
        h, w = x.shape[:2]
        rows, columns = np.arange(h), np.arange(w)
        return [
            x[:, np.minimum(columns + 1, w - 1)],
            x[np.minimum(rows + 1, h - 1)],
            x[:, np.maximum(columns - 1, 0)],
            x[np.maximum(rows - 1, 0)],
        ]

    def level_of(start, original, graded, level):
        h, w = (-(-n // 2) for n in original.shape[:2])
        if level + 1 < len(num_sweeps) and h > 20 and w > 20:
            small = [
                slow_resize(slow_resize(x, h, 0), w, 1)
                for x in (start, original, graded)
            ]
            coarse = level_of(*small, level + 1)
            size = original.shape
            start = slow_resize(slow_resize(coarse, size[0], 0), size[1], 1)
        right, below, left, above = shifted(original)
        g = np.sqrt(((right - left) ** 2 + (below - above) ** 2).sum(-1))
        psi = np.minimum(256 * g / 5, 1)[..., None]
        phi = 30 * 2.0**-level / (1 + 10 * g / max(smoothness, 2.2e-16))
        phis = [((n + phi) / 2)[..., None] for n in shifted(phi)]
        result = start
        for _ in range(num_sweeps[level]):
            total = psi * graded
            neighbours = zip(phis, shifted(result), shifted(original), strict=True)
            for weight, there, before in neighbours:
                total = total + weight * (there - before + original)
            total = total / (psi + sum(phis) + 2.2e-16)
            result = 0.8 * total + 0.2 * result
        return result

    return level_of(original, original, graded, 0)


@pytest.fixture(scope="module")
def data():
    return dict(np.load(DATA / "regrain.npz"))


def test_the_reference_program_on_a_grey_picture(data, x64):
    original = data["grey_original_765"][..., None] / 765
    graded = data["grey_graded"][..., None]
    result = regrain(original, graded)[::2, ::2, 0]
    assert_close(result, data["grey_regrained_2"], rtol=0, atol=1e-12)


def test_the_reference_program_in_float32(data):
    original = (data["grey_original_765"][..., None] / 765).astype(np.float32)
    graded = data["grey_graded"][..., None].astype(np.float32)
    result = regrain(original, graded)
    assert result.dtype == jnp.float32
    assert_close(result[::2, ::2, 0], data["grey_regrained_2"], rtol=0, atol=2e-6)


def test_the_reference_program_on_one_level_in_colour(data, x64):
    original, graded, expected = (
        jnp.moveaxis(jnp.asarray(data[f"quarter_{name}"]), -1, 0)
        for name in ("original", "graded", "regrained")
    )
    one = jnp.ones(())
    result = solve(original, original, graded - original, one, 0.25, 32)
    assert_close(result, expected, rtol=0, atol=1e-13)
    start = jnp.moveaxis(double(expected, (3, 61, 81)), 0, -1)
    assert_close(start[::3, ::3], data["half_start"], rtol=0, atol=1e-13)


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the full reference pictures are not beside the repo"
)
@pytest.mark.parametrize(
    ("name", "smoothness"), [("s1", 1), ("s0", 0), ("s0p1", 0.1), ("s10", 10)]
)
def test_the_reference_program_in_full(x64, name, smoothness):
    files = np.load(REFERENCE / "small_f64.npz")
    house, graded = files["house"], files["idt10"]
    expected = files[f"regrain_{name}"]
    result = regrain(house, graded, smoothness=smoothness)
    assert_close(result, expected, rtol=0, atol=1e-12)
    house, graded = house.astype(np.float32), graded.astype(np.float32)
    result = regrain(house, graded, smoothness=smoothness)
    assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the full reference levels are not beside the repo"
)
def test_every_level_of_the_reference_program(x64):
    files = np.load(REFERENCE / "small_regrain_levels.npz")

    def planes(name):
        return jnp.moveaxis(jnp.asarray(files[name]), -1, 0)

    one = jnp.ones(())
    for level in range(3):
        original, graded = planes(f"l{level}_I0"), planes(f"l{level}_IR")
        start = planes(f"l{level}_init")
        result = solve(
            start, original, graded - original, one, 2.0**-level, SWEEPS[level]
        )
        assert_close(result, planes(f"l{level}_out"), rtol=0, atol=1e-13)
        if level < 2:
            below = f"l{level + 1}"
            assert_close(halve(original), planes(f"{below}_I0"), rtol=0, atol=1e-14)
            assert_close(halve(graded), planes(f"{below}_IR"), rtol=0, atol=1e-14)
            up = double(planes(f"{below}_out"), original.shape)
            assert_close(up, start, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "shape", [SHAPE, (1, 1, 1), (1, 7, 3), (6, 1, 3), (2, 2, 4), (41, 20, 1)]
)
def test_the_definition(shape, x64):
    original, graded = pictures(shape)
    result = regrain(original, graded, smoothness=0.7)
    assert_close(result, slow_regrain(original, graded, 0.7), rtol=0, atol=1e-13)


def test_the_definition_with_another_schedule(x64):
    original, graded = pictures((84, 90, 1))
    for schedule in ((3, 0, 5), (0,), (2, 1)):
        result = regrain(original, graded, num_sweeps=schedule)
        expected = slow_regrain(original, graded, num_sweeps=schedule)
        assert_close(result, expected, rtol=0, atol=1e-13)


def test_resize(x64):
    for shape in ((1, 41, 42), (1, 43, 44)):
        x = np.random.default_rng(0).normal(size=shape)
        size = tuple(-(-n // 2) for n in shape[1:])
        half = halve(jnp.asarray(x))
        expected = slow_resize(slow_resize(x, size[0], 1), size[1], 2)
        assert_close(half, expected, rtol=0, atol=1e-14)
        back = slow_resize(slow_resize(expected, shape[1], 1), shape[2], 2)
        assert_close(double(half, shape), back, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", range(5, 12))
def test_resize_weights(size):
    half = -(-size // 2)
    down = _tap_weights(size, half, 2 * np.arange(half), reach=2)
    up = _tap_weights(half, size, np.arange(size) // 2, reach=1)
    assert_close(down.sum(axis=0), np.ones(half), atol=1e-15)
    assert_close(up.sum(axis=0), np.ones(size), atol=1e-15)
    for weights, new, old, step, reach in (
        (down, half, size, 2, 2),
        (up, size, half, 0.5, 1),
    ):
        matrix = np.zeros((new, old))
        for tap, i in np.ndindex(weights.shape):
            if weights[tap, i]:
                matrix[i, int(step * i) + tap - reach] += weights[tap, i]
        expected = slow_resize(np.eye(old), new, 0)
        assert_close(matrix, expected, rtol=0, atol=1e-15)


def test_flat_original_comes_back(x64):
    _, graded = pictures(SHAPE)
    flat = np.full(SHAPE, 0.4)
    assert_close(regrain(flat, graded), flat, rtol=0, atol=1e-15)


def test_graded_into_itself(x64):
    small, _ = pictures((30, 31, 3))
    assert_close(regrain(small, small), small, rtol=0, atol=1e-15)
    original, _ = pictures(SHAPE)
    for sweeps, bound in ((SWEEPS, 0.05), ((400, 16), 1e-5)):  # I is the fixed point
        result = regrain(original, original, num_sweeps=sweeps)
        assert_close(result, original, rtol=0, atol=bound)


def test_smoothness_trades_colours_for_gradients(x64):
    original, graded = pictures(SHAPE)
    colour, gradient = [], []
    for smoothness in (0.0, 0.1, 1.0, 10.0):
        result = np.asarray(regrain(original, graded, smoothness=smoothness))
        colour.append(np.abs(result - graded).mean())
        gradient.append(np.abs(np.diff(result - original, axis=0)).mean())
    assert colour[0] < 1e-3
    assert colour == sorted(colour)
    assert gradient == sorted(gradient, reverse=True)


def test_linear_in_the_graded_picture(x64):
    original, first = pictures(SHAPE)
    _, second = pictures(SHAPE, seed=1)
    mixed = regrain(original, 0.3 * first + 0.7 * second)
    apart = 0.3 * regrain(original, first) + 0.7 * regrain(original, second)
    assert_close(mixed, apart, rtol=0, atol=1e-13)


def test_symmetries(x64):
    original, graded = pictures(SHAPE)
    result = regrain(original, graded)

    def same(a, b):
        assert_close(a, b, rtol=0, atol=1e-12)

    def swap(x):
        return np.swapaxes(np.asarray(x), 0, 1)

    same(regrain(original + 0.2, graded + 0.2), result + 0.2)
    same(regrain(original[::-1], graded[::-1]), result[::-1])
    same(regrain(original[:, ::-1], graded[:, ::-1]), result[:, ::-1])
    same(regrain(original[..., ::-1], graded[..., ::-1]), result[..., ::-1])
    same(regrain(swap(original), swap(graded)), swap(result))


def wave(original, graded, smoothness):
    result = regrain(original, graded, smoothness=smoothness, num_sweeps=(2, 3))
    return jnp.sum(jnp.sin(3 * result))


def test_gradients(x64):
    original, graded = pictures((42, 41, 1))
    original = 0.5 + 0.05 * original  # psi is below its ceiling in most places
    check_gradient(wave, original, graded, np.array(0.5), rtol=1e-5, eps=1e-8)


def test_gradients_where_the_original_is_flat():
    original, graded = (jnp.asarray(x, "float32") for x in pictures((9, 11, 3)))
    original = original.at[:5].set(0.5)
    for smoothness in (0.0, 1.0):
        slopes = jax.grad(wave, argnums=(0, 1, 2))(
            original, graded, jnp.asarray(smoothness)
        )
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in slopes)


def test_smoothness_is_swept_without_a_new_trace(monkeypatch):
    module = __import__("sys").modules["transportjax.apps.regrain"]
    traces = []
    inner = module._gradient_length
    monkeypatch.setattr(
        module, "_gradient_length", lambda x: (traces.append(1), inner(x))[1]
    )
    original, graded = (x.astype(np.float32) for x in pictures((9, 11, 3)))
    results = [
        regrain(original, graded, smoothness=s) for s in (0, 1, 0.5, np.float32(2))
    ]
    assert len(traces) == 1
    assert float(jnp.max(jnp.abs(results[0] - results[1]))) > 0.01


def test_jit_vmap_and_dtypes():
    frames = [pictures((12, 13, 3), seed) for seed in range(3)]
    original, graded = (
        jnp.asarray(np.stack(part), "float32") for part in zip(*frames, strict=True)
    )
    single = jnp.stack([regrain(o, g) for o, g in zip(original, graded, strict=True)])
    assert_close(jax.jit(jax.vmap(regrain))(original, graded), single)
    for dtype in ("float16", "bfloat16"):
        result = regrain(original[0].astype(dtype), graded[0].astype(dtype))
        assert result.dtype == dtype
        assert_close(result.astype("float32"), single[0], atol=2e-2)


def test_explicit_mesh():
    original, graded = (jnp.asarray(x, "float32") for x in pictures((12, 13, 3)))
    mesh = jax.make_mesh((4,), ("rows",))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    sharded = (jax.device_put(x, sharding) for x in (original, graded))
    assert_close(regrain(*sharded), regrain(original, graded))


def test_what_is_refused(user_errors):
    picture = np.full((4, 5, 3), 0.5)
    broken = picture.copy()
    broken[1, 2, 0] = np.nan
    for args, options, message in [
        ((picture, picture[:3]), {}, "equal shapes"),
        ((picture[..., 0], picture[..., 0]), {}, r"\(h, w, c\)"),
        ((picture, broken), {}, "`graded` must be finite; got NaN"),
        ((broken, picture), {}, "`original` must be finite"),
        (((picture * 255).astype(np.uint8), picture), {}, "Divide it by 255"),
        ((picture[:0], picture[:0]), {}, "empty"),
        ((picture, picture), {"smoothness": -1}, "`smoothness`"),
        ((picture, picture), {"smoothness": np.nan}, "`smoothness`"),
        ((picture, picture), {"num_sweeps": ()}, "num_sweeps"),
        ((picture, picture), {"num_sweeps": (4, 1.5)}, "num_sweeps"),
    ]:
        with pytest.raises(ValueError, match=message):
            regrain(*args, **options)


def test_public_name():
    assert room_regrain is regrain
