"""What goes through Pillow: formats, CMYK, frames, limits, metadata."""

import struct

import numpy as np
import pytest
from pictures import PROFILE, again, encoded, full_metadata, noise, saved, smooth
from PIL import Image

from transportjax.apps import exif
from transportjax.apps.images import Metadata, Picture, read_picture, write_picture

imagecodecs = pytest.importorskip("imagecodecs")


@pytest.mark.parametrize(
    ("ending", "options", "modes"),
    [
        (".bmp", {}, ("L", "RGB")),
        (".ppm", {}, ("L", "RGB")),
        (".gif", {}, ("L", "P")),
        (".webp", {"lossless": True, "exact": True}, ("RGB", "RGBA")),
        (".jpg", {"quality": 95}, ("L", "RGB")),
        (".avif", {}, ("L", "RGB", "RGBA")),
    ],
)
def test_other_formats_against_pillow(tmp_path, ending, options, modes):
    for mode in modes:
        image = Image.fromarray(noise(16, 24, 4)).convert(mode)
        path = saved(image, tmp_path / f"{mode}{ending}", **options)
        picture = read_picture(path)
        with Image.open(path) as opened:
            shown = opened.convert("RGB" if opened.mode == "P" else opened.mode)
        oracle = np.asarray(shown).reshape(16, 24, -1)
        np.testing.assert_array_equal(
            picture.pixels, oracle[..., : len(shown.mode[:3])]
        )
        if shown.mode == "RGBA":
            np.testing.assert_array_equal(picture.alpha, oracle[..., 3])


def test_jpeg_is_close_and_keeps_full_colour(tmp_path):
    pixels = smooth(64, 96)
    pixels[:, ::2] = [255, 0, 0]  # stripes of one pixel: 4:2:0 would smear them
    write_picture(tmp_path / "a.jpg", Picture(pixels), quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.layer[1][1:3] == (1, 1)  # sampling factors of chroma
    back = read_picture(tmp_path / "a.jpg").pixels
    assert np.abs(back.astype(int) - pixels).max() < 40
    small, large = tmp_path / "s.jpg", tmp_path / "l.jpg"
    write_picture(small, Picture(pixels), quality=50)
    write_picture(large, Picture(pixels), quality=100)
    assert small.stat().st_size < large.stat().st_size


def test_sixteen_bit_pgm(tmp_path):
    grey = noise(3, 4, dtype=np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 4 3 65535\n" + grey.astype(">u2").tobytes())
    picture = read_picture(tmp_path / "a.pgm")
    np.testing.assert_array_equal(picture.pixels[..., 0], grey)
    assert picture.pixels.dtype == np.uint16


def test_deep_avif_says_so(tmp_path):
    levels = noise(16, 16, 3).astype(np.uint16) * 4
    data = imagecodecs.avif_encode(levels, bitspersample=10)
    (tmp_path / "a.avif").write_bytes(data)
    notes = read_picture(tmp_path / "a.avif").meta.notes
    assert notes == ("its 10- or 12-bit samples were read as 8-bit ones",)


def test_cmyk_without_profile_is_pillows(tmp_path):
    image = Image.fromarray(smooth(16, 16, 4), "CMYK")
    for ending in (".jpg", ".tif"):
        path = saved(image, tmp_path / f"a{ending}")
        picture = read_picture(path)
        with Image.open(path) as stored:
            np.testing.assert_array_equal(picture.pixels, stored.convert("RGB"))
        assert picture.meta.mode == "CMYK"
        assert "without a usable colour profile" in picture.meta.notes[0]
        back = again(picture, tmp_path / f"b{ending}")
        assert back.meta.mode == "RGB"


def ink_profile():
    """A CMYK profile in which every ink is a grey: L* = 100 (1-c) (1-m) (1-y) (1-k)."""
    paper = bytes([255, 128, 128])
    table = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * table
    lut += paper + 15 * bytes([0, 128, 128]) + 3 * table
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"grey inks\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", 10) + b"grey inks\0" + bytes(78)
    tags, body = [], b""
    for name, data in (
        (b"desc", desc),
        (b"cprt", text),
        (b"wtpt", white),
        (b"A2B0", lut),
    ):
        tags.append(struct.pack(">4sII", name, 132 + 4 * 12 + len(body), len(data)))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    profile = head.ljust(128, b"\0") + struct.pack(">I", 4) + b"".join(tags) + body
    return struct.pack(">I", len(profile)) + profile[4:]


def test_cmyk_goes_through_its_profile(tmp_path):
    profile = ink_profile()
    inks = np.zeros((3, 256, 4), np.uint8)
    inks[0, :, 3] = inks[1, :, 0] = inks[2, :, 1] = np.arange(256)
    path = tmp_path / "a.tif"
    Image.fromarray(inks, "CMYK").save(path, icc_profile=profile)
    picture = read_picture(path)
    assert picture.meta.notes == (
        "CMYK was converted to sRGB through its colour profile",
    )
    assert picture.meta.icc_profile is None
    lightness = 100 * (1 - np.arange(256) / 255)
    cube = ((lightness + 16) / 116) ** 3
    linear = np.where(lightness > 8, cube, lightness * 27 / 24389)
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    grey = 255 * np.where(linear > 0.0031308, curve, 12.92 * linear)
    error = picture.pixels - grey[None, :, None]
    assert np.abs(error).max() < 2.5
    useless = {"icc_profile": PROFILE}  # of RGB
    Image.fromarray(inks, "CMYK").save(tmp_path / "b.jpg", **useless)
    (note,) = read_picture(tmp_path / "b.jpg").meta.notes
    assert "without a usable colour profile" in note


def test_lab_tiff_becomes_srgb(tmp_path):
    grey = np.array([[[0, 0, 0], [255, 0, 0], [137, 0, 0]]], np.uint8)
    saved(Image.fromarray(grey, "LAB"), tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    # L* = 100 * 137 / 255 = 53.7 is Y = 0.2163, in sRGB 0.5029
    expected = np.array([0, 255, 128])[:, None].repeat(3, 1)
    assert np.abs(picture.pixels[0].astype(int) - expected).max() <= 1
    assert picture.meta.notes == ("LAB was converted to sRGB as Lab of D50",)


@pytest.mark.parametrize("ending", [".png", ".gif", ".webp", ".tif", ".avif", ".jpg"])
def test_first_of_several_frames(tmp_path, ending):
    first, second = (Image.fromarray(smooth(16, 20) + s) for s in (0, 40))
    options = {"lossless": True} if ending == ".webp" else {}
    format_ = {"format": "MPO"} if ending == ".jpg" else {}
    path = tmp_path / f"a{ending}"
    first.save(path, save_all=True, append_images=[second], **options, **format_)
    picture = read_picture(path)
    with Image.open(path) as image:
        assert image.n_frames == 2
        np.testing.assert_array_equal(picture.pixels, image.convert("RGB"))
    kind = "page" if ending == ".tif" else "frame"
    assert f"only the first {kind} was read" in picture.meta.notes


def test_the_limit_may_be_larger_than_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "AVIF"):
        (tmp_path / name).write_bytes(encoded(name))
        assert read_picture(tmp_path / name).pixels.shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100  # and it is put back


def test_jpeg_to_jpeg_keeps_comment_captions_and_large_profiles(tmp_path):
    resources = b"8BIM\x04\x04\0\0\0\0\0\x08caption!" * 5000  # several segments
    large = PROFILE + bytes(200_000)
    meta = full_metadata(
        photoshop=resources, icc_profile=large, text=(("Comment", "x"),)
    )
    picture = again(Picture(smooth(8, 8), meta=meta), tmp_path / "a.jpg")
    assert picture.meta.photoshop == resources
    assert picture.meta.icc_profile == large
    back = again(picture, tmp_path / "b.jpg")
    assert back.meta == picture.meta
    tiff = again(picture, tmp_path / "c.tif")
    assert tiff.meta.photoshop == resources


def test_resolution_travels_in_exif_where_there_is_no_other_place(tmp_path):
    for ending in (".webp", ".avif"):
        picture = Picture(smooth(8, 9), meta=Metadata(dpi=(96.0, 72.5)))
        assert again(picture, tmp_path / f"a{ending}").meta.dpi == (96.0, 72.5)
        block = exif.block({271: exif.Tag(2, 2, b"A\0")}, "<")
        picture = Picture(smooth(8, 9), meta=Metadata(dpi=(96.0, 72.5), exif=block))
        name = ending[1:].upper()
        notes = write_picture(tmp_path / f"b{ending}", picture)
        assert notes == (f"{name} cannot hold the resolution",)
