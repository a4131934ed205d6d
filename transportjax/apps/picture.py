"""A picture in memory: its pixels as they are stored, and what else its file said."""

import dataclasses
from typing import Any

import numpy as np

from transportjax import _checks


class PictureError(ValueError):
    """A picture that cannot be read or written; the message names file and reason."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a picture's file says besides its pixels; the writer puts it back.

    Attributes:
        format: the format of the file, "PNG", "JPEG", ...; empty if there was none.
        mode: how the pixels were stored, in Pillow's words ("L", "LA", "P", "RGB",
            "CMYK", "1", ...), with ";16" or ";F" behind it for 16-bit or float samples.
        icc_profile: the colour profile that the pixels refer to.
        exif: the EXIF block (a TIFF header and directories), its orientation set to 1.
            For TIFF, the descriptive tags of the first page.
        xmp: the XMP packet.
        photoshop: Photoshop's image resources, where IPTC captions live.
        dpi: pixels an inch along x and y.
        text: pairs of keyword and text: PNG text chunks, JPEG and GIF comments.
        chunks: other PNG chunks, type and data, that are copied as they are.
        notes: sentences on what could not be kept, for the user.
    """

    format: str = ""
    mode: str = ""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    photoshop: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """Colours, transparency and metadata of one still picture, on the host.

    Attributes:
        pixels: (h, w, c), c = 1 (grey) or 3, of dtype uint8, uint16 or float32: the
            values as they are in the file, so for most files encoded as in sRGB, and
            not multiplied by alpha.
        alpha: (h, w), of the same dtype; None if the picture has no transparency.
        meta: the rest of the file.

    Raises:
        ValueError: if the shapes or dtypes are others.

    Example:
        >>> import numpy as np
        >>> Picture(np.zeros((2, 3, 1), np.uint8)).meta.dpi is None
        True
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    meta: Metadata = Metadata()

    def __post_init__(self):
        _checks.check_stored_picture(self.pixels, self.alpha)


def plain_text(meta: Metadata) -> str:
    r"""All texts in one, for formats that hold a single one.

    Example:
        >>> plain_text(Metadata(text=(("Comment", "Boats"), ("Author", "A. Painter"))))
        'Boats\nAuthor: A. Painter'
    """
    lines = (t if k == "Comment" else f"{k}: {t}" for k, t in meta.text if t)
    return "\n".join(lines)


def white(dtype: Any) -> int:
    """The stored value of full intensity in `dtype`; 1 for floats."""
    dtype = np.dtype(dtype)
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def to_unit(pixels: Any) -> np.ndarray:
    """Stored values as float32 with white at 1.

    uint8 is divided by 255 and uint16 by 65535, correctly rounded; floats stay as they
    are, below 0, above 1 and NaN included.

    Raises:
        ValueError: for any other dtype.

    Example:
        >>> import numpy as np
        >>> to_unit(np.array([0, 51, 255], np.uint8))
        array([0. , 0.2, 1. ], dtype=float32)
    """
    pixels = np.asarray(pixels)
    _checks.check_stored_dtype("pixels", pixels.dtype)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    return pixels.astype(np.float32) / np.float32(white(pixels.dtype))


def from_unit(values: Any, dtype: Any) -> np.ndarray:
    """Values with white at 1 as stored values of `dtype`: the inverse of `to_unit`.

    For uint8 and uint16 it is the integer nearest to 255 x or 65535 x, for x clipped to
    [0, 1]; halves go to the even neighbour. The product is taken in float64, where it
    is exact for float32 `values`. NaN becomes 0. For floats nothing is clipped.

    Raises:
        ValueError: if `dtype` is not uint8, uint16 or a floating type.

    Example:
        >>> import numpy as np
        >>> from_unit([-1.0, 0.2, 0.5, 2.0, np.nan], np.uint8)
        array([  0,  51, 128, 255,   0], dtype=uint8)
    """
    values, dtype = np.asarray(values), np.dtype(dtype)
    _checks.check_stored_dtype("dtype", dtype)
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    out = np.empty(values.shape, dtype)
    flat, flat_out = values.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, 2**18):  # a float64 copy of it all would be large
        part = flat[start : start + 2**18].astype(np.float64)
        np.fmax(part, 0, out=part)  # fmax also maps NaN to 0
        np.fmin(part, 1, out=part)
        np.rint(np.multiply(part, white(dtype), out=part), out=part)
        flat_out[start : start + 2**18] = part
    return out
