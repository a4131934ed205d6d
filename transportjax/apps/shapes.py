"""Shapes in files: sets of points and meshes."""

import dataclasses
import io
import os
from typing import Any

import numpy as np

from transportjax._files import atomic_write

from .meshes import load_trimesh, obj_bytes, one_line, ply_bytes, read_obj, read_ply
from .shape import Shape, ShapeError

SUFFIXES = (".csv", ".txt", ".npy", ".ply", ".obj")

_WIDTHS = {2: 2, 3: 3, 4: 2, 6: 3}  # of a table: columns to dimensions


def read_shape(path: str | os.PathLike[str]) -> Shape:
    r"""Reads points or a mesh from a file; its ending says the format.

    `.csv` and `.txt` are tables of numbers, with commas, semicolons, tabs or spaces
    between them and perhaps a line of names above: 2 or 3 columns, or 4 or 6, of which
    the second half are normals. `.npy` holds the same as an array. `.ply` (text or
    bytes) and `.obj` are meshes or sets of points; the library trimesh reads them (`pip
    install transportjax[shapes]`). The order of the points is kept; polygons become
    fans of triangles; of an OBJ file, groups, materials and textures are left out.

    Args:
        path: the file.

    Returns:
        The shape, in the precision of the file: text is float64.

    Raises:
        ShapeError: an unknown ending; a file that is damaged, empty, has another number
            of columns, numbers that are not finite, or faces of fewer than three
            corners; a mesh, and trimesh is not installed. The message is one line.
        OSError: the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "corner.csv")
        >>> _ = path.write_text("x,y,z\n0,0,0\n1,0,0\n0,0.5,0\n")
        >>> read_shape(path).points.shape
        (3, 3)
    """
    shown, suffix = os.fsdecode(path), _suffix(path)
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ShapeError(f"{shown}: is empty.")
    try:
        return _READERS[suffix](data)
    except (ValueError, EOFError) as error:
        raise ShapeError(f"{shown}: {one_line(error)}.") from None


def write_shape(
    path: str | os.PathLike[str], shape: Shape, *, overwrite: bool = True
) -> tuple[str, ...]:
    """Writes points or a mesh to a file; its ending says the format.

    The order of the points is that of the shape. Text has as many digits as it needs to
    be read back to the same numbers; PLY is written as bytes.

    Args:
        path: the file, ending in .csv, .txt, .npy, .ply or .obj.
        shape: what to write.
        overwrite: whether an existing file may be replaced.

    Returns:
        Sentences on what the format could not keep.

    Raises:
        ShapeError: an unknown ending; points of the plane as .ply or .obj.
        OSError: the file cannot be written.
    """
    check_writable(path, shape)
    suffix = _suffix(path)
    data = _WRITERS[suffix](shape)
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(data)
    return _lost(shape, suffix)


def check_writable(path: str | os.PathLike[str], shape: Shape) -> None:
    """Raises ShapeError unless `path` is of a format that can hold the shape."""
    suffix = _suffix(path)
    if suffix in (".ply", ".obj") and shape.dimension != 3:
        raise ShapeError(
            f"{os.fsdecode(path)}: {suffix} files hold points of space; write points "
            "of the plane to a .csv, .txt or .npy file."
        )
    if suffix == ".obj":
        load_trimesh()


def _suffix(path: str | os.PathLike[str]) -> str:
    shown = os.fsdecode(path)
    suffix = os.path.splitext(shown)[1].lower()
    if suffix not in SUFFIXES:
        listed = ", ".join(SUFFIXES)
        raise ShapeError(f"{shown}: a shape must end in one of {listed}.")
    return suffix


def is_shape_name(path: str | os.PathLike[str]) -> bool:
    """Whether the ending is that of a shape."""
    return os.path.splitext(os.fsdecode(path))[1].lower() in SUFFIXES


def _read_table(data: bytes) -> Shape:
    lines = data.decode("utf-8-sig", "replace").splitlines()
    lines = [line for line in (line.split("#")[0] for line in lines) if line.strip()]
    if not lines:
        raise ValueError("holds no numbers")
    delimiter = next((mark for mark in ";," if mark in lines[0]), None)
    first = [entry.strip() for entry in lines[0].split(delimiter)]
    columns = tuple(first) if all(map(_is_name, first)) else ()
    if columns and len(lines) == 1:
        raise ValueError("holds no numbers")
    with io.StringIO("\n".join(lines[bool(columns) :])) as text:
        try:
            table = np.loadtxt(text, delimiter=delimiter, ndmin=2)
        except ValueError as error:  # without the advice on arguments of numpy
            raise ValueError(str(error).partition("; use `")[0]) from None
    return dataclasses.replace(_from_table(table), columns=columns)


def _is_name(text: str) -> bool:
    """Whether it heads a column, and is not a number, or one with a decimal comma."""
    return not text[:1].isdigit() and text[:1] not in "+-." and text != "nan"


def _read_npy(data: bytes) -> Shape:
    if not data.startswith((b"\x93NUMPY", b"PK")):  # an array, or several in a ZIP
        raise ValueError("is not an array written by numpy.save")
    table = np.load(io.BytesIO(data))  # arrays of numbers only
    if not isinstance(table, np.ndarray):
        raise ValueError("holds several arrays; a shape is one")
    return _from_table(table)


def _from_table(table: np.ndarray) -> Shape:
    if table.ndim != 2 or table.shape[1] not in _WIDTHS:
        raise ValueError(
            "must hold 2 or 3 columns of numbers, or 4 or 6 with normals; got an array "
            f"of shape {table.shape}"
        )
    table = _as_float(table)
    dimension = _WIDTHS[table.shape[1]]
    normals = table[:, dimension:]
    return Shape(table[:, :dimension], normals if normals.size else None)


def _as_float(values: np.ndarray) -> np.ndarray:
    """The values, if they are real numbers, as float32 or float64."""
    if values.dtype.kind not in "fiub":
        raise ValueError(f"must hold real numbers; got {values.dtype}")
    is_native = values.dtype in (np.float32, np.float64)
    half = values.dtype == np.float16
    return values if is_native else values.astype(np.float32 if half else np.float64)


def _table(shape: Shape) -> np.ndarray:
    parts = [shape.points] if shape.normals is None else [shape.points, shape.normals]
    return np.concatenate(parts, axis=1)


def _text_table(shape: Shape, delimiter: str) -> bytes:
    table = _table(shape)
    lines = [delimiter.join(row) for row in table.astype(str).tolist()]
    if len(shape.columns) == table.shape[1]:
        lines.insert(0, delimiter.join(shape.columns))
    return "\n".join([*lines, ""]).encode()


def _npy(shape: Shape) -> bytes:
    file = io.BytesIO()
    np.save(file, _table(shape))
    return file.getvalue()


def _lost(shape: Shape, suffix: str) -> tuple[str, ...]:
    """What a format, or what writes it, cannot say."""
    notes = []
    is_table = suffix in (".csv", ".txt", ".npy")
    if is_table and shape.faces is not None:
        notes.append("the faces are not in this format.")
    if is_table and shape.colours is not None:
        notes.append("the colours are not in this format.")
    if suffix == ".obj" and shape.faces is None and shape.normals is not None:
        notes.append("the normals are left out where there are no faces.")
    return tuple(notes)


_READERS: dict[str, Any] = {
    ".csv": _read_table,
    ".txt": _read_table,
    ".npy": _read_npy,
    ".ply": read_ply,
    ".obj": read_obj,
}
_WRITERS: dict[str, Any] = {
    ".csv": lambda shape: _text_table(shape, ","),
    ".txt": lambda shape: _text_table(shape, " "),
    ".npy": _npy,
    ".ply": ply_bytes,
    ".obj": obj_bytes,
}
