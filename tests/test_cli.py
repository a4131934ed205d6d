import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import run
from PIL import Image, ImageCms, PngImagePlugin

from transportjax.apps.images import Picture, read_picture, write_picture

PICTURES = pathlib.Path(__file__).parents[1] / "examples" / "pictures"
SOURCE, PALETTE = (str(PICTURES / f"scotland_{n}.png") for n in ("house", "plain"))


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


@pytest.fixture
def small(tmp_path):
    """A small source and palette in a folder of their own."""
    for name, path in (("source.png", SOURCE), ("palette.png", PALETTE)):
        with Image.open(path) as image:
            image.resize((96, 72)).save(tmp_path / name)
    return tmp_path


def test_the_main_job(small, capsys):
    code = run(
        small,
        *("colour", "source.png", "palette.png", "-o", "out.png"),
        *("--save-map", "grade.map", "--cube", "grade.cube", "--figure", "figure.png"),
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "distance to the palette" in out
    before, after = (float(w) for w in out.split("steps): ")[1].split()[:3:2])
    assert before > 25
    assert after < 2
    result = read_picture(small / "out.png").pixels
    assert result.shape == (72, 96, 3)
    assert read_picture(small / "figure.png").pixels.shape[1] > 600
    assert run(small, "apply", "grade.map", "source.png", "-o", "again.png") == 0
    assert (read_picture(small / "again.png").pixels == result).all()
    assert run(small, "apply", "grade.cube", "source.png", "-o", "table.png") == 0
    table = read_picture(small / "table.png").pixels.astype(int)
    assert np.abs(table - result).mean() < 8
    assert sorted(p.name for p in small.iterdir()) == sorted(
        [
            "again.png",
            "figure.png",
            "grade.cube",
            "grade.map",
            "out.png",
            "palette.png",
            "source.png",
            "table.png",
        ]
    )


def test_quiet_is_quiet_and_options_are_used(small, capsys):
    base = ("colour", "source.png", "palette.png", "-q", "--steps", "2")
    assert run(small, *base, "-o", "plain.png") == 0
    for name, more in {
        "strength": ("--strength", "0.5"),
        "space": ("--space", "lab"),
        "luma": ("--space", "luma"),
        "mkl": ("--method", "mkl"),
        "flow": ("--method", "flow"),
        "regrain": ("--regrain",),
        "regrain2": ("--regrain", "5"),
        "mask": ("--mask", "source.png"),
        "learn": ("--palette-mask", "palette.png"),
    }.items():
        assert run(small, *base, *more, "-o", f"{name}.png") == 0, name
    assert capsys.readouterr().out == ""
    pictures = [read_picture(p).pixels.tobytes() for p in small.glob("*.png")]
    assert len(set(pictures)) == len(pictures)


def test_a_colour_decision_goes_to_xml_and_back(small, capsys):
    names = ("colour", "source.png", "palette.png", "-q", "-o", "out.png", "--force")
    cdl = ("--method", "cdl", "--cdl", "grade.cdl")
    assert run(small, *names, *cdl, "--save-map", "grade.map") == 0
    result = read_picture(small / "out.png").pixels
    for grade, steps in (("grade.cdl", 1), ("grade.map", 0)):  # 9 digits are written
        assert run(small, "apply", grade, "source.png", "-q", "-o", f"{grade}.png") == 0
        again = read_picture(small / f"{grade}.png").pixels
        assert np.abs(again.astype(int) - result).max() <= steps
    for wrong, message in (
        (("--cdl", "a.cdl"), "needs --method cdl"),
        ((*cdl[:2], "--cdl", "a.xml"), "a.xml: must end in .cdl, .ccc, .cc"),
        ((*cdl[:2], "--cdl", "a.cdl", "--strength", "0.5"), "at its whole strength"),
        ((*cdl[:2], "--space", "lab"), "works with --space rgb only"),
    ):
        assert run(small, *names, *wrong) == 2
        assert message in capsys.readouterr().err
    assert not (small / "a.cdl").exists()
    (small / "bad.cc").write_text("<a/>")
    assert run(small, "apply", "bad.cc", "source.png", "-o", "b.png") == 3
    assert "bad.cc: holds no ColorCorrection" in capsys.readouterr().err


def test_depth_transparency_and_metadata_are_kept(small):
    pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    alpha = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
    write_picture(small / "deep.png", Picture(deep, alpha))
    assert run(small, "colour", "deep.png", "palette.png", "-o", "o.png", "-q") == 0
    result = read_picture(small / "o.png")
    assert result.pixels.dtype == np.uint16
    assert len(np.unique(result.pixels)) > 1000
    np.testing.assert_array_equal(result.alpha, alpha)

    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(small / "source.png") as image:
        image.save(
            small / "about.png", pnginfo=text, dpi=(300, 300), icc_profile=profile
        )
    assert run(small, "colour", "about.png", "palette.png", "-o", "p.png", "-q") == 0
    with Image.open(small / "p.png") as image:
        kept = image.info
    assert kept["Author"] == "somebody"
    assert kept["icc_profile"] == profile
    assert kept["dpi"] == pytest.approx((300, 300), abs=0.1)


def _bomb(path):
    """A PNG that claims to be 60000 x 60000."""
    data = bytearray(pathlib.Path(SOURCE).read_bytes())
    import struct
    import zlib

    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (4, "absent.png", ("colour", "absent.png", "palette.png", "-o", "o.png")),
        (3, "empty.png", ("colour", "empty.png", "palette.png", "-o", "o.png")),
        (3, "text.png", ("colour", "source.png", "text.png", "-o", "o.png")),
        (3, "cut.png", ("colour", "cut.png", "palette.png", "-o", "o.png")),
        (3, "bomb.png", ("colour", "bomb.png", "palette.png", "-o", "o.png")),
        (4, "folder", ("colour", "folder", "palette.png", "-o", "o.png")),
        (4, "folder", ("colour", "source.png", "palette.png", "-o", "folder")),
        (4, "no/o.png", ("colour", "source.png", "palette.png", "-o", "no/o.png")),
        (4, "--force", ("colour", "source.png", "palette.png", "-o", "old.png")),
        (4, "input", ("colour", "source.png", "palette.png", "-o", "source.png")),
        (4, "twice", ("colour", "source.png", "palette.png", "-o", "o", "--cube", "o")),
        (3, "o.xyz", ("colour", "source.png", "palette.png", "-o", "o.xyz")),
        (
            3,
            "mask.png",
            (
                "colour",
                "source.png",
                "palette.png",
                "-o",
                "o.png",
                "--mask",
                "mask.png",
            ),
        ),
        (
            3,
            "is grey",
            ("colour", "mask.png", "mask.png", *["-o", "o.png", "--cube", "c"]),
        ),
        (3, "text.png", ("apply", "text.png", "source.png", "-o", "o.png")),
        (3, "empty.cube", ("apply", "empty.cube", "source.png", "-o", "o.png")),
        (4, "absent.map", ("apply", "absent.map", "source.png", "-o", "o.png")),
    ],
)
def test_an_error_is_one_line_and_loses_nothing(small, capsys, code, words, arguments):
    (small / "empty.png").touch()
    (small / "empty.cube").touch()
    (small / "text.png").write_text("no picture")
    (small / "cut.png").write_bytes(pathlib.Path(SOURCE).read_bytes()[:40_000])
    _bomb(small / "bomb.png")
    (small / "folder").mkdir()
    (small / "old.png").write_bytes(b"precious")
    Image.new("L", (10, 10)).save(small / "mask.png")
    before = {p.name: p.read_bytes() for p in small.iterdir() if p.is_file()}
    assert run(small, *arguments) == code
    out, err = capsys.readouterr()
    assert err.startswith("transportjax: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert before == {p.name: p.read_bytes() for p in small.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    "more",
    [
        ("--strength", "1.5"),
        ("--strength", "much"),
        ("--steps", "0"),
        ("--method", "magic"),
        ("--space", "hsv"),
        ("--regrain", "-1"),
        ("--cube-size", "4"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_two(small, capsys, more):
    with pytest.raises(SystemExit) as stop:
        run(small, "colour", "source.png", "palette.png", "-o", "o.png", *more)
    assert stop.value.code == 2
    assert more[0] in capsys.readouterr().err
    assert not (small / "o.png").exists()


def test_a_full_disk_leaves_the_old_file(small, capsys, monkeypatch):
    (small / "old.png").write_bytes(b"precious")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    base = ("colour", "source.png", "palette.png", "--steps", "2", "-q")
    assert run(small, *base, "-o", "old.png", "--force") == 4
    assert "old.png" in capsys.readouterr().err
    assert (small / "old.png").read_bytes() == b"precious"
    assert sorted(p.name for p in small.iterdir()) == [
        "old.png",
        "palette.png",
        "source.png",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_clean(small, number):
    """A signal while it works: exit code 130, one line, nothing written."""
    code = (
        "import sys, time, transportjax.apps.colour as c, transportjax.cli as cli\n"
        "def slow(*a, **k):\n"
        "    print('working', flush=True); time.sleep(60)\n"
        "c.fit_colour_map = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ("colour", "source.png", "palette.png", "-o", "o.png")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=small,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "transportjax: error: interrupted; nothing was written"
    assert sorted(p.name for p in small.iterdir()) == ["palette.png", "source.png"]


@pytest.mark.slow
def test_the_second_run_compiles_nothing(small):
    """As a command: the cache of compiled programs is on, in the user's folder."""
    cache = small / "cache"
    for name in ("one.png", "two.png"):
        subprocess.run(
            [sys.executable, "-m", "transportjax", "colour", "source.png"]
            + ["palette.png", "-o", name, "-q"],
            cwd=small,
            check=True,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("JAX_")},
                "XDG_CACHE_HOME": str(cache),
                "JAX_PLATFORMS": "cpu",
            },
        )
        kept = sorted(p.name for p in cache.rglob("*-cache"))
        if name == "one.png":
            first = kept
    assert len(first) > 3
    assert kept == first
    assert (small / "one.png").read_bytes() == (small / "two.png").read_bytes()


def test_a_reader_that_goes_away_is_no_error(small):
    command = [sys.executable, "-m", "transportjax", "palette", "source.png"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command,
        cwd=small,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0
