"""Errors on rigid maps, warps, and registration."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import check_finite, is_concrete, reads_values


@reads_values
def check_rigid(rotation: Array, translation: Array) -> None:
    """Raises unless `rotation` is an angle with (2,), or a quaternion with (3,)."""
    fits = {(): (2,), (4,): (3,)}
    if fits.get(rotation.shape) != translation.shape:
        raise ValueError(
            "`rotation` must be an angle of shape () with a `translation` of shape "
            "(2,), or a quaternion of shape (4,) with one of shape (3,); got shapes "
            f"{rotation.shape} and {translation.shape}. `Rigid.from_matrix` takes a "
            "matrix."
        )
    check_finite("rotation", rotation)
    if rotation.shape and is_concrete(rotation) and not bool(jnp.any(rotation != 0)):
        raise ValueError("`rotation` must not be the zero quaternion.")


@reads_values
def check_rotation_matrix(name: str, matrix: Array) -> None:
    """Raises unless `matrix` is a rotation, (2, 2) or (3, 3)."""
    if matrix.shape not in ((2, 2), (3, 3)):
        raise ValueError(
            f"`{name}` must have shape (2, 2) or (3, 3); got {matrix.shape}."
        )
    check_finite(name, matrix)
    if not is_concrete(matrix):
        return
    values = np.asarray(matrix, np.float64)
    error = np.max(np.abs(values @ values.T - np.eye(len(values))))
    if error > 1e-2 or np.linalg.det(values) < 0:
        raise ValueError(
            f"`{name}` must be a rotation; it is orthogonal up to {error:.2g} and has "
            f"determinant {np.linalg.det(values):.2g}. Use `Affine` for other matrices."
        )


@reads_values
def check_fills_space(name: str, points: Array) -> None:
    """Raises if concrete points lie on a line, or in space on a plane."""
    if not is_concrete(points):
        return
    rows = np.asarray(points, np.float64)
    sizes = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    if len(sizes) < rows.shape[1] or sizes[-1] < 1e-3 * sizes[0]:
        raise ValueError(
            f"`{name}` must fill the {'plane' if rows.shape[1] == 2 else 'space'}: an "
            "affine map is free in the directions that the points lack. Register them "
            "by a rigid map or a similarity: `Rigid` or `Similarity`, or --warp rigid "
            "in a command."
        )


@reads_values
def check_warp(
    controls: Array, matrix: Array, shift: Array, coefficients: Array
) -> None:
    """Raises unless the leaves of a warp fit each other, and the controls span."""
    check_controls("controls", controls)
    k, d = controls.shape
    for name, leaf, shape in (
        ("matrix", matrix, (d, d)),
        ("shift", shift, (d,)),
        ("coefficients", coefficients, (k, d)),
    ):
        if leaf.shape != shape:
            raise ValueError(
                f"`{name}` must have shape {shape}, to go with `controls` of shape "
                f"{controls.shape}; got {leaf.shape}."
            )


@reads_values
def check_controls(name: str, controls: Array) -> None:
    """Raises unless `controls` is (k, d), finite, and not within a hyperplane."""
    if controls.ndim != 2 or 0 in controls.shape:
        raise ValueError(f"`{name}` must have shape (k, d); got {controls.shape}.")
    k, d = controls.shape
    if k <= d:
        raise ValueError(
            f"`{name}` must be more than {d} points in dimension {d}; got {k}."
        )
    check_finite(name, controls)
    if not is_concrete(controls):
        return
    values = np.asarray(controls, np.float64)
    spread = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
    if spread[-1] <= 1e-5 * spread[0]:
        raise ValueError(
            f"`{name}` must not lie in a line or plane; their extents along the "
            f"principal axes are {spread}. `control_grid` makes a grid that does not."
        )


@reads_values
def check_distinct(name: str, points: Array, option: str, values: Array) -> None:
    """Raises unless points are distinct, or what `option` gives them is positive."""
    if not (is_concrete(points) and is_concrete(values)):
        return
    counts = np.broadcast_to(np.asarray(values) == 0, len(points))
    rows = np.asarray(points, np.float64)[counts]
    if len(np.unique(rows, axis=0)) < len(rows):
        raise ValueError(
            f"`{name}` must be distinct points where `{option}` is 0; some are equal. "
            f"Remove them, or give a `{option}` > 0."
        )


def check_normals(name: str, normals: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `normals` are finite vectors, one a point."""
    if normals.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, one normal a point; got "
            f"{normals.shape}."
        )
    check_finite(name, normals)


@reads_values
def check_unit_normals(name: str, normals: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `normals` are vectors, one a point, none of them zero."""
    check_normals(name, normals, shape)
    if not is_concrete(normals):
        return
    check_no_zero_row(name, np.asarray(normals))


def check_no_zero_row(name: str, normals: np.ndarray) -> None:
    """Raises if a normal is zero, and says which."""
    rows = np.flatnonzero(np.all(normals == 0, axis=-1))
    if len(rows):
        raise ValueError(
            f"`{name}` must not be zero; got {len(rows)} of {len(normals)} that are, "
            f"the first in row {rows[0]}. Leave such points out."
        )


@reads_values
def check_bandwidths(name: str, bandwidths: Array) -> None:
    """Raises unless `bandwidths` are positive numbers, (l,), that do not increase."""
    if bandwidths.ndim != 1 or bandwidths.shape[0] < 1:
        raise ValueError(
            f"`{name}` must have shape (l,), one a level; got {bandwidths.shape}."
        )
    check_finite(name, bandwidths)
    if not is_concrete(bandwidths):
        return
    values = np.asarray(bandwidths)
    if values[-1] <= 0 or np.any(np.diff(values) > 0):
        raise ValueError(
            f"`{name}` must be positive and decrease, coarse to fine; got {values}."
        )


def check_one_or_each(name: str, value: Array, num: int, what: str) -> None:
    """Raises unless `value` is a finite number >= 0, or one for each of `num`."""
    if value.shape not in ((), (num,)):
        raise ValueError(
            f"`{name}` must be one number, or have shape ({num},), one a {what}; "
            f"got {value.shape}."
        )
    check_finite(name, value)
    check_not_negative(name, value)


@reads_values
def check_not_negative(name: str, value: Array) -> None:
    """Raises if a concrete entry of `value` is negative."""
    if is_concrete(value) and not np.min(np.asarray(value)) >= 0:
        raise ValueError(f"`{name}` must be >= 0; got {np.min(np.asarray(value)):g}.")


def check_pairs(name: str, pairs: Any, n: int, m: int) -> tuple[Array, Array]:
    """Two vectors of as many indices, of source and of target points."""
    is_two = isinstance(pairs, tuple | list) and len(pairs) == 2
    first, second = map(jnp.asarray, pairs) if is_two else (None, None)
    if first is None or second is None or first.ndim != 1 or not first.size:
        raise ValueError(
            f"`{name}` must be two vectors of indices, (source, target); got "
            f"{pairs!r:.80}."
        )
    if first.shape != second.shape:
        raise ValueError(
            f"`{name}` must be as many indices of source as of target points; got "
            f"{first.shape} and {second.shape}."
        )
    for indices, size in ((first, n), (second, m)):
        _check_indices(name, indices, size)
    return first, second


@reads_values
def _check_indices(name: str, indices: Array, size: int) -> None:
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"`{name}` must hold integers; got dtype {indices.dtype}.")
    if not is_concrete(indices):
        return
    least, greatest = int(jnp.min(indices)), int(jnp.max(indices))
    if least < 0 or greatest >= size:
        raise ValueError(
            f"`{name}` must be in 0 ... {size - 1}; got a minimum of {least} and a "
            f"maximum of {greatest}."
        )


def check_starts(name: str, num: int, turns: bool) -> None:
    """Raises if several starts are asked for where there are no rotations to try."""
    if num > 1 and not turns:
        raise ValueError(
            f"`{name}` must be 1 for maps that are not Rigid, nor a Similarity; got "
            f"{num}. Register by a Rigid first, and start from its result."
        )


def check_viewpoint(name: str, eye: Array, dim: int, *, is_rigid: bool) -> None:
    """Raises unless `eye` is a place in space, and the map a motion of space."""
    if dim != 3 or not is_rigid:
        raise ValueError(f"`{name}` must be None for maps that are not a Rigid of R^3.")
    if eye.shape != (3,):
        raise ValueError(f"`{name}` must have shape (3,); got {eye.shape}.")
    check_finite(name, eye)


@reads_values
def check_energy(name: str, bending: Any, has_energy: bool) -> None:
    """Raises if a bending energy is asked of a map that has none."""
    if has_energy or not is_concrete(bending):
        return
    if np.any(np.asarray(bending) != 0):
        raise ValueError(
            f"`{name}` must be 0 for maps without a bending energy; got {bending}."
        )


def check_together(named: dict[str, Any]) -> None:
    """Raises if some of the arguments are given, and others are not."""
    given = [name for name, value in named.items() if value is not None]
    if given and len(given) < len(named):
        missing = [name for name in named if name not in given]
        raise ValueError(
            f"`{given[0]}` was given without `{missing[0]}`; give both or neither."
        )


@reads_values
def check_extent(name: str, extent: Array) -> None:
    """Raises if concrete `extent` is zero: all points are the same."""
    if is_concrete(extent) and not np.max(np.asarray(extent)) > 0:
        raise ValueError(f"`{name}` must not all be the same point.")


@reads_values
def check_squares(name: str, extent: Array) -> None:
    """Raises if squares of a concrete `extent` would over- or underflow."""
    if not is_concrete(extent):
        return
    size, info = float(np.max(np.asarray(extent))), jnp.finfo(extent.dtype)
    low, high = (float(bound) ** 0.5 for bound in (info.tiny, info.max))
    if not 10 * low < size < high / 10:  # for sums of them, too
        raise ValueError(
            f"`{name}` extends over {size:g}, of which {info.dtype} does not hold the "
            "square: give the points in other units."
        )


@reads_values
def is_one(value: Any) -> bool:
    """Whether `value` is known to be one."""
    return is_concrete(value) and float(value) == 1
