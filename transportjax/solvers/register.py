"""Registration of shapes: a map that moves one set of points onto another."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import (
    AbstractBijection,
    AbstractWarp,
    Affine,
    Rigid,
    Similarity,
)

from .annealing import anneal
from .clouds import Cloud, Data, Levels, Options, frame_of, steadiness
from .refine import refine
from .solution import Solution

_LEVELS = 4  # of the default annealing, each of half the bandwidth
_BENDING = 0.04  # of the default weight of bending, at a bandwidth of one radius
_ALONE, _AMONG_MANY = 0.5, 0.25  # starts: root of the concentration at one radius
# Decrease of the objective, of its size, at which a level ends. Where a refinement
# follows, a rough end is also the better one: with every evaluation the warp bends more
# to meet what two samples of a shape do not share.
_EXACT, _ROUGH = 1e-6, 1e-4
_FEWER = 4  # times fewer evaluations are then made, at most
_COARSEST = 0.25  # bandwidth of its first level, of the radius of the shapes


@explicit_mesh_guard
def register(
    source: ArrayLike,
    target: ArrayLike,
    warp: AbstractBijection,
    *,
    bandwidths: ArrayLike | Sequence[int | float] | None = None,
    variant: str | None = None,
    bending: ArrayLike | Sequence[int | float] | None = None,
    source_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    source_normals: ArrayLike | None = None,
    target_normals: ArrayLike | None = None,
    concentrations: ArrayLike | Sequence[int | float] | None = None,
    symmetric: bool = False,
    source_viewpoint: ArrayLike | None = None,
    target_viewpoint: ArrayLike | None = None,
    pairs: Any = None,
    pair_weight: ArrayLike = 0.5,
    centre: bool = True,
    num_starts: int = 1,
    num_steps: int = 200,
    optimiser: Any = None,
) -> Solution:
    """The map that moves `source` onto `target`, which need not correspond or be equal.

    Each cloud stands for a mixture of one Gaussian around each point, and the map is
    fitted to bring the mixtures close in L2, from wide Gaussians to narrow ones. Unlike
    a likelihood, the L2 distance hardly feels points that have no partner: outliers,
    and parts that are missing on either side. What it finds is a minimum near the
    start; `num_starts` tries rotations all around.

    The data are centred and divided by their radius inside, so that nothing but
    rounding depends on their units. The map works in the units of the data.

    Solved by L-BFGS; no derivatives of the result with respect to the arguments.

    Args:
        source: points to move, (n, d).
        target: points to reach, (m, d).
        warp: the map to start from, which also says what is fitted: all leaves of a
            `Rigid`, a `Similarity`, an `Affine` or any other map of events (d,); all
            but the control points of a `ThinPlateSpline` or a `GaussianWarp`. So
            `Rigid.identity(3)` or `ThinPlateSpline.identity(control_grid(source))`.
        bandwidths: standard deviation of the Gaussians at each level, (l,), decreasing,
            in units of the points. The first decides how far the map is attracted, the
            last, about the distance of neighbours, how exact it is. None: radius / 4,
            / 8, / 16 and / 32, the radius being the root of the mean squared distance
            to the centroid. A warp that bends is then refined by the points, unless
            pairs, an optimiser or another variant are given: the deviation of the
            target from the moved source, the concentration of normals, the share of
            stray points and the map are estimated together by maximum likelihood, from
            a narrow and from a wide deviation, with bending in proportion to the
            variance; the likelier end is kept. So shapes that agree exactly are met
            more closely than the last bandwidth allows, and noise is hardly followed.
            With normals the deviation along the surface is one of its own, up to four
            times as large, so that samples of it may lie beside each other.
        variant: which divergence (see `l2_divergence`). None: "cross" for `Rigid`,
            which cannot shrink a cloud, "l2e" for others.
        bending: weight >= 0 of the bending energy, one number or one a level. The
            energy is that of the shapes divided by their radius, and the divergence is
            normalised to the peak of its kernel, so that the same value means the same
            on all scales. None: 0.04 bandwidth / radius, from 0.01 down to 0.00125 with
            the default bandwidths. More for shapes with missing parts: 0.01 to 0.1. The
            last one also scales the stiffness of the refinement.
        source_weights: masses >= 0 of the source, (n,); normalised. None: uniform.
        target_weights: likewise of the target, (m,).
        source_normals: normals of the source, (n, d), of any length. They move by the
            map's cofactor matrix, and points attract each other only as far as normals
            agree, which keeps sheets apart and surfaces from sliding.
        target_normals: likewise of the target, (m, d).
        concentrations: how much normals count, kappa >= 0 of von Mises-Fisher
            densities, one number or one a level. None: (radius / (2 bandwidth))^2, but
            at most the concentration of the normals of neighbours about each other, so
            that noisy normals count less; (radius / (4 bandwidth))^2 for several
            starts.
        symmetric: whether normals have no sign, such as estimated ones.
        source_viewpoint: for a `Rigid` in space, where the scanner of the source stood,
            (3,): it saw that nothing is between it and the points, nor beside them.
            Poses that put the target there are rejected, which decides between those
            that overlap equally, above all if the scans have little in common.
        target_viewpoint: likewise of the target.
        pairs: points known to correspond, `(source indices, target indices)`, two
            vectors of integers. Wrong pairs, further off than two bandwidths, hardly
            count.
        pair_weight: share in [0, 1] of the pairs in the objective; the mixtures have
            the rest. 1 leaves the mixtures out.
        centre: whether to move the start so that centroids agree and, with a
            `Similarity`, radii. Not done to maps of other classes than those named
            above.
        num_starts: rotations to start from, for a `Rigid` or a `Similarity`: those of
            an even spread, besides the given start. With `centre`, each is put where
            the clouds overlap best, found among all translations at once by a fast
            Fourier transform, and the 48 that overlap best are descended from: first
            on samples of the points, then the best few on all. So more starts cost
            little. 24 find most orientations in space, 8 in the plane; 1000 for
            scans that have little in common (10 ms each, with normals and viewpoints).
        num_steps: evaluations of the objective at each level, at most, and steps of
            each refinement. A level that a refinement follows takes a quarter of them.
        optimiser: a transformation of optax in place of L-BFGS, for example
            `optax.adam(1e-3)`; it makes all `num_steps`.

    Returns:
        A `Solution`: a map of the class of `warp`; the moved source; and in stats, for
        each level, the final objective "cost" and the number of evaluations "steps".

    Raises:
        ValueError: clouds that are not (n, d), are empty, differ in dimension, hold NaN
            or one point only, or are so large or small that squares over- or underflow;
            a source on a line or plane, where `warp` is `Affine`; bad weights, normals,
            pairs or options; several starts, or a bending weight, where the map has
            none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import transportjax as tj
        >>> from transportjax.maps import Rigid
        >>> t = jnp.linspace(0.0, 5.0, 60)
        >>> x = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=1)
        >>> turn = Rigid(0.8, jnp.array([3.0, -2.0]))
        >>> y = jax.vmap(turn)(x)[10:]  # a part is missing
        >>> solution = tj.solvers.register(x, y, Rigid.identity(2))
        >>> print(f"{solution.map.rotation:.2f}")
        0.80

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models.
        Grogan and Dahyot (2018), Shape registration with directional data.
        Myronenko and Song (2010), Point set registration: coherent point drift (the
        refinement).
    """
    source, target = _checks.common_float(("source", source), ("target", target))
    _checks.check_points("source", source)
    _checks.check_points("target", target, source.shape[1])
    for name, cloud in (("source", source), ("target", target)):
        extent = _extent(cloud.astype(_checks.working_dtype(cloud.dtype)))
        _checks.check_extent(name, extent)
        _checks.check_squares(name, extent)
    _checks.check_bijection("warp", warp, AbstractBijection)
    event = jax.ShapeDtypeStruct(source.shape[1:], source.dtype)
    jax.eval_shape(warp, event)  # an error, if it is of another dimension
    if isinstance(warp, Affine):
        _checks.check_fills_space("source", source)
    for name, count in (("num_steps", num_steps), ("num_starts", num_starts)):
        _checks.check_count(name, count)
    turns = isinstance(warp, Rigid | Similarity)
    _checks.check_starts("num_starts", num_starts, turns)
    dtype, work = source.dtype, _checks.working_dtype(source.dtype)
    normals = {"source_normals": source_normals, "target_normals": target_normals}
    _checks.check_together(normals)
    is_rigid = isinstance(warp, Rigid)
    first, second = (
        _cloud(name, points.astype(work), weights, normals, eye, is_rigid)
        for name, points, weights, normals, eye in (
            ("source", source, source_weights, source_normals, source_viewpoint),
            ("target", target, target_weights, target_normals, target_viewpoint),
        )
    )
    ratio = None
    if centre and isinstance(warp, Similarity):
        ratio = frame_of(second, second).scale / frame_of(first, first).scale
        first = first._replace(points=ratio * first.points)
        warp = Similarity(warp.turn, jnp.zeros_like(ratio))
    bends = isinstance(warp, AbstractWarp)
    if bending is None and not bends:
        bending = 0.0
    radius = frame_of(first, second).scale
    widths = _widths(bandwidths, radius)
    if concentrations is None:
        root = _ALONE if num_starts == 1 else _AMONG_MANY
        steady = _steady(root, radius, widths)
        if first.normals is not None and num_starts == 1:
            most = steadiness(first, second, symmetric=bool(symmetric))
            steady = jnp.minimum(steady, most)
        concentrations = steady
    if bending is None:
        bending = _stiff(widths, radius)
    levels = _levels(widths, concentrations, bending)
    _checks.check_energy("bending", bending, bends)
    indices, share = None, jnp.zeros((), work)
    if pairs is not None:
        indices = _checks.check_pairs("pairs", pairs, len(source), len(target))
        _checks.check_number("pair_weight", pair_weight, 0, 1)
        share = jnp.asarray(pair_weight).astype(work)
    if variant is None:
        variant = "cross" if is_rigid else "l2e"
    free = (bandwidths, pairs, optimiser)
    is_refined = bends and variant == "l2e" and all(given is None for given in free)
    options = Options(
        variant=variant,
        symmetric=bool(symmetric),
        pairs_only=pairs is not None and _checks.is_one(pair_weight),
        centre=bool(centre),
        num_starts=num_starts,
        num_steps=-(-num_steps // _FEWER) if is_refined else num_steps,
        tolerance=_ROUGH if is_refined else _EXACT,
        optimiser=optimiser,
    )
    data = Data(first, second, indices, share)
    solution = anneal(data, warp.astype(work), levels, options)
    map: Any = solution.map
    points = solution.points
    if ratio is not None:
        map = Similarity(map.turn, map.log_scale + jnp.log(ratio))
    if is_refined:
        last = jax.tree.map(lambda numbers: numbers[-1], levels)
        map, points = refine(
            *(first, second, map, last.bandwidths, last.bending),
            *(jnp.asarray(num_steps), last.concentrations),
            symmetric=options.symmetric,
        )
    return Solution(map, points.astype(dtype), solution.stats)


def _cloud(
    name: str, points: Array, weights: Any, normals: Any, eye: Any, is_rigid: bool
) -> Cloud:
    shape = points.shape[:1]
    masses = _checks.as_weights(f"{name}_weights", weights, shape, points.dtype)
    masses = _normalised(points, masses)
    if normals is not None:
        normals = _checks.as_float(f"{name}_normals", normals).astype(points.dtype)
        _checks.check_unit_normals(f"{name}_normals", normals, points.shape)
    if eye is not None:
        eye = _checks.as_float(f"{name}_viewpoint", eye).astype(points.dtype)
        dim = points.shape[1]
        _checks.check_viewpoint(f"{name}_viewpoint", eye, dim, is_rigid=is_rigid)
    return Cloud(points, masses, normals, eye)


@jax.jit
def _extent(points: Array) -> Array:
    return jnp.ptp(points, axis=0)


@jax.jit
def _normalised(points: Array, masses: Array | None) -> Array:
    masses = jnp.ones_like(points[:, 0]) if masses is None else masses
    masses = masses / jnp.max(masses)
    return masses / jnp.sum(masses)


@jax.jit
def _halved(radius: Array) -> Array:
    """The bandwidths of the levels by default."""
    halvings = jnp.arange(_LEVELS, dtype=radius.dtype)
    return radius * _COARSEST * 0.5**halvings


@jax.jit
def _steady(root: Array, radius: Array, widths: Array) -> Array:
    """The concentrations by default, that grow as bandwidths shrink."""
    return (root * radius / widths) ** 2


@jax.jit
def _stiff(widths: Array, radius: Array) -> Array:
    """The weights of bending by default."""
    return _BENDING * widths / radius


def _widths(bandwidths: Any, radius: Array) -> Array:
    """The bandwidth of each level, in the units of the points."""
    if bandwidths is None:
        return _halved(radius)
    widths = _checks.as_float("bandwidths", bandwidths).astype(radius.dtype)
    _checks.check_bandwidths("bandwidths", widths)
    return widths


def _levels(widths: Array, concentrations: Any, bending: Any) -> Levels:
    """The numbers of each level: one a level, where one is given for all."""
    values = [widths]
    for name, value in (("concentrations", concentrations), ("bending", bending)):
        value = _checks.as_float(name, value).astype(widths.dtype)
        _checks.check_one_or_each(name, value, len(widths), "level")
        values.append(jnp.broadcast_to(value, widths.shape))
    return Levels(*values)
