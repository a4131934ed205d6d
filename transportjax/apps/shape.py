"""A shape in memory: points of the plane or of space, and what hangs on them."""

import dataclasses

import numpy as np

from transportjax._checks import check_shape_arrays


class ShapeError(ValueError):
    """A shape that cannot be read or written; the message names file and reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """Points of the plane or of space, and what hangs on them, on the host.

    Attributes:
        points: (n, d), d = 2 or 3, float32 or float64.
        normals: (n, d), one at each point, of any length; None if there are none.
        faces: (f, 3), numbers of the points at the corners of triangles; None for a set
            of points.
        colours: (n, 3) or (n, 4), bytes; None if the points have none.
        columns: names of the columns of a table that has a line of them.

    Raises:
        ValueError: other shapes or dtypes; empty; NaN; faces of points that are not
            there.

    Example:
        >>> import numpy as np
        >>> Shape(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).dimension
        2
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    faces: np.ndarray | None = None
    colours: np.ndarray | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self):
        check_shape_arrays(self.points, self.normals, self.faces, self.colours)

    @property
    def dimension(self) -> int:
        """2 in the plane, 3 in space."""
        return self.points.shape[1]
