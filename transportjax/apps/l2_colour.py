"""Colour transfer by the L2 divergence of mixtures: smooth, and robust to outliers."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PRNGKeyArray

from transportjax._checks import (
    check_choice,
    check_colours_in_pairs,
    check_count,
    check_number,
)
from transportjax.maps import (
    AbstractBijection,
    Affine,
    ThinPlateSpline,
    control_grid,
    monge_kantorovich_linear,
)
from transportjax.mixtures import kmeans
from transportjax.solvers import register

NUM_PAIRS = 5000

_LEVELS = np.array([1, 0.5, 0.25], np.float32)  # widths, of the spread of the colours
_CONTROLS = 5  # along each axis of colours, as published
_FLOOR, _ROUNDING = 1 / 400, 1e-5  # least variances, of the largest, in a spread
_LEAST_SPREAD = 0.4  # of the source, of that of the palette, for more than a linear map
_PAIR_LEVELS = np.array([2, 1, 0.5], np.float32)
# Published is 3e-4, which lets the spline fold between clusters and raises noise; of
# pairs, this.
_BENDING, _PAIR_BENDING = 1e-2, 6e-5
# what the control points span
_PUBLISHED_AXES = {
    "rgb": ((0, 0, 0), (1, 1, 1)),
    "lab": ((0, -100, -110), (100, 100, 100)),
}


def fit_l2(
    source: ArrayLike,
    palette: ArrayLike,
    *,
    key: PRNGKeyArray,
    warp: str = "tps",
    num_clusters: int = 50,
    weight_power: int | float = 0.5,
    num_steps: int = 200,
) -> AbstractBijection:
    """The smooth map that moves the main colours of one cloud onto those of another.

    Both are reduced to clusters, which stand for Gaussian mixtures, and `register`
    brings the moved mixture near the other in L2: from wide Gaussians to narrow ones,
    beginning with the optimal linear map, which turns no colours around. The distance
    hardly feels colours that have no partner. Colours of a grey or faded picture, which
    spread less than 0.4 times as far as those of the palette, get the linear map alone:
    near a line, they would repel each other more than a cloud around it attracts them.

    Args:
        source: colours in the channels of a space, (n, d), d 2 or 3.
        palette: colours, (m, d).
        key: of the clusters.
        warp: "tps", a thin plate spline with 5^d control points; or "affine".
        num_clusters: of each cloud.
        weight_power: clusters weigh their share of the picture to this power: 1 asks
            for as much of a colour as the palette has, and can turn light into dark for
            it; 0, as published, is satisfied with all of its colours.
        num_steps: evaluations at each of three widths, at most.

    Returns:
        The map.

    References:
        Grogan and Dahyot (2019), L2 divergence for robust colour transfer.
    """
    check_choice("warp", warp, ("tps", "affine"))
    check_number("weight_power", weight_power, 0)
    check_count("num_steps", num_steps)
    x, y = jnp.asarray(source), jnp.asarray(palette)
    if _is_flat(x) or _is_flat(y):
        return _shift(x, y)
    if _spread(x, _ROUNDING) < _LEAST_SPREAD * _spread(y, _ROUNDING):
        return monge_kantorovich_linear(x, y)
    found = [kmeans(z, min(num_clusters, len(z)), key=key) for z in (x, y)]
    (x, p), (y, q) = ((c.centres, _powers(c.weights, weight_power)) for c in found)
    start = monge_kantorovich_linear(x, y, source_weights=p, target_weights=q)
    # of a faded picture wider ones, which reach as far as the start has spread it
    width = np.sqrt(_spread(x) * max(_spread(x), _spread(y)))
    options: dict[str, Any] = {}
    if warp == "tps":
        start, options = _spline(x, y, start), {"bending": _BENDING}
    return register(
        x,
        y,
        start,
        bandwidths=_LEVELS * width,
        source_weights=p,
        target_weights=q,
        centre=False,
        num_steps=num_steps,
        **options,
    ).map


def fit_l2_pairs(
    x: ArrayLike, y: ArrayLike, *, num_steps: int = 200
) -> AbstractBijection:
    """The smooth map that takes most of the colours `x` to their partners in `y`.

    A thin plate spline by the Welsch loss, for which pairs that are farther apart than
    about two widths hardly count: what was painted over, or has moved, does no harm.

    Args:
        x: colours in the channels of a space, (n, d), d 2 or 3.
        y: what became of them, (n, d).
        num_steps: evaluations at each of three widths, at most.

    Returns:
        The map.

    References:
        Grogan and Dahyot (2019), L2 divergence for robust colour transfer.
    """
    check_count("num_steps", num_steps)
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_colours_in_pairs(x.shape, y.shape)
    if _is_flat(x) or _is_flat(y):
        return _shift(x, y)
    eye = Affine(jnp.eye(x.shape[1], dtype=x.dtype), jnp.zeros_like(x[0]))
    rows = np.arange(len(x))
    return register(
        x,
        y,
        _spline(x, y, eye),
        bandwidths=_PAIR_LEVELS * _spread(x),
        bending=_PAIR_BENDING,
        pairs=(rows, rows),
        pair_weight=1.0,
        centre=False,
        num_steps=num_steps,
    ).map


def fit_l2_published(
    source: ArrayLike,
    palette: ArrayLike,
    *,
    key: PRNGKeyArray,
    space: str = "rgb",
    pairs: bool = False,
    num_steps: int = 1000,
) -> AbstractBijection:
    """As `fit_l2` or, of pairs, `fit_l2_pairs`, with the settings as published.

    Fifty clusters of equal weight, five levels from sixteen times the published width,
    control points all over the space, a start at the identity, and hardly a penalty on
    bending; of pairs, one level. To compare with: our own settings fold less, follow
    how much there is of a colour, and need not be close to start with.

    Args:
        source: colours, (n, 3), in [0, 1] or CIELAB.
        palette: colours, (m, 3).
        key: of the clusters.
        space: of the colours, "rgb" or "lab".
        pairs: whether row k of one is the partner of row k of the other.
        num_steps: evaluations at each level, at most.

    Returns:
        The map.

    References:
        Grogan and Dahyot (2019), L2 divergence for robust colour transfer.
    """
    check_choice("space", space, tuple(_PUBLISHED_AXES))
    check_count("num_steps", num_steps)
    x, y = jnp.asarray(source), jnp.asarray(palette)
    if _is_flat(x) or _is_flat(y):
        return _shift(x, y)
    if not pairs:
        x, y = (kmeans(z, min(50, len(z)), key=key).centres for z in (x, y))
    low, high = _PUBLISHED_AXES[space]
    axes = np.linspace(low, high, 5, dtype=np.float32).T
    controls = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    unit = 255 if space == "rgb" else 1  # published numbers are of 8-bit colours
    colours = unit * np.asarray(x, np.float64)
    moments = np.linalg.eigvalsh(colours.T @ colours / len(colours))
    width = np.prod(np.maximum(moments, 1e-6 * moments[-1])) ** (1 / 8) / unit
    levels, bending, rows = 2.0 ** np.arange(4, -1, -1), 3e-6, np.arange(len(x))
    options: dict[str, Any] = {}
    if pairs:
        levels, bending = levels[-1:], 3e-3 / len(x)  # the published loss is a sum
        options = {"pairs": (rows, rows), "pair_weight": 1.0}
    return register(
        x,
        y,
        ThinPlateSpline.identity(controls),
        bandwidths=(levels * width / 2).astype(np.float32),
        bending=bending * unit * _radius(x, y),
        centre=False,
        num_steps=num_steps,
        **options,
    ).map


def _radius(x: Array, y: Array) -> float:
    """That of `register`, by which it divides the energy of bending."""
    squares = [jnp.sum(jnp.var(z, axis=0)) for z in (x, y)]
    return float(jnp.sqrt((squares[0] + squares[1]) / 2))


def _powers(weights: Array, power: int | float) -> Array:
    """Weights to a power; empty clusters stay without weight."""
    used = weights > 0
    return jnp.where(used, jnp.where(used, weights, 1) ** power, 0)


def _spline(x: Array, y: Array, start: Affine) -> ThinPlateSpline:
    """An affine map as a spline that can bend over all colours of both clouds."""
    spline = ThinPlateSpline.identity(control_grid(jnp.concatenate([x, y]), _CONTROLS))
    leaves = (start.matrix, start.offset)
    return eqx.tree_at(lambda w: (w.matrix, w.shift), spline, leaves)


def _spread(x: Array, floor: float = _FLOOR) -> np.float32:
    """The geometric mean of the standard deviations along the main axes.

    With a floor, for colours in a plane or on a line.
    """
    centred = np.asarray(x, np.float64)
    centred = centred - centred.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred / len(centred))
    floored = np.maximum(variances, floor * variances[-1])
    return np.float32(np.exp(np.mean(np.log(floored)) / 2))


def _is_flat(x: Array) -> bool:
    """Whether all colours are one."""
    return bool(jnp.all(jnp.ptp(x, axis=0) <= 1e-6))


def _shift(x: Array, y: Array) -> Affine:
    """For pictures of one colour: nothing can be bent."""
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    return Affine(eye, jnp.mean(y, axis=0) - jnp.mean(x, axis=0))
