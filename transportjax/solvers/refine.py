"""The last step of a bending registration: the spread of what remains, estimated.

An L2 fit ends at a given bandwidth, and at a given weight of bending: it smooths what
could be met exactly, and would follow the noise with less of either. Here the moved
source explains the target by Gaussians of one unknown variance, besides a uniform share
of strays. Variance and share are estimated together with the map, by expectation
maximisation, and bending counts in proportion to the variance: little where shapes
agree exactly, much where they are noisy or sampled at different places.

Normals tell which points belong together: each point of the source stands for a von
Mises-Fisher density around its normal as well. Its concentration is estimated likewise,
so that noisy normals count little. The map is fitted to the points alone, given which
belong together, and takes the normals along.

What is found depends on the variance at the start. A small one keeps the details of the
fit, and with them what was matched wrongly; a large one lets go of both. So there is a
descent from each, and the likelier end is taken.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from transportjax.maps import AbstractWarp
from transportjax.maps.normals import jacobian, unit
from transportjax.maps.small_matrices import cofactor
from transportjax.mixtures.bessel import concentration_of, log_mass

from .clouds import Cloud, Data, frame_of, normalised
from .frames import enter, leave

_BLOCK = 1 << 20  # pairs of points at a time
_STRAYS = 0.1  # their share at the start
_SHARES = (0.01, 0.95)  # of strays, between which the estimate stays
_THINNEST = 0.1  # side of the box of strays, of its longest
_TOLERANCE = 1e-3  # change of the deviation, of its size, at which it is over
_FINEST = 1e-3  # deviation, of the radius, below which shapes agree exactly
_SHRINKING = 0.5  # of variances, at most, in one step: strays do not come back
_LEAST_LACK = 1e-5  # mean of one minus the cosine, below which normals agree
# Degrees of freedom, of the number of points, that the variance makes up for. With more
# it would grow without end where there are few points, and all would be strays.
_MOST_FREEDOM = 0.5
_DAMPING = 1e-6  # of the system that is solved, where no point decides
_STIFFNESS = 2000  # prior precision of the bending energy, of the weight of bending


class _State(NamedTuple):
    """Where the source is, with what is estimated."""

    points: Float[Array, "n d"]
    normals: Float[Array, "n d"] | None
    leaves: Float[Array, "p d"]
    variance: Float[Array, ""]
    concentration: Float[Array, ""]  # of the normals
    strays: Float[Array, ""]
    count: Array
    is_over: Array


class _Sums(NamedTuple):
    """Sums over the target of shares of its points, for each source point."""

    masses: Float[Array, " n"]
    pulls: Float[Array, "n d"]  # share times difference
    squares: Float[Array, ""]  # share times squared difference, over all
    lacks: Float[Array, ""]  # share times one minus the cosine of normals, over all
    fit: Float[Array, ""]  # logarithms of the density, at the estimates of the state


@eqx.filter_jit
def refine(
    source: Cloud,
    target: Cloud,
    warp: AbstractWarp,
    bandwidth: Array,
    bending: Array,
    num_steps: Array,
    concentration: Array,
    widths: tuple[float, ...] = (1.0, 8.0),
    *,
    symmetric: bool = False,
) -> tuple[AbstractWarp, Array]:
    """The warp that explains the target best, near to `warp`; the moved source.

    Args:
        source: points and masses, and normals if there are any.
        target: likewise.
        warp: the fit to begin with.
        bandwidth: that of the fit.
        bending: its weight at that bandwidth.
        num_steps: steps from each deviation, at most.
        concentration: of the normals in the fit; without normals, of no effect.
        widths: deviations to begin with, in bandwidths.
        symmetric: whether normals have no sign.
    """
    frame = frame_of(source, target)
    x, y, *_ = normalised(Data(source, target, None, jnp.zeros_like(bandwidth)), frame)
    inner: Any = enter(warp, frame)
    modes = _modes(inner, x.points)
    stiffness = _STIFFNESS * bending * modes.bends
    sums_of = _expectation(x, y, _stray_density(y), symmetric=symmetric)

    def normals_of(leaves: Array) -> Array | None:
        return _normals(_with_leaves(inner, modes.modes, leaves), x)

    least = jnp.sum(y.weights**2)
    step = _stepper(sums_of, normals_of, modes.basis, stiffness, least)
    zero = jnp.zeros_like(bandwidth)
    start = _product(modes.basis, modes.start), normals_of(modes.start), modes.start

    def descent(width: Array) -> tuple[Array, Array]:
        state = _State(
            *(*start, (width * bandwidth / frame.scale) ** 2),
            *(concentration / width**2, zero + _STRAYS),
            *(jnp.zeros_like(zero, dtype="int32"), zero > 0),
        )
        end = lax.while_loop(lambda s: ~s.is_over & (s.count < num_steps), step, state)
        bent = jnp.sum(stiffness[:, None] * end.leaves**2)
        return end.leaves, sums_of(end).fit - bent / 2

    ends, values = lax.map(descent, jnp.asarray(widths, dtype=bandwidth.dtype))
    leaves = ends[jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))]
    refined = leave(_with_leaves(inner, modes.modes, leaves), frame)
    fine = jnp.all(jnp.isfinite(leaves))
    warp = jax.tree.map(lambda a, b: jnp.where(fine, a, b), refined, warp)
    return warp, jax.vmap(warp)(source.points)


class _Modes(NamedTuple):
    """What is fitted: affine maps, and bumps whose bending energies are one and add."""

    basis: Float[Array, "n p"]  # images are basis @ leaves
    modes: Float[Array, "k k"]  # coefficients are modes @ leaves[d + 1 :]
    start: Float[Array, "p d"]
    bends: Float[Array, " p"]  # one for bumps, zero for the affine part


def _modes(warp: AbstractWarp, points: Array) -> _Modes:
    dim, num = points.shape[1], len(warp.controls)

    def column(unit: Array) -> Array:
        rows = jnp.broadcast_to(unit[:, None], warp.coefficients.shape)
        return eqx.tree_at(lambda w: w.coefficients, warp, rows).bumps[:, 0]

    bumps = jax.vmap(column, out_axes=1)(jnp.eye(num, dtype=points.dtype))
    kernels = jax.vmap(lambda x: warp._at(x)[1])
    gram = _product(bumps.T, _product(kernels(warp.controls), bumps))
    energies, modes = jnp.linalg.eigh((gram + gram.T) / 2)
    # what has no energy moves nothing: the affine part of the coefficients
    counts = energies > num * jnp.finfo(points.dtype).eps * energies[-1]
    roots = jnp.sqrt(jnp.where(counts, energies, 1))
    start = jnp.where(counts, roots, 0)[:, None] * _product(modes.T, warp.coefficients)
    modes = modes * jnp.where(counts, 1 / roots, 0)[None, :]
    bent = _product(kernels(points), _product(bumps, modes))
    ones = jnp.ones_like(points[:, :1])
    return _Modes(
        jnp.concatenate([points, ones, bent], axis=1),
        modes,
        jnp.concatenate([warp.matrix.T, warp.shift[None, :], start]),
        (jnp.arange(dim + 1 + num) > dim).astype(points.dtype),
    )


def _with_leaves(warp: AbstractWarp, modes: Array, leaves: Array) -> AbstractWarp:
    dim = leaves.shape[1]
    parts = (leaves[:dim].T, leaves[dim], _product(modes, leaves[dim + 1 :]))
    return eqx.tree_at(lambda w: (w.matrix, w.shift, w.coefficients), warp, parts)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")


def _stray_density(y: Cloud) -> Array:
    """One over the size of the box around the points that weigh."""
    weighs = (y.weights > 0)[:, None]
    low = jnp.min(jnp.where(weighs, y.points, jnp.inf), axis=0)
    high = jnp.max(jnp.where(weighs, y.points, -jnp.inf), axis=0)
    return 1 / jnp.prod(jnp.maximum(high - low, _THINNEST * jnp.max(high - low)))


def _normals(warp: AbstractWarp, x: Cloud) -> Array | None:
    """Those of the source under a warp."""
    if x.normals is None:
        return None
    matrices = jax.vmap(jacobian, (None, 0))(warp, x.points)
    turned = _product(jax.vmap(cofactor)(matrices), x.normals[:, :, None])
    return jax.vmap(unit)(turned[:, :, 0])


def _stepper(
    sums_of: Callable[[_State], _Sums],
    normals_of: Callable[[Array], Array | None],
    basis: Array,
    stiffness: Array,
    least: Array,
) -> Callable[[_State], _State]:
    """One step of expectation maximisation."""

    def step(state: _State) -> _State:
        sums, dim = sums_of(state), state.points.shape[1]
        penalty = state.variance * stiffness
        slope = _product(basis.T, sums.pulls) - penalty[:, None] * state.leaves
        system = _product(basis.T, sums.masses[:, None] * basis)
        damping = _DAMPING * jnp.trace(system) / len(system)
        both = jnp.concatenate([slope, system], axis=1)
        both = jnp.linalg.solve(system + jnp.diag(penalty + damping), both)
        leaves = state.leaves + both[:, :dim]
        freedom = jnp.trace(both[:, dim:]) * least
        points = _product(basis, leaves)
        moves = points - state.points
        mass = jnp.sum(sums.masses)
        rest = jnp.sum(sums.masses[:, None] * moves**2 - 2 * moves * sums.pulls)
        # the mean over what the leaves may be, not only the best: it is not too small
        variance = (sums.squares + rest) / (dim * mass)
        share = jnp.minimum(freedom / mass, _MOST_FREEDOM)
        variance = variance + share * state.variance
        variance = jnp.maximum(variance, _SHRINKING * state.variance)
        variance = jnp.maximum(variance, _FINEST**2)
        change = jnp.abs(variance - state.variance)
        is_over = ~(change > 2 * _TOLERANCE * variance)  # so if it is not a number
        strays = jnp.clip(1 - mass, *_SHARES)
        normals, kappa = normals_of(leaves), state.concentration
        if normals is not None:
            lack = jnp.maximum(sums.lacks / mass, _LEAST_LACK)
            wanted = concentration_of(1 - lack, lack, dim)
            kappa = jnp.minimum(wanted, kappa / _SHRINKING)
        moved = points, normals, leaves
        return _State(*moved, variance, kappa, strays, state.count + 1, is_over)

    return step


def _expectation(
    x: Cloud, y: Cloud, density: Array, *, symmetric: bool
) -> Callable[[_State], _Sums]:
    """The expectations, in blocks of the target, given the density of strays."""
    num, dim = x.points.shape
    size = max(1, min(len(y.points), _BLOCK // num))
    blocks = -(-len(y.points) // size)

    def blocked(rows: Array) -> Array:
        pads = [(0, blocks * size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        return jnp.pad(rows, pads).reshape(blocks, size, *rows.shape[1:])

    rows = jax.tree.map(blocked, (y.points, y.weights, y.normals))

    def sums_of(state: _State) -> _Sums:
        kernel = (2 * math.pi * state.variance) ** (-dim / 2)
        kernel = kernel * _height_of_normals(state, dim)
        # of strays, next to a kernel of height one
        level = state.strays * density / ((1 - state.strays) * kernel)

        def block(sums: _Sums, given: tuple) -> tuple[_Sums, None]:
            points, masses, normals = given
            apart = [points[None, :, k] - state.points[:, None, k] for k in range(dim)]
            squares = jnp.asarray(sum(a**2 for a in apart))
            heights = x.weights[:, None] * jnp.exp(-squares / (2 * state.variance))
            agreement, lacks = _agreement(state, normals, symmetric=symmetric)
            heights = heights * agreement
            total = jnp.sum(heights, axis=0) + level
            shares = heights * (masses / total)[None, :]
            new = _Sums(
                jnp.sum(shares, axis=1),
                jnp.stack([jnp.sum(shares * a, axis=1) for a in apart], axis=1),
                jnp.sum(shares * squares),
                jnp.sum(shares * lacks),
                jnp.sum(masses * jnp.log((1 - state.strays) * kernel * total)),
            )
            return jax.tree.map(jnp.add, sums, new), None

        zero = 0 * state.points
        start = _Sums(zero[:, 0], zero, *(3 * (zero[0, 0],)))
        return lax.scan(block, start, rows)[0]

    return sums_of


def _height_of_normals(state: _State, dim: int) -> Array | float:
    """The density of a normal at its mean, next to that of uniform ones."""
    if state.normals is None:
        return 1.0
    kappa = state.concentration
    return jnp.exp(log_mass(0 * kappa, dim) - log_mass(kappa, dim))


def _agreement(
    state: _State, normals: Array | None, *, symmetric: bool
) -> tuple[Array | float, Array | float]:
    """The density of normals next to its peak; one minus the cosine that is expected.

    Of symmetric ones, the sign is among what is expected.
    """
    if state.normals is None or normals is None:
        return 1.0, 0.0
    columns = range(normals.shape[1])
    parts = [normals[None, :, k] - state.normals[:, None, k] for k in columns]
    lacks = jnp.asarray(sum(p**2 for p in parts)) / 2
    kappa = state.concentration
    if not symmetric:
        return jnp.exp(-kappa * lacks), lacks
    lacks = jnp.minimum(lacks, 2 - lacks)
    turned = jnp.exp(-2 * kappa * (1 - lacks))
    turns = turned / (1 + turned)
    lacks_of_sign = lacks + 2 * (1 - lacks) * turns
    return jnp.exp(-kappa * lacks) * (1 + turned) / 2, lacks_of_sign
