"""The last step of a bending registration: the spread of what remains, estimated.

An L2 fit ends at a given bandwidth, and at a given weight of bending: it smooths what
could be met exactly, and would follow the noise with less of either. Here the moved
source explains the target by Gaussians of one unknown variance, besides a uniform share
of strays. Variance and share are estimated together with the map, by expectation
maximisation, and bending counts in proportion to the variance: little where shapes
agree exactly, much where they are noisy or sampled at different places.

Normals tell which points belong together: each point of the source stands for a von
Mises-Fisher density around its normal as well. Its concentration is estimated likewise,
so that noisy normals count little. They also tell where the surface goes on: the
Gaussians are discs, whose variance along the surface, where samples of it fall anywhere
between each other, is estimated apart from that across it. So the surfaces are brought
together, and their samples may lie beside each other; spheres would pull each point to
the nearest sample. Given which belong together, the map is fitted to the points alone,
and takes the normals along.

What is found depends on the variance at the start. A small one keeps the details of the
fit, and with them what was matched wrongly; a large one lets go of both. So there is a
descent from each, and the likelier end is taken.
"""

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
from transportjax.mixtures.bessel import concentration_of

from .clouds import Cloud, Data, frame_of, normalised
from .frames import enter, leave
from .soft_matches import Estimate, Sums, expectation, stray_density

_STRAYS = 0.1  # their share at the start
_SHARES = (0.01, 0.95)  # of strays, between which the estimate stays
_TOLERANCE = 1e-3  # change of the deviation, of its size, at which it is over
_FINEST = 1e-3  # deviation, of the radius, below which shapes agree exactly
_SHRINKING = 0.5  # of variances, at most, in one step: strays do not come back
_LEAST_LACK = 1e-5  # mean of one minus the cosine, below which normals agree
# Degrees of freedom, of the number of points, that the variance makes up for. With more
# it would grow without end where there are few points, and all would be strays.
_MOST_FREEDOM = 0.5
_LEAST = 1e-30  # keeps a division by zero away
_DAMPING = 1e-6  # of the system that is solved, where no point decides
_FLATTEST = 16  # variance of a disc in its plane, at most, of that across it
_SOLVER_STEPS = 10  # of conjugate gradients; the next step goes on with the rest
_STIFFNESS = 2000  # prior precision of the bending energy, of the weight of bending


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
    sums_of = expectation(x, y, stray_density(y), symmetric=symmetric)

    def normals_of(leaves: Array) -> Array | None:
        return _normals(_with_leaves(inner, modes.modes, leaves), x)

    least = jnp.sum(y.weights**2)
    step = _stepper(sums_of, normals_of, modes.basis, stiffness, least)
    zero = jnp.zeros_like(bandwidth)
    start = _product(modes.basis, modes.start), normals_of(modes.start), modes.start

    def descent(width: Array) -> tuple[Array, Array]:
        state = Estimate(
            *(*start, (width * bandwidth / frame.scale) ** 2, zero + 1),
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


def _normals(warp: AbstractWarp, x: Cloud) -> Array | None:
    """Those of the source under a warp."""
    if x.normals is None:
        return None
    matrices = jax.vmap(jacobian, (None, 0))(warp, x.points)
    turned = _product(jax.vmap(cofactor)(matrices), x.normals[:, :, None])
    return jax.vmap(unit)(turned[:, :, 0])


def _stepper(
    sums_of: Callable[[Estimate], Sums],
    normals_of: Callable[[Array], Array | None],
    basis: Array,
    stiffness: Array,
    least: Array,
) -> Callable[[Estimate], Estimate]:
    """One step of expectation maximisation."""

    def step(state: Estimate) -> Estimate:
        sums, dim = sums_of(state), state.points.shape[1]
        flatness = state.flatness

        def weighed(rows: Array) -> Array:
            """What the shares and the discs of the source make of differences."""
            along = _along(state.normals, rows)
            return flatness * rows + (1 - flatness) * along

        penalty = state.variance * stiffness
        slope = _product(basis.T, weighed(sums.pulls)) - penalty[:, None] * state.leaves
        # of spheres as firm as the discs are in the mean
        firmness = (1 + (dim - 1) * flatness) / dim
        system = firmness * _product(basis.T, sums.masses[:, None] * basis)
        damping = _DAMPING * jnp.trace(system) / len(system)
        inverse = jnp.linalg.inv(system + jnp.diag(penalty + damping))
        freedom = jnp.sum(inverse * system) * least

        def times(leaves: Array) -> Array:
            pulls = weighed(sums.masses[:, None] * _product(basis, leaves))
            return _product(basis.T, pulls) + (penalty + damping)[:, None] * leaves

        change = _product(inverse, slope)
        if state.normals is not None:
            change = _solve(times, slope, inverse)
        leaves = state.leaves + change
        points = _product(basis, leaves)
        mass = jnp.sum(sums.masses)
        variance, flatness = _variances(state, sums, points - state.points, freedom)
        moved = jnp.abs(variance - state.variance)
        is_over = ~(moved > 2 * _TOLERANCE * variance)  # so if it is not a number
        strays = jnp.clip(1 - mass, *_SHARES)
        normals, kappa = normals_of(leaves), state.concentration
        if normals is not None:
            lack = jnp.maximum(sums.lacks / mass, _LEAST_LACK)
            wanted = concentration_of(1 - lack, lack, dim)
            kappa = jnp.minimum(wanted, kappa / _SHRINKING)
        found = (variance, flatness, kappa, strays)
        return Estimate(points, normals, leaves, *found, state.count + 1, is_over)

    return step


def _along(normals: Array | None, rows: Array) -> Array:
    """The parts of rows along the normals; without any, the rows."""
    if normals is None:
        return rows
    return jnp.sum(normals * rows, axis=1, keepdims=True) * normals


def _solve(times: Callable[[Array], Array], goal: Array, inverse: Array) -> Array:
    """What `times` takes to `goal`, nearly, by conjugate gradients.

    `inverse` is that of a matrix that `times` is near to, for each coordinate.
    """

    def better(carry: tuple, _: None) -> tuple[tuple, None]:
        found, rest, direction, size = carry
        image = times(direction)
        share = size / jnp.maximum(jnp.vdot(direction, image), _LEAST)
        found, rest = found + share * direction, rest - share * image
        near = _product(inverse, rest)
        new = jnp.vdot(rest, near)
        direction = near + new / jnp.maximum(size, _LEAST) * direction
        return (found, rest, direction, new), None

    near = _product(inverse, goal)
    start = (0 * goal, goal, near, jnp.vdot(goal, near))
    return lax.scan(better, start, None, length=_SOLVER_STEPS)[0][0]


def _variances(
    state: Estimate, sums: Sums, moves: Array, freedom: Array
) -> tuple[Array, Array]:
    """The variance along the normals, and that of the one across them.

    They are means over what the leaves may be, not only at the best: not too small.
    """
    dim = moves.shape[1]
    mass = jnp.sum(sums.masses)
    share = jnp.minimum(freedom / mass, _MOST_FREEDOM)

    def after(squares: Array, moves: Array) -> Array:
        rest = sums.masses[:, None] * moves**2 - 2 * moves * sums.pulls
        return squares + jnp.sum(rest)

    def estimate(squares: Array, freedom: int, old: Array) -> Array:
        new = squares / (freedom * mass) + share * old
        return jnp.maximum(jnp.maximum(new, _SHRINKING * old), _FINEST**2)

    whole = after(sums.squares, moves)
    if state.normals is None:
        return estimate(whole, dim, state.variance), state.flatness
    part = after(sums.heights, _along(state.normals, moves))
    across = estimate(whole - part, dim - 1, state.variance / state.flatness)
    along = estimate(part, 1, state.variance)
    along = jnp.clip(along, across / _FLATTEST, across)
    return along, along / across
