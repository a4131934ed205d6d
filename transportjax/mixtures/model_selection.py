"""How many components: as many as held-out points are likeliest under."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .expectation import fit_gaussian_mixture
from .gaussian import GaussianMixture

_SIZES = (32, 128)  # for which programs are compiled: fewer components are filled up
_POINTS_PER_COMPONENT = 32
_FIRST = 16  # components, or fewer for less than ...
_POINTS_OF_FIRST = 400  # ... so many points each
_MOST_POINTS = 30_000  # that are fitted to
_FLOOR = 1e-3  # least variance: on rounded points the likelihood has no other bound
_STEPS, _TOLERANCE = 60, 1e-4
_BLOCK = 2000  # held-out points that are judged at once


class SelectedMixture(NamedTuple):
    """A mixture, and minus the mean log-density of the held-out points, in nats."""

    mixture: GaussianMixture
    held_out: Float[Array, ""]


def select_gaussian_mixture(
    x: ArrayLike,
    held_out: ArrayLike,
    *,
    key: PRNGKeyArray,
    weights: ArrayLike | None = None,
    progress: Callable[[SelectedMixture], Any] | None = None,
) -> SelectedMixture:
    """The Gaussian mixture under which held-out points are likeliest, of a few sizes.

    The number of components, full covariances each, is doubled until that brings
    nothing, up to 128, and to one for 32 points; the first is 16, or less for less than
    6400 points. Then three quarters and one and a half times the best are tried. Each
    fit is `fit_gaussian_mixture` of standardised columns, from a start by k-means++,
    with no variance below a thousandth of that of the points. Of more than 30 000
    points, every so many are taken.

    Args:
        x: points, (n, d).
        held_out: other points of their law, (m, d).
        key: a PRNG key, for the starts.
        weights: masses >= 0 of the points, (n,). None: equal.
        progress: called after each fit with the best so far.

    Returns:
        A `SelectedMixture`: `mixture`, and `held_out`, minus its mean log-density at
        the held-out points.

    Raises:
        ValueError: points that are not (n, d), empty or not finite; bad weights; a call
            within `jit`, `vmap` or `grad`.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.mixtures import select_gaussian_mixture
        >>> x = jr.normal(jr.key(0), (2000, 2)).at[::2].add(20.0)
        >>> found = select_gaussian_mixture(x[200:], x[:200], key=jr.key(1))
        >>> print(len(found.mixture.weights) > 1, found.mixture.means.mean(0).round())
        True [10. 10.]

    References:
        Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
        Smyth (2000), Model selection for probabilistic clustering using cross-validated
        likelihood.
    """
    _checks.check_key("key", key)
    given = (key, x, held_out, weights)
    instead = "With a known number of components use `fit_gaussian_mixture`."
    _checks.check_not_traced("select_gaussian_mixture", given, instead)
    x, held_out = _checks.common_float(("x", x), ("held_out", held_out))
    _checks.check_points("x", x)
    _checks.check_points("held_out", held_out, x.shape[1])
    work = _checks.working_dtype(x.dtype)
    weights = _checks.as_weights("weights", weights, x.shape[:1], work)
    stride = -(-len(x) // _MOST_POINTS)
    rows, shares = _thinned(x.astype(work), weights, stride)
    mean, scale = _columns(rows, shares)
    points = jnp.asarray((np.asarray(rows, np.float64) - mean) / scale, work)
    kept = (np.asarray(held_out, np.float64) - mean) / scale
    most = max(1, min(_SIZES[-1], len(points) // _POINTS_PER_COMPONENT))
    seeds = _Seeds(points, shares, most, key)
    best, least = None, np.inf

    def is_better(k: int) -> bool:
        nonlocal best, least
        start = seeds.mixture(k)
        mixture = fit_gaussian_mixture(
            points,
            len(start.weights),
            key=key,
            weights=shares,
            start=start,
            num_steps=_STEPS,
            tolerance=_TOLERANCE,
            floor=_FLOOR,
        )
        value = mean_loss_of(mixture, kept)
        if not value < least:
            return False
        least = value
        loss = jnp.asarray(value + np.sum(np.log(scale)), x.dtype)
        best = SelectedMixture(_in_units(mixture, mean, scale, x.dtype), loss)
        if progress is not None:
            progress(best)
        return True

    first = min(_FIRST, max(1, len(points) // _POINTS_OF_FIRST))
    k = 2 ** (first.bit_length() - 1)
    is_better(k)
    while 2 * k <= most and is_better(2 * k):
        k *= 2
    for other in (3 * k // 4, 3 * k // 2):
        if k > 1 and other <= most:
            is_better(other)
    assert best is not None  # the first one is better than none
    return best


@explicit_mesh_guard
def _thinned(x: Array, weights: Array | None, stride: int) -> tuple[Any, Any]:
    return jax.tree.map(lambda leaf: leaf[::stride], (x, weights))


class _Seeds:
    """Points to start from by k-means++: the first ones of many are seeds of few.

    In numpy: nothing to compile.
    """

    def __init__(self, x: Array, weights: Array | None, num: int, key: PRNGKeyArray):
        self.dtype = x.dtype
        self.points = np.asarray(x, np.float64)
        shares = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        self.shares = shares / np.sum(shares)
        draws = np.random.default_rng(np.asarray(jr.key_data(key)))
        self.found: list[np.ndarray] = []
        self.costs: list[float] = []  # mean squared distances to the nearest one
        nearest = np.ones(len(x))
        for _ in range(num):
            chances = self.shares * nearest
            total = np.sum(chances)
            chances = chances / total if total > 0 else self.shares
            seed = self.points[draws.choice(len(x), p=chances)]
            squares = np.sum((self.points - seed) ** 2, axis=1)
            nearest = np.minimum(nearest, squares) if self.found else squares
            self.found.append(seed)
            self.costs.append(float(self.shares @ nearest))

    def mixture(self, k: int) -> GaussianMixture:
        """Round components at the first k, filled up with some that weigh nothing."""
        dim = self.points.shape[1]
        width = min(size for size in (1, *_SIZES) if size >= k)
        means = np.resize(np.stack(self.found[:k]), (width, dim))
        masses = np.where(np.arange(width) < k, 1 / k, 0)
        variance = max(self.costs[k - 1] / dim, float(np.finfo(self.dtype).tiny))
        leaves = (means, np.full(width, variance), masses)
        return GaussianMixture(*(jnp.asarray(leaf, self.dtype) for leaf in leaves))


def mean_loss_of(mixture: GaussianMixture, x: np.ndarray) -> float:
    """By numpy, in blocks: nothing to compile."""
    means, covariances, weights = map(np.asarray, jax.tree.leaves(mixture))
    factors = np.linalg.cholesky(covariances.astype(np.float64))
    whiten = np.linalg.inv(factors)
    scales = np.diagonal(factors, axis1=1, axis2=2)
    constants = np.log(weights, where=weights > 0, out=np.full(len(weights), -np.inf))
    constants -= np.sum(np.log(scales), axis=1) + x.shape[1] / 2 * np.log(2 * np.pi)
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        gaps = x[start : start + _BLOCK, None, :] - means
        white = np.einsum("kij,nkj->nki", whiten, gaps)
        logs = constants - np.sum(white**2, axis=2) / 2
        largest = np.max(logs, axis=1)
        sums = np.sum(np.exp(logs - largest[:, None]), axis=1)
        total += float(np.sum(largest + np.log(sums)))
    return -total / len(x)


def _columns(x: Array, weights: Array | None) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the columns; one for a constant column."""
    values = np.asarray(x, np.float64)
    shares = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    mean = np.average(values, axis=0, weights=shares)
    scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=shares))
    return mean, np.where(scale > 0, scale, 1)


def _in_units(
    mixture: GaussianMixture, mean: np.ndarray, scale: np.ndarray, dtype: Any
) -> GaussianMixture:
    """In units of the points, without the components that weigh nothing; by numpy."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(mixture)]
    means, covariances, weights = (leaf[leaves[-1] > 0] for leaf in leaves)
    means, covariances = mean + scale * means, scale[:, None] * covariances * scale
    leaves = (means, covariances, weights / np.sum(weights))
    return GaussianMixture(*(jnp.asarray(leaf, dtype) for leaf in leaves))
