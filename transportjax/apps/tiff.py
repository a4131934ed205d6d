"""TIFF files: their tags, samples beyond 8 bits, and a writer for every depth.

Pillow reads 16-bit colour as 8-bit without a word and float colour not at all; so the
depth is read from the file's own tags, and tifffile decodes what Pillow would spoil.

References:
    Adobe, 1992, TIFF Revision 6.0, sections 3 to 8 (baseline), 14 (predictor),
    18 (associated alpha); Adobe, 2002, Photoshop TIFF Technical Notes (deflate);
    Adobe, 2005, TIFF Technical Note 3 (floating-point predictor).
"""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from transportjax._files import in_threads

from . import exif
from .exif import Directory, Layout, Tag
from .picture import Metadata, Picture, PictureError, plain_text, white

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_PHOTOMETRIC, _DESCRIPTION, _OFFSETS, _SAMPLES = 262, 270, 273, 277
_ROWS, _COUNTS, _PLANAR, _PREDICTOR = 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_EXTRA, _FORMAT, _XMP, _PHOTOSHOP, _ICC = 338, 339, 700, 34377, 34675
_RAW_VERSION = 50706  # of Adobe's raw files
_STRUCTURE = {
    *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _COUNTS),
    *(
        _ROWS,
        _PLANAR,
        _TILE_WIDTH,
        _TILE_HEIGHT,
        _TILE_OFFSETS,
        _TILE_COUNTS,
        _EXTRA,
        _FORMAT,
    ),
    _RAW_VERSION,
}
# what describes the picture, and holds whatever becomes of its pixels: names, texts,
# dates, camera, resolution, white point, ratings, IPTC, places on the Earth
CARRIED = {
    *(269, 270, 271, 272, exif.ORIENTATION, exif.X_RESOLUTION, exif.Y_RESOLUTION),
    *(285, exif.RESOLUTION_UNIT, 305, 306, 315, 316, 318, 319, 18246, 18249, 33432),
    *(33550, 33723, 33922, 34264, 34735, 34736, 34737, *range(40091, 40096)),
    *(34665, 34853, 42112, 42113),
}
DIVIDED = "premultiplied transparency was divided out of the colours"
_BAND = 2**20  # bytes that are compressed at a time
_SMALL = 2**32 - 2**26  # bytes of pixels from which on 32-bit offsets may not do


class Page(NamedTuple):
    """The first page of a TIFF file: its tags, and whether there are more pages."""

    layout: Layout
    tags: Directory
    more: bool

    def numbers(self, number: int, default: list[int]) -> list[int]:
        """The values of a tag of integers."""
        tag = self.tags.get(number)
        return self.layout.numbers(tag) if tag else default

    def number(self, number: int, default: int) -> int:
        """The first value of a tag of integers."""
        return self.numbers(number, [default])[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.number(_WIDTH, 0), self.number(_HEIGHT, 0)

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of one tile, 1 if there are none."""
        return self.number(_TILE_WIDTH, 1), self.number(_TILE_HEIGHT, 1)

    @property
    def bits(self) -> int:
        """Bits a sample."""
        return max(self.numbers(_BITS, [1]))

    @property
    def extra(self) -> int | None:
        """What the sample after the colours is: 0 unknown, 1 premultiplied, 2 alpha."""
        colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(self.number(_PHOTOMETRIC, 1), 1)
        if self.number(_SAMPLES, 1) <= colours:
            return None
        return self.number(_EXTRA, 2)

    @property
    def deep(self) -> bool:
        """Whether Pillow would lose something of the samples."""
        return self.bits > 8 or self.extra == 0


def read_page(file: io.BufferedIOBase) -> Page:
    """The first page's tags.

    Raises:
        PictureError: if it is not a plain picture.
    """
    layout, start = exif.read_header(file)
    keep = _STRUCTURE | CARRIED | {_XMP, _PHOTOSHOP, _ICC}
    tags, following = exif.read_directory(file, layout, start, keep=keep)
    page = Page(layout, tags, following != 0)
    file.seek(8)
    if _RAW_VERSION in tags or file.read(2) == b"CR" or page.number(_SUBFILE, 0) & 1:
        raise PictureError("is a camera's raw file, not a picture: develop it to TIFF")
    formats = set(page.numbers(_FORMAT, [1]))
    if len(set(page.numbers(_BITS, [1]))) > 1 or len(formats) > 1:
        raise PictureError("has channels of several types, which is not supported")
    if not (formats <= {1, 4} or (formats == {3} and page.bits >= 16)):
        raise PictureError("has signed or complex samples, which are not supported")
    return page


def check_complete(file: io.BufferedIOBase, page: Page) -> None:
    """Raises unless all strips or tiles are in the file: decoders just fill gaps."""
    (width, height), planes = page.size, 1
    if page.number(_PLANAR, 1) == 2:
        planes = page.number(_SAMPLES, 1)
    if _TILE_OFFSETS in page.tags:
        offsets, counts, (across, down) = _TILE_OFFSETS, _TILE_COUNTS, page.tile
    else:
        offsets, counts, across = _OFFSETS, _COUNTS, width
        down = min(page.number(_ROWS, height), height)
    places, lengths = page.numbers(offsets, []), page.numbers(counts, [])
    needed = planes * -(-width // across) * -(-height // down)
    known = len(lengths) if lengths else needed  # very old files do not say them
    if len(places) < needed or known < needed or 0 in lengths:
        raise PictureError("is incomplete: part of its pixels is missing")
    end = file.seek(0, io.SEEK_END)
    if any(a + b > end for a, b in zip(places, lengths, strict=False)):
        raise PictureError("is truncated")


def metadata(page: Page) -> Metadata:
    """What the tags say, apart from orientation, which is still to be applied."""
    tags = page.tags
    carried = {number: tag for number, tag in tags.items() if number in CARRIED}
    if page.layout.big:  # an EXIF block has 32-bit types only
        carried = {n: t for n, t in carried.items() if _is_small(t)}
    blobs = {"icc_profile": _ICC, "xmp": _XMP, "photoshop": _PHOTOSHOP}
    return Metadata(
        exif=exif.block(carried, page.layout.order) if carried else None,
        dpi=exif.resolution(page.layout, tags),
        **{name: tags[tag].data for name, tag in blobs.items() if tag in tags},
    )


def _is_small(tag: Tag | Directory) -> bool:
    return isinstance(tag, dict) or tag.type < 16


def decode_deep(
    file: Any, page: Page
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Colours, alpha and notes: exact, where uint16 or float32 can hold the samples."""
    photometric, samples = page.number(_PHOTOMETRIC, 1), page.number(_SAMPLES, 1)
    channels = {0: 1, 1: 1, 2: 3}.get(photometric)
    if channels is None or samples not in (channels, channels + 1):
        raise PictureError(
            f"has {samples} samples of {page.bits} bits a pixel (photometric "
            f"interpretation {photometric}); beyond 8 bits only grey and RGB, with or "
            "without alpha, are supported"
        )
    try:
        import tifffile
    except ImportError:
        raise PictureError(
            f"is a TIFF of {page.bits} bits and {samples} samples; to read it, pip "
            "install 'transportjax[deep]'"
        ) from None
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        first = tiff.pages[0]
        array, axes = first.asarray(), first.axes
    if axes == "SYX":  # one plane after the other
        array = np.moveaxis(array, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise PictureError(f"has axes {axes}, which are not a picture's")
    array, notes = _as_stored(array.reshape(*array.shape[:2], -1), page)
    if photometric == 0:  # white is zero
        array = white(array.dtype) - array
    if samples == channels:
        return np.ascontiguousarray(array), None, notes
    pixels, alpha = np.ascontiguousarray(array[..., :-1]), array[..., -1].copy()
    if page.extra == 1:
        pixels = _straight(pixels, alpha)
        notes.append(DIVIDED)
    elif page.extra == 0:
        notes.append("the extra channel, of unknown meaning, is taken as transparency")
    return pixels, alpha, notes


def _as_stored(array: np.ndarray, page: Page) -> tuple[np.ndarray, list[str]]:
    """The samples as native uint8, uint16 or float32, and notes on what was changed."""
    if array.dtype.kind == "f":
        lost = array.dtype.itemsize > 4
        notes = ["64-bit floats were rounded to 32 bits"] if lost else []
        return array.astype(np.float32, copy=False), notes
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if page.bits in (8, 16):
        return array, []
    if not 8 < page.bits < 16:
        raise PictureError(
            f"has {page.bits}-bit integer samples, which is not supported"
        )
    top = 2**page.bits - 1
    stretched = (array.astype(np.uint32) * 65535 + top // 2) // top
    return stretched.astype(np.uint16), [f"{page.bits}-bit samples became 16-bit ones"]


def _straight(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by alpha, without it; kept where alpha is 0."""
    top = white(pixels.dtype)
    a = np.where(alpha == 0, top, alpha).astype(np.float64)[..., None]
    colours = pixels * (top / a)
    if pixels.dtype.kind == "u":
        colours = np.rint(np.minimum(colours, top))
    return colours.astype(pixels.dtype)


def encode(file: io.BufferedIOBase, picture: Picture) -> None:
    """Writes a TIFF of the picture's own depth, without loss.

    Strips are compressed by deflate, after differences from pixel to pixel: of integers
    or, for floats, of each of their bytes. Offsets have 64 bits (BigTIFF) where
    they must.
    """
    tags: Directory = {}
    if picture.meta.exif:
        try:
            old, found = exif.read_block(picture.meta.exif)
            found = {number: tag for number, tag in found.items() if number in CARRIED}
            tags = exif.little_endian(found, old.order)
        except (ValueError, struct.error):
            pass  # a broken block is not worth the picture
    pixels, alpha = picture.pixels, picture.alpha
    size = pixels.nbytes + (0 if alpha is None else alpha.nbytes)
    layout = Layout("<", big=size > _SMALL)
    file.write(b"II")
    file.write(
        layout.pack("HHHQ", 43, 8, 0, 0) if layout.big else layout.pack("HI", 42, 0)
    )
    height = len(pixels)
    step = max(1, min(height, _BAND * height // size))
    strips = ((picture, at, at + step) for at in range(0, height, step))
    offsets, counts = [], []
    with in_threads(_compress, strips) as results:
        for packed in results:
            offsets.append(file.tell())
            counts.append(len(packed))
            file.write(packed)
    file.write(bytes(-file.tell() % 8))
    start = file.tell()
    tags |= _description(layout, picture.meta, _DESCRIPTION not in tags)
    tags |= _structure(layout, picture, step, offsets, counts)
    file.write(exif.directory_bytes(tags, layout, start))
    file.seek(8 if layout.big else 4)
    file.write(layout.pack(layout.offset, start))


def _compress(strip: tuple[Picture, int, int]) -> bytes:
    """A strip of rows, deflated."""
    picture, start, stop = strip
    samples = picture.pixels[start:stop]
    if picture.alpha is not None:
        samples = np.dstack([samples, picture.alpha[start:stop]])
    if samples.dtype.kind == "f":  # all first bytes of a row, then all second ones ...
        rows = np.ascontiguousarray(samples, ">f4").view(np.uint8)
        rows = rows.reshape(len(samples), -1, 4).swapaxes(1, 2)
        samples = rows.reshape(len(samples), -1, samples.shape[2])
    samples = np.concatenate([samples[:, :1], samples[:, 1:] - samples[:, :-1]], axis=1)
    dtype = samples.dtype.newbyteorder("<")
    data = np.ascontiguousarray(samples, dtype).data.cast("B")
    stream = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return stream.compress(data) + stream.flush()


def _description(layout: Layout, meta: Metadata, free: bool) -> Directory:
    """The tags that are not in the EXIF block; a text if that is `free` of one."""
    tags: Directory = {}
    if meta.dpi:
        tags |= exif.resolution_tags(meta.dpi, layout.order)
    text = plain_text(meta).encode()
    if text and free:
        tags[_DESCRIPTION] = Tag(2, len(text) + 1, text + b"\0")
    for number, kind, blob in (
        (_ICC, 7, meta.icc_profile),
        (_XMP, 1, meta.xmp),
        (_PHOTOSHOP, 7, meta.photoshop),
    ):
        if blob:
            tags[number] = Tag(kind, len(blob), blob)
    return tags


def _structure(
    layout: Layout, picture: Picture, rows: int, offsets: list[int], counts: list[int]
) -> Directory:
    """The tags that say how the pixels are stored."""
    height, width, channels = picture.pixels.shape
    integer = picture.pixels.dtype.kind == "u"
    samples = channels + (picture.alpha is not None)
    bits = 8 * picture.pixels.itemsize
    shorts = {
        _BITS: [bits] * samples,
        _COMPRESSION: [8],  # deflate
        _PHOTOMETRIC: [2 if channels == 3 else 1],
        _SAMPLES: [samples],
        _PLANAR: [1],
        _PREDICTOR: [2 if integer else 3],
        _FORMAT: [1 if integer else 3] * samples,
    }
    if picture.alpha is not None:
        shorts[_EXTRA] = [2]  # not premultiplied
    longs = {_WIDTH: [width], _HEIGHT: [height], _ROWS: [rows]}
    places = {_OFFSETS: offsets, _COUNTS: counts}
    kinds = ((3, "H", shorts), (4, "I", longs))
    kinds += ((16, "Q", places),) if layout.big else ((4, "I", places),)
    return {
        number: Tag(kind, len(values), layout.pack(f"{len(values)}{code}", *values))
        for kind, code, group in kinds
        for number, values in group.items()
    }
