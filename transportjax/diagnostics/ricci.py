"""How a transport changes neighbourhoods, layer by layer, as Ricci flow would.

Host code, in numpy and scipy: graphs, not arrays. It takes about n^2 (d + k) operations
for each cloud of n points, a second or so for a thousand.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from transportjax import _checks


class RicciCoefficients(NamedTuple):
    """What `ricci_coefficients` returns; correlations of constants are NaN.

    Attributes:
        curvature: the sum of the Forman curvatures of all edges, one a cloud.
        length: the sum of the hop distances of all pairs, one a cloud.
        overall: the correlation, over layers, of the curvature before a layer with the
            change of length by it; negative where the layers act as Ricci flow.
        points: for each point the correlation, over layers, of the mean curvature of
            its edges with the mean change of the distances to its neighbours.
        layers: for each layer the same correlation, over points.
    """

    curvature: Float[np.ndarray, " clouds"]
    length: Float[np.ndarray, " clouds"]
    overall: float
    points: Float[np.ndarray, " n"]
    layers: Float[np.ndarray, " l"]


def ricci_coefficients(
    clouds: Sequence[ArrayLike] | Array | np.ndarray, num_neighbours: int = 15
) -> RicciCoefficients:
    """Whether layers shrink what is curved positively and stretch the rest, in numbers.

    Each cloud is made a graph that joins every point to its nearest neighbours. Its
    geometry is the hop distance, its curvature that of Forman: 4 - deg(i) - deg(j) for
    the edge of i and j. Under Ricci flow, dg/dt = -2 Ric, the two are correlated
    negatively; networks that classify well come near to it. Of a transport it shows
    which layers merge or split neighbourhoods, and from where on nothing changes.

    Args:
        clouds: the same n points before the first layer and after each of them: l + 1
            >= 3 arrays (n, d_l). At most some thousand points.
        num_neighbours: k, 1 <= k < n. Small ones see details, but every graph must be
            connected.

    Returns:
        The coefficients, as numpy arrays.

    Raises:
        ValueError: fewer than three clouds, of unequal numbers of points, NaN or
            infinite; `num_neighbours` out of range; a graph that is not connected.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.diagnostics import ricci_coefficients
        >>> x = jr.normal(jr.key(0), (100, 2))
        >>> clouds = [x, x * abs(x), x**3, x**5]
        >>> found = ricci_coefficients(clouds, 20)
        >>> found.curvature.shape, found.layers.shape
        ((4,), (3,))

    References:
        Baptista et al. (2024), Deep learning as Ricci flow, Scientific Reports 14: the
        overall coefficient.
        Hehl, von Renesse and Weber (2025), Neural feature geometry evolves as discrete
        Ricci flow: the local ones.
    """
    arrays = [
        np.asarray(_checks.as_float(f"clouds[{i}]", cloud), np.float64)
        for i, cloud in enumerate(clouds)
    ]
    _checks.check_num_clouds("clouds", len(arrays), 3)
    for i, array in enumerate(arrays):
        _checks.check_layer(f"clouds[{i}]", array, len(arrays[0]))
    _checks.check_count("num_neighbours", num_neighbours)
    _checks.check_num_neighbours(num_neighbours, len(arrays[0]))
    graphs = [neighbour_graph(array, num_neighbours) for array in arrays]
    hops = [hop_distances(graph) for graph in graphs]
    for i, distances in enumerate(hops):
        _checks.check_connected(f"clouds[{i}]", distances)
    curvature = np.array([forman_curvature(graph).sum() / 2 for graph in graphs])
    length = np.array([distances.sum() / 2 for distances in hops])
    bends, changes = _local(graphs, hops)
    return RicciCoefficients(
        curvature,
        length,
        float(_correlation(curvature[:-1], np.diff(length))),
        _correlation(bends.T, changes.T),
        _correlation(bends, changes),
    )


def neighbour_graph(points: np.ndarray, num_neighbours: int) -> Bool[np.ndarray, "n n"]:
    """Which points are among the k nearest of each other, one way or the other."""
    from scipy.spatial.distance import cdist

    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :num_neighbours]
    graph = np.zeros(distances.shape, bool)
    np.put_along_axis(graph, nearest, True, axis=1)
    return graph | graph.T


def forman_curvature(graph: Bool[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """4 - deg(i) - deg(j) for each edge of a graph, zero elsewhere."""
    degrees = graph.sum(axis=1).astype(float)
    return np.where(graph, 4 - degrees[:, None] - degrees[None, :], 0.0)


def hop_distances(graph: Bool[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The number of edges between two points; infinite where there is no way."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    return shortest_path(csr_array(graph), directed=False, unweighted=True)


def _local(
    graphs: list[np.ndarray], hops: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each layer and point: mean curvature of its edges, mean change of distance.

    Both are over the neighbours before the layer, whose distance is one there.
    """
    bends, changes = [], []
    for graph, after in zip(graphs[:-1], hops[1:], strict=True):
        degrees = graph.sum(axis=1)
        bends.append(forman_curvature(graph).sum(axis=1) / degrees)
        changes.append(np.where(graph, after - 1, 0).sum(axis=1) / degrees)
    return np.array(bends), np.array(changes)


def _correlation(x: np.ndarray, y: np.ndarray) -> Any:
    """Pearson's correlation along the last axis; NaN where a side is constant."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(
        size > 0, (x * y).sum(axis=-1) / np.where(size > 0, size, 1), np.nan
    )
