"""Pictures of 8 bits a sample, through Pillow, which is imported on first use.

Pillow is given one format to try, the one that the file's first bytes name; it never
decodes a picture larger than the limit, and its warnings never reach the user.
"""

import contextlib
import dataclasses
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import exif
from .picture import Metadata, Picture, PictureError, plain_text

READABLE = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "AVIF")
FIRST_FRAME = "only the first frame was read"

# the first bytes of files: formats that are read, then others for the error message
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "PPM": rb"P[1-6f]\s",
    "AVIF": rb"....ftyp(avi|mif1|msf1)",
    "a PDF": rb"%PDF",
    "an EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "an SVG": rb"\s*<(\?xml|svg|!DOCTYPE svg)",
    "an OpenEXR": rb"\x76\x2f\x31\x01",
    "a Radiance HDR": rb"#\?R",
    "a HEIF": rb"....ftyphe",
    "a video": rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ",
    "a JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "a JPEG 2000": rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ",
    "a Photoshop": rb"8BPS",
    "a FITS": rb"SIMPLE  =",
    "an icon": rb"\x00\x00\x01\x00",
    "a compressed": rb"\x1f\x8b|PK\x03\x04",
}
_LOCK = threading.RLock()  # Pillow's limit and Python's warnings are global
_PHOTOSHOP = b"Photoshop 3.0\0"
_SEGMENT = 65533  # bytes that one segment of a JPEG file holds


def recognise(head: bytes) -> str:
    """The name of the readable format that a file starting with `head` has."""
    listed = ", ".join(READABLE)
    for name, magic in _MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            if name in READABLE:
                return name
            raise PictureError(
                f"is {name} file, which is not supported (only {listed})"
            )
    raise PictureError(f"is not a picture, or not one of {listed}")


@contextlib.contextmanager
def _strict(max_pixels: int) -> Iterator[None]:
    """Pillow with our limit and without warnings; one thread at a time."""
    from PIL import Image

    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        except too_large:
            raise PictureError(f"has more than max_pixels = {max_pixels}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode(file: Any, name: str, max_pixels: int) -> tuple[Any, bool]:
    """The first frame as a Pillow image, and whether there are more."""
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    with _strict(max_pixels):
        try:
            image = Image.open(file, formats=(name,))
        except UnidentifiedImageError:
            raise PictureError(f"is a damaged or unusual {name} file") from None
        check_size(image.size[0], image.size[1], max_pixels)
        if name == "PPM" and image.mode == "RGB" and _depth_of_ppm(image) > 255:
            raise PictureError("is a PPM of 16 bits: convert it to PNG or TIFF")
        several = bool(getattr(image, "is_animated", False))
        if name == "TIFF":  # it looks at the limit, and at tags, once more
            image.load()
    image.load()
    return image, several


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises unless a picture has at least one and at most `max_pixels` pixels."""
    if width < 1 or height < 1:
        raise PictureError(f"is empty: its size is {width} x {height}")
    if width * height > max_pixels:
        raise PictureError(
            f"has {width} x {height} pixels, more than max_pixels = {max_pixels}"
        )


def _depth_of_ppm(image: Any) -> int:
    arguments = image.tile[0].args if image.tile else None
    return arguments[1] if isinstance(arguments, tuple) else 255


def to_arrays(
    image: Any, key: tuple[int, ...] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours and alpha of an image; colours equal to `key` are transparent."""
    mode = image.mode
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode in ("1", "RGBX", "YCbCr", "La", "RGBa"):
        others = {"1": "L", "La": "LA", "RGBa": "RGBA"}
        image = image.convert(others.get(mode, "RGB"))
    elif mode.startswith("I"):  # 16-bit PGM comes as 32-bit integers
        return np.asarray(image).astype(np.uint16)[..., None], None
    elif mode not in ("L", "LA", "RGB", "RGBA", "F"):
        raise PictureError(f"has the mode {mode}, which is not supported")
    array = np.asarray(image)
    array = array.reshape(*array.shape[:2], -1)
    if array.shape[2] in (2, 4):
        return np.ascontiguousarray(array[..., :-1]), array[..., -1].copy()
    if key is not None and len(key) == array.shape[2]:
        same = np.all(array == np.array(key, np.int32), axis=2)
        return array, np.where(same, 0, 255).astype(np.uint8)
    return array, None


def to_rgb(image: Any, meta: Metadata) -> tuple[Any, Metadata]:
    """A CMYK or Lab image as sRGB, and metadata with a note instead of the profile."""
    from PIL import ImageCms

    mode, result, how = image.mode, None, "through its colour profile"
    try:
        source = None
        if mode == "LAB":
            source, how = ImageCms.createProfile("LAB"), "as Lab of D50"
        elif meta.icc_profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(meta.icc_profile))
        if source is not None:
            result = ImageCms.profileToProfile(
                image,
                source,
                ImageCms.createProfile("sRGB"),
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                "RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
    except (ImageCms.PyCMSError, OSError):
        result = None  # the profile is damaged, or of another kind of colour
    if result is None:
        result = image.convert("RGB")
        how = "without a usable colour profile, so the colours are approximate"
    note = f"{mode} was converted to sRGB {how}"
    return result, dataclasses.replace(
        meta, icc_profile=None, notes=(*meta.notes, note)
    )


def metadata(image: Any) -> Metadata:
    """What Pillow says of a file, apart from orientation, still to be applied."""
    info = image.info
    block = info.get("exif") or None
    block = block.removeprefix(b"Exif\0\0") if block else None
    xmp = info.get("xmp") or None
    dpi = info.get("dpi")
    if dpi is not None:
        x, y = float(dpi[0]), float(dpi[1])
        dpi = (x, y) if 0 < x < 1e9 and 0 < y < 1e9 else None
    elif block:
        dpi = exif.block_resolution(block)
    comment = info.get("comment") or b""
    try:
        text = comment.decode() if isinstance(comment, bytes) else comment
    except UnicodeDecodeError:
        text = comment.decode("latin-1")
    segments = [data for name, data in getattr(image, "applist", []) if name == "APP13"]
    photoshop = b"".join(
        data.removeprefix(_PHOTOSHOP) for data in segments if data[:14] == _PHOTOSHOP
    )
    return Metadata(
        icc_profile=info.get("icc_profile") or None,
        exif=block,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        photoshop=photoshop or None,
        dpi=dpi,
        text=(("Comment", text),) if text else (),
    )


def encode(file: Any, picture: Picture, name: str, quality: int) -> None:
    """Writes a JPEG, WebP, AVIF, BMP or PPM; what it cannot hold is gone already."""
    from PIL import Image

    meta, array = picture.meta, picture.pixels
    if picture.alpha is not None:
        array = np.dstack([array, picture.alpha])
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    options: dict[str, Any] = {"quality": quality}
    if name == "JPEG":
        comment = plain_text(meta).encode()
        options |= {"subsampling": "4:4:4", "extra": _segments(meta.photoshop or b"")}
        options |= {"comment": comment} if comment else {}
        options |= {"dpi": meta.dpi} if meta.dpi else {}
    elif name == "WEBP":
        options |= {"lossless": quality == 100, "exact": True}
    elif name == "AVIF":
        options |= {"subsampling": "4:0:0" if array.shape[2] == 1 else "4:4:4"}
    else:
        options = {"dpi": meta.dpi} if meta.dpi and name == "BMP" else {}
    if meta.exif:
        block = meta.exif
        if name == "AVIF":  # else Pillow takes it apart and spoils what is not ASCII
            block = exif.without_orientation(block)
        options["exif"] = b"Exif\0\0" + block
    options |= {"xmp": meta.xmp} if meta.xmp else {}
    options |= {"icc_profile": meta.icc_profile} if meta.icc_profile else {}
    image.save(file, name, **options)


def _segments(resources: bytes) -> bytes:
    """Photoshop's resources as segments of a JPEG file."""
    room = _SEGMENT - len(_PHOTOSHOP)
    parts = [resources[at : at + room] for at in range(0, len(resources), room)]
    return b"".join(
        b"\xff\xed" + struct.pack(">H", 16 + len(part)) + _PHOTOSHOP + part
        for part in parts
    )
