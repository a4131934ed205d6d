import pathlib

import numpy as np
import pytest
from clips import flickering, packets, scene, write_clip
from helpers import run

import transportjax as tj
from transportjax.apps.clips import deflicker_clip, sample_clip
from transportjax.apps.colour_map import apply_colour_map, load_colour_map
from transportjax.apps.frame_folders import folder_frames
from transportjax.apps.images import Picture, read_picture, write_picture
from transportjax.apps.video import video_frames, video_rate

pytest.importorskip("av")
PALETTE = pathlib.Path(__file__).parents[1] / "examples/pictures/scotland_plain.png"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


@pytest.fixture
def there(tmp_path):
    """A clip with sound, its frames in a folder, and a small palette."""
    frames = flickering(24)
    write_clip(
        tmp_path / "clip.mp4",
        frames,
        codec="libx264",
        pixel_format="yuv444p",
        options={"crf": "4"},
        audio=True,
    )
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(frames):
        write_picture(tmp_path / "frames" / f"{number}.png", Picture(pixels))
    pixels = read_picture(PALETTE).pixels[::8, ::8]
    write_picture(tmp_path / "palette.png", Picture(pixels))
    return tmp_path


def means(frames):
    return np.array([np.mean(frame) for frame in frames])


def roughness(frames):
    return np.sqrt(np.mean(np.diff(means(frames), 2) ** 2) / 6)


def test_deflicker_of_a_video(there, capsys):
    code = run(there, "deflicker", "clip.mp4", "-o", "o.mp4", "--figure", "f.png")
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "24 frames; shots begin at: none" in out
    before, after = (
        float(w) for w in out.split("luma: ")[1].split("\n")[0].split()[::2]
    )
    assert before > 5
    assert after < 0.3
    frames, steady = (list(video_frames(there / n)) for n in ("clip.mp4", "o.mp4"))
    assert len(steady) == 24
    assert roughness(steady) < 0.1 * roughness(frames)
    assert packets(there / "o.mp4", "audio") == packets(there / "clip.mp4", "audio")
    assert read_picture(there / "f.png").pixels.shape[1] > 600
    assert sorted(p.name for p in there.iterdir()) == sorted(
        ["clip.mp4", "f.png", "frames", "o.mp4", "palette.png"]
    )


def test_a_folder_gives_what_the_array_gives(there, capsys):
    assert run(there, "deflicker", "frames", "-o", "out", "--window", "9", "-q") == 0
    assert capsys.readouterr().out == ""
    written = np.stack([p.pixels for p in folder_frames(there / "out")])
    np.testing.assert_array_equal(written, tj.deflicker(flickering(24), window=9))


def test_a_folder_becomes_a_video_and_a_video_a_folder(there, capsys):
    base = ("deflicker", "--window", "0.36s", "-q")
    rate = ("--rate", "25")
    assert run(there, *base, "frames", "-o", "same", *rate) == 0
    assert run(there, *base, "frames", "-o", "a.mkv", "--lossless", *rate) == 0
    assert video_rate(there / "a.mkv") == 25
    frames = np.stack(list(video_frames(there / "a.mkv")))
    kept = np.stack([p.pixels for p in folder_frames(there / "same")])
    np.testing.assert_array_equal(frames, kept)
    assert run(there, *base, "frames", "-o", "a.mp4", "--rate", "30000/1001") == 0
    with pytest.raises(ValueError, match="`rate` must be given"):
        deflicker_clip(there / "frames", there / "b.mp4")
    with pytest.raises(ValueError, match="`rate` is for folders"):
        deflicker_clip(there / "a.mkv", there / "b.mp4", rate=3)

    write_clip(
        there / "turned.mp4", flickering(2), codec="libx264", rotation=90, audio=True
    )
    capsys.readouterr()
    copy = ("deflicker", "turned.mp4", "-o", "made", "--strength", "0")
    assert run(there, *copy) == 0
    assert "its sound and other streams were left out" in capsys.readouterr().out
    made = [p.pixels for p in folder_frames(there / "made")]
    for one, two in zip(made, video_frames(there / "turned.mp4"), strict=True):
        np.testing.assert_array_equal(one, np.rot90(two))  # counterclockwise


def test_kinds_of_frames_as_videos(tmp_path):
    for kind, pixels in (
        ("grey", flickering(2)[..., :1]),
        ("deep", flickering(2).astype(np.uint16) * 257),
    ):
        (tmp_path / kind).mkdir()
        for number, frame in enumerate(pixels):
            alpha = frame[..., 0] if kind == "grey" else None
            write_picture(tmp_path / kind / f"{number}.tif", Picture(frame, alpha))
        out = tmp_path / f"{kind}.mp4"
        report = deflicker_clip(tmp_path / kind, out, strength=0, rate=23.976)
        assert report.notes == ("its transparency was dropped",) * (kind == "grey")
        assert abs(video_rate(out) - 23.976) < 1e-4
        for before, after in zip(pixels, video_frames(out), strict=True):
            assert after.dtype == before.dtype
            step = 257 if kind == "deep" else 1
            assert np.abs(before.astype(int) - after).mean() < 3 * step


def test_options_are_used(there):
    base = ("deflicker", "frames", "-q", "-o")
    mask = np.zeros((48, 64, 1), np.uint8)
    mask[:20] = 255
    write_picture(there / "mask.png", Picture(mask))
    made = set()
    for number, more in enumerate(
        (
            (),
            ("--strength", "0.5"),
            ("--window", "5"),
            ("--local",),
            ("--max-slope", "1"),
            ("--cuts", "8,12"),
            ("--mask", "mask.png"),
        )
    ):
        assert run(there, *base, f"out{number}", *more) == 0, more
        made.add(read_picture(there / f"out{number}" / "11.png").pixels.tobytes())
    assert len(made) == 7


def test_strength_zero_is_a_lossless_copy(there):
    write_clip(there / "a.mkv", flickering(5), pixel_format="yuv420p10le")
    report = deflicker_clip(there / "a.mkv", there / "b.mkv", strength=0, lossless=True)
    np.testing.assert_allclose(report.before, report.after, rtol=1e-5)
    for name in ("a.mkv", "b.mkv"):
        assert len(list(video_frames(there / name))) == 5
    pairs = zip(*(video_frames(there / n) for n in ("a.mkv", "b.mkv")), strict=True)
    assert all((one == two).all() for one, two in pairs)


def test_seconds_of_a_window(there, capsys):
    base = ("deflicker", "clip.mp4", "--lossless", "-q", "-o")
    assert run(there, *base, "a.mkv", "--window", "0.36s") == 0
    assert run(there, *base, "b.mkv", "--window", "9") == 0
    assert (there / "a.mkv").stat().st_size > 0
    pairs = zip(*(video_frames(there / n) for n in ("a.mkv", "b.mkv")), strict=True)
    assert all((one == two).all() for one, two in pairs)
    assert run(there, "deflicker", "frames", "-o", "c", "--window", "1s") == 2
    assert "a folder has no rate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_video_is_graded_by_one_map(there, capsys):
    code = run(
        there,
        *("colour", "clip.mp4", "palette.png", "-o", "out.mkv", "--lossless"),
        *("--method", "mkl", "--save-map", "g.map", "--cube", "g.cube"),
        *("--figure", "f.png"),
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    before, after = (float(w) for w in out.split("steps): ")[-1].split()[:3:2])
    assert after < 0.5 * before
    fitted = load_colour_map(there / "g.map")
    for frame, graded in zip(
        video_frames(there / "clip.mp4"), video_frames(there / "out.mkv"), strict=True
    ):
        np.testing.assert_array_equal(graded, apply_colour_map(fitted, frame))
    apply = ("apply", "g.map", "clip.mp4", "-o", "again.mkv", "--lossless", "-q")
    assert run(there, *apply) == 0
    pairs = zip(
        *(video_frames(there / n) for n in ("out.mkv", "again.mkv")), strict=True
    )
    assert all((one == two).all() for one, two in pairs)
    assert run(there, "apply", "g.cube", "frames", "-o", "graded", "-q") == 0
    assert len(list((there / "graded").iterdir())) == 24
    for name in ("f.png", "g.cube"):
        assert (there / name).stat().st_size > 0


def test_a_table_of_a_grey_clip_is_refused_before_it_is_written(there, capsys):
    (there / "full").mkdir()
    for number in range(3):
        grey = np.full((6, 8, 1), 40 * number, np.uint8)
        write_picture(there / "full" / f"{number}.png", Picture(grey))
    arguments = ("full", "full/2.png", "-o", "out", "--cube", "g.cube")
    assert run(there, "colour", *arguments) == 3
    assert "is grey; --cube" in capsys.readouterr().err
    assert not (there / "out").exists()


def test_the_sample_is_of_the_whole_clip(there):
    frames = np.repeat(np.arange(100, dtype=np.uint8), 12).reshape(100, 2, 2, 3)
    for number, pixels in enumerate(frames):
        write_picture(
            there / "frames" / f"{number}.png", Picture(pixels), overwrite=True
        )
    sample = sample_clip(there / "frames", num_frames=8)
    chosen = np.unique(sample)
    assert 8 <= len(chosen) < 16
    assert chosen[0] == 0
    assert np.ptp(np.diff(chosen)) == 0
    assert chosen[-1] + chosen[1] >= 100
    assert sample.dtype == np.uint8
    mask = np.zeros((2, 2), bool)
    mask[0, 1] = True
    assert len(sample_clip(there / "frames", num_frames=8, mask=mask)) == len(chosen)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (4, "absent.mp4", ("absent.mp4", "-o", "o.mp4")),
        (3, "empty.mp4: is empty", ("empty.mp4", "-o", "o.mp4")),
        (3, "text.mp4: cannot be read as a video", ("text.mp4", "-o", "o.mp4")),
        (3, "cut.mp4: cannot", ("cut.mp4", "-o", "o.mp4")),
        (3, "palette.png: cannot be read as a video", ("palette.png", "-o", "o.mp4")),
        (3, "o.gif: has none of the endings", ("clip.mp4", "-o", "o.gif")),
        (3, "must end in .mkv", ("clip.mp4", "-o", "o.mp4", "--lossless")),
        (4, "--force", ("clip.mp4", "-o", "old.mp4")),
        (4, "is an input", ("clip.mp4", "-o", "clip.mp4")),
        (4, "no/o.mp4", ("clip.mp4", "-o", "no/o.mp4")),
        (4, "not empty", ("clip.mp4", "-o", "frames")),
        (4, "there is no folder no", ("clip.mp4", "-o", "no/frames")),
        (2, "add --rate 24", ("frames", "-o", "o.mp4")),
        (2, "a video has its own", ("clip.mp4", "-o", "o.mp4", "--rate", "24")),
        (4, "o.gif is neither", ("frames", "-o", "o.gif")),
        (2, "are for videos", ("frames", "-o", "o", "--lossless")),
        (4, "is an input", ("frames", "-o", "frames", "--force")),
        (4, "not empty", ("frames", "-o", "full")),
        (3, "holds no frames", ("nothing", "-o", "o")),
        (3, "numbers of frames, 0 to 23", ("clip.mp4", "-o", "o.mp4", "--cuts", "99")),
        (3, "mask.png: must have the size", ("clip.mp4", "-o", "o", "--mask")),
    ],
)
def test_an_error_is_one_line_and_loses_nothing(there, capsys, code, words, arguments):
    (there / "empty.mp4").touch()
    (there / "text.mp4").write_text("no video" * 100)
    (there / "cut.mp4").write_bytes((there / "clip.mp4").read_bytes()[:4000])
    (there / "old.mp4").write_bytes(b"precious")
    for name in ("full", "nothing"):
        (there / name).mkdir()
    (there / "full" / "a.png").write_bytes(b"precious")
    write_picture(there / "mask.png", Picture(np.zeros((5, 5, 1), np.uint8)))
    if arguments[-1] == "--mask":
        arguments = (*arguments[:2], "o.mp4", "--mask", "mask.png")
    before = {p: p.read_bytes() for p in there.rglob("*") if p.is_file()}
    assert run(there, "deflicker", *arguments) == code
    out, err = capsys.readouterr()
    assert err.startswith("transportjax: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert before == {p: p.read_bytes() for p in there.rglob("*") if p.is_file()}
    assert not list(there.glob(".*"))


@pytest.mark.parametrize(
    "more",
    [
        ("--window", "0"),
        ("--window", "long"),
        ("--strength", "2"),
        ("--max-slope", "0.5"),
        ("--cuts", "a,b"),
        ("--crf", "99"),
        ("--rate", "1/0"),
    ],
)
def test_wrong_usage_is_exit_code_two(there, capsys, more):
    with pytest.raises(SystemExit) as stop:
        run(there, "deflicker", "clip.mp4", "-o", "o.mp4", *more)
    assert stop.value.code == 2
    assert more[0] in capsys.readouterr().err


def test_pairs_are_no_videos(there, capsys):
    pairs = ("--method", "l2", "--pairs")
    assert run(there, "colour", "clip.mp4", "palette.png", "-o", "o.mp4", *pairs) == 2
    assert "--pairs is for pictures" in capsys.readouterr().err


def test_one_frame_and_still_frames(there):
    for name, frames in (("one.mkv", [scene()]), ("still.mkv", [scene()] * 9)):
        write_clip(there / name, frames, pixel_format="yuv444p")
        out = there / f"out-{name}"
        report = deflicker_clip(there / name, out, lossless=True)
        assert len(report.before) == len(frames)
        for before, after in zip(
            video_frames(there / name), video_frames(out), strict=True
        ):
            assert np.abs(before.astype(int) - after).max() <= 2
