"""The file format of maps: a JSON header that is checked, then raw arrays.

Layout; numbers are little-endian:

    8 bytes    magic
    4 bytes    format version
    4 bytes    length of the header
    32 bytes   SHA-256 of the two numbers above and of the header
    header     JSON, filled up with spaces so that the arrays begin at a multiple of 64
    arrays     one after another, in C order

The header holds the version of transportjax, the user's metadata, a tree of classes
(which `io` makes and reads), and the dtype, shape and offset of every array, with the
SHA-256 of them all. Nothing in a file is executed, and the header is checked as a whole
before an array is read: a file can cost no more memory than its size.
"""

import hashlib
import json
import math
import os
import stat
import struct
import sys
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

import transportjax
from transportjax import _checks
from transportjax._files import atomic_write

_MAGIC = b"\x93TJMAP\r\n"
_VERSION = 1
_PREAMBLE = struct.Struct("<8sII32s")
_ALIGNMENT = 64
_ENTRIES = {
    "transportjax": str,
    "metadata": dict,
    "tree": dict,
    "arrays": list,
    "sha256": str,
}
_MAX_HEADER = 2**20  # bytes
_MAX_ARRAYS = 4096
_MAX_AXES = 32
_MAX_ENTRIES = 2**48  # of one array, with axes of length zero counted as one
DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

Path = str | os.PathLike[str]


class ModelFileError(ValueError):
    """A file that cannot be read as a map; the message names the file and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"Cannot read {os.fspath(path)!r} as a map: {reason}.")


def write_file(
    path: Path,
    tree: dict[str, Any],
    metadata: dict[str, Any],
    arrays: list[np.ndarray],
) -> None:
    """Writes a complete file, or none."""
    _checks.check_at_most("map", len(arrays), _MAX_ARRAYS, "arrays")
    chunks = [_little_endian(array).tobytes() for array in arrays]
    entries, offset = [], 0
    for array, chunk in zip(arrays, chunks, strict=True):
        dtype, shape = array.dtype.name, list(array.shape)
        entries.append({"dtype": dtype, "shape": shape, "offset": offset})
        offset += len(chunk)
    header = {
        "transportjax": transportjax.__version__,
        "metadata": metadata,
        "tree": tree,
        "arrays": entries,
        "sha256": _sha256(*chunks).hex(),
    }
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(_PREAMBLE.size + len(text)) % _ALIGNMENT)
    _checks.check_at_most("metadata", len(text), _MAX_HEADER, "bytes in the header")
    digest = _header_digest(_VERSION, text)
    preamble = _PREAMBLE.pack(_MAGIC, _VERSION, len(text), digest)
    with atomic_write(path) as file:
        for chunk in (preamble, text, *chunks):
            file.write(chunk)


def read_file(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The header and the arrays of a file, all checked."""
    with _open(path) as file:
        header = _read_header(path, file)
        data = file.read()
    if _sha256(data).hex() != header["sha256"]:
        raise ModelFileError(path, "its arrays were altered, the checksum is wrong")
    return header, [_read_array(data, entry) for entry in header["arrays"]]


def read_header(path: Path) -> dict[str, Any]:
    """What the header of a map's file says, without reading its arrays.

    Args:
        path: the file.

    Returns:
        The dictionary with the keys "transportjax" (the version that wrote it),
        "metadata", "tree", "arrays" and "sha256".

    Raises:
        ModelFileError: as in `load`, but for what the arrays hold.
        OSError: the file is missing or cannot be read.
    """
    with _open(path) as file:
        return _read_header(path, file)


def _open(path: Path) -> BinaryIO:
    """The file, open for reading; only regular files, so that no pipe can block."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ModelFileError(path, "it is not a regular file")
    return open(path, "rb")


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    """The checked header; the file is left at the first byte of the arrays."""
    preamble = file.read(_PREAMBLE.size)
    if not preamble:
        raise ModelFileError(path, "it is empty")
    if not preamble.startswith(_MAGIC[: len(preamble)]):
        raise ModelFileError(path, "it was not written by transportjax")
    if len(preamble) < _PREAMBLE.size:
        raise ModelFileError(path, "it is cut short")
    _, version, length, digest = _PREAMBLE.unpack(preamble)
    if version > _VERSION:
        raise ModelFileError(
            path,
            f"its format version {version} is newer than {_VERSION}, the newest that "
            f"transportjax {transportjax.__version__} reads",
        )
    text = file.read(min(length, _MAX_HEADER))
    if digest != _header_digest(version, text):
        is_short = len(text) < min(length, _MAX_HEADER)
        reason = "it is cut short" if is_short else "its header was altered"
        raise ModelFileError(path, reason)
    if version != _VERSION:
        raise ModelFileError(path, f"its format version {version} is unknown")
    header = _parse_header(path, text)
    excess = os.fstat(file.fileno()).st_size - file.tell()
    excess -= sum(_num_bytes(entry) for entry in header["arrays"])
    if excess:
        reason = "it is cut short" if excess < 0 else "it goes on after its arrays"
        raise ModelFileError(path, f"{reason}, by {abs(excess)} bytes")
    return header


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, "its header is not JSON") from error
    if not isinstance(header, dict) or header.keys() != _ENTRIES.keys():
        raise ModelFileError(path, "its header has other entries than expected")
    for key, type_ in _ENTRIES.items():
        if not isinstance(header[key], type_):
            raise ModelFileError(path, f"{key!r} in its header is of a wrong type")
    if len(header["arrays"]) > _MAX_ARRAYS:
        raise ModelFileError(path, f"it holds more than {_MAX_ARRAYS} arrays")
    offset = 0
    for entry in header["arrays"]:
        if not _is_array_entry(entry) or entry["offset"] != offset:
            raise ModelFileError(path, "its header describes an impossible array")
        offset += _num_bytes(entry)
    return header


def _is_array_entry(entry: Any) -> bool:
    """Whether a header's description of an array has the right form and sane sizes."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "offset"}:
        return False
    shape = entry["shape"]
    return (
        entry["dtype"] in DTYPES
        and type(entry["offset"]) is int
        and isinstance(shape, list)
        and len(shape) <= _MAX_AXES
        and all(type(length) is int and 0 <= length < 2**31 for length in shape)
        and math.prod(max(length, 1) for length in shape) <= _MAX_ENTRIES
    )


def _num_bytes(entry: dict[str, Any]) -> int:
    return jnp.dtype(entry["dtype"]).itemsize * math.prod(entry["shape"])


def _read_array(data: bytes, entry: dict[str, Any]) -> np.ndarray:
    dtype = jnp.dtype(entry["dtype"])
    raw = data[entry["offset"] :][: _num_bytes(entry)]
    if dtype.name == "bool":
        array = np.frombuffer(raw, np.uint8) != 0
    else:
        array = _little_endian(np.frombuffer(raw, dtype))
    return array.reshape(entry["shape"])


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array if sys.byteorder == "little" else array.byteswap()


def _sha256(*chunks: bytes) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _header_digest(version: int, text: bytes) -> bytes:
    return _sha256(struct.pack("<II", version, len(text)), text)
