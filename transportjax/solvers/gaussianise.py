"""Gaussianisation: a normalising flow from data, without gradient descent."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    as_weights,
    check_count,
    check_number,
    check_points,
    check_spread,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import (
    Affine,
    Chain,
    RationalQuadraticSpline,
    Scan,
    SlicedMap,
    gaussian_map,
)
from transportjax.maps.affine import moments
from transportjax.onedim import binned_atoms, quantile
from transportjax.sliced import AbstractDirections, OrthonormalDirections

from .solution import Solution

_NUM_BINS = 512  # a projection is reduced to so many atoms before it is smoothed
_LEAST_SLOPE = 1e-3


@explicit_mesh_guard
def gaussianise(
    source: ArrayLike,
    *,
    key: PRNGKeyArray,
    directions: AbstractDirections | None = None,
    num_steps: int = 100,
    num_knots: int = 48,
    bandwidth: ArrayLike = 0.5,
    step_size: ArrayLike = 0.3,
    weights: ArrayLike | None = None,
) -> Solution:
    """The map that makes `source` standard normal, new points of its law included.

    Whitening, then steps of iterative distribution transfer towards N(0, I): a step
    turns the axes and moves each projection by a spline through Phi^-1 o F, where F is
    the smoothed distribution function of the projection. The smoothing and the partial
    steps are what make the map generalise: its density,
    log N(T(x)) + log |det T'(x)|, is an estimate of the density of the source.

    Differentiable in the input of the map and in its leaves, which are those of a
    normalising flow: gradient descent can continue the fit.

    Args:
        source: samples, (n, d), n > d.
        key: a random key, for the directions.
        directions: which axes next, orthonormal rows. Haar rotations if None.
        num_steps: number of steps; compile time does not depend on it.
        num_knots: knots of each spline.
        bandwidth: of the smoothing kernel, in units of Scott's rule, s n^(-1/5).
            Larger is smoother, for few samples.
        step_size: share in (0, 1] of each transfer that is carried out: smaller with
            more steps generalises better (shrinkage).
        weights: masses >= 0 of the samples, (n,).

    Returns:
        A `Solution`: the map is a `Chain` of the whitening and a `Scan` of `SlicedMap`s
        of splines; stats["cost"] (num_steps,) is the mean squared displacement to a
        normal law along the axes of each step, before it.

    Raises:
        ValueError: samples that are not (n, d), are empty, too few or NaN, lie in a
            subspace; bad weights; options out of range.

    Example:
        >>> import jax, jax.random as jr
        >>> import transportjax as tj
        >>> x = jr.exponential(jr.key(0), (1000, 2))
        >>> solution = tj.gaussianise(x, key=jr.key(1), num_steps=8, step_size=1.0)
        >>> z = jax.vmap(solution.map)(x)
        >>> bool(abs(z.std(0) - 1).max() < 0.1)
        True

    References:
        Laparra, Camps-Valls and Malo, 2011, "Iterative Gaussianization: from ICA to
        random rotations". Dai and Seljak, 2021, "Sliced iterative normalizing flows",
        section 3 (GIS).
    """
    source = as_float("source", source)
    check_points("source", source)
    check_count("num_steps", num_steps)
    check_count("num_knots", num_knots, 4)
    check_number("bandwidth", bandwidth, 0, open_low=True)
    check_number("step_size", step_size, 0, 1, open_low=True)
    weights = as_weights("weights", weights, source.shape[:1], source.dtype)
    if directions is None:
        directions = OrthonormalDirections()
    whiten = whitening("source", source, weights)
    layers, points, cost = _gaussianise(
        jax.vmap(whiten)(source),
        weights,
        key,
        directions,
        jnp.asarray(bandwidth).astype(source.dtype),
        jnp.asarray(step_size).astype(source.dtype),
        num_steps,
        num_knots,
    )
    return Solution(Chain((whiten, layers)), points, {"cost": cost})


def whitening(
    name: str, source: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> Affine:
    """The symmetric map to mean zero and identity covariance; errors tell the name."""
    mean, cov = moments(source, weights)
    check_spread(name, source.shape, cov)
    return gaussian_map(
        mean, cov, jnp.zeros_like(mean), jnp.eye(*cov.shape, dtype=cov.dtype)
    )


@eqx.filter_jit
def _gaussianise(
    source: Float[Array, "n d"],
    weights: Float[Array, " n"] | None,
    key: PRNGKeyArray,
    directions: AbstractDirections,
    bandwidth: Float[Array, ""],
    step_size: Float[Array, ""],
    num_steps: int,
    num_knots: int,
) -> tuple[Scan, Float[Array, "n d"], Float[Array, " l"]]:
    key_init, key_steps, key_target = jr.split(key, 3)
    # strategies that look at the target meet a sample of it
    target = jr.normal(key_target, source.shape, source.dtype)

    def step(carry, key):
        points, state = carry
        axes, _, state = directions.sample(key, state, points, target)
        axes = axes.astype(points.dtype)
        projected = jnp.matmul(axes, points.T, precision="highest")
        splines, cost = _fit_splines(
            projected, weights, bandwidth, step_size, num_knots
        )
        layer = SlicedMap(axes, splines)
        return (jax.vmap(layer)(points), state), (layer, cost)

    state = directions.init(key_init, source.shape[1])
    (points, _), (layers, cost) = lax.scan(
        step, (source, state), jr.split(key_steps, num_steps)
    )
    return Scan(layers), points, cost


def _fit_splines(
    x: Float[Array, "p n"],
    weights: Float[Array, " n"] | None,
    bandwidth: Float[Array, ""],
    step_size: Float[Array, ""],
    num_knots: int,
) -> tuple[RationalQuadraticSpline, Float[Array, ""]]:
    """Splines a share of the way towards Phi^-1 o F_h along each axis.

    With a kernel of standard deviation h the smoothed law is wider than the samples:
    the factor sqrt(1 + h^2 / s^2) lets a projection that is already normal map to
    itself.
    """
    atoms, masses = binned_atoms(x, num_bins=_NUM_BINS, weights=weights)
    count = x.shape[-1] if weights is None else _effective_count(weights)
    relative = bandwidth * jnp.asarray(count).astype(x.dtype) ** -0.2
    fit = functools.partial(
        _fit_spline, relative=relative, step_size=step_size, num_knots=num_knots
    )
    splines, costs = jax.vmap(fit)(atoms, masses)
    return splines, jnp.mean(costs)


def _fit_spline(
    atoms: Float[Array, " b"],
    masses: Float[Array, " b"],
    *,
    relative: Float[Array, ""],
    step_size: Float[Array, ""],
    num_knots: int,
) -> tuple[RationalQuadraticSpline, Float[Array, ""]]:
    """One spline, by a kernel of the `relative` width in units of the deviation."""
    mean = jnp.sum(masses * atoms)
    spread = jnp.sqrt(jnp.sum(masses * (atoms - mean) ** 2))
    levels = _knot_levels(num_knots).astype(atoms.dtype)
    # ties leave no room between knots: an increasing ramp of a thousandth of the spread
    ramp = jnp.linspace(-0.5e-3, 0.5e-3, num_knots, dtype=atoms.dtype)
    knots = quantile(atoms, levels, weights=masses) + spread * ramp
    h = relative * spread
    score = (knots[:, None] - atoms[None, :]) / h
    share = jnp.matmul(ndtr(score), masses, precision="highest")
    density = jnp.matmul(_normal_pdf(score), masses, precision="highest") / h
    tiny = float(jnp.finfo(atoms.dtype).eps)
    normal = ndtri(jnp.clip(share, tiny, 1 - tiny))
    widen = jnp.sqrt(1 + relative**2)
    value = widen * normal
    slope = widen * density / jnp.maximum(_normal_pdf(normal), tiny)
    cost = jnp.sum(jnp.diff(levels) * (value - knots)[1:] ** 2)
    value = knots + step_size * (value - knots)
    slope = jnp.maximum(1 + step_size * (slope - 1), _LEAST_SLOPE)
    return RationalQuadraticSpline.from_knots(knots, value, slope), cost


def _knot_levels(num_knots: int) -> Float[Array, " k"]:
    """Levels that are denser in the tails, where Phi^-1 bends."""
    ends = 3.0  # standard normal scores of the outer knots
    return ndtr(jnp.linspace(-ends, ends, num_knots))


def _normal_pdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.exp(-0.5 * x * x) * 0.3989422804014327


def _effective_count(weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Kish's effective sample size."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
