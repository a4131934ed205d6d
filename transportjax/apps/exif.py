"""Directories of tags: what a TIFF file is made of, and an EXIF block too.

Tags are carried as they are stored, type, count and bytes, and never decoded and
encoded again: text in any encoding and private types come through unharmed.

References:
    Adobe, 1992, TIFF Revision 6.0, section 2; CIPA, 2019, Exchangeable image file
    format for digital still cameras: Exif Version 2.32, section 4.6.
"""

import io
import struct
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

# bytes of one value of each type; 13 points to a directory, 16 to 18 are BigTIFF's
SIZES = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8},
    **{13: 4, 16: 8, 17: 8, 18: 8},
}
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 5: "u4", 13: "u4", 16: "u8", 18: "u8"}

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
# where directories hang below which directory; None is the first one
_CHILDREN = {None: (_EXIF, _GPS), _EXIF: (_INTEROPERABILITY,)}
_WIDTH, _HEIGHT = 40962, 40963  # in the Exif directory


class Tag(NamedTuple):
    """One entry: its type, how many values, and their bytes in the file's order."""

    type: int
    count: int
    data: bytes


Directory = dict[int, Any]  # from number to Tag, or to the Directory below


class Layout(NamedTuple):
    """How numbers are stored: the byte order, "<" or ">", and 32- or 64-bit offsets."""

    order: str
    big: bool

    def unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        """`struct.unpack` in this byte order."""
        return struct.unpack(self.order + code, data)

    def pack(self, code: str, *values: int | bytes) -> bytes:
        """`struct.pack` in this byte order."""
        return struct.pack(self.order + code, *values)

    @property
    def offset(self) -> str:
        """The code of an offset."""
        return "Q" if self.big else "I"

    @property
    def entry(self) -> str:
        """The code of one entry of a directory."""
        return "HHQ8s" if self.big else "HHI4s"

    @property
    def number(self) -> str:
        """The code of the number of entries."""
        return "Q" if self.big else "H"

    def numbers(self, tag: Tag) -> list[int]:
        """The values of a tag of unsigned integers (a rational counts as two)."""
        if tag.type not in _NUMBERS:
            raise ValueError(f"a TIFF tag has the unexpected type {tag.type}")
        return np.frombuffer(tag.data, self.order + _NUMBERS[tag.type]).tolist()


def read_header(file: io.BufferedIOBase) -> tuple[Layout, int]:
    """How the file stores numbers, and where its first directory is."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("the TIFF header is broken")
    version = struct.unpack(order + "H", head[2:4])[0]
    if version not in (42, 43):
        raise ValueError("the TIFF header is broken")
    layout = Layout(order, version == 43)
    start = head[8:16] if layout.big else head[4:8]
    return layout, layout.unpack(layout.offset, start)[0]


def read_directory(
    file: io.BufferedIOBase,
    layout: Layout,
    start: int,
    *,
    keep: Container[int] | None = None,
    name: int | None = None,
) -> tuple[Directory, int]:
    """The tags in `keep` (None: all) with the Exif and GPS directories below them.

    Returns:
        The directory, and the offset of the next one, 0 if this is the last.
    """
    size = file.seek(0, io.SEEK_END)
    budget = size  # sound tags do not overlap, so that all of them fit in the file
    width = struct.calcsize(layout.order + layout.entry)
    head = _read(file, size, start, struct.calcsize("=" + layout.number))
    (count,) = layout.unpack(layout.number, head)
    start += len(head)
    entries = _read(file, size, start, count * width)
    start += len(entries)
    tail = _read(file, size, start, struct.calcsize("=" + layout.offset))
    tags: Directory = {}
    for entry in struct.iter_unpack(layout.order + layout.entry, entries):
        number, type_, count, inline = entry
        wanted = keep is None or number in keep or number in _CHILDREN.get(name, ())
        if not wanted or type_ not in SIZES or number in tags:
            continue
        length = count * SIZES[type_]
        budget -= length
        if budget < 0:
            raise ValueError("a TIFF tag is larger than the file")
        data = inline[:length]
        if length > len(inline):
            (place,) = layout.unpack(layout.offset, inline)
            data = _read(file, size, place, length)
        tag = Tag(type_, count, data)
        if number in _CHILDREN.get(name, ()):
            child = layout.numbers(tag)[0]
            tags[number] = read_directory(file, layout, child, name=number)[0]
        else:
            tags[number] = tag
    return tags, layout.unpack(layout.offset, tail)[0]


def _read(file: io.BufferedIOBase, size: int, start: int, length: int) -> bytes:
    """A part of a file of `size` bytes."""
    if start + length > size:
        raise ValueError("the file ends before its directory of tags does")
    file.seek(start)
    return file.read(length)


def directory_bytes(tags: Directory, layout: Layout, start: int) -> bytes:
    """`tags` as they stand in a file from the offset `start` on."""
    width = struct.calcsize(layout.order + layout.entry)
    room = struct.calcsize("=" + layout.offset)
    head = layout.pack(layout.number, len(tags))
    end = start + len(head) + len(tags) * width + room
    entries, values = b"", b""
    for number, tag in sorted(tags.items()):
        if isinstance(tag, dict):
            data = directory_bytes(tag, layout, end + len(values))
            inline = layout.pack(layout.offset, end + len(values))
            type_, count = (16 if layout.big else 4), 1
        else:
            type_, count, data = tag
            inline = data
            if len(data) > room:
                inline = layout.pack(layout.offset, end + len(values))
            else:
                data = b""
        entries += layout.pack(layout.entry, number, type_, count, inline)
        values += data + b"\0" * (len(data) % 2)
    return head + entries + layout.pack(layout.offset, 0) + values


def little_endian(tags: Directory, order: str) -> Directory:
    """`tags` with their numbers in little-endian order, from `order`."""
    if order == "<":
        return tags
    swapped: Directory = {}
    for number, tag in tags.items():
        if isinstance(tag, dict):
            swapped[number] = little_endian(tag, order)
            continue
        unit = SIZES[tag.type] if tag.type not in (5, 10) else 4  # a rational has two
        data = np.frombuffer(tag.data, f"u{unit}").byteswap()
        swapped[number] = tag._replace(data=bytes(data))
    return swapped


def block(tags: Directory, order: str) -> bytes:
    """`tags` as an EXIF block, which is a TIFF file without a picture."""
    layout = Layout(order, big=False)
    mark = b"II" if order == "<" else b"MM"
    return mark + layout.pack("HI", 42, 8) + directory_bytes(tags, layout, 8)


def read_block(exif: bytes) -> tuple[Layout, Directory]:
    """The layout and the tags of an EXIF block."""
    file = io.BytesIO(exif)
    layout, start = read_header(file)
    return layout, read_directory(file, layout, start)[0]


def resolution(layout: Layout, tags: Directory) -> tuple[float, float] | None:
    """Pixels an inch along x and y, None where the tags do not say it."""
    try:
        unit = tags.get(RESOLUTION_UNIT)
        scale = {2: 1.0, 3: 2.54}[layout.numbers(unit)[0] if unit else 2]
        pairs = [layout.numbers(tags[tag]) for tag in (X_RESOLUTION, Y_RESOLUTION)]
        x, y = (pair[0] / pair[1] * scale for pair in pairs)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if x > 0 and y > 0 else None


def block_resolution(exif: bytes) -> tuple[float, float] | None:
    """Pixels an inch along x and y, None where an EXIF block does not say it."""
    try:
        return resolution(*read_block(exif))
    except (ValueError, struct.error):
        return None


def resolution_tags(dpi: tuple[float, float], order: str) -> Directory:
    """The three tags that say `dpi`."""
    tags: Directory = {RESOLUTION_UNIT: Tag(3, 1, struct.pack(order + "H", 2))}
    for number, value in zip((X_RESOLUTION, Y_RESOLUTION), dpi, strict=True):
        whole = float(value).is_integer()
        bottom = 1 if whole else max(1, min(10**6, int(4e9 / max(value, 1))))
        pair = struct.pack(order + "II", round(value * bottom), bottom)
        tags[number] = Tag(5, 1, pair)
    return tags


def upright(exif: bytes) -> tuple[bytes, int]:
    """An EXIF block for the picture turned upright, and how it was stored (1 to 8).

    The orientation becomes 1, and the width and height in the block are exchanged with
    it. The small preview is unlinked: it would show the picture as it was. All else
    keeps its place, so that the notes of the camera's maker stay readable. A broken
    block is left alone.
    """
    try:
        layout, start = read_header(io.BytesIO(exif))
        places, end = _places(exif, layout, start)
        new = bytearray(exif)
        if end + 4 <= len(exif):
            new[end : end + 4] = bytes(4)
        if ORIENTATION not in places:
            return bytes(new), 1
        at = places[ORIENTATION]
        code = layout.order + (
            "I" if layout.unpack("H", exif[at + 2 : at + 4])[0] == 4 else "H"
        )
        (orientation,) = struct.unpack_from(code, exif, at + 8)
        struct.pack_into(code, new, at + 8, 1)
        if orientation not in range(1, 9):
            return bytes(new), 1
        if orientation >= 5 and _EXIF in places:
            below = struct.unpack_from(layout.order + "I", exif, places[_EXIF] + 8)[0]
            inner, _ = _places(exif, layout, below)
            if _WIDTH in inner and _HEIGHT in inner:
                for here, there in ((_WIDTH, _HEIGHT), (_HEIGHT, _WIDTH)):
                    value = struct.unpack_from("10s", exif, inner[there] + 2)
                    struct.pack_into("10s", new, inner[here] + 2, *value)
        return bytes(new), orientation
    except (ValueError, struct.error):
        return exif, 1


def without_orientation(exif: bytes) -> bytes:
    """The block without its orientation tag; values and their offsets stay."""
    try:
        layout, start = read_header(io.BytesIO(exif))
        places, end = _places(exif, layout, start)
        at = places[ORIENTATION]
    except (ValueError, KeyError, struct.error):
        return exif
    count = layout.pack("H", len(places) - 1)
    moved = exif[at + 12 : end + 4] + bytes(12)
    return exif[:start] + count + exif[start + 2 : at] + moved + exif[end + 4 :]


def _places(exif: bytes, layout: Layout, start: int) -> tuple[dict[int, int], int]:
    """Where each entry of a directory stands, and where the entries end."""
    (count,) = struct.unpack_from(layout.order + "H", exif, start)
    end = start + 2 + 12 * count
    places = {
        struct.unpack_from(layout.order + "H", exif, at)[0]: at
        for at in range(start + 2, end, 12)
    }
    return places, end
