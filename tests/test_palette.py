"""Palettes: found, and edited."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from transportjax.apps import (
    Picture,
    apply_colour_map,
    edit_palette,
    export_cube,
    load_colour_map,
    picture_palette,
    read_picture,
    save_colour_map,
    srgb_to_lab,
    write_picture,
)
from transportjax.cli import main

COLOURS = np.array(
    [[200, 40, 30], [40, 90, 200], [230, 230, 220], [30, 25, 25], [90, 160, 60]],
    np.uint8,
)


@pytest.fixture(scope="module")
def picture():
    """Five fields of colour with shades, of unequal size."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(5), [30, 20, 25, 15, 10])
    base = COLOURS[rows][:, None].astype(float)
    shade = 1 + 0.12 * rng.normal(size=(100, 60, 1))
    return np.clip(base * shade + rng.normal(size=(100, 60, 3)), 0, 255).astype(
        np.uint8
    )


def lab_distance(a, b):
    a, b = (np.asarray(srgb_to_lab(jnp.asarray(x, jnp.float32) / 255)) for x in (a, b))
    return np.linalg.norm(a - b, axis=-1)


def test_the_palette_of_a_picture(picture):
    colours, shares = picture_palette(picture, 5)
    np.testing.assert_allclose(shares, [0.3, 0.25, 0.2, 0.15, 0.1], atol=0.01)
    assert lab_distance(255 * colours, COLOURS[[0, 2, 1, 3, 4]]).max() < 4
    below = np.zeros((100, 60), bool)
    below[:30] = True
    colours, _ = picture_palette(picture, 1, mask=below)
    assert lab_distance(255 * colours, COLOURS[:1]).max() < 4


def test_an_edit_goes_where_it_is_sent_and_the_others_stay(picture):
    edit = edit_palette(picture, {"#c8281e": "#7828b4"})
    chart = apply_colour_map(edit, COLOURS[None])[0]
    np.testing.assert_array_equal(chart[0], [0x78, 0x28, 0xB4])
    assert lab_distance(chart[1:], COLOURS[1:]).max() < 3
    moved = apply_colour_map(edit, picture)
    assert lab_distance(moved[30:], picture[30:]).mean() < 1.5
    # the shades of the edited colour have gone along
    assert lab_distance(moved[:30], np.array([0x78, 0x28, 0xB4])).mean() < 12


def test_all_ways_to_write_an_edit(picture):
    expected = apply_colour_map(
        edit_palette(picture, {"#c8281e": "#7828b4", "#285ac8": "#28c88c"}), picture
    )
    before, after = [[200, 40, 30], [40, 90, 200]], [[120, 40, 180], [40, 200, 140]]
    for edits in (
        {"C8281E": "7828b4", " #285ac8": "#28C88C"},
        dict(zip(map(tuple, before), map(tuple, after), strict=True)),
        (np.array(before, np.uint8), np.array(after)),
        (jnp.asarray(before) / 255, np.array(after) / 255),
    ):
        got = apply_colour_map(edit_palette(picture, edits), picture)
        assert np.abs(got.astype(int) - expected).max() <= 1
    short = edit_palette(picture, {"#c32": "#b0f"})
    assert short(jnp.array([[204, 51, 34]]) / 255)[0, 2] > 0.95


def test_an_edit_to_itself_changes_nothing(picture):
    same = edit_palette(picture, {"#c8281e": "#c8281e"})
    np.testing.assert_array_equal(apply_colour_map(same, picture), picture)


def test_strength_mask_and_radius(picture):
    edits = {"#c8281e": "#7828b4"}
    unit = picture / np.float32(255)
    full = apply_colour_map(edit_palette(picture, edits), unit)
    half = apply_colour_map(edit_palette(picture, edits, strength=0.5), unit)
    np.testing.assert_allclose(half, (unit + full) / 2, atol=1e-5)
    mask = np.zeros((100, 60), bool)
    mask[:10] = True
    part = apply_colour_map(edit_palette(picture, edits), picture, mask=mask)
    np.testing.assert_array_equal(part[10:], picture[10:])
    assert lab_distance(part[:10], picture[:10]).min() > 20
    reach = [
        lab_distance(
            apply_colour_map(edit_palette(picture, edits, radius=r), picture), picture
        ).mean()
        for r in (2, 10, 40)
    ]
    assert reach[0] < reach[1] < reach[2]


def test_pictures_of_few_colours():
    for colours in ([(200, 30, 30)], [(200, 30, 30), (0, 0, 0)], [(9, 9, 9)] * 3):
        picture = np.array([colours], np.uint8)
        edit = edit_palette(picture, {(200, 30, 30): (30, 30, 200)})
        got = apply_colour_map(edit, np.array([[[200, 30, 30]]], np.uint8))
        np.testing.assert_array_equal(got, [[[30, 30, 200]]])
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    edit = edit_palette(grey, {"#808080": "#a08060"})
    toned = apply_colour_map(edit, grey)
    np.testing.assert_array_equal(toned[8, 0], [0xA0, 0x80, 0x60])
    assert lab_distance(toned[0, 0], grey[0, 0]) < 3
    assert lab_distance(toned[-1, -1], grey[-1, -1]) < 3


def test_an_edit_is_kept_and_exported(picture, tmp_path):
    edit = edit_palette(picture, {"#c8281e": "#7828b4"}, strength=0.7)
    save_colour_map(tmp_path / "edit", edit)
    again = load_colour_map(tmp_path / "edit")
    np.testing.assert_array_equal(
        apply_colour_map(again, picture), apply_colour_map(edit, picture)
    )
    error = export_cube(tmp_path / "edit.cube", edit, 33, picture)
    assert error.mean() < 1


def test_bad_input_is_named(picture, user_errors):
    for edits, message in (
        ({}, "at least one entry"),
        ({"red": "#000000"}, "#rrggbb; got 'red'"),
        ({"#12345": "#000000"}, "#rrggbb"),
        ({(1, 2): "#000000"}, "three numbers"),
        ({(300, 0, 0): "#000000"}, "from 0 to 255"),
        ({(1.5, 0.0, 0.0): "#000000"}, "floats from 0 to 1"),
        ({"#000000": "#111111", (0, 0, 0): "#222222"}, "one of them twice"),
        ((np.zeros((2, 3)), np.zeros((1, 3))), "as many colours"),
    ):
        with pytest.raises(ValueError, match=message):
            edit_palette(picture, edits)
    for more, message in (
        ({"num_colours": 0}, "`num_colours`"),
        ({"num_colours": 9000}, "`num_colours` must be at most 8192"),
        ({"radius": 0}, "`radius`"),
        ({"strength": 2}, "`strength`"),
        ({"mask": np.ones((3, 3), bool)}, "`mask`"),
    ):
        with pytest.raises(ValueError, match=message):
            edit_palette(picture, {"#c8281e": "#7828b4"}, **more)
    with pytest.raises(ValueError, match="colour picture"):
        picture_palette(picture[..., 0])


def test_the_command(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")
    monkeypatch.chdir(tmp_path)
    write_picture("in.png", Picture(picture))
    assert main(["palette", "in.png", "--colours", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.fullmatch(r"#[0-9a-f]{6} +\d+\.\d %", line) for line in lines)
    edit = ("--edit", "#c8281e=#7828b4", "#5aa03c=#5aa03c")
    base = ["palette", "in.png", "-o", "out.png"]
    assert main([*base, *edit, "--save-map", "map", "--cube", "look.cube"]) == 0
    assert "wrote out.png, map, look.cube" in capsys.readouterr().out
    result = read_picture("out.png").pixels
    assert lab_distance(result[:30], picture[:30]).mean() > 20
    assert main(["apply", "map", "in.png", "-o", "again.png", "-q"]) == 0
    np.testing.assert_array_equal(read_picture("again.png").pixels, result)
    for wrong, code, message in (
        (["palette", "in.png", *edit], 2, "--edit and -o go together"),
        (["palette", "in.png", "-o", "b.png"], 2, "--edit and -o go together"),
        (["palette", "in.png", "--cube", "b.cube"], 2, "--cube needs --edit"),
        ([*base, "--force", "--edit", "red=#000000"], 3, "#rrggbb; got 'red'"),
        ([*base, *edit], 4, "--force"),
    ):
        assert main(wrong) == code
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*base, "--edit", "#123456"])
    assert "is not like" in capsys.readouterr().err
