"""PNG files: all of their chunks, 16-bit samples, and a fast writer.

Pillow reads 16-bit colour as 8-bit without a word, and writes a 24-megapixel photograph
in 11 seconds; so deep files are read by imagecodecs, and all are written here.

References:
    World Wide Web Consortium, 2025, Portable Network Graphics (PNG) Specification
    (Third Edition), sections 5 (chunks), 9 (filtering), 10 (compression), 11.3
    (ancillary chunks), 14.2 (behaviour of PNG editors).
"""

import io
import struct
import zlib
from typing import Any

import numpy as np

from transportjax._files import in_threads

from .picture import Metadata, Picture, PictureError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

Chunk = tuple[bytes, bytes]

# these say what the colours mean; the PNG editor's rule keeps the other ones
_COLOUR_CHUNKS = (b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI")
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_COLOUR_TYPES = {(1, False): 0, (3, False): 2, (1, True): 4, (3, True): 6}
_XMP = "XML:com.adobe.xmp"
_INCH = 0.0254  # metres
_LIMIT = 2**26  # bytes that compressed metadata may unfold to
_BAND = 2**20  # bytes that are compressed at a time


def read_chunks(file: io.BufferedIOBase) -> list[Chunk]:
    """All chunks but those of the pixels, in the order of the file.

    An optional chunk whose checksum is wrong is left out.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    chunks: list[Chunk] = []
    while not chunks or chunks[-1][0] != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise PictureError("is truncated")
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha() or file.tell() + length + 4 > size:
            raise PictureError("is truncated or damaged")
        if kind in (b"IDAT", b"fdAT"):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        data, crc = file.read(length), file.read(4)
        if zlib.crc32(kind + data) == int.from_bytes(crc) or kind == b"IEND":
            chunks.append((kind, data))
        elif kind[:1].isupper():
            raise PictureError(f"is damaged: the checksum of {kind.decode()} is wrong")
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise PictureError("is damaged: it has no header")
    return chunks


def header(chunks: list[Chunk]) -> tuple[int, int, int, str]:
    """Width, height, bits a sample, and mode in Pillow's words."""
    width, height, depth, colour = struct.unpack(">IIBB", chunks[0][1][:10])
    mode = _MODES.get(colour, "")
    return width, height, depth, "1" if (mode, depth) == ("L", 1) else mode


def transparent(chunks: list[Chunk], depth: int) -> tuple[int, ...] | None:
    """The one stored colour that is fully transparent, scaled as 8- or 16-bit value."""
    data = dict(chunks).get(b"tRNS", b"")
    if header(chunks)[3] not in ("1", "L", "RGB") or len(data) not in (2, 6):
        return None
    scale = {1: 255, 2: 85, 4: 17}.get(depth, 1)
    samples = np.frombuffer(data, ">u2") & (2**depth - 1)
    return tuple(scale * value for value in samples.tolist())


def metadata(chunks: list[Chunk]) -> Metadata:
    """What the chunks say, apart from orientation, which is still to be applied."""
    meta: dict[str, Any] = {"exif": None}
    text, kept, notes, budget = [], [], [], _LIMIT
    for kind, data in chunks:
        if kind == b"iCCP":
            try:
                meta["icc_profile"] = _inflate(data[data.find(b"\0") + 2 :], _LIMIT)
            except zlib.error:
                notes.append("the colour profile is damaged and was dropped")
        elif kind == b"eXIf":
            meta["exif"] = data.removeprefix(b"Exif\0\0")
        elif kind == b"pHYs" and data[8:9] == b"\1" and len(data) == 9:
            x, y = struct.unpack(">II", data[:8])
            meta["dpi"] = (x * _INCH, y * _INCH) if x and y else None
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, value, tagged = _decode_text(kind, data, budget)
            budget -= len(value)
            if keyword == _XMP:
                meta["xmp"] = value.encode()
            elif keyword in ("Raw profile type exif", "Raw profile type APP1"):
                meta["exif"] = meta["exif"] or _raw_profile(value)
            elif tagged:
                kept.append((kind, data))
            else:
                text.append((keyword, value))
        elif kind in _COLOUR_CHUNKS or kind[0:1].islower() and kind[3:4].islower():
            kept.append((kind, data))
    return Metadata(**meta, text=tuple(text), chunks=tuple(kept), notes=tuple(notes))


def _inflate(data: bytes, limit: int) -> bytes:
    """The plain bytes of compressed metadata, of at most `limit`."""
    stream = zlib.decompressobj()
    plain = stream.decompress(data, max(limit, 1))
    if stream.unconsumed_tail:
        raise PictureError("holds compressed metadata that unfolds to too many bytes")
    if not stream.eof:
        raise zlib.error("incomplete stream")
    return plain


def _decode_text(kind: bytes, data: bytes, limit: int) -> tuple[str, str, bool]:
    """Keyword and text of a chunk, and whether it names a language."""
    raw, _, rest = data.partition(b"\0")
    keyword, tagged = raw.decode("latin-1"), False
    if kind == b"tEXt":
        return keyword, rest.decode("latin-1"), False
    if kind == b"zTXt":
        return keyword, _inflate(rest[1:], limit).decode("latin-1"), False
    compressed, rest = rest[:1] == b"\1", rest[2:]
    language, _, rest = rest.partition(b"\0")
    translated, _, rest = rest.partition(b"\0")
    tagged = bool(language or translated)
    value = _inflate(rest, limit) if compressed else rest
    return keyword, value.decode("utf-8", "replace"), tagged


def _raw_profile(value: str) -> bytes | None:
    """The EXIF block in ImageMagick's hexadecimal text, None if it is another one."""
    try:
        data = bytes.fromhex("".join(value.split()[2:]))
    except ValueError:
        return None
    return data[6:] if data.startswith(b"Exif\0\0") else None


def _chunks_of(meta: Metadata) -> list[Chunk]:
    """The chunks that say what `meta` says."""
    chunks = [c for c in meta.chunks if not (meta.icc_profile and c[0] == b"sRGB")]
    if meta.icc_profile:
        packed = zlib.compress(meta.icc_profile)
        chunks.insert(0, (b"iCCP", b"ICC Profile\0\0" + packed))
    if meta.dpi:
        per_metre = [round(value / _INCH) for value in meta.dpi]
        chunks = [c for c in chunks if c[0] != b"pHYs"]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if meta.exif:
        chunks.append((b"eXIf", meta.exif))
    if meta.xmp:
        chunks.append(_text_chunk(_XMP, meta.xmp.decode("utf-8", "replace"), True))
    return chunks + [_text_chunk(*pair) for pair in meta.text]


def _text_chunk(keyword: str, text: str, international: bool = False) -> Chunk:
    key = keyword.encode("latin-1", "replace")[:79] or b"Comment"
    if not international:
        try:
            return b"tEXt", key + b"\0" + text.encode("latin-1")
        except UnicodeEncodeError:
            pass
    return b"iTXt", key + b"\0\0\0\0\0" + text.encode()


def decode_deep(
    file: io.BufferedIOBase, mode: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours and alpha of a 16-bit PNG, exactly."""
    try:
        import imagecodecs
    except ImportError:
        raise PictureError(
            f"is a 16-bit PNG ({mode}); to read it, pip install 'transportjax[deep]'"
        ) from None
    file.seek(0)
    samples = imagecodecs.png_decode(file.read())
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] in (2, 4):
        return np.ascontiguousarray(samples[..., :-1]), samples[..., -1].copy()
    return samples, None


def encode(file: io.BufferedIOBase, picture: Picture) -> None:
    """Writes a PNG of 8 or 16 bits a sample.

    Bands of rows are filtered and compressed by several threads and joined into one
    zlib stream; the bytes do not depend on how many threads there are. Every row has
    filter 3 (the mean of left and upper neighbour), and the residuals are coded by runs
    and Huffman: for photographs that is as small as zlib's best match search, since
    there is nothing to match in noise, at a tenth of its time.
    """
    height, width, channels = picture.pixels.shape
    colour = _COLOUR_TYPES[channels, picture.alpha is not None]
    depth = 8 * picture.pixels.dtype.itemsize
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    file.write(SIGNATURE)
    for kind, data in ((b"IHDR", head), *_chunks_of(picture.meta)):
        _write_chunk(file, kind, data)
    step = max(1, _BAND // (width * channels * picture.pixels.itemsize))
    bands = ((picture, start, start + step) for start in range(0, height, step))
    low, high = 1, 0  # the halves of Adler-32, over all that was compressed
    beginning = b"\x78\x01"  # the header of a zlib stream
    with in_threads(_compress, bands) as results:
        for packed, length, checksum in results:
            # the checksum of two parts joined, from the checksums of the parts
            high = (high + (checksum >> 16) + length * (low - 1)) % 65521
            low = (low + (checksum & 0xFFFF) - 1) % 65521
            _write_chunk(file, b"IDAT", beginning + packed)
            beginning = b""
    last_block = b"\x03\x00"  # and empty
    _write_chunk(file, b"IDAT", last_block + struct.pack(">HH", high, low))
    _write_chunk(file, b"IEND", b"")


def _compress(band: tuple[Picture, int, int]) -> tuple[bytes, int, int]:
    """A band of rows as a piece of a deflate stream; its plain length and checksum."""
    rows = _filtered(*band)
    stream = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    packed = stream.compress(rows.data) + stream.flush(zlib.Z_SYNC_FLUSH)
    return packed, rows.size, zlib.adler32(rows.data)


def _filtered(picture: Picture, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` as bytes, less the mean of their left and upper bytes."""
    first = max(start - 1, 0)
    samples = picture.pixels[first:stop]
    if picture.alpha is not None:
        samples = np.dstack([samples, picture.alpha[first:stop]])
    size = samples.shape[2] * samples.itemsize
    big_endian = samples.astype(samples.dtype.newbyteorder(">"), order="C", copy=False)
    rows = big_endian.reshape(len(samples), -1).view(np.uint8)
    above = rows[:-1] if start else np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    rows = rows[start - first :]
    left = np.zeros_like(rows)
    left[:, size:] = rows[:, :-size]
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    out[:, 0] = 3
    mean = (left & above) + ((left ^ above) >> 1)  # of bytes, without a ninth bit
    np.subtract(rows, mean, out=out[:, 1:])
    return out


def _write_chunk(file: io.BufferedIOBase, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
