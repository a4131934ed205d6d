"""Registration: one shape moved onto another, by a map that can be kept."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from transportjax._checks import (
    check_bandwidths,
    check_choice,
    check_count,
    check_same_space,
    check_shape_normals,
    check_shape_size,
)
from transportjax.maps import (
    AbstractBijection,
    Affine,
    GaussianWarp,
    Rigid,
    Similarity,
    ThinPlateSpline,
    control_grid,
    load,
    save,
    transport_normals,
)
from transportjax.solvers import register

from .model_files import read_about
from .shape import Shape

WARPS = ("rigid", "similarity", "affine", "tps", "rbf")

_BLOCK = 1 << 14
_BENDING = 0.3
_BANDWIDTHS = np.array([0.25, 0.125, 0.0625, 0.03125], np.float32)  # of unit shapes


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeMap:
    """A fitted registration: y = target_centre + target_size T((x - centre) / size).

    The map T works on shapes around the origin whose size is about one, so that points
    far from the origin lose nothing in the single precision of its numbers.

    Attributes:
        map: T, a map of (d,).
        centre: (d,), the mean of the source, float64.
        size: the root mean square distance of the source to it.
        target_centre: (d,), the mean of the target.
        target_size: its size; that of the source for rigid maps.
    """

    map: AbstractBijection
    centre: np.ndarray
    size: float
    target_centre: np.ndarray
    target_size: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Where the map takes points (n, d): float64."""
        scaled = (np.asarray(points, np.float64) - self.centre) / self.size
        return self.target_centre + self.target_size * _in_blocks(
            _move, self.map, scaled
        )

    def normals(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Normals (n, d) at `points` of a surface that the map moves, of length one."""
        scaled = (np.asarray(points, np.float64) - self.centre) / self.size
        return _in_blocks(_turn, self.map, scaled, np.asarray(normals, np.float64))

    def part(self, share: int | float) -> "ShapeMap":
        """The map on the way from rest, at share 0, to this one, at share 1.

        Linear in the numbers of the map, or, for one that turns, about the centre of
        the source at a steady pace.
        """
        return ShapeMap(
            _part(self.map, share),
            self.centre,
            self.size,
            self.centre + share * (self.target_centre - self.centre),
            self.size + share * (self.target_size - self.size),
        )


def _part(map: Any, share: int | float) -> Any:
    """The map of normalised points, which are around the origin, at a share of it."""
    if isinstance(map, Similarity):
        return Similarity(_part(map.turn, share), share * map.log_scale)
    if isinstance(map, Rigid):
        return Rigid(_turned(map.rotation, share), share * map.translation)
    eye = jnp.eye(len(map.matrix), dtype=map.matrix.dtype)
    matrix = eye + share * (map.matrix - eye)
    if isinstance(map, Affine):
        return Affine(matrix, share * map.offset)
    moving = (matrix, share * map.shift, share * map.coefficients)
    return eqx.tree_at(lambda w: (w.matrix, w.shift, w.coefficients), map, moving)


def _turned(rotation: Array, share: int | float) -> Array:
    """A share of a turn, the short way round."""
    if rotation.ndim == 0:
        return share * (jnp.mod(rotation + jnp.pi, 2 * jnp.pi) - jnp.pi)
    quaternion = np.asarray(rotation, np.float64)
    quaternion = quaternion / np.linalg.norm(quaternion) * np.sign(quaternion[3] or 1)
    angle = np.arctan2(np.linalg.norm(quaternion[:3]), quaternion[3])
    axis = quaternion[:3] / max(np.sin(angle), 1e-12)
    part = np.append(axis * np.sin(share * angle), np.cos(share * angle))
    return jnp.asarray(part, rotation.dtype)


def fit_shape_map(
    source: Shape,
    target: Shape,
    *,
    warp: str = "tps",
    normals: bool = False,
    num_starts: int = 1,
    bandwidths: Any = None,
    bending: int | float | None = None,
    num_steps: int | None = None,
    num_points: int = 2000,
    seed: int = 0,
) -> ShapeMap:
    """The map that moves the shape `source` onto `target` (see `solvers.register`).

    Args:
        source: points or a mesh; its points need not correspond to those of the target,
            and either may have parts that the other lacks.
        target: points or a mesh of the same dimension.
        warp: "rigid" turns and shifts; "similarity" scales too; "affine" stretches and
            shears; "tps" bends, by a thin plate spline; "rbf" by Gaussian bumps, more
            locally.
        normals: whether to match normals too; both shapes must have them.
        num_starts: rotations to begin at, of which the best is taken. 24 find any in
            space, 8 in the plane; 1000 for scans that overlap little. Warps that bend
            begin with the best rigid map.
        bandwidths: widths of the kernels, from coarse to fine, in units of the target.
            None: a quarter to a 32nd of its radius; "tps" and "rbf" are then fitted on
            to what remains, as `solvers.register` does, unless by normals.
        bending: weight of the bending of "tps" and "rbf" at the first width; it falls
            with the cube of the width. So the first levels, which decide what belongs
            together, are stiff, also where parts are missing, and the last are not.
            Larger is stiffer. None: 0.3.
        num_steps: evaluations at each bandwidth, at most. None: 100.
        num_points: of each shape that has more, so many are drawn to fit with.
        seed: of that.

    Returns:
        The map: for `apply_shape_map`, `save_shape_map`.

    Raises:
        ValueError: shapes of different dimensions, without extent, or without normals
            where they are asked for; unknown names, bad numbers.

    Example:
        >>> import numpy as np
        >>> t = np.linspace(0.0, 5.0, 60)
        >>> spiral = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
        >>> turned = spiral @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> source, target = Shape(spiral), Shape(turned)
        >>> fitted = fit_shape_map(source, target, warp="rigid", num_starts=8)
        >>> bool(abs(fitted(spiral) - turned).max() < 0.01)
        True
    """
    check_choice("warp", warp, WARPS)
    check_count("num_points", num_points, 4)
    check_same_space("source", source.dimension, "target", target.dimension)
    shapes = {"source": source, "target": target}
    for name, shape in shapes.items():
        check_shape_size(name, shape.points)
        if normals:
            check_shape_normals(name, shape.normals)
    rng = np.random.default_rng(seed)
    centres = [shape.points.mean(axis=0, dtype=np.float64) for shape in shapes.values()]
    sizes = [
        float(np.sqrt(np.mean(np.sum((shape.points - centre) ** 2, axis=1))))
        for shape, centre in zip(shapes.values(), centres, strict=True)
    ]
    if warp == "rigid":
        sizes[0] = sizes[1]
    samples, directions = [], []
    for shape, centre, size in zip(shapes.values(), centres, sizes, strict=True):
        drawn = _drawn(len(shape.points), num_points, rng)
        scaled = (shape.points[drawn] - centre) / size
        samples.append(jnp.asarray(scaled, jnp.float32))
        if shape.normals is not None and normals:
            directions.append(jnp.asarray(shape.normals[drawn], jnp.float32))
    widths = None
    if bandwidths is not None:
        check_bandwidths("bandwidths", jnp.asarray(bandwidths, jnp.float32))
        widths = np.asarray(bandwidths, np.float32) / np.float32(sizes[1])
    options: dict[str, Any] = {}
    if num_steps is not None:
        options["num_steps"] = num_steps
    if directions:
        options |= {"source_normals": directions[0], "target_normals": directions[1]}
    x, y = samples
    fitted = _fit(warp, x, y, num_starts, widths, bending, options)
    return ShapeMap(fitted, centres[0], sizes[0], centres[1], sizes[1])


def _fit(
    warp: str,
    x: Array,
    y: Array,
    num_starts: int,
    bandwidths: np.ndarray | None,
    bending: int | float | None,
    options: dict[str, Any],
) -> AbstractBijection:
    """The map of normalised points."""
    start: Any = Rigid.identity(x.shape[1])
    widths = _BANDWIDTHS if bandwidths is None else bandwidths
    stiff: dict[str, Any] = options | {"bandwidths": widths}
    if warp == "similarity":
        start = Similarity(start, 0.0)
    if warp in ("rigid", "similarity"):
        return register(x, y, start, num_starts=num_starts, **stiff).map
    if num_starts > 1:
        start = register(x, y, start, num_starts=num_starts, **stiff).map
    if warp == "affine":
        bent = Affine(start.matrix, start.translation)
        return register(x, y, bent, **stiff).map
    controls = control_grid(jnp.concatenate([x, y]))
    kind = ThinPlateSpline if warp == "tps" else GaussianWarp
    bent = eqx.tree_at(
        lambda w: (w.matrix, w.shift),
        kind.identity(controls),
        (start.matrix, start.translation),
    )
    bending = _BENDING if bending is None else bending
    stiffness = np.float32(bending) * (widths / widths[0]) ** 3
    given: dict[str, Any] = {"bandwidths": bandwidths, "bending": stiffness}
    return register(x, y, bent, **(options | given)).map


def _drawn(count: int, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Which points to fit with, in order."""
    if count <= num_points:
        return np.arange(count)
    return np.sort(rng.choice(count, num_points, replace=False))


@eqx.filter_jit
def _move(map: AbstractBijection, points: Array) -> Array:
    return jax.vmap(map)(points)


@eqx.filter_jit
def _turn(map: AbstractBijection, points: Array, normals: Array) -> Array:
    return transport_normals(map, points, normals)


def _in_blocks(
    function: Any, warp: AbstractBijection, *arrays: np.ndarray
) -> np.ndarray:
    """`function` of float64 rows, in blocks of a compiled size."""
    count = len(arrays[0])
    block = min(_BLOCK, 1 << max(count - 1, 1).bit_length())
    out = []
    with jax.enable_x64(True):
        warp = warp.astype("float64")
        for start in range(0, count, block):
            parts = [array[start : start + block] for array in arrays]
            missing = block - len(parts[0])
            padded = [np.pad(part, ((0, missing), (0, 0)), "edge") for part in parts]
            out.append(np.asarray(function(warp, *map(jnp.asarray, padded))))
    return np.concatenate(out)[:count]


def apply_shape_map(shape_map: ShapeMap, shape: Shape) -> Shape:
    """A shape after the map: same order, precision, faces; normals turned with it.

    Args:
        shape_map: a fitted map.
        shape: points or a mesh, not only the one that the map was fitted on.

    Returns:
        The shape, moved.

    Raises:
        ValueError: a map of the plane and a shape of space, or the reverse.
    """
    check_same_space("map", len(shape_map.centre), "shape", shape.dimension)
    points, normals = shape_map(shape.points), shape.normals
    if normals is not None:
        normals = shape_map.normals(shape.points, normals).astype(normals.dtype)
    return dataclasses.replace(
        shape, points=points.astype(shape.points.dtype), normals=normals
    )


def save_shape_map(path: Any, shape_map: ShapeMap) -> None:
    """Writes a fitted map to one file, to be used on other shapes."""
    about = {
        "kind": "shape",
        "centre": shape_map.centre.tolist(),
        "size": shape_map.size,
        "target_centre": shape_map.target_centre.tolist(),
        "target_size": shape_map.target_size,
    }
    save(path, shape_map.map, metadata=about)


def load_shape_map(path: Any) -> ShapeMap:
    """Reads what `save_shape_map` wrote.

    Raises:
        ModelFileError: the file is damaged, or holds no map of shapes.
        OSError: the file cannot be read.
    """
    names = ("centre", "size", "target_centre", "target_size")
    about = read_about(path, "shape", names, "one of shapes")
    return ShapeMap(
        load(path),
        np.array(about["centre"]),
        float(about["size"]),
        np.array(about["target_centre"]),
        float(about["target_size"]),
    )


def shape_distance(source: Shape, target: Shape) -> float:
    """The mean distance of points of `source` to the nearest of `target`.

    From at most 4096 points of `source` to all of at most 16384 of `target`.
    """
    check_same_space("source", source.dimension, "target", target.dimension)
    centre = target.points.mean(axis=0, dtype=np.float64)
    x, y = (
        points[:: -(-len(points) // most)] - centre
        for points, most in ((source.points, 4096), (target.points, 16384))
    )
    # whose squares single precision holds
    size = max(np.abs(x).max(), np.abs(y).max()) or 1.0
    x, y = ((points / size).astype(np.float32) for points in (x, y))
    nearest = [_nearest(x[start : start + 256], y) for start in range(0, len(x), 256)]
    return float(size * np.mean(np.concatenate(nearest), dtype=np.float64))


def _nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = sum(
        (x[:, None, axis] - y[None, :, axis]) ** 2 for axis in range(x.shape[1])
    )
    return np.sqrt(np.min(squares, axis=1))
