"""TIFF: layouts, depths, tags, kinds of transparency, large offsets, refusals."""

import struct

import numpy as np
import pytest
from pictures import PROFILE, RNG, again, assert_same, exif_block, full_metadata, noise
from PIL import Image

from transportjax.apps import exif
from transportjax.apps.images import (
    Metadata,
    Picture,
    PictureError,
    read_picture,
    write_picture,
)

tifffile = pytest.importorskip("tifffile")


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
        {"tile": (16, 16), "planarconfig": "separate", "compression": "zlib"},
        {"compression": "lzw", "predictor": True},
        {"byteorder": ">", "rowsperstrip": 3},
        {"bigtiff": True},
        {"compression": "zstd"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float16", "float64"])
def test_tiff_layouts(tmp_path, options, dtype):
    if dtype == "uint8" and options.get("compression") == "zstd":
        pytest.skip("not in every libtiff")
    pixels = noise(37, 29, 3, dtype=dtype)
    samples = pixels
    if "planarconfig" in options:
        samples = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", **options)
    picture = read_picture(tmp_path / "a.tif")
    kept = "float32" if dtype.startswith("float") else dtype
    assert picture.pixels.dtype == kept
    np.testing.assert_array_equal(picture.pixels, pixels.astype(kept))
    expected = ("64-bit floats were rounded to 32 bits",) if dtype == "float64" else ()
    assert picture.meta.notes == expected


def test_deep_tiff_keeps_its_tags(tmp_path):
    options = {"resolution": (118.0, 236.0), "resolutionunit": "CENTIMETER"}
    options |= {"description": "Sm\xf8rrebr\xf8d".encode(), "software": "lab 3"}
    options |= {
        "extratags": [(315, 2, 0, "A. Painter", True), (34737, 2, 0, "WGS84|", 1)]
    }
    for big in (False, True):
        tifffile.imwrite(
            tmp_path / "a.tif",
            noise(5, 6, 3, dtype=np.uint16),
            photometric="rgb",
            iccprofile=PROFILE,
            bigtiff=big,
            **options,
        )
        picture = read_picture(tmp_path / "a.tif")
        assert picture.meta.dpi == pytest.approx((118 * 2.54, 236 * 2.54))
        assert picture.meta.icc_profile == PROFILE
        again(picture, tmp_path / "b.tif", overwrite=True)
        with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
            tags = tiff.pages[0].tags
            assert tags[315].value == "A. Painter"
            assert tags[34737].value == "WGS84|"
            assert tags[305].value == "lab 3"
            assert tags[34675].value == PROFILE
            x = tags[282].value
            assert tags[296].value == 2
            assert x[0] / x[1] == pytest.approx(118 * 2.54, rel=1e-6)
        assert "Sm\xf8rrebr\xf8d".encode() in (tmp_path / "b.tif").read_bytes()


def test_white_is_zero_and_alpha_kinds(tmp_path):
    grey = noise(5, 6, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.tif").pixels[..., 0], 65535 - grey
    )
    colours, alpha = RNG.uniform(size=(5, 6, 3)), RNG.uniform(size=(5, 6, 1))
    alpha[0, 0] = 0
    for dtype, scale, tol in ((np.uint16, 65535, 2), (np.float32, 1, 1e-6)):
        samples = np.concatenate([colours * alpha, alpha], -1) * scale
        samples = (np.rint(samples) if scale > 1 else samples).astype(dtype)
        path = tmp_path / f"{scale}.tif"
        tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["assocalpha"])
        picture = read_picture(path)
        assert "premultiplied" in picture.meta.notes[0]
        np.testing.assert_array_equal(picture.alpha, samples[..., 3])
        seen = alpha[..., 0] > 0.05
        error = picture.pixels[seen].astype("f8") - colours[seen] * scale
        assert np.abs(error).max() <= tol * 20
        assert (picture.pixels[0, 0] == 0).all()
        back = again(picture, tmp_path / f"b{scale}.tif")  # is not divided again
        assert_same(back, picture)
    for dtype in ("uint8", "uint16"):
        rgbx = noise(5, 6, 4, dtype=dtype)
        path = tmp_path / f"{dtype}.tif"
        tifffile.imwrite(path, rgbx, photometric="rgb", extrasamples=["unspecified"])
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.alpha, rgbx[..., 3])
        assert "unknown meaning" in picture.meta.notes[0]


def test_twelve_bits_are_stretched_to_sixteen(tmp_path):
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(tmp_path / "a.tif", levels, bitspersample=12, compression=None)
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(
        picture.pixels[..., 0], np.rint(levels * (65535 / 4095))
    )
    assert picture.meta.notes == ("12-bit samples became 16-bit ones",)


def test_deep_kinds_that_are_refused(tmp_path):
    for name, array, options, words in (
        ("int16", noise(4, 5, 3).astype(np.int16), {}, "signed"),
        ("uint32", noise(4, 5, 3).astype(np.uint32), {}, "32-bit integer"),
        ("int8", noise(4, 5, 3).astype(np.int8), {}, "signed"),
        ("cmyk", noise(4, 5, 4, dtype=np.uint16), {"photometric": "separated"}, "grey"),
        (
            "five",
            noise(4, 5, 5, dtype=np.uint16),
            {"planarconfig": "contig"},
            "5 samples",
        ),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array, **{"photometric": "rgb", **options})
        with pytest.raises(PictureError, match=words):
            read_picture(path)
    for tag, value in ((50706, b"\1\4\0\0"), (254, 1)):
        options = {"extratags": [(tag, 1, 4, value, True)]} if tag > 254 else {}
        options |= {"subfiletype": 1} if tag == 254 else {}
        tifffile.imwrite(tmp_path / "raw.tif", noise(4, 5), **options)
        with pytest.raises(PictureError, match="raw file"):
            read_picture(tmp_path / "raw.tif")
    header = b"P6 2 1 65535\n"
    (tmp_path / "a.ppm").write_bytes(header + bytes(12))
    with pytest.raises(PictureError, match="16 bits"):
        read_picture(tmp_path / "a.ppm")


def test_truncated_deep_files_are_refused(tmp_path):
    deep = noise(40, 50, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    write_picture(tmp_path / "b.tif", Picture(deep))
    write_picture(tmp_path / "b.png", Picture(deep))
    for name in ("a.tif", "b.tif", "b.png"):
        data = (tmp_path / name).read_bytes()
        for part in (0.001, 0.02, 0.2, 0.6, 0.97):
            (tmp_path / "cut").write_bytes(data[: int(len(data) * part)])
            with pytest.raises(PictureError):
                read_picture(tmp_path / "cut")


def test_large_offsets(tmp_path, monkeypatch):
    from transportjax.apps import tiff

    monkeypatch.setattr(tiff, "_SMALL", 100)
    picture = Picture(noise(40, 30, 3), meta=full_metadata())
    back = again(picture, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes()[2] == 43  # BigTIFF
    assert_same(back, picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), picture.pixels)
    old, new = (exif.read_block(m.exif)[1] for m in (picture.meta, back.meta))
    assert new[34665] == old[34665]


def test_a_huge_tile_in_a_small_picture(tmp_path):
    sizes = {256: 9, 257: 9, 322: 2**20, 323: 2**20, 258: 16}
    tags = {n: exif.Tag(4, 1, struct.pack("<I", v)) for n, v in sizes.items()}
    (tmp_path / "a.tif").write_bytes(exif.block(tags, "<"))
    with pytest.raises(PictureError, match="1048576 x 1048576"):
        read_picture(tmp_path / "a.tif")


def test_big_endian_exif_becomes_little_endian(tmp_path):
    block = exif_block(1, ">", {34264: exif.Tag(12, 2, struct.pack(">dd", 1.5, -2.0))})
    picture = Picture(noise(5, 6, 3), meta=Metadata(exif=block))
    write_picture(tmp_path / "a.tif", picture)
    with Image.open(tmp_path / "a.tif") as image:
        tags = image.getexif()
        below = tags.get_ifd(34665)
        assert (tags[274], tags[34264]) == (1, (1.5, -2.0))
        assert (below[40962], below[40963]) == (640, 480)
        assert below[37500] == b"\0\xff maker "
        assert tags.get_ifd(34853)[2] == (48.0, 52.0, 2.0)


def test_pillow_reads_our_depths(tmp_path):
    for pixels in (
        noise(30, 41, 1, dtype=np.uint16),
        noise(30, 41, 1, dtype="float32"),
    ):
        for meta in (Metadata(), Metadata(exif=exif_block(1, ">"))):
            write_picture(
                tmp_path / "a.tif", Picture(pixels, meta=meta), overwrite=True
            )
            with Image.open(tmp_path / "a.tif") as image:
                np.testing.assert_array_equal(np.asarray(image), pixels[..., 0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_missing_strips_are_not_black(tmp_path, dtype):
    for options in ({"rowsperstrip": 4}, {"tile": (16, 16)}):
        path = tmp_path / "a.tif"
        pixels = noise(40, 40, 3, dtype=dtype)
        tifffile.imwrite(path, pixels, photometric="rgb", **options)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            height = tiff.pages[0].tags[257]
            height.overwrite(80)  # more rows than there are strips
        with pytest.raises(PictureError, match="incomplete"):
            read_picture(path)
        tifffile.imwrite(path, pixels, photometric="rgb", **options)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            counts = tiff.pages[0].tags[325 if "tile" in options else 279]
            counts.overwrite([*counts.value[:-1], 0])
        with pytest.raises(PictureError, match="incomplete"):
            read_picture(path)
