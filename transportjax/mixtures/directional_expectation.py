"""Von Mises-Fisher mixtures fitted to directions by the EM algorithm."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .bessel import concentration_of, log_mass
from .expectation import checked_options, run_expectation
from .kmeans import Blocks, checked_sample, in_blocks, kmeans, masses
from .von_mises_fisher import VonMisesFisherMixture, unit_rows


@explicit_mesh_guard
def fit_von_mises_fisher_mixture(
    x: ArrayLike,
    k: int,
    *,
    key: PRNGKeyArray,
    shared: bool = False,
    symmetric: bool = False,
    weights: ArrayLike | None = None,
    num_steps: int = 100,
    tolerance: int | float | ArrayLike = 1e-5,
    max_concentration: int | float | ArrayLike = 1e6,
) -> VonMisesFisherMixture:
    """The von Mises-Fisher mixture of greatest likelihood, a local maximum, by EM.

    Starts from `kmeans`. The likelihood never falls from one step to the next. The
    concentrations solve A_d(kappa) = R exactly, at any size up to `max_concentration`,
    which is what directions that are all equal get.

    The same key gives the same mixture. Not for gradients: reverse mode raises, because
    the number of steps depends on the data; forward mode goes through the steps.

    Args:
        x: unit vectors, `(n, d)`, d >= 2.
        k: number of components, at most n.
        key: a PRNG key, for the start.
        shared: whether all components have one concentration.
        symmetric: whether x and -x are alike: axes, normals whose sign is unknown. The
            start then takes n d^2 numbers of memory.
        weights: masses >= 0 of the points, `(n,)`, as if a point were repeated.
            None: equal.
        num_steps: most steps.
        tolerance: stops when the mean log-likelihood of a point grows by less.
        max_concentration: the largest concentration > 0; 1e6 is a standard deviation of
            a thousandth of a radian.

    Returns:
        A `VonMisesFisherMixture` whose weights sum to one, in the dtype of x;
        `concentrations` is `(k,)`, or `(1,)` if shared.

    Raises:
        ValueError: points that are not (n, d), d >= 2, not of norm 1, empty or not
            finite; k above n; bad weights; numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from transportjax.mixtures import VonMisesFisherMixture
        >>> from transportjax.mixtures import fit_von_mises_fisher_mixture
        >>> truth = VonMisesFisherMixture(jnp.eye(3)[:2], jnp.array([50.0]))
        >>> x = truth.sample(jr.key(0), 4000)
        >>> p = fit_von_mises_fisher_mixture(x, 2, key=jr.key(1), shared=True)
        >>> print(jnp.sort(p.directions[:, 0]).round(2), p.weights.round(1))
        [-0.  1.] [0.5 0.5]
        >>> bool(abs(p.concentrations[0] - 50) < 2)
        True

    References:
        Banerjee, Dhillon, Ghosh and Sra (2005), Clustering on the unit hypersphere
        using von Mises-Fisher distributions.
    """
    _checks.check_key("key", key)
    points, w = checked_sample(x, k, weights)
    _checks.check_on_sphere("x", points)
    options = checked_options(num_steps, tolerance, points)
    _checks.check_number("max_concentration", max_concentration, 0, open_low=True)
    work = options[1].dtype
    most = jnp.asarray(max_concentration).astype(work)
    found = _fit(points.astype(work), w, key, k, shared, symmetric, most, *options)
    leaves = (leaf.astype(points.dtype) for leaf in found)
    return VonMisesFisherMixture(*leaves, symmetric=symmetric)


class _Parameters(NamedTuple):
    weights: Float[Array, " k"]
    directions: Float[Array, "k d"]
    concentrations: Float[Array, " k"]


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _fit(
    x: Array,
    weights: Array | None,
    key: PRNGKeyArray,
    k: int,
    shared: bool,
    symmetric: bool,
    most: Array,
    num_steps: Array,
    tolerance: Array,
) -> tuple[Array, Array, Array]:
    x, mass = unit_rows(x), masses(x, weights)
    start = lax.stop_gradient(_start(x, mass, key, k, symmetric, most))
    blocks = in_blocks(x, mass, k * x.shape[1])
    step = functools.partial(
        _step, blocks=blocks, shared=shared, symmetric=symmetric, most=most
    )
    found = run_expectation(step, start, num_steps, tolerance)
    concentrations = found.concentrations[:1] if shared else found.concentrations
    return found.directions, concentrations, found.weights


def _start(
    x: Array, mass: Array, key: PRNGKeyArray, k: int, symmetric: bool, most: Array
) -> _Parameters:
    """Clusters, and one concentration from the spread within all of them.

    Axes are clustered as the matrices x x^T, which do not know the sign.
    """
    n, d = x.shape
    features = x
    if symmetric:
        features = (x[:, :, None] * x[:, None, :]).reshape(n, d * d)
    clusters = kmeans(features, k, key=key, weights=mass)
    centres = clusters.centres
    if symmetric:
        values, vectors = jnp.linalg.eigh(centres.reshape(k, d, d))
        directions = vectors[:, :, -1]
        deficit = (1 - jnp.vdot(clusters.weights, values[:, -1])) / 2
        resultant = 1 - deficit
    else:
        length = jnp.linalg.norm(centres, axis=1)
        directions = _directions(centres, length, jnp.roll(unit_rows(x[:k]), 1, axis=1))
        resultant = jnp.vdot(clusters.weights, length)
        deficit = clusters.cost / (1 + resultant)
    common = jnp.minimum(concentration_of(resultant, deficit, d), most)
    concentrations = jnp.zeros_like(clusters.weights) + common
    return _Parameters(clusters.weights, directions, concentrations)


def _directions(sums: Array, length: Array, instead: Array) -> Array:
    """The directions of sums of vectors; other ones for sums that vanish."""
    vanishes = (length < 4 * float(jnp.finfo(sums.dtype).eps))[:, None]
    return jnp.where(vanishes, instead, unit_rows(sums))


def _step(
    now: _Parameters, *, blocks: Blocks, shared: bool, symmetric: bool, most: Array
) -> tuple[_Parameters, Array]:
    """One step of EM, and the mean log-likelihood before it.

    Everything is measured from the directions m so far. With t the mean of x - m, and e
    that of 1 - m.x, the resultant is R = |m + t| and 1 - R^2 = 2 e - |t|^2, where
    little cancels, so that large concentrations keep their digits.
    """
    sums = lax.map(functools.partial(_expectation, now, symmetric), blocks)
    shares, first, lost, value = jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)
    safe = jnp.where(shares > 0, shares, 1)
    shift, lost = first / safe[:, None], lost / safe
    mean = now.directions + shift
    resultant = jnp.linalg.norm(mean, axis=1)
    deficit = (2 * lost - jnp.sum(shift**2, axis=1)) / (1 + resultant)
    total = jnp.sum(shares)
    if shared:
        resultant, deficit = (
            jnp.zeros_like(shares) + jnp.vdot(shares, a) / total
            for a in (resultant, deficit)
        )
    dim = mean.shape[1]
    concentrations = jnp.minimum(concentration_of(resultant, deficit, dim), most)
    length = jnp.linalg.norm(mean, axis=1)
    directions = _directions(mean, length, now.directions)
    return _Parameters(shares / total, directions, concentrations), value


def _expectation(
    now: _Parameters, symmetric: bool, block: Blocks
) -> tuple[Array, Array, Array, Array]:
    """Sums over the points of a block, each weighted by mass and responsibility.

    Of one, of x - m and of 1 - m.x; and of the log-likelihood. For axes, x is turned
    to the side of m, and counts as -x with the probability that it comes from there.
    """
    dim, kappa = block.x.shape[0], now.concentrations[:, None]
    points = block.x[None]  # (k, d, rows)
    if symmetric:
        cosine = jnp.matmul(now.directions, block.x, precision="highest")
        points = jnp.where(cosine < 0, -1, 1).astype(points.dtype)[:, None, :] * points
    delta = points - now.directions[:, :, None]
    below = 0.5 * jnp.sum(delta**2, axis=1)  # 1 - m.x
    logs = -kappa * below
    if symmetric:
        turned = jax.nn.sigmoid(-2 * kappa * (1 - below))
        logs = logs - jnp.log1p(-turned) - math.log(2)
        delta = delta - 2 * turned[:, None, :] * points
        below = below + 2 * turned * (1 - below)
    constants = jnp.log(now.weights) - log_mass(now.concentrations, dim)
    logs = logs + constants[:, None]
    log_density = jax.nn.logsumexp(logs, axis=0)
    own = jnp.exp(logs - log_density[None, :]) * block.mass[None, :]
    first = jnp.matmul(delta, own[:, :, None], precision="highest")[:, :, 0]
    value = jnp.vdot(block.mass, log_density, precision="highest")
    return jnp.sum(own, axis=1), first, jnp.sum(own * below, axis=1), value
