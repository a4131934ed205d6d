"""Any still picture into an array, and back into a file with nothing lost."""

import contextlib
import dataclasses
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transportjax import _checks
from transportjax._files import atomic_write

from . import eight_bit, exif, png, tiff
from .picture import (
    Metadata as Metadata,
    Picture as Picture,
    PictureError as PictureError,
    from_unit as from_unit,
    plain_text,
    to_unit as to_unit,
    white,
)

_SEGMENT = 65500  # bytes that a segment of a JPEG file holds, less what names it


def read_picture(
    path: str | os.PathLike[str], *, max_pixels: int = 512_000_000
) -> Picture:
    """The picture in a PNG, JPEG, TIFF, WebP, BMP, GIF, PPM or AVIF file.

    The format is told from the contents, not from the name. Samples keep their depth:
    8 and 16 bits come as uint8 and uint16, floats as float32, bit for bit. 16-bit PNG
    and TIFF beyond 8 bits need `pip install 'transportjax[deep]'`.

    Grey stays one channel (black and white becomes grey). Palettes are expanded, since
    changed colours would not fit in them, and so is a transparent colour. The EXIF
    orientation is applied. RGB is never converted, its profile is kept beside it; CMYK
    and Lab become RGB, through the embedded profile if there is one. Of several
    frames or pages the first is read. What is lost or changed on the way stands in
    `picture.meta.notes`, for people to read.

    Args:
        path: the file.
        max_pixels: larger pictures are refused before they are decoded, since a small
            file can claim any size.

    Raises:
        PictureError: if the file is no picture, damaged, truncated, too large, or of an
            unsupported kind.
        OSError: if the file is missing or cannot be opened.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> path = pathlib.Path(tempfile.mkdtemp(), "ramp.png")
        >>> ramp = np.arange(256, dtype=np.uint8)[None, :, None]
        >>> write_picture(path, Picture(ramp))
        ()
        >>> picture = read_picture(path)
        >>> picture.pixels.shape, picture.meta.mode
        ((1, 256, 1), 'L')
    """
    _checks.check_count("max_pixels", max_pixels)
    shown = os.fsdecode(path)
    with _naming(shown, "decoded"), _open_regular(shown) as file:
        head = file.read(2**16)
        file.seek(0)
        if head.startswith(png.SIGNATURE):
            return _read_png(file, max_pixels)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _read_tiff(file, max_pixels)
        if not head:
            raise PictureError("is empty")
        return _read_other(file, head, max_pixels)


@contextlib.contextmanager
def _naming(shown: str, done: str) -> Iterator[None]:
    """Turns whatever a codec raises into a PictureError that names the file."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{shown}: {error}") from error.__cause__
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's, not the decoder's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{shown}: cannot be {done}: {reason}") from error


def _open_regular(shown: str) -> io.BufferedIOBase:
    """The file, unless it is a folder, a pipe or a device."""
    mode = os.stat(shown).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a picture", shown)
    if not stat.S_ISREG(mode):
        raise PictureError("is not a regular file")
    return open(shown, "rb")


def _read_png(file: io.BufferedIOBase, max_pixels: int) -> Picture:
    """A PNG of any depth."""
    chunks = png.read_chunks(file)
    width, height, depth, mode = png.header(chunks)
    eight_bit.check_size(width, height, max_pixels)
    meta = png.metadata(chunks)
    if depth == 16:
        pixels, alpha = png.decode_deep(file, mode)
        mode += ";16"
    else:
        image, _ = eight_bit.decode(file, "PNG", max_pixels)
        pixels, alpha = eight_bit.to_arrays(image, png.transparent(chunks, depth))
    if any(kind == b"acTL" for kind, _ in chunks):
        meta = _noted(meta, eight_bit.FIRST_FRAME)
    return _upright(pixels, alpha, meta, "PNG", mode)


def _read_tiff(file: io.BufferedIOBase, max_pixels: int) -> Picture:
    """The first page of a TIFF of any depth."""
    page = tiff.read_page(file)
    for size in (page.size, page.tile):  # a small picture may claim a huge tile
        eight_bit.check_size(*size, max_pixels)
    tiff.check_complete(file, page)
    meta = tiff.metadata(page)
    if page.more:
        meta = _noted(meta, "only the first page was read")
    if page.deep:
        pixels, alpha, notes = tiff.decode_deep(file, page)
        mode = ("L" if pixels.shape[2] == 1 else "RGB") + ("" if alpha is None else "A")
        mode += {"uint8": "", "uint16": ";16", "float32": ";F"}[pixels.dtype.name]
        return _upright(pixels, alpha, _noted(meta, *notes), "TIFF", mode)
    image, _ = eight_bit.decode(file, "TIFF", max_pixels)
    mode = image.mode
    if mode in ("CMYK", "LAB"):
        image, meta = eight_bit.to_rgb(image, meta)
    if page.extra == 1:
        meta = _noted(meta, tiff.DIVIDED)
    pixels, alpha = eight_bit.to_arrays(image, None)
    return _upright(pixels, alpha, meta, "TIFF", mode, turned=True)


def _read_other(file: io.BufferedIOBase, head: bytes, max_pixels: int) -> Picture:
    """A JPEG, WebP, BMP, GIF, PPM or AVIF."""
    name = eight_bit.recognise(head)
    image, several = eight_bit.decode(file, name, max_pixels)
    mode, meta = image.mode, eight_bit.metadata(image)
    at = head.find(b"av1C") + 6  # the byte with the two bits of the depth
    if name == "AVIF" and at > 5 and head[at : at + 1] > b"\x3f" and head[at] & 0x40:
        meta = _noted(meta, "its 10- or 12-bit samples were read as 8-bit ones")
    if several:
        meta = _noted(meta, eight_bit.FIRST_FRAME)
    if mode in ("CMYK", "LAB"):
        image, meta = eight_bit.to_rgb(image, meta)
    key = image.info.get("transparency")
    key = (key,) if isinstance(key, int) else None
    pixels, alpha = eight_bit.to_arrays(image, key)
    return _upright(pixels, alpha, meta, name, mode)


def _noted(meta: Metadata, *notes: str) -> Metadata:
    return dataclasses.replace(meta, notes=(*meta.notes, *notes))


def _upright(
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    meta: Metadata,
    name: str,
    mode: str,
    *,
    turned: bool = False,
) -> Picture:
    """The picture with its EXIF orientation applied, unless it is `turned` already."""
    meta = dataclasses.replace(meta, format=name, mode=mode)
    if mode in ("P", "PA"):
        meta = _noted(meta, "its palette was expanded to RGB")
    if meta.exif:
        block, orientation = exif.upright(meta.exif)
        swap = orientation >= 5 and meta.dpi is not None
        dpi = meta.dpi[::-1] if swap and meta.dpi else meta.dpi
        meta = dataclasses.replace(meta, exif=block, dpi=dpi)
        if not turned:
            pixels = _turn(pixels, orientation)
            alpha = None if alpha is None else _turn(alpha, orientation)
    if meta.xmp:
        pattern = rb"tiff:Orientation(=[\"']|>)[2-8]"
        xmp = re.sub(pattern, rb"tiff:Orientation\g<1>1", meta.xmp)
        meta = dataclasses.replace(meta, xmp=xmp)
    return Picture(pixels, alpha, meta)


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array stored in one of EXIF's eight orientations, upright."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    # stored from the right: 2, 3, 7, 6; from the bottom: 3, 4, 7, 8
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


class _Format(NamedTuple):
    """What a format can hold."""

    dtypes: tuple[str, ...]  # the best first
    holds: tuple[str, ...]  # fields of Metadata
    alpha: bool = False
    longest: int = 2**31 - 1  # side


_PROFILES = ("icc_profile", "exif", "xmp", "dpi")
_FORMATS = {
    "PNG": _Format(("uint16", "uint8"), (*_PROFILES, "text", "chunks"), True),
    "TIFF": _Format(
        ("float32", "uint16", "uint8"), (*_PROFILES, "text", "photoshop"), True
    ),
    "JPEG": _Format(("uint8",), (*_PROFILES, "text", "photoshop"), longest=2**16 - 1),
    "WEBP": _Format(("uint8",), _PROFILES, True, 2**14 - 1),
    "AVIF": _Format(("uint8",), _PROFILES, True, 2**16),
    "BMP": _Format(("uint8",), ("dpi",)),
    "PPM": _Format(("uint8",), ()),
}
_ENDINGS = {
    **{".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"},
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".avif": "AVIF"},
    **{".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM"},
}
_WORDS = {
    "icc_profile": "the colour profile",
    "exif": "the EXIF block",
    "xmp": "the XMP packet",
    "dpi": "the resolution",
    "text": "the texts",
    "photoshop": "Photoshop's resources, with IPTC captions",
}


def write_picture(
    path: str | os.PathLike[str],
    picture: Picture,
    *,
    overwrite: bool = False,
    quality: int = 95,
) -> tuple[str, ...]:
    """Writes a picture with its metadata; what the format cannot hold, as sentences.

    The format follows the name: .png, .tif, .tiff, .jpg, .jpeg, .webp, .avif, .bmp,
    .ppm or .pgm. PNG holds 8 and 16 bits and TIFF float32 too, both without loss; a
    picture too deep for its format is rounded (`from_unit`, so floats are clipped),
    transparency that it cannot hold is left out, and both are noted. The file appears
    under its name when it is complete, not before (`atomic_write`).

    Args:
        path: where to.
        picture: what.
        overwrite: whether an existing file may be replaced.
        quality: 1 to 100, for JPEG (always with full-resolution colour, 4:4:4), WebP
            and AVIF. 95 is what changes a photograph invisibly; at 100 WebP is
            lossless.

    Returns:
        What was lost or changed, in sentences; empty if nothing was.

    Raises:
        PictureError: if the name's ending is none of these, or the encoder fails.
        OSError: if the file exists and `overwrite` is False, or cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> path = pathlib.Path(tempfile.mkdtemp(), "ramp.jpg")
        >>> ramp = np.arange(256, dtype=np.uint16)[None, :, None] * 257
        >>> write_picture(path, Picture(ramp))
        ('JPEG holds 8 bits a sample: the 16-bit samples were rounded',)
    """
    _checks.check_number("quality", quality, 1.0, 100.0)
    shown = os.fsdecode(path)
    name = _ENDINGS.get(os.path.splitext(shown)[1].lower())
    with _naming(shown, "encoded"):
        if name is None:
            raise PictureError(f"has none of the endings {', '.join(_ENDINGS)}")
        picture, notes = _fitted(picture, name)
        with atomic_write(shown, overwrite=overwrite) as file:
            if name == "PNG":
                png.encode(file, picture)
            elif name == "TIFF":
                tiff.encode(file, picture)
            else:
                eight_bit.encode(file, picture, name, int(quality))
    return tuple(notes)


def _fitted(picture: Picture, name: str) -> tuple[Picture, list[str]]:
    """The picture as far as the format can hold it, and notes on the rest."""
    form, notes = _FORMATS[name], []
    pixels, alpha = picture.pixels, picture.alpha
    if max(pixels.shape[:2]) > form.longest:
        raise PictureError(f"{name} holds at most {form.longest} pixels along a side")
    if alpha is not None and not form.alpha:
        if (alpha != white(alpha.dtype)).any():
            notes.append(f"{name} holds no transparency: it was dropped")
        alpha = None
    if pixels.dtype.name not in form.dtypes:
        bits = 8 * np.dtype(form.dtypes[0]).itemsize
        was = "the 16-bit samples were rounded"
        if pixels.dtype.kind == "f":
            was = "floats were clipped to [0, 1] and rounded"
        notes.append(f"{name} holds {bits} bits a sample: {was}")
        pixels = from_unit(to_unit(pixels), form.dtypes[0])
        alpha = None if alpha is None else from_unit(to_unit(alpha), form.dtypes[0])
    if name == "WEBP" and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
        notes.append("WEBP holds no grey: it became RGB")
    meta, lost = _holdable(picture.meta, name, pixels.shape[2])
    return Picture(pixels, alpha, meta), notes + lost


def _holdable(meta: Metadata, name: str, channels: int) -> tuple[Metadata, list[str]]:
    """The metadata that the format can hold, and notes on the rest."""
    holds = _FORMATS[name].holds
    if not plain_text(meta):  # keywords alone say nothing
        holds = (*holds, "text")
    dropped = [f for f in _WORDS if getattr(meta, f) and f not in holds]
    if meta.dpi and "dpi" in holds and not all(0.01 <= v < 65535.5 for v in meta.dpi):
        meta = dataclasses.replace(meta, dpi=None)
        dropped.append("dpi")
    if name in ("WEBP", "AVIF") and meta.dpi:  # they say it in the EXIF block
        if not meta.exif:
            block = exif.block(exif.resolution_tags(meta.dpi, "<"), "<")
            meta = dataclasses.replace(meta, exif=block)
        elif exif.block_resolution(meta.exif) is None:
            dropped.append("dpi")
    lost = [f"{name} cannot hold {_WORDS[field]}" for field in dropped]
    if name == "JPEG":
        blobs = {"exif": meta.exif, "xmp": meta.xmp, "text": plain_text(meta).encode()}
        large = [f for f, blob in blobs.items() if blob and len(blob) > _SEGMENT]
        lost += [f"too large for JPEG: {_WORDS[field]}" for field in large]
        dropped += large
    space = {1: b"GRAY", 3: b"RGB "}[channels]
    if meta.icc_profile and meta.icc_profile[16:20] != space:
        lost.append("the colour profile is not one for such pixels: it was dropped")
        dropped.append("icc_profile")
    kinds = {kind for kind, _ in meta.chunks}
    if name != "PNG" and b"sRGB" not in kinds and kinds & {b"gAMA", b"cHRM", b"cICP"}:
        lost.append(f"{name} cannot hold the colour chunks of PNG")
    nothing = Metadata()
    kept = {field: getattr(nothing, field) for field in dropped}
    return dataclasses.replace(meta, **kept), lost
