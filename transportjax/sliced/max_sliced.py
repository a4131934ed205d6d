"""The directions in which two clouds differ most: max-sliced distances.

    f(theta) = W_p^p(theta.x, theta.y),  theta on the sphere,

is climbed by Riemannian gradient steps from the best of many starts. The gradient of f
is that of the cost of the optimal plan of the projections, held. For p = 2 that cost is
theta^T M theta with M = sum of pi_ij (x_i - y_j)(x_i - y_j)^T, and a step of length
one, in the units used here, is one of the power iteration for the top eigenvector of M.
But f is a minimum over plans, and the plan changes with theta: such a step may go down.
So every step is a proposal, kept where f has risen, and its length adapts.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    check_count,
    check_key,
    check_num_orthonormal,
    check_number,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.levels import working_precision
from transportjax.onedim.wasserstein import wasserstein_1d

from .directions import unit_rows
from .distance import as_exponent, root_of_cost
from .pair import Pair, checked_pair, projections
from .strategies import AbstractDirections, Sample

_TRIES = 4  # candidates for each start
_GROW, _SHRINK = 2.0, 0.25  # of the step length, where f has risen and where not


@explicit_mesh_guard
def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: PRNGKeyArray,
    num: int = 1,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_steps: int = 50,
    learning_rate: ArrayLike = 1.0,
    num_starts: int = 8,
    root: bool = False,
) -> tuple[Float[Array, ""], Float[Array, "num d"]]:
    """The greatest W_p^p along a direction, and that direction.

    With `num` above one: the greatest mean of W_p^p over `num` orthonormal directions,
    and these. So SW_p^p <= value(d) <= ... <= value(1) <= W_p^p.

    f has local maxima. What is returned is the best that was found, the value of a
    direction that exists, and so a lower bound of the maximum; more starts make it
    tighter. It never falls with more steps.

    Differentiable in `x`, `y`, both weights and `p`, at the directions found, which are
    held constant: by Danskin's theorem that is the derivative of the maximum, where it
    is attained at one place and f is smooth there. With few points it is often attained
    in a kink of f, where projections coincide, and this is one slope of several.

    Args:
        x: points, (n, d).
        y: points, (m, d).
        key: a random key, for the starts.
        num: how many orthonormal directions, 1 to d.
        p: the exponent >= 1: a number, or a scalar array.
        x_weights: masses >= 0 of `x`, (n,); normalised. None: uniform.
        y_weights: likewise of `y`, (m,).
        num_steps: gradient steps, each with one sorting of all projections.
        learning_rate: length of the first step; for p = 2, one is a step of the power
            iteration. It grows where the value rises and shrinks where not.
        num_starts: how many ascents are made side by side, from the best of four times
            as many random candidates. One candidate is the difference of the means.
        root: whether to return the root of order p of the value.

    Returns:
        The value, in units of `x` to the power p (of `x`, with `root`), and the
        directions (num, d), orthonormal rows.

    Raises:
        ValueError: points of the wrong shape, empty, NaN or infinite; bad weights;
            p < 1; more directions than dimensions; counts or learning rate out of
            range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import max_sliced_wasserstein
        >>> x = jax.random.normal(jax.random.key(0), (50, 3))
        >>> y = x + jnp.array([[0.0, 3.0, 4.0]])
        >>> value, directions = max_sliced_wasserstein(x, y, key=jax.random.key(1))
        >>> print(int(value.round()), abs(directions).round(3))
        25 [[0.  0.6 0.8]]

    References:
        Deshpande et al. (2019), Max-sliced Wasserstein distance and its use for GANs.
        Dai and Seljak (2021), Sliced iterative normalizing flows, section 2.2, for
        several directions.
    """
    check_key("key", key)
    pair, dtype = checked_pair(x, y, x_weights, y_weights)
    check_num_orthonormal("num", num, pair.x.shape[1])
    check_number("p", p, 1)
    check_count("num_steps", num_steps, 0)
    check_count("num_starts", num_starts)
    check_number("learning_rate", learning_rate, 0, open_low=True)
    work = pair.x.dtype
    clouds = _Clouds(pair, as_exponent(p, work))
    rate = as_float("learning_rate", learning_rate).astype(work)
    directions = _search(
        lax.stop_gradient(clouds), key, rate, num, num_steps, num_starts
    )
    value = jnp.mean(_costs(clouds, lax.stop_gradient(directions)))
    if root:
        value = root_of_cost(value, clouds.p)
    return value.astype(dtype), directions.astype(dtype)


class MaxSlicedDirections(AbstractDirections):
    """Orthonormal directions along which the clouds differ most, found at every step.

    Iterated transfer spends its steps where something is left to do: clouds in many
    dimensions that differ in few of them are matched in far fewer steps than along
    random axes. A step costs `num_steps + 5` sortings of the projections of a random
    part of the points.

    The directions are held constant: no derivative goes through the search. Weights of
    the points are not known to a strategy, and not used.

    Args:
        num: number of directions in a step. None, the default, is the dimension of the
            points: a whole basis, whose first rows matter most where the clouds differ
            in few directions.
        num_steps: gradient steps of a search.
        num_starts: ascents side by side, from the best of four times as many.
        num_points: how many points of each cloud a search looks at, drawn anew at each
            step, at most.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import MaxSlicedDirections
        >>> strategy, key = MaxSlicedDirections(1), jax.random.key(0)
        >>> x = jax.random.normal(key, (100, 3))
        >>> y = x + jnp.array([[0.0, 0.0, 2.0]])
        >>> state = strategy.init(key, 3)
        >>> print(abs(strategy.sample(key, state, x, y)[0]).round(2))
        [[0. 0. 1.]]

    References:
        Dai and Seljak (2021), Sliced iterative normalizing flows, algorithm 1.
    """

    num: int | None = eqx.field(static=True, default=None)
    num_steps: int = eqx.field(static=True, default=10)
    num_starts: int = eqx.field(static=True, default=2)
    num_points: int = eqx.field(static=True, default=2048)

    def __check_init__(self) -> None:
        """Checks the options."""
        if self.num is not None:
            check_count("num", self.num)
        check_count("num_steps", self.num_steps, 0)
        check_count("num_starts", self.num_starts)
        check_count("num_points", self.num_points)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple:
        """No state."""
        del key
        if self.num is not None:
            check_num_orthonormal("num", self.num, dim)
        return ()

    def sample(
        self,
        key: PRNGKeyArray,
        state: tuple,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """The best directions that a search has found."""
        dtype = x.dtype
        keys = jr.split(key, 3)
        x, y = (
            lax.stop_gradient(working_precision(self._some(key, points)))
            for key, points in zip(keys[:2], (x, y), strict=True)
        )
        num = x.shape[1] if self.num is None else self.num
        rate = jnp.ones((), x.dtype)
        clouds = _Clouds(Pair(x, y, None, None), 2)
        rows = _search(clouds, keys[2], rate, num, self.num_steps, self.num_starts)
        weights = jnp.full(num, 1 / num, dtype)
        return rows.astype(dtype), weights, state

    def _some(self, key: PRNGKeyArray, points: Float[Array, "n d"]) -> Array:
        n = points.shape[0]
        if n <= self.num_points:
            return points
        places = jr.randint(key, (self.num_points,), 0, n)
        return points.at[places].get(mode="promise_in_bounds")


class _Clouds(NamedTuple):
    pair: Pair
    p: Any  # static if a number of Python


def _costs(clouds: _Clouds, directions: Float[Array, "p d"]) -> Float[Array, " p"]:
    """W_p^p along each direction."""
    return wasserstein_1d(
        *projections(clouds.pair, directions),
        p=clouds.p,
        x_weights=clouds.pair.x_weights,
        y_weights=clouds.pair.y_weights,
    )


@eqx.filter_jit
def _search(
    clouds: _Clouds,
    key: PRNGKeyArray,
    rate: Float[Array, ""],
    num: int,
    num_steps: int,
    num_starts: int,
) -> Float[Array, "num d"]:
    """The best frame of `num` orthonormal rows that ascents from many starts reach."""

    def values(frames: Float[Array, "s num d"]) -> Float[Array, " s"]:
        costs = _costs(clouds, frames.reshape(-1, frames.shape[-1]))
        return jnp.mean(costs.reshape(frames.shape[:2]), axis=1)

    def values_and_slopes(frames: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(values, frames)
        return value, pull(jnp.ones_like(value))[0]

    def climb(carry: tuple, _: None) -> tuple[tuple, None]:
        frames, value, slopes, rate = carry
        # f is homogeneous of degree p: slope.theta = p f, the unit of the step
        unit = jnp.sum(slopes * frames, axis=(1, 2), keepdims=True) / num
        scale = rate[:, None, None] / jnp.where(unit > 0, unit, 1)
        proposed = _orthonormal(frames + scale * _tangent(frames, slopes))
        new_value, new_slopes = values_and_slopes(proposed)
        better = new_value > value
        choose = better[:, None, None]
        return (
            jnp.where(choose, proposed, frames),
            jnp.where(better, new_value, value),
            jnp.where(choose, new_slopes, slopes),
            rate * jnp.where(better, _GROW, _SHRINK).astype(rate.dtype),
        ), None

    candidates = _candidates(clouds, key, num, _TRIES * num_starts)
    best = lax.top_k(values(candidates), num_starts)[1]
    frames = candidates.at[best].get(mode="promise_in_bounds")
    value, slopes = values_and_slopes(frames)
    start = (frames, value, slopes, rate + jnp.zeros_like(value))
    frames, value, _, _ = lax.scan(climb, start, length=num_steps)[0]
    return lax.dynamic_index_in_dim(frames, jnp.argmax(value), keepdims=False)


def _candidates(
    clouds: _Clouds, key: PRNGKeyArray, num: int, count: int
) -> Float[Array, "s num d"]:
    """Random frames; the first row of the first is the difference of the means."""
    x, y, a, b = clouds.pair
    rows = jr.normal(key, (count, num, x.shape[1]), x.dtype)
    means = jnp.average(x, axis=0, weights=a), jnp.average(y, axis=0, weights=b)
    difference = unit_rows((means[0] - means[1])[None])[0]
    return _orthonormal(rows.at[0, 0].set(difference))


def _tangent(
    frames: Float[Array, "s num d"], slopes: Float[Array, "s num d"]
) -> Float[Array, "s num d"]:
    """The part of the slopes that is tangent to the orthonormal frames."""
    inner = jnp.matmul(slopes, frames.mT, precision="highest")
    symmetric = (inner + inner.mT) / 2
    return slopes - jnp.matmul(symmetric, frames, precision="highest")


def _orthonormal(frames: Float[Array, "s num d"]) -> Float[Array, "s num d"]:
    """The frames made orthonormal, row by row; near orthonormal ones hardly move."""
    q, r = jnp.linalg.qr(frames.mT)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)[:, None, :]
    return jnp.where(diagonal < 0, -q, q).mT
