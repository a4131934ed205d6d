"""PNG: chunks, transparency, 16 bits, the writer in bands, damage and bombs."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import (
    again,
    assert_same,
    bomb,
    exif_block,
    noise,
    raw_png,
    saved,
    smooth,
    with_chunks,
)
from PIL import Image, PngImagePlugin

from transportjax.apps import exif
from transportjax.apps.images import Picture, PictureError, read_picture, write_picture

imagecodecs = pytest.importorskip("imagecodecs")


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (2, 2), (4, 9), (8, 200)])
def test_grey_png_with_a_transparent_level(tmp_path, depth, key):
    samples = [0b11100100, 0b00011011, 0b10011001, 200]
    bits = "".join(f"{s:08b}" for s in samples)
    levels = [int(bits[i : i + depth], 2) for i in range(0, len(bits), depth)]
    data = with_chunks(raw_png(samples, 0, depth), (b"tRNS", struct.pack(">H", key)))
    (tmp_path / "g.png").write_bytes(data)
    picture = read_picture(tmp_path / "g.png")
    scale = 255 // (2**depth - 1)
    np.testing.assert_array_equal(picture.pixels[0, :, 0], np.array(levels) * scale)
    np.testing.assert_array_equal(
        picture.alpha[0], [0 if level == key else 255 for level in levels]
    )


def test_rgb_png_with_a_transparent_colour(tmp_path):
    pixels = np.array([[[1, 2, 3], [1, 2, 4], [9, 2, 3]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "t.png", transparency=(1, 2, 3))
    picture = read_picture(tmp_path / "t.png")
    np.testing.assert_array_equal(picture.pixels, pixels)
    np.testing.assert_array_equal(picture.alpha, [[0, 255, 255]])


@pytest.mark.parametrize("transparency", [3, bytes([255, 0, 128] + 253 * [255])])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.fromarray(noise(9, 8, 3)).quantize(6)
    path = saved(image, tmp_path / "p.png", transparency=transparency)
    picture = read_picture(path)
    oracle = np.asarray(Image.open(path).convert("RGBA"))
    np.testing.assert_array_equal(picture.pixels, oracle[..., :3])
    np.testing.assert_array_equal(picture.alpha, oracle[..., 3])
    assert set(np.unique(picture.alpha)) - {255}
    assert_same(again(picture, tmp_path / "out.png"), picture)


def test_sixteen_bit_png_with_a_transparent_colour(tmp_path):
    pixels = noise(3, 4, 3, dtype=np.uint16)
    data = imagecodecs.png_encode(pixels)
    key = pixels[1, 2].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(with_chunks(data, (b"tRNS", key)))
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.alpha[1, 2] == 0
    assert (picture.alpha == 0).sum() == 1


def test_png_chunks_follow_the_rule_for_editors(tmp_path):
    data = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat", zip=True)
    info.add_itxt("Title", "Katze", lang="de", tkey="Titel")
    Image.fromarray(smooth(5, 5)).save(data, "PNG", pnginfo=info)
    chunks = [
        (b"sRGB", b"\0"),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"prVt", b"not safe to copy"),
        (b"prVs", b"safe to copy"),
        (b"sBIT", b"\5\5\5"),
        (b"pHYs", struct.pack(">IIB", 4, 3, 0)),  # a ratio, not a resolution
    ]
    chunks[2] = (b"prVT", chunks[2][1])
    (tmp_path / "a.png").write_bytes(with_chunks(data.getvalue(), *chunks))
    picture = read_picture(tmp_path / "a.png")
    kept = dict(picture.meta.chunks)
    assert set(kept) == {b"sRGB", b"cICP", b"prVs", b"pHYs", b"iTXt"}
    assert kept[b"iTXt"] == b"Title\0\0\0de\0Titel\0Katze"
    assert picture.meta.text == (("parameters", "a cat"),)
    back = again(picture, tmp_path / "b.png")
    assert back.meta == picture.meta
    with Image.open(tmp_path / "b.png") as image:
        assert image.text["Title"].lang == "de"
        assert image.info["srgb"] == 0
        assert image.info["aspect"] == (4, 3)


def test_colour_chunks_that_are_lost_are_said(tmp_path):
    data = io.BytesIO()
    Image.fromarray(smooth(5, 5)).save(data, "PNG")
    gamma = (b"gAMA", struct.pack(">I", 100000))
    (tmp_path / "a.png").write_bytes(with_chunks(data.getvalue(), gamma))
    notes = write_picture(tmp_path / "a.jpg", read_picture(tmp_path / "a.png"))
    assert notes == ("JPEG cannot hold the colour chunks of PNG",)


def test_exif_of_imagemagick_in_a_text_chunk(tmp_path):
    block = exif_block(orientation=6)
    code = (b"Exif\0\0" + block).hex()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(code) // 2:8}\n{code}\n")
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, np.rot90(pixels, -1))
    assert picture.meta.exif == exif.upright(block)[0]
    assert picture.meta.text == ()


def test_bands_of_the_png_writer_join(tmp_path, monkeypatch):
    from transportjax.apps import png, tiff

    monkeypatch.setattr(png, "_BAND", 400)
    monkeypatch.setattr(tiff, "_BAND", 400)
    for pixels, alpha in (
        (noise(37, 29, 3), None),
        (noise(37, 29, 3, dtype=np.uint16), noise(37, 29, dtype=np.uint16)),
    ):
        picture = Picture(pixels, alpha)
        for ending in (".png", ".tif"):
            path = tmp_path / f"{pixels.dtype}{ending}"
            assert_same(again(picture, path), picture)
            with Image.open(path) as image:
                image.load()
        # picture libraries overlook a wrong checksum; zlib does not
        data, at, stream = (tmp_path / f"{pixels.dtype}.png").read_bytes(), 8, b""
        while at < len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            stream += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            at += length + 12
        samples = pixels.nbytes + (0 if alpha is None else alpha.nbytes)
        assert len(zlib.decompress(stream)) == samples + 37


def test_png_bytes_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    picture = Picture(noise(600, 700, 3))
    write_picture(tmp_path / "a.png", picture)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    write_picture(tmp_path / "b.png", picture)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_damaged_png_is_refused(tmp_path):
    write_picture(tmp_path / "a.png", Picture(noise(40, 50, 3, dtype=np.uint16)))
    for at in (20, 60, 5000):  # header, pixels
        data = bytearray((tmp_path / "a.png").read_bytes())
        data[at] ^= 4
        (tmp_path / "b.png").write_bytes(data)
        with pytest.raises(PictureError):
            read_picture(tmp_path / "b.png")


def test_bombs_in_metadata_are_refused(tmp_path):
    packed = zlib.compress(bytes(2**27))
    for kind, head in ((b"iCCP", b"name\0\0"), (b"zTXt", b"Title\0\0")):
        for depth in (8, 16):
            data = with_chunks(bomb(2, 2, depth), (kind, head + packed))
            (tmp_path / "a.png").write_bytes(data)
            with pytest.raises(PictureError, match="too many bytes"):
                read_picture(tmp_path / "a.png")
    # a thousand tags that all point at the whole file
    tags = {40000 + i: exif.Tag(7, 4, b"\0\0\0\0") for i in range(1000)}
    block = bytearray(exif.block({34665: tags}, "<"))
    for at in range(8 + 18 + 2, len(block) - 8, 12):
        struct.pack_into("<II", block, at + 4, 10000, 8)
    (tmp_path / "a.tif").write_bytes(block)
    with pytest.raises(PictureError, match="larger than the file"):
        read_picture(tmp_path / "a.tif")


def test_damaged_metadata_does_not_cost_the_picture(tmp_path):
    pixels = noise(6, 7, 3)
    for block in (b"", b"II", b"II*\0\xff\0\0\0", b"nonsense" * 9, exif_block()[:30]):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        (tmp_path / "a.png").write_bytes(
            with_chunks(data.getvalue(), (b"eXIf", block), (b"iCCP", b"x\0\0junk"))
        )
        picture = read_picture(tmp_path / "a.png")
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture.meta.notes == ("the colour profile is damaged and was dropped",)
        for ending in (".png", ".tif", ".webp", ".jpg"):
            write_picture(tmp_path / f"b{ending}", picture, overwrite=True)
            read_picture(tmp_path / f"b{ending}")
