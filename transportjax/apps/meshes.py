"""Meshes in PLY and OBJ files, read by the library trimesh."""

import dataclasses
import io
import re
import warnings
from typing import Any

import numpy as np

from .shape import Shape, ShapeError


def one_line(error: BaseException) -> str:
    """What an error says, without the full stop."""
    return " ".join(str(error).split()).rstrip(".")


def load_trimesh() -> Any:
    """The library, with what reads and writes meshes."""
    try:
        import trimesh.exchange.obj
        import trimesh.exchange.ply
    except ImportError:
        raise ShapeError(
            "meshes need the library trimesh: pip install 'transportjax[shapes]'"
        ) from None
    return trimesh


def read_ply(data: bytes) -> Shape:
    """The shape of a PLY file."""
    load = load_trimesh().exchange.ply.load_ply
    read = _call(load, data, fix_texture=False, skip_materials=True)
    tables = read["metadata"]["_ply_raw"]
    if not len(read.get("vertices", ())):
        raise ValueError("has no points")
    kind = np.dtype(tables["vertex"]["properties"]["x"])
    num_faces = tables.get("face", {}).get("length", 0)
    if num_faces and np.shape(read.get("faces", ())) != (num_faces, 3):
        lists = next(iter(tables["face"].get("data", {}).values()), ())
        polygons = [np.atleast_1d(polygon).tolist() for polygon in lists]
        if len(polygons) != num_faces:
            raise ValueError("its faces cannot be read")
        read["faces"] = np.array([t for p in polygons for t in _fan(p)])
        num_faces = len(read["faces"])
    shape = _from_mesh(read, num_faces)
    if kind == np.float32:
        points, normals = shape.points, shape.normals
        normals = None if normals is None else normals.astype(np.float32)
        return dataclasses.replace(
            shape, points=points.astype(np.float32), normals=normals
        )
    return shape


def read_obj(data: bytes) -> Shape:
    """The shape of an OBJ file."""
    # materials, groups and textures would split the mesh, and its points
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\\\n", " ")
    lines = re.findall(r"^[ \t]*((?:v|vn|f)[ \t].*)$", text, re.MULTILINE)
    lines = [re.sub(r"/-?\d*(/|(?=\s|$))", r"/\1", line) for line in lines]
    lines = [re.sub(r"/+(?=\s|$)", "", line) for line in lines]
    lines = [part for line in lines for part in _divided(line)]
    num_points, num_faces = (
        sum(line.split(maxsplit=1)[0] == word for line in lines) for word in ("v", "f")
    )
    if not num_points:
        raise ValueError("has no points")
    read = _load_obj(lines)
    if len(read["vertices"]) != num_points:  # faces differ on the normal of a point
        lines = [re.sub(r"/\S*", "", line) for line in lines if line[:2] != "vn"]
        read = _load_obj(lines)
    return _from_mesh(read, num_faces)


def _divided(line: str) -> list[str]:
    """A line of a polygon as lines of triangles; other lines as they are."""
    word, *corners = line.split()
    if word != "f":
        return [line]
    return [" ".join(("f", *triangle)) for triangle in _fan(corners)]


def _fan(polygon: list) -> list[list]:
    """The triangles from the first corner of a polygon."""
    if len(polygon) < 3:
        raise ValueError(f"has a face of {len(polygon)} corners")
    return [[polygon[0], *polygon[k : k + 2]] for k in range(1, len(polygon) - 1)]


def _load_obj(lines: list[str]) -> dict[str, Any]:
    load = load_trimesh().exchange.obj.load_obj
    read = _call(load, "\n".join(lines).encode(), maintain_order=True)
    return next(iter(read["geometry"].values())) if "geometry" in read else read


def _call(load: Any, data: bytes, **options: Any) -> dict[str, Any]:
    """A reader of trimesh; what it raises on bad files is of many kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("error", DeprecationWarning)  # numbers that are none
            return load(io.BytesIO(data), **options)
    except MemoryError:
        raise
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"cannot be read: {reason}") from None


def _from_mesh(read: dict[str, Any], num_faces: int) -> Shape:
    """A shape from what trimesh gives; `num_faces` is what the file announced."""
    faces: Any = read.get("faces") if num_faces else None
    if num_faces and np.shape(faces) != (num_faces, 3):
        raise ValueError(f"not all of its {num_faces} triangles can be read")
    points = np.asarray(read["vertices"], np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError("its points must have three coordinates")
    normals: Any = read.get("vertex_normals")
    colours: Any = read.get("vertex_colors")
    if np.shape(normals) != points.shape:
        normals = None
    if colours is not None:
        colours = load_trimesh().visual.color.to_rgba(colours)
    return Shape(
        points,
        None if normals is None else np.asarray(normals, np.float64),
        None if faces is None else np.asarray(faces, np.int64),
        colours,
    )


def ply_bytes(shape: Shape) -> bytes:
    """A PLY file, little end first, in the precision of the points.

    Written here because trimesh writes single precision, in which the points of a map
    of a country are half a metre apart.
    """
    names = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
    columns = dict(zip("xyz", shape.points.T, strict=True))
    if shape.normals is not None:
        columns |= dict(zip(("nx", "ny", "nz"), shape.normals.T, strict=True))
    if shape.colours is not None:
        columns |= dict(
            zip(("red", "green", "blue", "alpha"), shape.colours.T, strict=False)
        )
    head = ["ply", "format binary_little_endian 1.0"]
    head += [f"element vertex {len(shape.points)}"]
    head += [f"property {names.get(c.dtype, 'uchar')} {n}" for n, c in columns.items()]
    kinds = [(name, c.dtype.newbyteorder("<")) for name, c in columns.items()]
    rows = np.empty(len(shape.points), kinds)
    for name, column in columns.items():
        rows[name] = column
    body = rows.tobytes()
    if shape.faces is not None:
        head += [f"element face {len(shape.faces)}"]
        head += ["property list uchar int vertex_indices"]
        faces = np.empty(len(shape.faces), [("length", "u1"), ("index", "<i4", (3,))])
        faces["length"], faces["index"] = 3, shape.faces
        body += faces.tobytes()
    return "\n".join([*head, "end_header", ""]).encode() + body


def obj_bytes(shape: Shape) -> bytes:
    """An OBJ file."""
    trimesh = load_trimesh()
    more = {"vertex_colors": shape.colours, "process": False}
    if shape.faces is not None:
        mesh = trimesh.Trimesh(
            shape.points, shape.faces, vertex_normals=shape.normals, **more
        )
    else:
        mesh = trimesh.PointCloud(shape.points, colors=shape.colours)
    has_normals = shape.faces is not None and shape.normals is not None
    # decimals, not digits: enough for coordinates down to a millionth
    digits = 15 if shape.points.dtype == np.float32 else 23
    text = trimesh.exchange.obj.export_obj(
        mesh,
        include_normals=has_normals,
        digits=digits,
        header=None,
        write_texture=False,
    )
    return text.encode()
