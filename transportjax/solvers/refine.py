"""The last step of a bending registration: the spread of what remains, estimated.

An L2 fit ends at a given bandwidth, and at a given weight of bending: it smooths what
could be met exactly, and would follow the noise with less of either. Here the moved
source explains the target by Gaussians of one unknown variance, besides a uniform share
of strays. Variance and share are estimated together with the map, by expectation
maximisation, and bending counts in proportion to the variance: little where shapes
agree exactly, much where they are noisy or sampled at different places.

What is found depends on the variance at the start. A small one keeps the details of the
fit, and with them what was matched wrongly; a large one lets go of both. So there is a
descent from each, and the likelier end is taken. A fit by normals is only refined from
the small one: a large one would forget what they told.
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

from .clouds import Cloud, frame_of
from .frames import enter, leave

_BLOCK = 1 << 20  # pairs of points at a time
NARROW, BOTH = (1.0,), (1.0, 8.0)  # deviations at the start, of the bandwidth
_STRAYS = 0.1  # their share at the start
_SHARES = (0.01, 0.95)  # of strays, between which the estimate stays
_THINNEST = 0.1  # side of the box of strays, of its longest
_TOLERANCE = 1e-3  # change of the deviation, of its size, at which it is over
_FINEST = 1e-3  # deviation, of the radius, below which shapes agree exactly
_SHRINKING = 0.5  # of the variance, at most, in one step: strays do not come back
_DAMPING = 1e-6  # of the system that is solved, where no point decides
_STIFFNESS = 2000  # prior precision of the bending energy, of the weight of bending


class _State(NamedTuple):
    """Positions of the source, with what is estimated."""

    points: Float[Array, "n d"]
    leaves: Float[Array, "p d"]
    variance: Float[Array, ""]
    strays: Float[Array, ""]
    count: Array
    is_over: Array


class _Sums(NamedTuple):
    """Sums over the target of shares of its points, for each source point."""

    masses: Float[Array, " n"]
    pulls: Float[Array, "n d"]  # share times difference
    squares: Float[Array, ""]  # share times squared difference, over all
    fit: Float[Array, ""]  # logarithms of the density, at the variance of the state


@eqx.filter_jit
def refine(
    source: Cloud,
    target: Cloud,
    warp: AbstractWarp,
    bandwidth: Array,
    bending: Array,
    num_steps: Array,
    widths: tuple[float, ...],
) -> tuple[AbstractWarp, Array]:
    """The warp that explains the target best, near to `warp`; the moved source.

    Args:
        source: points and masses; normals are not used.
        target: likewise.
        warp: the fit to begin with.
        bandwidth: that of the fit.
        bending: its weight at that bandwidth.
        num_steps: steps from each deviation, at most.
        widths: deviations to begin with, in bandwidths: `NARROW` or `BOTH`.
    """
    frame = frame_of(source, target)
    x, y = (
        cloud._replace(points=(cloud.points - centre[None, :]) / frame.scale)
        for cloud, centre in ((source, frame.source), (target, frame.target))
    )
    inner: Any = enter(warp, frame)
    modes = _modes(inner, x.points)
    stiffness = _STIFFNESS * bending * modes.bends
    density = _stray_density(y)
    step = _stepper(x, y, modes.basis, stiffness, density)
    zero = jnp.zeros_like(bandwidth)

    def descent(width: Array) -> tuple[Array, Array]:
        state = _State(
            *(_product(modes.basis, modes.start), modes.start),
            *((width * bandwidth / frame.scale) ** 2, zero + _STRAYS),
            *(jnp.zeros_like(zero, dtype="int32"), zero > 0),
        )
        end = lax.while_loop(lambda s: ~s.is_over & (s.count < num_steps), step, state)
        bent = jnp.sum(stiffness[:, None] * end.leaves**2)
        return end.leaves, _sums(x, y, end, density).fit - bent / 2

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


def _stepper(
    x: Cloud, y: Cloud, basis: Array, stiffness: Array, density: Array
) -> Callable[[_State], _State]:
    """One step of expectation maximisation."""
    dim = x.points.shape[1]

    def step(state: _State) -> _State:
        sums = _sums(x, y, state, density)
        penalty = state.variance * stiffness
        slope = _product(basis.T, sums.pulls) - penalty[:, None] * state.leaves
        system = _product(basis.T, sums.masses[:, None] * basis)
        damping = _DAMPING * jnp.trace(system) / len(system)
        both = jnp.concatenate([slope, system], axis=1)
        both = jnp.linalg.solve(system + jnp.diag(penalty + damping), both)
        leaves = state.leaves + both[:, :dim]
        freedom = jnp.trace(both[:, dim:]) * jnp.sum(y.weights**2)
        points = _product(basis, leaves)
        moves = points - state.points
        mass = jnp.sum(sums.masses)
        rest = jnp.sum(sums.masses[:, None] * moves**2 - 2 * moves * sums.pulls)
        # the mean over what the leaves may be, not only the best: it is not too small
        variance = (sums.squares + rest) / (dim * mass)
        variance = variance + state.variance * freedom / mass
        variance = jnp.maximum(variance, _SHRINKING * state.variance)
        variance = jnp.maximum(variance, _FINEST**2)
        change = jnp.abs(variance - state.variance)
        is_over = ~(change > 2 * _TOLERANCE * variance)  # so if it is not a number
        strays = jnp.clip(1 - mass, *_SHARES)
        return _State(points, leaves, variance, strays, state.count + 1, is_over)

    return step


def _sums(x: Cloud, y: Cloud, state: _State, density: Array) -> _Sums:
    """The expectations, in blocks of the target."""
    num, dim = x.points.shape
    size = max(1, min(len(y.points), _BLOCK // num))
    blocks = -(-len(y.points) // size)
    missing = blocks * size - len(y.points)
    points = jnp.pad(y.points, ((0, missing), (0, 0))).reshape(blocks, size, dim)
    masses = jnp.pad(y.weights, (0, missing)).reshape(blocks, size)
    # of strays, next to a kernel of height one
    kernel = (2 * math.pi * state.variance) ** (-dim / 2)
    level = state.strays * density / ((1 - state.strays) * kernel)

    def block(sums: _Sums, given: tuple[Array, Array]) -> tuple[_Sums, None]:
        points, masses = given
        apart = [points[None, :, k] - state.points[:, None, k] for k in range(dim)]
        squares = jnp.asarray(sum(a**2 for a in apart))
        heights = x.weights[:, None] * jnp.exp(-squares / (2 * state.variance))
        total = jnp.sum(heights, axis=0) + level
        shares = heights * (masses / total)[None, :]
        fit = jnp.sum(masses * jnp.log((1 - state.strays) * kernel * total))
        pulls = jnp.stack([jnp.sum(shares * a, axis=1) for a in apart], axis=1)
        new = _Sums(jnp.sum(shares, axis=1), pulls, jnp.sum(shares * squares), fit)
        return jax.tree.map(jnp.add, sums, new), None

    zero = 0 * state.points
    start = _Sums(zero[:, 0], zero, zero[0, 0], zero[0, 0])
    return lax.scan(block, start, (points, masses))[0]
