"""Gaussianisation: a normalising flow from data, without gradient descent."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from transportjax._checks import (
    as_float,
    as_weights,
    check_continuous,
    check_count,
    check_key,
    check_number,
    check_points,
    check_share,
    check_spread,
    check_weights,
    is_concrete,
    is_on_host,
    working_dtype,
)
from transportjax._sharding import everywhere, explicit_mesh_guard
from transportjax.maps import (
    AbstractBijection,
    Affine,
    Chain,
    Scan,
    SlicedMap,
    gaussian_map,
)
from transportjax.maps.affine import moments
from transportjax.sliced import (
    AbstractDirections,
    FixedDirections,
    MaxSlicedDirections,
    OrthonormalDirections,
)
from transportjax.sliced.greedy import greedy_rotation

from .columns import Choice, choose_columns, fit_columns
from .gaussian_steps import Masses, Options, fit, log_tails
from .solution import Solution

_MOST_GREEDY = 3  # dimensions of the greedy sequence of rotations
_CYCLE = 24  # rotations of the greedy sequence
MOST_RANDOM = 9  # dimensions that random rotations still serve well
_NUM_DIRECTIONS = 8  # of a step, in many dimensions


@explicit_mesh_guard
def gaussianise(
    source: ArrayLike,
    *,
    key: PRNGKeyArray,
    directions: AbstractDirections | None = None,
    num_steps: int = 300,
    num_knots: int = 64,
    bandwidth: ArrayLike = 0.5,
    step_size: ArrayLike = 0.3,
    weights: ArrayLike | None = None,
    held_out: float | ArrayLike = 0.2,
    patience: int = 30,
    columns: bool | None = None,
) -> Solution:
    """The map that makes `source` standard normal, new points of its law included.

    Whitening, then steps of iterative distribution transfer towards N(0, I): a step
    turns the axes and moves each projection by a spline through Phi^-1 o F, where F is
    the smoothed distribution function of the projection. The smoothing, the partial
    steps and the choice of their number are what make the map generalise: its density,
    log N(T(x)) + log |det T'(x)|, is an estimate of the density of the source.

    The number of steps is the one after which samples that were held out are most
    likely. Where they were a share of the source, the fit is then repeated with all of
    it and that number of steps; no sample is lost.

    Beyond four deviations the whitened coordinates are drawn in by a logarithm
    (`LogTails`): the density of what lies further out than the samples falls off like
    that of a log-normal law, and single outliers do not decide a likelihood.

    In a table each column has a law of its own, and steps that smooth all projections
    alike blur the sharp ones. So each column can be made normal by itself first, with
    the bandwidth, out of six, under which a fifth of its numbers is likeliest by the
    splines of the others; then the whitening and the steps follow.

    Samples that repeat have no density: make rounded values continuous first, with
    `x + step * jr.uniform(key, x.shape)`. Integer arrays are refused.

    Differentiable in the input of the map and in its leaves, which are those of a
    normalising flow: gradient descent can continue the fit.

    Args:
        source: samples, (n, d), n > d.
        key: a random key, for the directions and the held-out share.
        directions: which axes next, orthonormal rows (p <= d). If None, the greedy
            sequence of rotations up to three dimensions, random ones up to nine, and
            above, where almost all random projections look normal, the eight axes that
            look least so (`MaxSlicedDirections(8)`).
        num_steps: number of steps, at most; compile time does not depend on it.
        num_knots: knots of each spline.
        bandwidth: of the smoothing kernel, in units of Scott's rule, s n^(-1/5).
        step_size: share in (0, 1] of each transfer that is carried out: smaller with
            more steps generalises better (shrinkage). The slopes of the tails take a
            tenth of it.
        weights: masses >= 0 of the samples, (n,).
        held_out: a share in [0, 1) of the samples, spread over all rows and chosen by
            the key, or other samples (m, d). 0: all `num_steps` are made.
        patience: how many steps without a better likelihood of the held-out samples
            end the search.
        columns: whether each column is made normal by itself first. None: from four
            dimensions on, where no directions are given or random ones, if the held-out
            samples are then likelier under a normal law, before any step.

    Returns:
        A `Solution`: the map is a `Chain` of the whitening, `LogTails`, and a `Scan` of
        `SlicedMap`s of splines, as many as were best; before them, where columns are
        made normal first, a scaling and one more `SlicedMap`. stats["cost"], one a step
        of the map, is the mean squared displacement to a normal law along its axes,
        before it. stats["held_out"] is the mean negative log-likelihood of the
        held-out samples, in nats, after each step of the search and, first, before it;
        empty without them. Under `jit` and `vmap` sizes cannot depend on values: then
        there are `num_steps` layers and entries, the surplus being identities and NaN.

    Raises:
        ValueError: samples that are not (n, d), are empty, too few, integer or NaN, lie
            in a subspace; bad weights; options out of range.

    Example:
        >>> import jax, jax.random as jr
        >>> import transportjax as tj
        >>> x = jr.exponential(jr.key(0), (1000, 2))
        >>> solution = tj.gaussianise(x, key=jr.key(1))
        >>> z = jax.vmap(solution.map)(jr.exponential(jr.key(2), (1000, 2)))
        >>> bool(abs(z.std(0) - 1).max() < 0.1)
        True

    References:
        Laparra, Camps-Valls and Malo, 2011, "Iterative Gaussianization: from ICA to
        random rotations". Dai and Seljak, 2021, "Sliced iterative normalizing flows",
        section 3 (GIS).
    """
    check_key("key", key)
    check_continuous("source", source)
    source = as_float("source", source)
    dtype, source = source.dtype, source.astype(working_dtype(source.dtype))
    check_points("source", source)
    check_count("num_steps", num_steps)
    check_count("num_knots", num_knots, 4)
    check_count("patience", patience)
    check_number("bandwidth", bandwidth, 0, open_low=True)
    check_number("step_size", step_size, 0, 1, open_low=True)
    weights = as_weights("weights", weights, source.shape[:1], source.dtype)
    # other directions look for a structure that the columns would bend
    may_bend = directions is None or isinstance(directions, OrthonormalDirections)
    if directions is None:
        directions = _default_directions(source.shape[1], num_steps)
    whiten = robust_whitening("source", source, weights)
    points, masses = _divide(source, weights, held_out, key)
    options = Options(
        directions,
        jnp.asarray(bandwidth, source.dtype),
        jnp.asarray(step_size, source.dtype),
        num_steps,
        num_knots,
        source.shape[0],
    )
    start = _Start((), points, jnp.zeros_like(points[:, 0]), whiten)
    choice = _choose(points, masses, columns if may_bend else bool(columns))
    every, held = jnp.asarray(num_steps, "int32"), jnp.zeros(0, source.dtype)
    limit, few = every, jnp.asarray(patience, "int32")
    run = None
    if masses.judged is not None:
        if choice is not None:
            start = _with_columns(points, masses.fitted, choice, weights, len(source))
        search = fit(start.points, start.whiten, masses, key, options, limit, few)
        limit = search.best_step
        shares = masses.judged / jnp.sum(masses.judged)
        held = search.losses - jnp.dot(shares, start.log_dets, precision="highest")
        if jnp.ndim(held_out) > 0 and is_concrete(limit):
            # nothing was held out of the source: the search is the fit
            run = search._replace(points=search.best_points)
        masses = masses._replace(fitted=masses.every)
    if run is None:
        if choice is not None:
            start = _with_columns(points, masses.fitted, choice, weights, len(source))
        run = fit(start.points, start.whiten, masses, key, options, limit, every)
    layers, cost = run.layers, run.costs
    if is_concrete(limit):
        layers, cost = _first((layers, cost), int(limit))
    if masses.judged is not None and is_concrete(held):
        held = _first(held, int(search.done) + 1)
    stats = {"cost": cost, "held_out": held}
    map = Chain((*start.maps, *start.whiten.maps, Scan(layers)))
    return Solution(map, run.points.astype(dtype), stats)


def column_maps(map: AbstractBijection) -> tuple[AbstractBijection, ...]:
    """The maps that make columns normal, in a map by `gaussianise`: none or two."""
    if not isinstance(map, Chain):
        return ()
    first = map.maps[:-3]
    kinds = tuple(type(layer) for layer in first)
    return first if kinds == (Affine, SlicedMap) else ()


class _Start(NamedTuple):
    """The points before the whitening, how they came there, and the whitening."""

    maps: tuple[AbstractBijection, ...]
    points: Float[Array, "n d"]
    log_dets: Float[Array, " n"]
    whiten: Chain


def _choose(
    points: Float[Array, "n d"], masses: Masses, columns: bool | None
) -> Choice | None:
    """How the columns are made normal first; None if they are not."""
    if columns is False:
        return None
    if columns is None:
        few = points.shape[1] <= _MOST_GREEDY
        if few or masses.judged is None:
            return None
    judged = masses.judged if columns is None else None
    choice = choose_columns(points, masses.fitted, judged)
    return None if choice.is_empty() else choice


def _with_columns(
    points: Float[Array, "n d"],
    fitted: Float[Array, " n"],
    choice: Choice,
    weights: Float[Array, " n"] | None,
    num: int,
) -> _Start:
    columns = fit_columns(points, fitted, choice)
    maps, moved, log_dets = columns.maps, columns.points, columns.log_dets
    whiten = robust_whitening("source", moved[:num], weights)
    return _Start(maps, moved, log_dets, whiten)


def _first(tree: Any, count: int) -> Any:
    """The first entries of all leaves, by numpy: no new count compiles new slices."""

    def first(leaf: Array) -> Array:
        # bound to a device it would make whatever it touches compile twice
        place = leaf.sharding if leaf.committed else None
        return jax.device_put(np.asarray(leaf)[:count], place)

    return jax.tree.map(first, tree)


def _default_directions(dim: int, num_steps: int) -> AbstractDirections:
    if dim <= _MOST_GREEDY:
        # fixed ones: little to compile
        return FixedDirections(_greedy_cycles(num_steps, dim))
    if dim <= MOST_RANDOM:
        return OrthonormalDirections()
    return MaxSlicedDirections(_NUM_DIRECTIONS)


@functools.cache
def _greedy_cycles(num: int, dim: int) -> np.ndarray:
    """Greedy rotations; after each `_CYCLE` all are turned by a random rotation."""
    first = np.stack([greedy_rotation(step, dim) for step in range(min(num, _CYCLE))])
    rng = np.random.default_rng(0)
    turns = [np.eye(dim)]
    while len(turns) * _CYCLE < num:
        q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
        turns.append(q * np.sign(np.diag(r)))
    return np.concatenate([first @ turn for turn in turns])[:num]


def robust_whitening(
    name: str, source: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> Chain:
    """Whitening, and what lies far out drawn in; errors tell the name."""
    whiten = whitening(name, source, weights)
    return Chain((whiten, log_tails(whiten.offset)))


def whitening(
    name: str, source: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> Affine:
    """The symmetric map to mean zero and identity covariance; errors tell the name."""
    is_quick = all(is_on_host(x) for x in (source, weights))
    mean, cov = (_moments_by_numpy if is_quick else _moments)(source, weights)
    check_spread(name, source.shape, mean, cov)
    if not is_concrete(cov):
        normal = jnp.zeros_like(mean), jnp.eye(*cov.shape, dtype=cov.dtype)
        return gaussian_map(mean, cov, *normal)
    # by numpy: nothing to compile
    values, vectors = np.linalg.eigh(np.asarray(cov, np.float64))
    matrix = vectors / np.sqrt(values) @ vectors.T
    offset = -matrix @ np.asarray(mean, np.float64)
    place = everywhere(cov)  # else bound to none, or `fit` would be compiled twice
    return Affine(
        jax.device_put(matrix.astype(cov.dtype), place),
        jax.device_put(offset.astype(cov.dtype), place),
    )


_moments = jax.jit(moments)


def _moments_by_numpy(source: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(source, np.float64)
    shares = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    shares = shares / np.sum(shares)
    mean = shares @ x
    centred = x - mean
    # one sample has no spread: its second moment is zero
    effective = max(1 - float(np.sum(shares**2)), np.finfo(np.float64).eps)
    cov = (shares[:, None] * centred).T @ centred / effective
    with np.errstate(over="ignore"):  # squares of huge units: refused by name
        return mean.astype(source.dtype), cov.astype(source.dtype)


def _divide(
    source: Float[Array, "n d"],
    weights: Float[Array, " n"] | None,
    held_out: Any,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "m d"], Masses]:
    """All points, the source first, and their masses."""
    num = source.shape[0]
    every = np.ones(num, source.dtype) if weights is None else weights
    if jnp.ndim(held_out) > 0:
        others = as_float("held_out", held_out).astype(source.dtype)
        check_points("held_out", others, source.shape[1])
        return _join(source, others, every)
    count = check_share("held_out", held_out, num)
    if count == 0:
        every = jnp.asarray(every)
        return source, Masses(every, every, None)
    masses = _hold_out(every, key, count)
    if weights is not None and masses.judged is not None:
        check_weights("weights", masses.judged, (num,))
    return source, masses


@jax.jit
def _join(
    source: Float[Array, "n d"], others: Float[Array, "m d"], every: Float[Array, " n"]
) -> tuple[Float[Array, "n+m d"], Masses]:
    fitted = jnp.pad(every, (0, len(others)))
    judged = jnp.pad(jnp.ones_like(others[:, 0]), (len(every), 0))
    return jnp.concatenate([source, others]), Masses(fitted, fitted, judged)


def _hold_out(every: Any, key: PRNGKeyArray, count: int) -> Masses:
    """`count` samples held out: one of each of so many parts in a row."""
    row = np.arange(len(every))
    bounds = np.arange(count + 1) * len(every) // count
    part = np.searchsorted(bounds, row, side="right") - 1
    place, width = row - bounds[part], np.diff(bounds)[part]
    parts = (part.astype(np.uint32), place.astype(np.int32), width.astype(np.uint32))
    return _masses(every, jr.key_data(key), *parts)


@jax.jit
def _masses(
    every: Float[Array, " n"],
    seed: UInt[Array, " s"],
    part: UInt[Array, " n"],
    place: Int[Array, " n"],
    width: UInt[Array, " n"],
) -> Masses:
    """The multiples of the golden ratio tell which sample of a part is held out.

    A start by the key makes it a random one. A generator of random numbers would take
    longer to compile than to fit.
    """
    mix = np.arange(1, 2 * len(seed), 2, dtype=np.uint32) * np.uint32(0x85EBCA6B)
    bits = jnp.sum(seed * mix) + part * np.uint32(0x9E3779B9)
    shift = (bits >> 16) * width >> 16
    judged = jnp.where(place == shift.astype("int32"), every, 0)
    return Masses(every, every - judged, judged)
