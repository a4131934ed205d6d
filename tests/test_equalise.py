import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

import transportjax as tj
from transportjax.apps import apply_colour_map, fit_equaliser, tone_curves
from transportjax.apps.spaces import srgb_to_ycbcr

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "pictures"
RNG = np.random.default_rng(0)
GREY = RNG.beta(2, 5, (30, 41))
BYTES = np.rint(255 * GREY).astype(np.uint8)
COLOUR = np.clip(GREY[..., None] + RNG.normal(0, 0.1, (30, 41, 3)), 0, 1)
KINDS = [{}, {"limit": np.inf}, {"tiles": 4}, {"tiles": 3, "limit": 2.0}]
KINDS += [{"space": "rgb"}, {"space": "rgb", "tiles": 2}]


@pytest.fixture(scope="module")
def house():
    with Image.open(FOLDER / "scotland_house.png") as image:
        return np.asarray(image.convert("RGB"))


def mid_ranks(x):
    """The share of entries below each, half of its equals counted."""
    flat = x.reshape(-1)
    ordered = np.sort(flat)
    below = np.searchsorted(ordered, flat) + np.searchsorted(ordered, flat, "right")
    return (below / (2 * flat.size)).reshape(x.shape)


def luma(colours):
    return np.asarray(colours) @ np.array([0.2126, 0.7152, 0.0722])


def slow_local(x, limit, down, across):
    """Contrast limited adaptive equalisation of (h, w), from its definition."""
    h, w = x.shape
    place = x * 255
    lower = np.minimum(place.astype(int), 254)
    curves = np.zeros((down, across, 256))
    for i, j in np.ndindex(h, w):
        tile = int((i + 0.5) * down / h), int((j + 0.5) * across / w)
        share = place[i, j] - lower[i, j]
        curves[(*tile, lower[i, j])] += 1 - share
        curves[(*tile, lower[i, j] + 1)] += share
    curves += curves.sum((0, 1)) / x.size
    for tile in np.ndindex(down, across):
        curves[tile] = tj.uniform_transfer(curves[tile], limit=limit)
    out = np.zeros_like(x)
    for i, j in np.ndindex(h, w):
        for a, b in np.ndindex(down, across):
            # hats of the width of a tile about the centres, flat beyond the outermost
            row = np.clip((i + 0.5) * down / h - 0.5, 0, down - 1)
            column = np.clip((j + 0.5) * across / w - 0.5, 0, across - 1)
            weight = max(0, 1 - abs(row - a)) * max(0, 1 - abs(column - b))
            value = np.interp(x[i, j], np.arange(256) / 255, curves[a, b])
            out[i, j] += weight * value
    return out


def test_tones_go_to_their_mid_ranks():
    result = tj.equalise(GREY, limit=np.inf)
    # a tone moves by less than a place, past the few others that are there
    near = np.abs(GREY.reshape(-1, 1) - GREY.reshape(1, -1)) < 1 / 4080
    most = (near.sum(axis=1) / GREY.size).reshape(GREY.shape)
    assert (np.abs(result - mid_ranks(GREY)) < most).all()
    assert abs(result.mean() - 0.5) < 1e-5
    result = tj.equalise(BYTES / 255, limit=np.inf)
    np.testing.assert_allclose(result, mid_ranks(BYTES), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_ranked_exactly_and_rounded(dtype):
    white = np.iinfo(dtype).max
    picture = (BYTES.astype(int) * (white // 255)).astype(dtype)
    exact = white * mid_ranks(picture)
    result = tj.equalise(picture, limit=np.inf)
    assert result.dtype == dtype
    assert np.abs(result - exact).max() < (0.5001 if dtype == np.uint8 else 0.6)
    assert abs(result.mean() / white - 0.5) < 1e-3  # no shift: only rounding


def test_all_levels_equally_often_stay():
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for options in ({}, {"limit": np.inf}, {"limit": 1.0}):
        np.testing.assert_array_equal(tj.equalise(ramp, **options), ramp)
    fine = np.linspace(0, 1, 65536).reshape(256, 256)
    for options in ({}, {"limit": np.inf}, {"limit": 1.0}):
        np.testing.assert_allclose(tj.equalise(fine, **options), fine, atol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 77, 128, 255])
def test_one_tone(level):
    picture = np.full((20, 30), level, np.uint8)
    assert set(np.unique(tj.equalise(picture, limit=np.inf))) <= {127, 128}
    for tiles in (None, 3):
        moved = tj.equalise(picture, tiles=tiles).astype(int)
        assert np.ptp(moved) == 0
        assert abs(moved[0, 0] - level) <= 2
        if level in (0, 255):
            assert moved[0, 0] == level


def test_two_tones():
    picture = np.full((10, 10), 50, np.uint8)
    picture[:3] = 200
    result = tj.equalise(picture, limit=np.inf)
    assert result[0, 0] == round(0.85 * 255)
    assert result[9, 9] == round(0.35 * 255)
    # black and white stay, where the slope is limited
    picture = np.where(picture == 50, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(tj.equalise(picture), picture)


@pytest.mark.parametrize("options", KINDS)
def test_no_strength_is_the_picture_bit_for_bit(options, house):
    for picture in (
        house[:40, :50],
        COLOUR,
        COLOUR.astype(np.float32),
        BYTES,
        RNG.integers(0, 65536, (7, 9, 4), dtype=np.uint16),
    ):
        result = tj.equalise(picture, strength=0.0, **options)
        np.testing.assert_array_equal(result, picture.astype(result.dtype))
        np.testing.assert_array_equal(
            result.astype(np.float32), picture.astype(np.float32)
        )
        assert result.dtype == picture.dtype


def test_strength_is_a_share_of_the_change():
    whole, half = (tj.equalise(COLOUR, strength=s) for s in (1.0, 0.5))
    np.testing.assert_allclose(half, (COLOUR + whole) / 2, atol=1e-6)


@pytest.mark.parametrize("limit", [1.5, 3.0, np.inf])
def test_order_is_kept_and_slopes_are_limited(limit):
    result = tj.equalise(GREY, limit=limit).reshape(-1)
    order = np.argsort(GREY.reshape(-1))
    x, y = GREY.reshape(-1)[order], result[order]
    assert np.diff(y).min() >= -1e-6
    assert (np.diff(y) <= limit * np.diff(x) + 1e-6).all()


def test_increasing_maps_of_the_input_make_no_difference():
    table = np.sort(np.random.default_rng(1).permutation(256)[: BYTES.max() + 1])
    other = table.astype(np.uint8)[BYTES]
    assert np.abs(other.astype(int) - BYTES).max() > 10
    a, b = (tj.equalise(p, limit=np.inf).astype(int) for p in (BYTES, other))
    assert np.abs(a - b).max() <= 1  # the same number, rounded from 1e-6 about a half
    assert np.mean(a != b) < 0.01
    assert np.mean(tj.equalise(BYTES, limit=1.2) != tj.equalise(other, limit=1.2)) > 0.5


def test_bytes_floats_and_deep_pictures_agree():
    for options in KINDS:
        whole = tj.equalise(BYTES, **options)
        floats = tj.equalise(BYTES / 255, **options) * 255
        deep = tj.equalise(BYTES.astype(np.uint16) * 257, **options) / 257
        assert np.abs(whole - floats).max() < 0.501
        assert np.abs(deep - floats).max() < 0.01


def test_scikit_image_counts_equals_whole():
    data = np.load(DATA / "equalise.npz")
    picture, mask = data["picture"], data["mask"]
    result = tj.equalise(picture / 255, limit=np.inf)
    counts = np.bincount(picture.reshape(-1), minlength=256) / picture.size
    expected = (data["hist"] - counts / 2)[picture]
    np.testing.assert_allclose(result, expected, atol=1e-6)

    inside = picture[mask]
    counts = np.bincount(inside, minlength=256) / inside.size
    expected = (data["hist_mask"] - counts / 2)[picture]
    result = tj.equalise(picture / 255, limit=np.inf, mask=mask)
    np.testing.assert_allclose(result[mask], expected[mask], atol=1e-6)


def test_scikit_image_adapts_in_the_same_way():
    data = np.load(DATA / "equalise.npz")
    picture, other = data["picture"].astype(int), data["adapthist"].astype(int)
    ours = tj.equalise(data["picture"], tiles=4).astype(int)
    assert np.abs(other - picture).mean() > 10
    assert np.abs(ours - other).mean() < 5  # a limit that is kept, and mid-ranks
    assert np.corrcoef((ours - picture).flat, (other - picture).flat)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("shape", "tiles"), [((30, 41), 4), ((17, 5), 3), ((3, 40), 8)]
)
def test_tiles_are_what_they_say(shape, tiles, monkeypatch):
    picture = RNG.beta(2, 5, shape)
    longest = max(shape)
    down, across = (max(1, round(tiles * side / longest)) for side in shape)
    expected = slow_local(picture, 2.5, down, across)
    result = tj.equalise(picture, tiles=tiles, limit=2.5)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    traced = jax.jit(lambda p: tj.equalise(p, tiles=tiles, limit=2.5))
    np.testing.assert_allclose(traced(jnp.asarray(picture)), expected, atol=2e-6)


def test_blocks_make_no_difference(monkeypatch):
    mask = RNG.uniform(size=COLOUR.shape[:2])
    for options in KINDS:
        whole = tj.equalise(COLOUR, mask=mask, **options)
        with monkeypatch.context() as patch:
            for module in (
                tone_curves,
                __import__("sys").modules[tj.equalise.__module__],
            ):
                patch.setattr(module, "BLOCK", 100)  # not a multiple of the width
            parts = tj.equalise(COLOUR, mask=mask, **options)
        np.testing.assert_allclose(parts, whole, atol=2e-6)


def test_one_tile_is_the_global_form():
    np.testing.assert_allclose(
        tj.equalise(COLOUR, tiles=1), tj.equalise(COLOUR), atol=1e-6
    )


def test_turned_pictures_give_turned_results():
    picture = COLOUR[:, :40]  # no pixel right between two tiles
    for options in KINDS:
        expected = tj.equalise(picture, **options)
        for turn in (np.flipud, np.fliplr, lambda p: np.swapaxes(p, 0, 1)):
            result = tj.equalise(np.ascontiguousarray(turn(picture)), **options)
            np.testing.assert_allclose(result, turn(expected), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3, 3), (1, 1, 4)])
@pytest.mark.parametrize("options", KINDS)
def test_small_pictures(shape, options):
    picture = RNG.integers(0, 256, shape, dtype=np.uint8)
    if shape[-1] == 4:
        picture[..., 3] = 0
    result = tj.equalise(picture, **options)
    assert (result.shape, result.dtype) == (shape, np.uint8)
    if shape[-1] == 4:
        np.testing.assert_array_equal(result[..., 3], picture[..., 3])


def test_the_luma_is_reached_and_hues_are_kept(house):
    unit = house / 255
    result = tj.equalise(unit, limit=np.inf)
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6
    expected = tj.equalise(luma(unit), limit=np.inf)
    np.testing.assert_allclose(luma(result), expected, atol=1e-5)
    # the differences of channels, blue and red ones, in proportion to before
    before, after = (np.asarray(srgb_to_ycbcr(p))[..., 1:] for p in (unit, result))
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    np.testing.assert_allclose(cross, 0, atol=1e-6)
    assert np.sum(before * after, axis=-1).min() > -1e-6


def test_grey_stays_grey():
    picture = np.repeat(BYTES[..., None], 3, axis=-1)
    result = tj.equalise(picture)
    assert (result == result[..., :1]).all()
    np.testing.assert_array_equal(result[..., 0], tj.equalise(BYTES))
    assert tj.equalise(BYTES[..., None]).shape == (*BYTES.shape, 1)


def test_each_channel_by_itself():
    result = tj.equalise(COLOUR, space="rgb", limit=2.0)
    for c in range(3):
        expected = tj.equalise(COLOUR[..., c], limit=2.0)
        np.testing.assert_allclose(result[..., c], expected, atol=1e-6)


def test_what_lies_outside_stays_as_far_outside():
    picture = np.array([[-0.5, 0.0, 0.2, 0.6, 1.0, 3.0]])
    result = tj.equalise(picture)
    np.testing.assert_allclose(result[0, [0, 1, 4, 5]], [-0.5, 0, 1, 3], atol=1e-6)
    colours = np.stack([picture, 0.5 * picture, 0.1 * picture], axis=-1)
    assert np.isfinite(tj.equalise(colours)).all()


def test_a_mask_says_where_to_learn_and_to_change():
    mask = np.zeros(COLOUR.shape[:2], bool)
    mask[:, :20] = True
    for options in KINDS:
        result = tj.equalise(COLOUR, mask=mask, **options)
        np.testing.assert_array_equal(result[:, 20:], COLOUR[:, 20:])
        if "tiles" not in options:
            alone = tj.equalise(COLOUR[:, :20], **options)
            np.testing.assert_allclose(result[:, :20], alone, atol=1e-6)
    soft = tj.equalise(COLOUR, mask=0.25 + 0.5 * mask)
    hard = tj.equalise(COLOUR, mask=np.where(mask, 255, 0).astype(np.uint8))
    np.testing.assert_allclose(soft[:, :20], (COLOUR + 3 * hard)[:, :20] / 4, atol=1e-6)


def test_what_is_transparent_does_not_count():
    alpha = np.where(np.arange(41) < 20, 255, 0) + np.zeros((30, 1), int)
    picture = np.dstack([BYTES, alpha]).astype(np.uint8)
    result = tj.equalise(picture)
    np.testing.assert_array_equal(result[..., 1], picture[..., 1])
    np.testing.assert_array_equal(result[:, :20, 0], tj.equalise(BYTES[:, :20]))
    traced = jax.jit(tj.equalise)(jnp.asarray(picture))
    assert np.abs(np.asarray(traced).astype(int) - result).max() <= 1
    picture[..., 1] = 0
    np.testing.assert_array_equal(tj.equalise(picture)[..., 0], tj.equalise(BYTES))
    jitted = np.asarray(jax.jit(tj.equalise)(jnp.asarray(picture)))
    assert np.abs(jitted[..., 0].astype(int) - tj.equalise(BYTES)).max() <= 1


def test_libraries_and_kinds_of_arrays():
    result = tj.equalise(jnp.asarray(BYTES))
    assert isinstance(result, jax.Array)
    np.testing.assert_array_equal(result, tj.equalise(BYTES))
    for dtype in (np.float16, np.float32, np.float64):
        given = COLOUR.astype(dtype)
        result = tj.equalise(given)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, tj.equalise(COLOUR), atol=2e-3)
    line_art = BYTES > 60
    assert set(np.unique(tj.equalise(line_art))) == {0, 255}
    jitted = jax.jit(tj.equalise)(jnp.asarray(line_art))
    np.testing.assert_array_equal(jitted, tj.equalise(line_art))


def test_a_map_that_is_kept_does_the_same(tmp_path, house):
    from transportjax.apps import load_colour_map, save_colour_map

    for picture in (house[::4, ::4], BYTES):
        for options in ({}, {"limit": np.inf}, {"space": "rgb", "strength": 0.6}):
            fitted = fit_equaliser(picture, **options)
            save_colour_map(tmp_path / "map", fitted)
            again = apply_colour_map(load_colour_map(tmp_path / "map"), picture)
            expected = tj.equalise(picture, **options).astype(int)
            assert np.abs(again - expected).max() <= 1  # rounding alone
            assert np.mean(again != expected) < 2e-3


def test_jit_and_vmap():
    batch = jnp.asarray(np.stack([COLOUR, COLOUR[::-1] ** 2]), jnp.float32)
    for options in KINDS:
        expected = np.stack([tj.equalise(np.asarray(p), **options) for p in batch])

        def function(p, options=options):
            return tj.equalise(p, **options)

        np.testing.assert_allclose(jax.jit(function)(batch[0]), expected[0], atol=5e-6)
        np.testing.assert_allclose(jax.vmap(function)(batch), expected, atol=5e-6)


def test_sizes_and_numbers_are_swept_without_a_new_trace():
    programs = (
        tone_curves.tones_of,
        tone_curves.count_masses,
        tone_curves.through_curves,
        tone_curves.with_tones,
    )
    tj.equalise(COLOUR, tiles=4)
    before = [p._cache_size() for p in programs]
    for side in (7, 12, 25):
        for limit, strength in ((2.0, 1.0), (2.5, 0.3)):
            tj.equalise(COLOUR[:side], tiles=4, limit=limit, strength=strength)
    assert [p._cache_size() for p in programs] == before


def test_a_sharded_picture():
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,))
    picture = jnp.asarray(COLOUR[:28], jnp.float32)
    placed = jax.device_put(picture, NamedSharding(mesh, PartitionSpec("rows")))
    expected = tj.equalise(np.asarray(picture), tiles=3)
    with jax.set_mesh(mesh):
        result = jax.jit(lambda p: tj.equalise(p, tiles=3))(placed)
    np.testing.assert_allclose(result, expected, atol=5e-6)


def between_places(shape, num, seed):
    """Random tones that lie well between the places of the masses."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, num, shape) + rng.uniform(0.2, 0.8, shape)) / num


@pytest.mark.parametrize("tiles", [None, 2])
@pytest.mark.parametrize(("limit", "num"), [(np.inf, 4080), (20.0, 255)])
def test_derivatives_of_a_grey_picture(tiles, limit, num, x64):
    picture = between_places((5, 6), num, 0)
    weights = np.random.default_rng(1).normal(size=(5, 6))

    def value(picture, strength):
        moved = tj.equalise(picture, limit=limit, tiles=tiles, strength=strength)
        return jnp.vdot(moved, weights)

    check_gradient(value, picture, 0.7, eps=1e-7, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", ["tone", "rgb"])
def test_derivatives_of_a_colour_picture(space, x64):
    picture = between_places((4, 5, 3), 255, 2)
    weights = np.random.default_rng(3).normal(size=(4, 5, 3))
    mask = np.ones((4, 5))
    mask[0] = 0.6

    def value(picture, limit):
        moved = tj.equalise(picture, limit=limit, space=space, mask=mask)
        return jnp.vdot(moved, weights)

    check_gradient(value, picture, 9.0, eps=1e-7, rtol=1e-5, atol=1e-6)


def test_a_map_that_is_held_has_the_slopes_of_the_map():
    fitted = fit_equaliser(GREY, limit=2.0)
    tones = jnp.linspace(0.05, 0.9, 7)[:, None]
    slopes = jax.vmap(jax.grad(lambda t: fitted(t[None])[0, 0]))(tones)
    after, before = (np.asarray(fitted(tones + e)) for e in (1e-3, -1e-3))
    np.testing.assert_allclose(slopes, (after - before) / 2e-3, atol=0.3)
    assert float(slopes.max()) <= 2.001
    assert float(slopes.min()) > 0


@pytest.mark.parametrize(
    ("picture", "options", "words"),
    [
        (np.full((3, 3), np.nan), {}, "`picture` must be finite; got NaN"),
        (np.array([[0.0, np.inf]]), {}, "`picture` must be finite; got infinity"),
        (np.zeros((3, 3), np.int32), {}, "must be uint8, uint16 or float"),
        (np.zeros((0, 3)), {}, "must not be empty"),
        (np.zeros(3), {}, "must be a picture"),
        (np.zeros((3, 3, 5)), {}, "1 to 4 channels"),
        (BYTES, {"limit": 0.5}, "`limit` must be in"),
        (BYTES, {"limit": "much"}, "`limit` must be one number"),
        (BYTES, {"strength": 1.5}, "`strength` must be in"),
        (BYTES, {"space": "lab"}, "`space` must be one of 'tone', 'rgb'"),
        (BYTES, {"tiles": 0}, "`tiles` must be an integer >= 1"),
        (BYTES, {"tiles": 2.5}, "`tiles` must be an integer >= 1"),
        (BYTES, {"tiles": 33}, "`tiles` must be in"),
        (BYTES, {"mask": np.ones((3, 3))}, "`mask` must have the size"),
        (BYTES, {"mask": np.zeros(BYTES.shape)}, "no pixel to learn from"),
        (BYTES, {"mask": np.full(BYTES.shape, 2.0)}, "`mask` must lie in"),
    ],
)
def test_errors(picture, options, words, user_errors):
    with pytest.raises(ValueError, match=words):
        tj.equalise(picture, **options)
    if "tiles" not in options:
        with pytest.raises(ValueError, match=words):
            fit_equaliser(picture, **options)
