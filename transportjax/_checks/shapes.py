"""Errors on point sets, meshes and their maps."""

from typing import Any

import numpy as np

from .warps import check_no_zero_row


def check_shape_arrays(points: Any, normals: Any, faces: Any, colours: Any) -> None:
    """Raises unless the arrays are those of a shape, on the host."""
    _check_vectors("points", points)
    if normals is not None:
        _check_vectors("normals", normals)
        if normals.shape != points.shape:
            raise ValueError(
                f"`normals` must have shape {points.shape} like `points`; got "
                f"{normals.shape}."
            )
    if faces is not None:
        _check_faces(faces, len(points))
    if colours is not None:
        shapes = [(len(points), 3), (len(points), 4)]
        if getattr(colours, "dtype", None) != np.uint8 or colours.shape not in shapes:
            raise ValueError(
                f"`colours` must be bytes of shape {shapes[0]} or {shapes[1]}; got "
                f"{getattr(colours, 'dtype', type(colours).__name__)} of shape "
                f"{np.shape(colours)}."
            )


def _check_vectors(name: str, x: Any) -> None:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        got = getattr(x, "dtype", type(x).__name__)
        raise ValueError(
            f"`{name}` must be a numpy array of float32 or float64; got {got}."
        )
    if x.ndim != 2 or x.shape[1] not in (2, 3):
        raise ValueError(f"`{name}` must have shape (n, 2) or (n, 3); got {x.shape}.")
    if not len(x):
        raise ValueError(f"`{name}` must not be empty; got shape {x.shape}.")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise ValueError(
            f"`{name}` must be finite; got NaN or infinity in {len(bad)} of {len(x)} "
            f"rows, first in row {bad[0] + 1}."
        )


def _check_faces(faces: Any, num_points: int) -> None:
    if not isinstance(faces, np.ndarray) or faces.dtype.kind not in "iu":
        got = getattr(faces, "dtype", type(faces).__name__)
        raise ValueError(f"`faces` must be a numpy array of integers; got {got}.")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"`faces` must have shape (f, 3); got {faces.shape}.")
    if faces.size and (faces.max() >= num_points or faces.min() < 0):
        raise ValueError(
            f"`faces` must hold numbers of the {num_points} points, from 0 on; got "
            f"{faces.min()} to {faces.max()}."
        )


def check_same_space(name: str, dimension: int, other: str, expected: int) -> None:
    """Raises unless two shapes, or a map and a shape, are of the same dimension."""
    if dimension != expected:
        kinds = {2: "the plane", 3: "space"}
        raise ValueError(
            f"`{name}` and `{other}` must both be of the plane or both of space; got "
            f"one of {kinds.get(dimension, dimension)} and one of "
            f"{kinds.get(expected, expected)}."
        )


def check_shape_size(name: str, points: np.ndarray) -> None:
    """Raises if the points of a shape are all the same."""
    if (points == points[0]).all():
        raise ValueError(f"`{name}` must have at least two different points.")


def check_shape_normals(name: str, normals: Any) -> None:
    """Raises if a shape has no normals."""
    if normals is None:
        raise ValueError(f"`normals` needs normals of both shapes; `{name}` has none.")
    check_no_zero_row(f"{name}_normals", normals)
