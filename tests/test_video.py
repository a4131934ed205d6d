import builtins
from fractions import Fraction

import numpy as np
import pytest
from clips import flickering, packets, scene, write_clip

from transportjax.apps import video, video_planes
from transportjax.apps.flicker import frame_law
from transportjax.apps.video import VideoError, video_frames, video_rate
from transportjax.apps.video_planes import Planes, planes_law, steady_planes
from transportjax.apps.video_write import rewrite_video

av = pytest.importorskip("av")


def same(number, frame):
    return frame


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mkv", flickering(8))


def test_frames_come_as_they_are(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 31, 45, 3), np.uint8)
    path = write_clip(tmp_path / "a b:%d.mkv", frames, pixel_format="bgr0")
    np.testing.assert_array_equal(np.stack(list(video_frames(path))), frames)
    assert video_rate(path) == 25
    deep = np.random.default_rng(0).integers(0, 65536, (3, 16, 20, 3), np.uint16)
    path = write_clip(tmp_path / "deep.mkv", deep, pixel_format="gbrp16le")
    read = np.stack(list(video_frames(path)))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, deep)


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p16le", "gray", "bgr0"],
)
@pytest.mark.parametrize("rgb", [False, True])
def test_a_lossless_copy_is_bit_for_bit(tmp_path, pixel_format, rgb):
    source = tmp_path / "clip.mkv"
    write_clip(source, flickering(4, (34, 46)), pixel_format=pixel_format)
    out = tmp_path / "out.mkv"
    assert rewrite_video(source, out, same, rgb=rgb, lossless=True) == ()
    before, after = (np.stack(list(video_frames(p))) for p in (source, out))
    np.testing.assert_array_equal(before, after)
    with av.open(str(out)) as container:
        kept = container.streams.video[0].pix_fmt
        assert kept == pixel_format or (rgb and kept in ("bgr0", "gbrp16le"))


def test_times_audio_rotation_tags_and_texts_are_kept(tmp_path):
    times = [0, 3, 4, 9, 11, 12, 20, 33]  # far from constant
    source = write_clip(
        tmp_path / "clip.mp4",
        flickering(8),
        codec="libx264",
        times=[100 * t for t in times],
        time_base=Fraction(1, 1000),
        audio=True,
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        colorspace=5,
        color_primaries=5,
        color_trc=6,
        color_range=1,
    )
    for name in ("out.mp4", "out.mov", "out.mkv"):
        out = tmp_path / name
        assert rewrite_video(source, out, same) == ()
        assert packets(out, "audio")[1] == packets(source, "audio")[1]
        moved = np.concatenate(
            [
                np.array(packets(out, kind)[0]) - packets(source, kind)[0]
                for kind in ("audio", "video")
            ]
        )
        # Matroska counts milliseconds, and that of older FFmpeg no times below zero,
        # where this sound begins: all is moved by that
        most = 1.1e-3 if name == "out.mkv" else 1e-4
        assert np.ptp(moved) < most
        assert moved.max() < (1024 / 44100 if name == "out.mkv" else 0) + most
        with av.open(str(source)) as one, av.open(str(out)) as two:
            first, second = one.streams.video[0], two.streams.video[0]
            assert second.sample_aspect_ratio == Fraction(4, 3)
            for tag in ("colorspace", "color_primaries", "color_trc", "color_range"):
                assert getattr(second.codec_context, tag) == getattr(
                    first.codec_context, tag
                )
            frames = [next(c.decode(video=0)) for c in (one, two)]
            assert frames[0].rotation == frames[1].rotation == 90


def test_the_index_comes_first(clip, tmp_path):
    for name in ("a.mp4", "a.mov"):
        rewrite_video(clip, tmp_path / name, same)
        data = (tmp_path / name).read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_light_of_hdr_is_kept_or_told_of(tmp_path):
    light = (
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
        "L(10000000,50):max-cll=1000,400:hdr10=1:log-level=none"
    )
    source = write_clip(
        tmp_path / "hdr.mp4",
        flickering(1).astype(np.uint16) * 257,
        codec="libx265",
        pixel_format="yuv420p10le",
        options={"x265-params": light + ":bframes=0"},
        color_trc=16,
        color_primaries=9,
    )

    def told(path):
        with av.open(str(path)) as container:
            data = next(container.decode(video=0)).side_data
            kinds = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
            return [data.get(kind) and bytes(data.get(kind)) for kind in kinds]

    assert rewrite_video(source, tmp_path / "a.mp4", same, rgb=False) == ()
    assert all(told(source))
    assert told(tmp_path / "a.mp4") == told(source)
    dropped, hdr = rewrite_video(source, tmp_path / "b.mkv", same, lossless=True)
    assert "mastering display was dropped" in dropped
    assert hdr.startswith("it is HDR (PQ)")
    assert told(tmp_path / "b.mkv") == [None, None]


@pytest.mark.parametrize("num", [1, 2, 4])
def test_ten_bits_stay_ten_bits(tmp_path, num):
    frames = flickering(num).astype(np.uint16) * 257
    source = write_clip(tmp_path / "a.mkv", frames, pixel_format="yuv420p10le")
    for rgb in (False, True):
        out = tmp_path / f"out{rgb}.mp4"
        assert rewrite_video(source, out, same, rgb=rgb) == ()
        with av.open(str(out)) as container:
            assert container.streams.video[0].pix_fmt == "yuv420p10le"
        assert packets(out, "video")[0] == [i / 25 for i in range(num)]
        before, after = (np.stack(list(video_frames(p))) for p in (source, out))
        assert np.abs(before.astype(int) - after).mean() < 257 * 2.5


def test_what_is_encoded_looks_the_same(clip, tmp_path):
    for name, rgb in (("a.mp4", False), ("b.mp4", True)):
        rewrite_video(clip, tmp_path / name, same, rgb=rgb)
        before, after = (
            np.stack(list(video_frames(p))).astype(int) for p in (clip, tmp_path / name)
        )
        assert np.abs(before - after).mean() < 2.5  # of strong colours, subsampled
        assert np.abs((before - after).mean((0, 1, 2))).max() < 0.5  # no tint


def test_odd_sizes_and_transparency_are_told_of(tmp_path):
    source = write_clip(tmp_path / "odd.mkv", flickering(3, (33, 47)))
    (note,) = rewrite_video(source, tmp_path / "o.mp4", same, rgb=False)
    assert note == "its pixels were stored as yuv444p instead of yuv420p"
    assert next(video_frames(tmp_path / "o.mp4")).shape == (33, 47, 3)
    source = write_clip(tmp_path / "alpha.mkv", flickering(3), pixel_format="yuva420p")
    notes = rewrite_video(source, tmp_path / "p.mkv", same, lossless=True)
    assert notes == ("its transparency was dropped",)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
def test_a_file_that_ends_early_is_an_error(tmp_path, name):
    """Never fewer frames without a word, wherever it is cut."""
    codec = "mpeg4" if name == "clip.avi" else "libx264"
    options = {} if name == "clip.avi" else {"g": "5"}
    frames = flickering(40)
    whole = write_clip(tmp_path / name, frames, codec=codec, options=options)
    assert len(list(video_frames(whole))) == 40
    data = whole.read_bytes()
    refused = 0
    for share in (0.2, 0.5, 0.8, 0.95):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(data[: int(share * len(data))])
        try:
            # a transport stream does not say how long it is
            assert len(list(video_frames(cut))) == 40 or name == "clip.ts"
        except VideoError:
            refused += 1
    assert refused >= 3 or name == "clip.ts"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize(
    ("words", "content"),
    [
        ("is empty", b""),
        ("cannot be read as a video", b"no video at all, but text" * 50),
        # a playlist may name other files, and addresses
        ("cannot be read as a video", b"ffconcat version 1.0\nfile clip.mkv\n"),
        (
            "cannot be read as a video",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nclip.mkv\n#EXT-X-ENDLIST\n",
        ),
    ],
)
def test_other_files_are_refused(clip, words, content):
    path = clip.parent / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"other.mp4: {words}"):
        list(video_frames(path))


def test_missing_files_folders_and_pictures(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(video_frames(tmp_path / "absent.mp4"))
    with pytest.raises(IsADirectoryError):
        list(video_frames(tmp_path))
    av.VideoFrame.from_ndarray(scene()).save(str(tmp_path / "a.png"))
    with pytest.raises(VideoError, match="a.png: cannot be read as a video"):
        list(video_frames(tmp_path / "a.png"))


def test_outputs_are_whole_or_not_there(clip, tmp_path):
    for path, options, words in (
        (tmp_path / "a.webm", {}, "has none of the endings .mp4"),
        (tmp_path / "a.mp4", {"lossless": True}, "must end in .mkv"),
    ):
        with pytest.raises(VideoError, match=words):
            rewrite_video(clip, path, same, **options)
    with pytest.raises(ValueError, match="quality"):
        rewrite_video(clip, tmp_path / "a.mp4", same, quality=99)

    def interrupted(number, frame):
        if number == 5:
            raise KeyboardInterrupt
        return frame

    (tmp_path / "old.mp4").write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt):
        rewrite_video(clip, tmp_path / "old.mp4", interrupted, overwrite=True)
    with pytest.raises(FileExistsError):
        rewrite_video(clip, tmp_path / "old.mp4", same)
    assert (tmp_path / "old.mp4").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mkv", "old.mp4"]


def test_a_grey_video_may_become_one_in_colour(tmp_path):
    source = write_clip(tmp_path / "a.mkv", flickering(2), pixel_format="gray")

    def red(number, pixels):
        return np.minimum(pixels, np.uint8([255, 90, 90]))

    assert rewrite_video(source, tmp_path / "b.mp4", red) == ()
    pairs = zip(*(video_frames(tmp_path / n) for n in ("a.mkv", "b.mp4")), strict=True)
    for before, after in pairs:
        assert np.abs(red(0, before).astype(int) - after).mean() < 4


def test_a_missing_library_is_named(clip, monkeypatch):
    def without(name, *arguments, **options):
        if name == "av":
            raise ImportError(name)
        return real(name, *arguments, **options)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VideoError, match=r"pip install 'transportjax\[video\]'"):
        list(video_frames(clip))


def planes(depth=8, full=False, shape=(40, 60)):
    rng = np.random.default_rng(0)
    dtype = np.uint8 if depth == 8 else np.uint16
    black, white = (
        (0, (1 << depth) - 1) if full else (16 << depth - 8, 235 << depth - 8)
    )
    luma = rng.integers(black, white + 1, shape).astype(dtype)
    parts = rng.integers(white // 4, 3 * white // 4, (2, shape[0] // 2, shape[1] // 2))
    return Planes(luma, tuple(parts.astype(dtype)), black, white, depth)


@pytest.mark.parametrize("depth", [8, 10, 16])
@pytest.mark.parametrize("full", [False, True])
def test_planes_have_the_law_of_their_luma(depth, full):
    frame = planes(depth, full)
    unit = (frame.luma - float(frame.black)) / (frame.white - frame.black)
    law, expected = planes_law(frame, cells=(2, 3)), frame_law(unit, cells=(2, 3))
    for one, two in zip(law, expected, strict=True):
        assert np.abs(np.asarray(one) - np.asarray(two)).max() < 0.003


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("local", [False, True])
def test_a_gain_scales_luma_and_chroma(depth, local):
    frame = planes(depth)
    nodes = np.linspace(0, 1, 129, dtype=np.float32)
    curve = -0.2 * nodes
    curve = np.tile(curve, (7, 9, 1)) if local else curve
    moved = steady_planes(frame, curve)
    expected = frame.black + 0.8 * (frame.luma.astype(float) - frame.black)
    assert np.abs(moved.luma - expected).max() < 1.01
    neutral = 1 << (depth - 1)
    for before, after in zip(frame.chroma, moved.chroma, strict=True):
        scaled = 0.8 * (before.astype(float) - neutral)
        near = np.abs(before.astype(float) - neutral) < 0.1 * neutral
        off = np.abs(after.astype(float) - neutral - scaled)[near]
        assert off.max() < 2 << (depth - 8)
    zero = steady_planes(frame, 0 * curve)
    np.testing.assert_array_equal(zero.luma, frame.luma)
    assert video_planes.steady_planes(frame._replace(chroma=()), curve).chroma == ()


def test_names_of_videos():
    assert video.is_video_name("a.MP4")
    assert not video.is_video_name("a.png")
