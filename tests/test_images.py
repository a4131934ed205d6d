"""Still pictures in and out: modes, metadata, orientation, depth, refusals."""

import contextlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from pictures import (
    GREY_PROFILE,
    PROFILE,
    XMP,
    again,
    assert_same,
    bomb,
    encoded,
    exif_block,
    full_metadata,
    noise,
    saved,
    smooth,
)
from PIL import Image

from transportjax.apps import exif
from transportjax.apps.images import (
    Metadata,
    Picture,
    PictureError,
    from_unit,
    read_picture,
    write_picture,
)

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P", "PA"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_modes_against_pillow(tmp_path, mode, ending):
    if (mode, ending) == ("PA", ".png"):
        pytest.skip("PNG has no palette with alpha apart from it")
    image = Image.fromarray(noise(13, 17, 4))
    if mode in ("P", "PA"):
        image = image.convert("RGB").convert("P")
    image = image.convert(mode)
    path = saved(image, tmp_path / f"in{ending}")
    picture = read_picture(path)
    stored = Image.open(path)
    assert picture.meta.mode == stored.mode
    grey = mode in ("L", "LA", "1")
    with_alpha = stored.mode in ("LA", "RGBA", "PA")
    oracle = np.asarray(stored.convert(("L" if grey else "RGB") + "A" * with_alpha))
    oracle = oracle.reshape(13, 17, -1)
    channels = 1 if grey else 3
    np.testing.assert_array_equal(picture.pixels, oracle[..., :channels])
    if with_alpha:
        np.testing.assert_array_equal(picture.alpha, oracle[..., -1])
    else:
        assert picture.alpha is None
    expanded = any("palette" in note for note in picture.meta.notes)
    assert expanded == (mode in ("P", "PA"))
    for out in (".png", ".tiff"):
        assert_same(again(picture, tmp_path / f"out{out}"), picture)
        oracle_mode = ("L" if grey else "RGB") + "A" * with_alpha
        with Image.open(tmp_path / f"out{out}") as reopened:
            assert reopened.mode == oracle_mode
            np.testing.assert_array_equal(
                np.asarray(reopened).reshape(oracle.shape), oracle
            )


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp", ".bmp", ".ppm"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 301), (301, 1), (23, 31)])
def test_lossless_formats_keep_odd_sizes(tmp_path, ending, shape):
    picture = Picture(noise(*shape, 3))
    back = again(picture, tmp_path / f"a{ending}", quality=100)
    np.testing.assert_array_equal(back.pixels, picture.pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_and_png_keep_metadata(tmp_path, dtype):
    picture = Picture(noise(6, 5, 3, dtype=dtype), meta=full_metadata())
    for ending in (".tif", ".png"):
        if (dtype, ending) == ("float32", ".png"):
            continue
        path = tmp_path / f"a{ending}"
        back = again(picture, path)
        assert_same(back, picture)
        meta = back.meta
        assert (meta.icc_profile, meta.xmp) == (PROFILE, XMP.replace(b"'6'", b"'1'"))
        assert meta.dpi == pytest.approx((300, 150), rel=1e-4)
        if ending == ".png":
            assert meta.text == picture.meta.text
            assert meta.exif == exif.upright(picture.meta.exif)[0]
        else:
            old, new = (exif.read_block(m.exif)[1] for m in (picture.meta, meta))
            assert new[34665] == old[34665]
            assert new[34853] == old[34853]
            assert new[271] == old[271]
            text = "Title: Fr\xfchling\n\u6625 spring".encode() + b"\0"
            assert new[270].data == text
        twice = again(back, tmp_path / f"b{ending}")  # nothing changes any more
        assert twice.meta == meta


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".avif"])
def test_pillow_reads_our_metadata(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    lost = write_picture(path, Picture(smooth(16, 20), meta=full_metadata()))
    name = ending[1:].upper()
    words = ("the texts", "the resolution") if name in ("WEBP", "AVIF") else ()
    assert lost == tuple(f"{name} cannot hold {word}" for word in words)
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == PROFILE
        tags = image.getexif()
        assert tags[271] == "Lumi\xe8r"
        assert tags.get_ifd(34665)[36867] == "1895:12:28 21:00:00"
        assert tags.get_ifd(34853)[2] == (48.0, 52.0, 2.0)
        name = "XML:com.adobe.xmp" if ending == ".png" else "xmp"
        xmp = image.info[name]
        assert (xmp.encode() if isinstance(xmp, str) else xmp) == XMP
        if ending in (".png", ".jpg", ".tif"):
            assert image.info["dpi"] == pytest.approx((300, 150), rel=1e-4)
        if ending == ".png":
            assert image.text["Title"] == "Fr\xfchling"
            assert image.text["Comment"] == "\u6625 spring"
        if ending == ".jpg":
            comment = "Title: Fr\xfchling\n\u6625 spring"
            assert image.info["comment"].decode() == comment


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp"])
def test_we_read_pillows_metadata(tmp_path, ending):
    block = exif_block()
    options = {"exif": b"Exif\0\0" + block, "icc_profile": PROFILE, "dpi": (200, 200)}
    path = saved(Image.fromarray(smooth(8, 9)), tmp_path / f"a{ending}", **options)
    meta = read_picture(path).meta
    assert meta.icc_profile == PROFILE
    _, tags = exif.read_block(meta.exif)
    assert tags[34665][36867].data == b"1895:12:28 21:00:00\0"
    if ending != ".webp":
        assert meta.dpi == pytest.approx((200, 200), rel=1e-4)


def test_what_a_format_cannot_hold_is_said(tmp_path):
    full = full_metadata(photoshop=b"8BIM")
    for ending, words in (
        (
            ".bmp",
            ("the colour profile", "the EXIF block", "the XMP packet", "the texts"),
        ),
        (".ppm", ("the colour profile", "the EXIF block", "the resolution")),
        (".png", ("Photoshop's resources",)),
        (".webp", ("the texts", "Photoshop's resources")),
    ):
        notes = write_picture(tmp_path / f"a{ending}", Picture(smooth(8, 8), meta=full))
        for word in words:
            assert sum(word in note for note in notes) == 1, (ending, word)
    huge = full_metadata(exif=exif_block(extra={270: exif.Tag(2, 70000, b"x" * 70000)}))
    notes = write_picture(tmp_path / "a.jpg", Picture(smooth(8, 8), meta=huge))
    assert notes == ("too large for JPEG: the EXIF block",)
    for dpi in ((1e6, 300.0), (300.0, 1e-9), (np.nan, 72.0)):
        for ending in (".jpg", ".png", ".tif", ".webp", ".bmp"):
            picture = Picture(smooth(8, 8), meta=Metadata(dpi=dpi))
            notes = write_picture(tmp_path / f"d{ending}", picture, overwrite=True)
            name = {".jpg": "JPEG", ".tif": "TIFF"}.get(ending, ending[1:].upper())
            assert notes == (f"{name} cannot hold the resolution",)
            if ending != ".bmp":  # a BMP always says something
                assert read_picture(tmp_path / f"d{ending}").meta.dpi is None
    wrong = Metadata(icc_profile=GREY_PROFILE)
    notes = write_picture(tmp_path / "b.png", Picture(smooth(8, 8), meta=wrong))
    assert notes == ("the colour profile is not one for such pixels: it was dropped",)
    grey = Picture(smooth(8, 8, 1), meta=wrong)
    assert again(grey, tmp_path / "c.png").meta.icc_profile == GREY_PROFILE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_applied_once(tmp_path, orientation, order):
    block = exif_block(orientation, order)
    pixels = noise(5, 8, 4)
    expected = TURNS[orientation](pixels)
    for ending, options in (
        (".png", {}),
        (".webp", {"lossless": True, "exact": True}),
        (".tif", {}),
    ):
        path = tmp_path / f"a{ending}"
        extra = {"exif": b"Exif\0\0" + block, "dpi": (100, 50)}
        if ending == ".tif":
            tags = Image.Exif()
            tags[274] = orientation
            extra["exif"] = tags
        picture = read_picture(saved(Image.fromarray(pixels), path, **options, **extra))
        shape = expected.shape[:2]
        np.testing.assert_array_equal(
            picture.pixels, expected[..., :3].reshape(*shape, 3)
        )
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
        if ending != ".webp":
            dpi = (50, 100) if orientation >= 5 else (100, 50)
            assert picture.meta.dpi == pytest.approx(dpi, rel=1e-3)
        back = again(picture, tmp_path / f"b{ending}", quality=100)
        assert_same(back, picture)  # and not turned again
        layout, tags = exif.read_block(back.meta.exif)
        assert layout.numbers(tags[274]) == [1]


def test_orientation_of_jpeg_and_of_deep_files(tmp_path):
    pixels = smooth(16, 32)
    options = {"quality": 100, "subsampling": 0}
    block = b"Exif\0\0" + exif_block(6)
    path = saved(Image.fromarray(pixels), tmp_path / "a.jpg", exif=block, **options)
    picture = read_picture(path)
    assert picture.pixels.shape == (32, 16, 3)
    with Image.open(path) as image:
        stored = np.asarray(image)
    np.testing.assert_array_equal(picture.pixels, np.rot90(stored, -1))
    deep = noise(4, 6, 3, dtype=np.uint16)
    meta = Metadata(exif=exif_block(8))
    for ending in (".png", ".tif"):  # written as it stands: the tag says 8
        back = again(Picture(deep, meta=meta), tmp_path / f"d{ending}")
        np.testing.assert_array_equal(back.pixels, np.rot90(deep, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_depth_comes_and_goes_exactly(tmp_path, channels, with_alpha, dtype):
    pixels = noise(11, 13, channels, dtype=dtype)
    if dtype == "float32":
        pixels[0, :4, 0] = [np.nan, np.inf, -0.0, 1e-40]
        pixels[1, 0] = 1e30
    alpha = np.abs(noise(11, 13, dtype=dtype)) if with_alpha else None
    picture = Picture(pixels, alpha)
    samples = pixels if alpha is None else np.dstack([pixels, alpha])
    path = tmp_path / "a.tif"
    assert_same(again(picture, path), picture)
    theirs = tifffile.imread(path)
    np.testing.assert_array_equal(theirs.reshape(samples.shape), samples)
    assert theirs.dtype == dtype
    suffix = {"uint16": ";16", "float32": ";F", "uint8": ""}[dtype]
    mode = ("L" if channels == 1 else "RGB") + "A" * with_alpha + suffix
    assert read_picture(path).meta.mode == mode
    if dtype != "float32":
        path = tmp_path / "a.png"
        assert_same(again(picture, path), picture)
        theirs = imagecodecs.png_decode(path.read_bytes())
        np.testing.assert_array_equal(theirs.reshape(samples.shape), samples)
        encoded = imagecodecs.png_encode(np.squeeze(samples))
        (tmp_path / "b.png").write_bytes(encoded)
        assert_same(read_picture(tmp_path / "b.png"), picture)


def test_depth_that_a_format_cannot_hold(tmp_path):
    deep = noise(8, 9, 3, dtype=np.uint16)
    notes = ("WEBP holds 8 bits a sample: the 16-bit samples were rounded",)
    back = again(Picture(deep), tmp_path / "a.webp", notes, quality=100)
    np.testing.assert_array_equal(back.pixels, np.rint(deep / 257))
    floats = np.linspace(-0.5, 1.5, 72, dtype=np.float32).reshape(8, 9, 1)
    alpha = np.linspace(0, 1, 72, dtype=np.float32).reshape(8, 9)
    notes = ("PNG holds 16 bits a sample: floats were clipped to [0, 1] and rounded",)
    back = again(Picture(floats, alpha), tmp_path / "a.png", notes)
    np.testing.assert_array_equal(back.pixels, from_unit(floats, np.uint16))
    np.testing.assert_array_equal(back.alpha, from_unit(alpha, np.uint16))


def test_transparency_that_a_format_cannot_hold(tmp_path):
    opaque = np.full((8, 9), 255, np.uint8)
    assert write_picture(tmp_path / "a.jpg", Picture(smooth(8, 9), opaque)) == ()
    veil = opaque - np.eye(8, 9, dtype=np.uint8)
    notes = write_picture(tmp_path / "b.bmp", Picture(smooth(8, 9), veil))
    assert notes == ("BMP holds no transparency: it was dropped",)


@pytest.mark.parametrize("missing", ["imagecodecs", "tifffile"])
def test_without_the_extra_deep_files_are_refused(tmp_path, monkeypatch, missing):
    ending = {"imagecodecs": ".png", "tifffile": ".tif"}[missing]
    picture = Picture(noise(4, 5, 3, dtype=np.uint16))
    monkeypatch.setitem(sys.modules, missing, None)
    write_picture(tmp_path / f"a{ending}", picture)  # writing needs no extra
    with pytest.raises(PictureError, match=r"16.*pip install 'transportjax\[deep\]'"):
        read_picture(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "AVIF"]
)
def test_truncated_files_are_refused(tmp_path, name):
    data = encoded(name)
    path = tmp_path / "cut"
    for part in (0.02, 0.2, 0.6, 0.97):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(PictureError) as caught:
            read_picture(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am not a picture", "not a picture"),
        (b"%PDF-1.7 ", "a PDF file, which is not supported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "an EPS file"),
        (b"<?xml version='1.0'?><svg/>", "an SVG file"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "an OpenEXR file"),
        (b"\0\0\0\x18ftypheic\0\0", "a HEIF file"),
        (b"\0\0\0\x18ftypisom\0\0", "a video file"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\xff\xd8\xff\xe0 but no more", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"II*\0\xff\xff\xff\xff", "cannot be decoded"),
        (b"MM\0*", "cannot be decoded"),
        (b"P6 0 5 255\n", "PPM|empty"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, data, words):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=words) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_name_does_not_decide(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("PNG"))
    assert read_picture(tmp_path / "a.jpg").meta.format == "PNG"


def test_operating_system_errors_keep_their_kind(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_picture(tmp_path)
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))

    def deny(*args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(PermissionError, match=r"a\.png"):
        read_picture(path)


def test_pipes_are_refused_and_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PictureError, match="regular file"):
        read_picture(tmp_path / "pipe")


def test_huge_headers_are_refused_before_decoding(tmp_path, monkeypatch):
    files = {name: encoded(name) for name in ("PNG", "JPEG", "BMP", "WEBP", "GIF")}
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decodes"))
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: pytest.fail("decodes"))
    path = tmp_path / "a"
    for depth in (8, 16):
        path.write_bytes(bomb(60000, 60000, depth))
        with pytest.raises(PictureError, match=r"60000 x 60000 pixels.* 512000000"):
            read_picture(path)
    path.write_bytes(b"P6 30000 30000 255\n")
    with pytest.raises(PictureError, match="max_pixels"):
        read_picture(path)
    for limit in (1999, 1500, 100):  # Pillow itself only warns up to twice its limit
        for data in files.values():
            path.write_bytes(data)
            with pytest.raises(PictureError, match="max_pixels"):
                read_picture(path, max_pixels=limit)
    side = exif.Tag(4, 1, struct.pack("<I", 65536))
    path.write_bytes(exif.block({256: side, 257: side}, "<"))
    with pytest.raises(PictureError, match="65536 x 65536"):
        read_picture(path)


def test_mutated_files_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(3)
    meta, seen = full_metadata(), []
    for ending in (".png", ".tif", ".jpg"):
        path = tmp_path / f"a{ending}"
        write_picture(path, Picture(noise(9, 9, 3), meta=meta))
        data = path.read_bytes()
        for _ in range(100):
            mutated = bytearray(data)
            where = rng.integers(0, min(len(data), 1500), 4)
            mutated[slice(None)] = data
            for at in where:
                mutated[at] = rng.integers(256)
            path.write_bytes(mutated)
            # any other error than this one fails the test, and so does a warning
            with contextlib.suppress(PictureError):
                seen.append(read_picture(path, max_pixels=10**6).pixels.shape[2])
    assert {1, 3} >= set(seen) >= {3}


def test_threads_read_at_the_same_time(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    pictures = {}
    for index, ending in enumerate([".png", ".tif", ".jpg", ".webp"] * 4):
        path = tmp_path / f"{index}{ending}"
        write_picture(path, Picture(noise(64, 64, 3)))
        pictures[path] = read_picture(path)
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        for path, picture in zip(
            pictures, pool.map(read_picture, pictures), strict=True
        ):
            assert_same(picture, pictures[path])
    assert limit == Image.MAX_IMAGE_PIXELS


def test_an_existing_file_is_only_replaced_when_asked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.png"):
        write_picture(path, Picture(smooth(4, 4)))
    assert path.read_bytes() == b"precious"
    write_picture(path, Picture(smooth(4, 4)), overwrite=True)
    assert read_picture(path).pixels.shape == (4, 4, 3)


def test_refusals_to_write(tmp_path):
    picture = Picture(smooth(4, 4))
    for name in ("a.gif", "a.xyz", "a"):
        with pytest.raises(PictureError, match="endings"):
            write_picture(tmp_path / name, picture)
    with pytest.raises(ValueError, match="quality"):
        write_picture(tmp_path / "a.jpg", picture, quality=101)
    long = Picture(np.zeros((1, 70000, 1), np.uint8))
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(PictureError, match="at most"):
            write_picture(tmp_path / name, long)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_encoder_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("encoder\nerror -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(
        PictureError, match=r"a\.jpg: cannot be encoded: encoder error -2"
    ):
        write_picture(tmp_path / "a.jpg", Picture(smooth(4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_importing_loads_no_codec():
    code = (
        "import sys, transportjax, transportjax.apps.images; "
        "print(sorted({'PIL', 'tifffile', 'imagecodecs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
