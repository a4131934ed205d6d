import pathlib

import numpy as np
import pytest
from helpers import run
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import transportjax as tj
from transportjax.apps.images import Picture, read_picture, write_picture

SOURCE = pathlib.Path(__file__).parents[1] / "examples" / "pictures"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


@pytest.fixture
def small(tmp_path):
    """A small foggy picture in a folder of its own."""
    with Image.open(SOURCE / "scotland_house.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((96, 72)))
    Image.fromarray((100 + pixels * 0.4).astype(np.uint8)).save(tmp_path / "foggy.png")
    return tmp_path


def test_the_main_job(small, capsys):
    code = run(
        small,
        *("equalise", "foggy.png", "-o", "clear.png", "--figure", "figure.png"),
        *("--save-map", "tones.map", "--cube", "tones.cube"),
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    foggy, clear = (read_picture(small / f"{n}.png").pixels for n in ("foggy", "clear"))
    np.testing.assert_array_equal(clear, tj.equalise(foggy))
    words = out.split("8-bit levels: ")[1].split()
    before, after = (float(words[i + 2]) - float(words[i]) for i in (0, 4))
    assert 60 < before < 110 < 150 < after
    assert read_picture(small / "figure.png").pixels.shape[1] > 600
    assert run(small, "apply", "tones.map", "foggy.png", "-o", "again.png") == 0
    again = read_picture(small / "again.png").pixels.astype(int)
    assert np.abs(again - clear).max() <= 1
    assert run(small, "apply", "tones.cube", "foggy.png", "-o", "table.png") == 0
    table = read_picture(small / "table.png").pixels.astype(int)
    assert np.abs(table - clear).mean() < 2


def test_quiet_is_quiet_and_options_are_used(small, capsys):
    base = ("equalise", "foggy.png", "-q")
    assert run(small, *base, "-o", "plain.png") == 0
    for name, more in {
        "limit": ("--limit", "1.5"),
        "inf": ("--limit", "inf"),
        "local": ("--local",),
        "local3": ("--local", "3"),
        "space": ("--space", "rgb"),
        "strength": ("--strength", "0.5"),
        "mask": ("--mask", "foggy.png"),
        "regrain": ("--regrain",),
    }.items():
        assert run(small, *base, *more, "-o", f"{name}.png") == 0, name
    assert capsys.readouterr().out == ""
    pictures = [read_picture(p).pixels.tobytes() for p in small.glob("*.png")]
    assert len(set(pictures)) == len(pictures)


def test_a_picture_that_the_limit_keeps_dark_is_told_of(small, capsys):
    with Image.open(small / "foggy.png") as image:
        Image.fromarray(np.asarray(image) // 20).save(small / "dark.png")
    assert run(small, "equalise", "dark.png", "-o", "a.png") == 0
    assert "a larger --limit spreads them more" in capsys.readouterr().out
    assert run(small, "equalise", "dark.png", "-o", "b.png", "--limit", "inf") == 0
    assert "--limit" not in capsys.readouterr().out
    assert read_picture(small / "a.png").pixels.mean() < 40
    assert read_picture(small / "b.png").pixels.mean() > 100


def test_depth_transparency_and_metadata_are_kept(small):
    pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 20000, (40, 50, 3), dtype=np.uint16)
    alpha = np.where(np.arange(50) < 25, 0, 65535).astype(np.uint16)
    alpha = np.repeat(alpha[None], 40, axis=0)
    deep[:, :25] = 65535  # not to be seen: must not count
    write_picture(small / "deep.png", Picture(deep, alpha))
    assert run(small, "equalise", "deep.png", "-o", "o.png", "-q") == 0
    result = read_picture(small / "o.png")
    assert result.pixels.dtype == np.uint16
    np.testing.assert_array_equal(result.alpha, alpha)
    np.testing.assert_array_equal(result.pixels[:, 25:], tj.equalise(deep[:, 25:]))

    text = PngInfo()
    text.add_text("Author", "somebody")
    with Image.open(small / "foggy.png") as image:
        image.convert("L").save(small / "grey.png", pnginfo=text, dpi=(300, 300))
    assert run(small, "equalise", "grey.png", "-o", "g.png", "-q", "--local") == 0
    with Image.open(small / "g.png") as image:
        assert image.mode == "L"
        assert image.info["Author"] == "somebody"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (4, "absent.png", ("absent.png", "-o", "o.png")),
        (3, "empty.png", ("empty.png", "-o", "o.png")),
        (3, "text.png", ("text.png", "-o", "o.png")),
        (4, "--force", ("foggy.png", "-o", "old.png")),
        (4, "input", ("foggy.png", "-o", "foggy.png")),
        (4, "twice", ("foggy.png", "-o", "o.png", "--figure", "o.png")),
        (4, "no/o.png", ("foggy.png", "-o", "no/o.png")),
        (3, "o.xyz", ("foggy.png", "-o", "o.xyz")),
        (3, "mask.png", ("foggy.png", "-o", "o.png", "--mask", "mask.png")),
        (3, "no pixel", ("foggy.png", "-o", "o.png", "--mask", "black.png")),
        (3, "`tiles`", ("foggy.png", "-o", "o.png", "--local", "99")),
        (2, "--local", ("foggy.png", "-o", "o.png", "--local", "--cube", "a.cube")),
        (2, "--local", ("foggy.png", "-o", "o.png", "--local", "--save-map", "a")),
        (3, "nan.tif: `picture` must be finite", ("nan.tif", "-o", "o.tif")),
        (3, "grey", ("grey.png", "-o", "o.png", "--cube", "a.cube")),
    ],
)
def test_an_error_is_one_line_and_loses_nothing(small, capsys, code, words, arguments):
    (small / "empty.png").touch()
    (small / "text.png").write_text("no picture")
    (small / "old.png").write_bytes(b"precious")
    Image.new("L", (10, 10)).save(small / "mask.png")
    Image.new("L", (96, 72)).save(small / "black.png")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(small / "nan.tif")
    Image.new("L", (10, 10), 80).save(small / "grey.png")
    before = {p.name: p.read_bytes() for p in small.iterdir() if p.is_file()}
    assert run(small, "equalise", *arguments) == code
    _, err = capsys.readouterr()
    assert err.startswith("transportjax: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert before == {p.name: p.read_bytes() for p in small.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    "more",
    [
        ("--limit", "0.5"),
        ("--limit", "nan"),
        ("--limit", "much"),
        ("--local", "0"),
        ("--strength", "2"),
        ("--space", "lab"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_two(small, capsys, more):
    with pytest.raises(SystemExit) as stop:
        run(small, "equalise", "foggy.png", "-o", "o.png", *more)
    assert stop.value.code == 2
    assert more[0] in capsys.readouterr().err
    assert not (small / "o.png").exists()
