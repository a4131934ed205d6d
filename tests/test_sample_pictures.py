"""The command `sample` with folders and arrays of pictures."""

import numpy as np
import pytest
from helpers import run

from transportjax.apps import (
    Picture,
    Table,
    read_picture,
    read_pictures,
    write_picture,
    write_pictures,
    write_table,
)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


def bars(num, seed=0):
    lit = np.random.default_rng(seed).random((num, 4, 1)) < 0.5
    return np.repeat(np.where(lit, 200, 10), 4, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "bars", bars(200))
    (folder / "bars" / ".DS_Store").write_bytes(b"\0")
    (folder / "bars" / "labels.txt").write_text("1 2 3")
    (folder / "bars" / "more").mkdir()
    write_pictures(folder / "other", bars(9, seed=1))
    write_pictures(folder / "wide", np.zeros((3, 4, 5), np.uint8))
    write_pictures(folder / "one", bars(1))
    write_pictures(folder / "equal", np.zeros((20, 4, 4), np.uint8))
    for name in ("empty", "parent", "parent/a"):
        (folder / name).mkdir()
    for name in ("damaged", "foreign", "mixed", "sized", "clear"):
        write_pictures(folder / name, bars(2))
    whole = (folder / "damaged" / "0002.png").read_bytes()
    (folder / "damaged" / "0002.png").write_bytes(whole[:50])
    (folder / "foreign" / "program.exe").write_bytes(b"MZ\0\0")
    write_picture(folder / "mixed" / "3.png", Picture(np.zeros((4, 4, 3), np.uint8)))
    write_picture(folder / "sized" / "3.png", Picture(np.zeros((4, 6, 1), np.uint8)))
    glass = Picture(np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.uint8))
    write_picture(folder / "clear" / "3.png", glass)
    np.save(folder / "bars.npy", bars(200))
    np.savez(folder / "two.npz", a=bars(200), b=np.zeros(3))
    np.save(folder / "floats.npy", bars(30) / 255)
    (folder / "plain").write_text("")
    write_table(folder / "table.csv", Table(np.zeros((3, 2))))
    return folder


def test_the_main_job(folder, tmp_path, capsys):
    files = ("-o", tmp_path / "new", "--figure", tmp_path / "sheet.png")
    saved = ("--save-flow", tmp_path / "flow.tjx", "--steps", 2, "--num", 12)
    assert run(folder, "sample", "bars", *files, *saved) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "200 pictures, 4 x 4 pixels, 16 values of 8 bits" in text
    assert "bits per dimension of the pictures held out" in text
    for name in (".DS_Store", "labels.txt", "more"):
        assert name in text
    found = read_pictures(tmp_path / "new")
    assert found.pixels.shape == (12, 4, 4)
    assert found.names[0] == "0001.png"
    assert read_picture(tmp_path / "new" / "0001.png").meta.mode == "L"
    assert read_picture(tmp_path / "sheet.png").pixels.shape[1] > 1000
    # the saved flow draws the same, into an array
    again = ("sample", "--flow", tmp_path / "flow.tjx", "--num", 12, "-q")
    assert run(folder, *again, "-o", tmp_path / "new.npz") == 0
    with np.load(tmp_path / "new.npz") as file:
        np.testing.assert_array_equal(file["samples"], found.pixels)
    # a folder that holds something is left alone, or written into
    assert run(folder, *again, "-o", tmp_path / "new") == 4
    assert "not empty" in capsys.readouterr().err
    assert run(folder, *again, "-o", tmp_path / "new", "--force", "--seed", 1) == 0
    assert (read_pictures(tmp_path / "new").pixels != found.pixels).any()
    # scores, with the names of the files
    scores = ("--score", "other", "--save-scores", tmp_path / "scores.csv")
    assert run(folder, "sample", "-q", "--flow", tmp_path / "flow.tjx", *scores) == 0
    assert "bits per dimension" in capsys.readouterr().out
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "file,log_likelihood"
    assert lines[1].startswith("0001.png,-")
    assert len(lines) == 10
    for name in ("wide", "table.csv"):
        assert run(folder, *again, "--score", name) == 3
        assert name in capsys.readouterr().err


def test_training_and_arrays(folder, tmp_path, capsys):
    arguments = ("two.npz", "--array", "a", "-o", tmp_path / "o.npy", "--num", 3)
    assert run(folder, "sample", *arguments, "--steps", 2, "--train", 8) == 0
    assert "under the trained flow" in capsys.readouterr().out
    assert np.load(tmp_path / "o.npy").shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "--within-range is for tables", "bars -o o --within-range"),
        (2, "--header and --no-header are for tables", "bars -o o --header"),
        (2, "written to a folder", "bars -o o.png"),
        (3, "holds no pictures", "empty -o o"),
        (3, "but folders, a first: name one of them", "parent -o o"),
        (3, "one: a law of pictures needs at least 10", "one -o o"),
        (3, "equal: all pictures are equal", "equal -o o"),
        (3, "0002.png: ", "damaged -o o"),
        (3, "program.exe: ", "foreign -o o"),
        (3, "3.png: is 4 x 4 pixels, 8-bit colour, but 0001.png is", "mixed -o o"),
        (3, "3.png: is 6 x 4 pixels, 8-bit grey, but", "sized -o o"),
        (3, "3.png: is transparent in parts", "clear -o o"),
        (3, "floats.npy: `pictures` must hold whole numbers", "floats.npy -o o"),
        (3, "two.npz: holds several arrays", "two.npz -o o.csv"),
        (3, "must be a table", "table.csv --score bars --save-flow o"),
        (4, "is an input", "bars -o bars --force"),
        (4, "is a file", "bars -o plain --force"),
        (4, "not empty", "bars -o other"),
        (4, "there is no folder", "bars -o absent/o"),
    ],
)
def test_errors(folder, capsys, code, words, arguments):
    assert run(folder, "sample", *arguments.split()) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (folder / "o").exists()
