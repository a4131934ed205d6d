"""Pictures and parts of files for the tests of what reads and writes them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from transportjax.apps import exif
from transportjax.apps.images import Metadata, read_picture, write_picture

RNG = np.random.default_rng(7)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
XMP = b"<x:xmpmeta><rdf:Description tiff:Orientation='6' dc:title='M\xc3\xb8de'/>"


def noise(*shape, dtype=np.uint8):
    if np.dtype(dtype).kind == "f":
        return RNG.normal(size=shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def smooth(height, width, channels=3):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(channels)]
    return np.stack(waves, -1).astype(np.uint8)


def exif_block(orientation=1, order="<", extra=()):
    """A block with a camera and an orientation, and below it a date and a place."""

    def pack(code, *values):
        return struct.pack(order + code, *values)

    tags = {
        271: exif.Tag(2, 7, "Lumi\xe8re"[:6].encode("latin-1") + b"\0"),
        274: exif.Tag(3, 1, pack("H", orientation)),
        34665: {
            36867: exif.Tag(2, 20, b"1895:12:28 21:00:00\0"),
            37500: exif.Tag(7, 9, b"\0\xff maker "),
            40962: exif.Tag(3, 1, pack("H", 640)),
            40963: exif.Tag(4, 1, pack("I", 480)),
        },
        34853: {2: exif.Tag(5, 3, pack("IIIIII", 48, 1, 52, 1, 2, 1))},
        **dict(extra),
    }
    return exif.block(tags, order)


def chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def with_chunks(data, *chunks):
    """PNG bytes with chunks behind the header."""
    return data[:33] + b"".join(chunk(*c) for c in chunks) + data[33:]


def raw_png(samples, colour, depth):
    """A PNG of one row of packed samples."""
    width = len(samples) * 8 // depth
    head = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(samples))
    parts = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bomb(width, height, depth=8, colour=2):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def encoded(name, **options):
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 50, 3)).save(buffer, name, **options)
    return buffer.getvalue()


def assert_same(a, b):
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert a.pixels.dtype == b.pixels.dtype
    if a.alpha is None or b.alpha is None:
        assert a.alpha is b.alpha
    else:
        np.testing.assert_array_equal(a.alpha, b.alpha)
        assert a.alpha.dtype == b.alpha.dtype


def again(picture, path, notes=(), **options):
    """The picture, written and read; `notes` is what the writer must say."""
    assert write_picture(path, picture, **options) == tuple(notes)
    return read_picture(path)


def full_metadata(**changes):
    kept = {
        "icc_profile": PROFILE,
        "exif": exif_block(),
        "xmp": XMP,
        "dpi": (300.0, 150.0),
        "text": (("Title", "Fr\xfchling"), ("Comment", "\u6625 spring")),
    }
    return Metadata(**{**kept, **changes})
