import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from transportjax.apps import (
    apply_colour_map,
    colour_map as colour_map_module,
    colour_transfer,
    export_cube,
    fit_colour_map,
    load_colour_map,
    palette_distance,
    read_cube,
    restore_grain,
    save_colour_map,
)
from transportjax.apps.colour_map import COLOUR_SPACES
from transportjax.maps import Affine, ModelFileError, save

PICTURES = pathlib.Path(__file__).parents[1] / "examples" / "pictures"


@pytest.fixture(scope="module")
def pair():
    return tuple(
        np.asarray(Image.open(PICTURES / f"scotland_{name}.png").convert("RGB"))
        for name in ("house", "plain")
    )


def test_idt_reaches_the_palette(pair):
    source, palette = pair
    graded = colour_transfer(source, palette)
    assert graded.dtype == np.uint8
    assert graded.shape == source.shape
    assert palette_distance(source, palette) > 25
    assert palette_distance(graded, palette) < 1.5


def test_mkl_gives_mean_and_covariance(pair):
    source, palette = (p / np.float32(255) for p in pair)
    graded = colour_transfer(source, palette, method="mkl")
    for statistic, tolerance in ((np.mean, 2e-4), (np.std, 5e-4)):
        got = statistic(graded.reshape(-1, 3).astype(float), axis=0)
        expected = statistic(palette.reshape(-1, 3).astype(float), axis=0)
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_a_picture_that_is_its_own_palette_stays(pair):
    for space in COLOUR_SPACES:
        same = colour_transfer(pair[0], pair[0], space=space)
        difference = np.abs(same.astype(int) - pair[0])
        assert difference.max() == 0, space


def test_luma_and_chroma_move_what_they_say(pair):
    from transportjax.apps.spaces import SPACES

    source, palette = (p / np.float32(255) for p in pair)
    to_lab = SPACES["lab"][0]
    before = np.asarray(to_lab(jnp.asarray(source)))
    luma = np.asarray(
        to_lab(jnp.asarray(colour_transfer(source, palette, space="luma")))
    )
    chroma = np.asarray(
        to_lab(jnp.asarray(colour_transfer(source, palette, space="chroma")))
    )
    assert np.abs(luma[..., 1:] - before[..., 1:]).max() < 0.05
    assert np.abs(luma[..., 0] - before[..., 0]).mean() > 3
    assert np.abs(chroma[..., 0] - before[..., 0]).max() < 0.05
    target = np.asarray(to_lab(jnp.asarray(palette)))
    assert abs(luma[..., 0].mean() - target[..., 0].mean()) < 0.3


def test_strength_is_a_share_of_the_change(pair):
    source, palette = (p[::4, ::4] / np.float32(255) for p in pair)
    full = colour_transfer(source, palette)
    half = colour_transfer(source, palette, strength=0.5)
    none = colour_transfer(source, palette, strength=0.0)
    np.testing.assert_allclose(half, (source + full) / 2, atol=1e-5)
    np.testing.assert_array_equal(none, source)


def test_every_kind_of_array_comes_back_as_it_came(pair):
    source, palette = (p[::8, ::8] for p in pair)
    deep = source.astype(np.uint16) * 257
    alpha = np.dstack([source, source[..., :1]])
    grey = source.mean(-1).astype(np.uint8)
    for picture in (
        source,
        deep,
        alpha,
        grey,
        grey[..., None],
        source / np.float64(255),
        (source / 255).astype(np.float16),
        jnp.asarray(source),
    ):
        graded = colour_transfer(picture, palette)
        assert type(graded) is type(picture)
        assert graded.dtype == picture.dtype
        assert graded.shape == picture.shape
    np.testing.assert_array_equal(
        colour_transfer(alpha, palette)[..., 3], alpha[..., 3]
    )
    eight = colour_transfer(source, palette).astype(float)
    sixteen = colour_transfer(deep, palette).astype(float) / 257
    assert np.abs(eight - sixteen).mean() < 1  # other samples of the same colours


def test_eight_bits_are_rounded_from_the_direct_evaluation(pair):
    source, palette = (p[::4, ::4] for p in pair)
    fitted = fit_colour_map(source, palette)
    direct = apply_colour_map(fitted, source / np.float32(255)).astype(float) * 255
    graded = apply_colour_map(fitted, source)
    np.testing.assert_array_equal(graded, np.clip(np.rint(direct), 0, 255))


def test_the_table_is_used_only_where_it_is_accurate(pair, monkeypatch):
    source, palette = pair
    monkeypatch.setattr(colour_map_module, "_TABLE_NODES", 17)
    used = []
    table_error = colour_map_module.table_error
    monkeypatch.setattr(
        colour_map_module,
        "table_error",
        lambda *a: used.append(float(jnp.max(table_error(*a)))) or table_error(*a),
    )
    unit = source / np.float32(255)
    for method in ("mkl", "idt"):
        fitted = fit_colour_map(source, palette, method=method)
        whole = apply_colour_map(fitted, unit)
        direct = np.concatenate(
            [apply_colour_map(fitted, unit[i : i + 10]) for i in range(0, 361, 10)]
        )
        assert np.abs(whole - direct).max() <= 0.5 / 255
    assert used[0] < 1e-5  # a linear map is exact in a table
    assert used[1] > 0.5 / 255  # IDT is not, at 17 nodes: each pixel was computed


def test_masks_say_where(pair):
    source, palette = (p[::4, ::4] for p in pair)
    mask = np.zeros(source.shape[:2], bool)
    mask[:40] = True
    graded = colour_transfer(source, palette, mask=mask)
    np.testing.assert_array_equal(graded[40:], source[40:])
    assert palette_distance(graded[:40], palette) < 3
    soft = np.full(source.shape[:2], 0.75, np.float32)
    unit = source / np.float32(255)
    fitted = fit_colour_map(unit, palette)
    full = apply_colour_map(fitted, unit)
    part = apply_colour_map(fitted, unit, mask=soft)
    np.testing.assert_allclose(part, unit + 0.75 * (full - unit), atol=1e-6)
    dark = np.asarray(palette).mean(-1) < 80
    low = colour_transfer(source, palette, palette_mask=dark)
    assert low.mean() < 80


def test_nan_stays_where_it_is(pair):
    source, palette = (p[::8, ::8] / np.float32(255) for p in pair)
    holed = source.copy()
    holed[3, 4] = np.nan
    graded = colour_transfer(holed, palette)
    assert np.isnan(graded[3, 4]).all()
    assert np.isnan(graded).sum() == 3


def test_the_seed_gives_the_same_picture(pair):
    source, palette = (p[::4, ::4] for p in pair)
    first = colour_transfer(source, palette, seed=3, num_steps=14)
    np.testing.assert_array_equal(
        first, colour_transfer(source, palette, seed=3, num_steps=14)
    )
    other = colour_transfer(source, palette, seed=4, num_steps=14)
    assert (first != other).any()


def test_grain_is_restored(pair):
    source, palette = pair
    graded = colour_transfer(source, palette)
    kept = restore_grain(source, graded)

    def gradient(p):
        return np.diff(p.astype(float), axis=1)

    before = np.abs(gradient(graded) - gradient(source)).mean()
    after = np.abs(gradient(kept) - gradient(source)).mean()
    assert after < 0.5 * before
    assert palette_distance(kept, palette) < 8


def test_a_map_is_saved_and_exported(pair, tmp_path):
    source, palette = (p[::4, ::4] for p in pair)
    fitted = fit_colour_map(source, palette, method="mkl", space="lab", strength=0.8)
    save_colour_map(tmp_path / "grade", fitted)
    again = load_colour_map(tmp_path / "grade")
    np.testing.assert_array_equal(
        apply_colour_map(again, source), apply_colour_map(fitted, source)
    )
    error = export_cube(tmp_path / "grade.cube", fitted, 33, source)
    table = read_cube(tmp_path / "grade.cube")
    unit = source / np.float32(255)
    difference = apply_colour_map(table, unit) - apply_colour_map(fitted, unit)
    off = np.abs(difference).max(axis=-1) * 255
    assert 0.1 < off.mean() < 1  # the curve of Lab near black
    assert error.mean() == pytest.approx(off.mean(), rel=0.1)
    linear = fit_colour_map(source, palette, method="mkl")
    assert export_cube(tmp_path / "linear.cube", linear, 17, source).max() < 1e-3
    save(tmp_path / "other", Affine(jnp.eye(3), jnp.zeros(3)))
    with pytest.raises(ModelFileError, match="colour"):
        load_colour_map(tmp_path / "other")


def test_odd_pictures():
    one = np.full((1, 1, 3), 7, np.uint8)
    palette = np.full((2, 2, 3), 90, np.uint8)
    assert (colour_transfer(one, palette) == 90).all()
    assert (colour_transfer(palette, one, method="mkl") == 7).all()
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert palette_distance(colour_transfer(grey, 255 - grey // 2), 255 - grey // 2) < 2
    flat = colour_transfer(np.dstack([grey] * 3), np.dstack([grey // 2] * 3))
    assert palette_distance(flat, grey // 2) < 2
    hdr = np.random.default_rng(0).gamma(1, 4, (30, 40, 3)).astype(np.float32) - 0.5
    moved = colour_transfer(hdr, 2 * hdr + 1)
    np.testing.assert_allclose(
        moved.mean((0, 1)), (2 * hdr + 1).mean((0, 1)), rtol=0.02
    )
    assert moved.max() > 10


def test_bad_input_is_named(user_errors):
    good = np.zeros((4, 4, 3), np.uint8)
    cases = [
        ("`source`", (np.zeros((0, 4, 3), np.uint8), good), {}),
        ("`source`", (np.zeros((4, 4, 5), np.uint8), good), {}),
        ("`palette`", (good, np.zeros((4, 4, 3), np.int64)), {}),
        ("`palette`", (good, np.zeros(4, np.uint8)), {}),
        ("`method`", (good, good), {"method": "IDT"}),
        ("`space`", (good, good), {"space": "hsv"}),
        ("`strength`", (good, good), {"strength": 2}),
        ("`num_steps`", (good, good), {"num_steps": 0}),
        ("`smoothness`", (good, good), {"smoothness": -1}),
        ("`mask`", (good, good), {"mask": np.ones((3, 4), bool)}),
        ("mask is empty", (good, good), {"mask": np.zeros((4, 4), bool)}),
        ("all is NaN", (np.full((2, 2, 3), np.nan, np.float32), good), {}),
    ]
    for match, pictures, more in cases:
        with pytest.raises(ValueError, match=match):
            colour_transfer(*pictures, **more)
    fitted = fit_colour_map(good, good)
    with pytest.raises(ValueError, match="`pixels` must be a colour picture"):
        apply_colour_map(fitted, good[..., 0])
