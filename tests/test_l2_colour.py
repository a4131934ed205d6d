"""Colour transfer by the L2 divergence: known maps, published energies, pairs."""

import pathlib

import jax.random as jr
import numpy as np
import pytest
from helpers import images
from PIL import Image

from transportjax.apps import (
    apply_colour_map,
    colour_transfer,
    export_cube,
    fit_colour_map,
    load_colour_map,
    palette_distance,
    save_colour_map,
)
from transportjax.apps.l2_colour import fit_l2, fit_l2_pairs, fit_l2_published
from transportjax.maps import Affine, ThinPlateSpline

SHARED = pathlib.Path(__file__).parents[2] / "shared"
REFERENCE = SHARED / "reference" / "mixtures" / "grogan_ct.npz"
PICTURES = pathlib.Path(__file__).parents[1] / "examples" / "pictures"


@pytest.fixture(scope="module")
def pair():
    return tuple(
        np.asarray(Image.open(PICTURES / f"scotland_{name}.png").convert("RGB"))[
            ::2, ::2
        ]
        for name in ("house", "plain")
    )


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2)


def bent(colours):
    """A smooth grade that is not affine."""
    r, g, b = np.moveaxis(colours, -1, 0)
    return np.stack([r**1.3, 0.9 * g + 0.1 * r, 0.2 + 0.6 * b**0.8], axis=-1)


def colours(seed, count=8192):  # as many as are drawn from a picture
    """Colours around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0.15, 0.85, (9, 3))
    chosen = centres[rng.integers(9, size=count)]
    return np.clip(chosen + 0.05 * rng.normal(size=chosen.shape), 0, 1).astype(
        np.float32
    )


@pytest.mark.parametrize("warp", ["tps", "affine"])
def test_a_known_grade_is_found(warp):
    x = colours(0)
    grade = bent if warp == "tps" else (lambda c: 0.7 * c + np.float32([0.2, 0.0, 0.1]))
    y = grade(x).astype(np.float32)
    fitted = fit_l2(x, y, key=jr.key(0), warp=warp)
    error = np.asarray(images(fitted, x)) - y
    assert np.sqrt(np.mean(error**2)) < 0.15 * np.sqrt(np.mean((x - y) ** 2))
    assert isinstance(fitted, ThinPlateSpline if warp == "tps" else Affine)


def test_colours_of_one_picture_alone_do_no_harm():
    x = colours(0)
    y = bent(x).astype(np.float32)
    y[:500] = np.float32([1.0, 0.0, 1.0])
    fitted = fit_l2(x, y, key=jr.key(0))
    error = np.asarray(images(fitted, x[500:])) - y[500:]
    assert np.sqrt(np.mean(error**2)) < 0.3 * np.sqrt(np.mean((x - y)[500:] ** 2))


def test_pairs_find_a_grade_among_wrong_ones():
    x = colours(1, 5000)
    y = bent(x).astype(np.float32)
    wrong = y.copy()
    wrong[::5] = colours(2, 1000)  # a fifth of the picture shows something else
    fitted = images(fit_l2_pairs(x, wrong), x)
    assert np.sqrt(np.mean((np.asarray(fitted) - y) ** 2)) < 0.02


def test_the_palette_is_neared_smoothly(pair):
    source, palette = pair
    graded = colour_transfer(source, palette, method="l2")
    before = palette_distance(source, palette)
    assert palette_distance(graded, palette) < 0.6 * before
    lighter = graded[:50].mean() > graded[130:].mean()
    assert lighter == (source[:50].mean() > source[130:].mean())
    same = colour_transfer(source, source, method="l2")
    assert np.abs(same.astype(int) - source).mean() < 1
    chroma = colour_transfer(source, palette, method="l2", space="chroma")
    assert palette_distance(chroma, source) > 3
    again = colour_transfer(source, palette, method="l2")
    np.testing.assert_array_equal(again, graded)


def test_pairs_of_pictures_with_masks(pair):
    source = pair[0] / np.float32(255)
    target = np.clip(bent(source), 0, 1).astype(np.float32)
    painted = target.copy()
    painted[:60] = (1, 0, 1)
    mask = np.ones(source.shape[:2], bool)
    mask[:60] = False
    fitted = fit_colour_map(source, painted, method="l2", pairs=True, palette_mask=mask)
    got = apply_colour_map(fitted, source)
    assert psnr(255 * got, 255 * target) > 38
    holed = source.copy()
    holed[100, 100] = np.nan
    fit_colour_map(holed, target, method="l2", pairs=True)


def test_a_map_is_kept_and_exported(pair, tmp_path):
    source, palette = pair
    fitted = fit_colour_map(source, palette, method="l2", strength=0.8)
    save_colour_map(tmp_path / "grade", fitted)
    again = load_colour_map(tmp_path / "grade")
    np.testing.assert_array_equal(
        apply_colour_map(again, source), apply_colour_map(fitted, source)
    )
    error = export_cube(tmp_path / "grade.cube", fitted, 33, source)
    assert error.mean() < 0.3


def test_pictures_of_few_colours():
    one, two = np.full((4, 4, 3), 50, np.uint8), np.full((4, 4, 3), 90, np.uint8)
    assert (colour_transfer(one, two, method="l2") == 90).all()
    assert (colour_transfer(one, two, method="l2", pairs=True) == 90).all()
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    darker = colour_transfer(grey, grey // 2, method="l2")
    assert palette_distance(darker, grey // 2) < 8
    halved = colour_transfer(grey, grey // 2, method="l2", pairs=True)
    assert np.abs(halved.astype(int) - grey // 2).mean() < 2


@pytest.mark.parametrize("space", ["rgb", "lab"])
@pytest.mark.parametrize("saturation", [0.0, 0.02, 0.2])
def test_greys_and_faded_colours_stay_in_the_cube(pair, saturation, space):
    source, palette = pair
    grey = (source @ [0.3, 0.59, 0.11])[..., None]
    faded = np.round(grey + saturation * (source - grey)).astype(np.uint8)
    result = colour_transfer(faded, palette, method="l2", space=space)
    assert np.mean((result == 0) | (result == 255)) < 0.05
    assert palette_distance(result, palette) < 0.8 * palette_distance(faded, palette)


@pytest.mark.parametrize("space", ["lab", "oklab"])
def test_half_faded_colours_come_near_the_palette(pair, space):
    source, palette = pair
    grey = source.mean(axis=-1, keepdims=True)
    left = []  # in the mean: rounding decides which minimum is met
    for saturation in (0.33, 0.35, 0.4):
        faded = np.round(grey + saturation * (source - grey)).astype(np.uint8)
        result = colour_transfer(faded, palette, method="l2", space=space)
        near, far = (palette_distance(x, palette) for x in (result, faded))
        left.append(near / far)
    assert np.mean(left) < 0.6


def test_bad_input_is_named(user_errors):
    picture = np.zeros((4, 4, 3), np.uint8)
    for arguments, options, message in (
        ((picture, picture), {"space": "luma"}, "`method` 'l2' works on colour"),
        ((picture[..., 0], picture), {}, "got the space 'grey'"),
        (
            (picture, picture),
            {"method": "l2-published", "space": "oklab"},
            "'rgb' and 'lab' only; got the space 'oklab'",
        ),
        ((picture, picture[:3]), {"pairs": True}, "of one size; got 4 x 4 and 4 x 3"),
        ((picture, picture), {"pairs": True, "method": "idt"}, "needs the method 'l2'"),
        (
            (picture, picture),
            {"pairs": True, "mask": np.zeros((4, 4), bool)},
            "a mask is empty",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit_colour_map(*arguments, **{"method": "l2", **options})
    x = np.zeros((5, 3), np.float32)
    with pytest.raises(ValueError, match="equal shapes"):
        fit_l2_pairs(x, x[:4])
    with pytest.raises(ValueError, match="`warp` must be one of"):
        fit_l2(x, x, key=jr.key(0), warp="rigid")
    with pytest.raises(ValueError, match="`weight_power`"):
        fit_l2(x, x, key=jr.key(0), weight_power=-1)


@pytest.mark.skipif(not REFERENCE.exists(), reason="no reference data")
@pytest.mark.parametrize("case", ["parrot_rgb", "scotland_rgb"])
def test_published_energies_are_reached(case):
    """The published settings, on the published clusters."""
    data = np.load(REFERENCE)
    x, y, controls = (
        data[f"{case}_{name}"].astype(np.float32) for name in ("X", "Y", "ctrl")
    )
    scales = data[f"{case}_scales"]
    alpha, beta = float(data[f"{case}_alpha"]), float(data[f"{case}_beta_"])
    # fifty clusters of fifty points are the points
    fitted = fit_l2_published(x / 255, y / 255, key=jr.key(0))
    ordered = controls.reshape(5, 5, 5, 3).transpose(2, 1, 0, 3).reshape(-1, 3)
    np.testing.assert_allclose(255 * fitted.controls, ordered, atol=1e-3)
    moved = 255 * np.asarray(images(fitted, x / 255), np.float64)

    def mean_kernel(a, b):
        apart = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
        return np.mean(np.exp(-apart / scales[-1] ** 2))

    divergence = mean_kernel(moved, moved) - 2 * mean_kernel(moved, y.astype(float))
    energy = alpha * divergence + 255 * beta * float(fitted.bending_energy())
    assert energy <= data[f"{case}_costs"][-1] + 5e-4


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="no pictures")
def test_aligned_pictures_are_reached_as_published():
    source, palette = (
        np.asarray(Image.open(SHARED / "data" / "pictures" / name).convert("RGB"))
        for name in ("input.png", "reference_aligned.png")
    )
    assert psnr(source, palette) == pytest.approx(20.60, abs=0.01)
    graded = colour_transfer(source, palette, method="l2", pairs=True)
    assert psnr(graded, palette) > 26.3
    as_published = colour_transfer(source, palette, method="l2-published", pairs=True)
    assert psnr(as_published, palette) > 26.2  # of the published program: 26.31
