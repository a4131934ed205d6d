"""Coupling layers: a part of the event is moved by functions of the rest."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks

from .bijection import AbstractBijection, evaluate
from .conditioner import Conditioner
from .spline import Bin, at_most_one, bin_inverse, bin_log_slope, bin_value

_LEAST_SLOPE = 1e-2  # of a spline at its knots
_LEAST_SHARE = 1e-2  # of a bin, in units of the mean one


class AffineCoupling(AbstractBijection):
    """Some coordinates stay; the others are scaled and shifted by functions of them.

    With the event in two parts, z1 of length `split` and z2, and with networks a and b,

        z2' = exp(a(z1)) z2 + b(z1),   log |det| = sum_j a_j(z1).

    Both directions cost one evaluation of the network. The logarithms of the scales are
    bounded by `bound`, and a new layer is the identity. Coordinates change parts by a
    `Permutation` or a rotation between the layers.

    Differentiable in the event and in the leaves, any number of times.

    Args:
        conditioner: the network, from (z1, condition) to (a, b).
        condition: what the law depends on, (c,), or None; `given` puts it in.
        dim: length d of an event.
        split: how many coordinates stay, 0 <= split < d. With 0 the others depend on
            the condition alone.
        bound: largest logarithm of a scale.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.maps import AffineCoupling
        >>> layer = AffineCoupling.create(jr.key(0), 3)
        >>> print(layer(jnp.array([1.0, 2.0, 3.0])))
        [1. 2. 3.]

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), "Density estimation using Real NVP",
        section 3.
    """

    conditioner: Conditioner
    condition: Float[Array, " c"] | None
    dim: int = eqx.field(static=True)
    split: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        dim: int,
        *,
        split: int | None = None,
        num_conditions: int = 0,
        width: int = 64,
        depth: int = 2,
        bound: int | float = 2.0,
    ) -> "AffineCoupling":
        """A layer that is the identity, with a random network.

        Args:
            key: a random key.
            dim: length d of an event.
            split: how many coordinates stay, 0 <= split < d (None: d // 2).
            num_conditions: length of the condition; 0 for none.
            width: of the hidden layers of the network.
            depth: number of its hidden layers.
            bound: largest logarithm of a scale. Unbounded scales are what most often
                makes training fail.

        Returns:
            The layer; its condition, if it has one, is zero.

        Raises:
            ValueError: sizes out of range.
        """
        split = _checked_split(dim, split, num_conditions)
        _checks.check_number("bound", bound, 0, open_low=True)
        conditioner = Conditioner.create(
            key, split + num_conditions, 2 * (dim - split), width=width, depth=depth
        )
        return cls(conditioner, _no_condition(num_conditions), dim, split, float(bound))

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image and the sum of the logarithms of the scales."""
        return evaluate(AffineCoupling._forward, self, x, (self.dim,))

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event with the given image, and minus the sum of these logarithms."""
        return evaluate(AffineCoupling._backward, self, y, (self.dim,))

    def _forward(self, x: Array) -> tuple[Array, Array]:
        log_scale, shift = self._parameters(x)
        moved = jnp.exp(log_scale) * x[self.split :] + shift
        return jnp.concatenate([x[: self.split], moved]), jnp.sum(log_scale)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        log_scale, shift = self._parameters(y)
        moved = jnp.exp(-log_scale) * (y[self.split :] - shift)
        return jnp.concatenate([y[: self.split], moved]), -jnp.sum(log_scale)

    def _parameters(self, z: Array) -> tuple[Array, Array]:
        log_scale, shift = jnp.split(_ask(self, z), 2)
        return self.bound * jnp.tanh(log_scale / self.bound), shift


class SplineCoupling(AbstractBijection):
    """Some coordinates stay; the others go through splines that depend on them.

    Each moved coordinate has an increasing rational-quadratic spline of `num_bins` bins
    in [-interval, interval], whose widths, heights and inner slopes the network gives.
    Outside it is the identity, which the spline meets with slope one: data should be
    standardised. Bins are at least a hundredth of the mean one and slopes at knots at
    least 0.01, so that the inverse keeps its digits. A new layer is the identity.

    Differentiable in the event and in the leaves; the second derivative in a moved
    coordinate jumps at the knots.

    Args:
        conditioner: the network, from (z1, condition) to 3 num_bins - 1 numbers for
            each moved coordinate.
        condition: what the law depends on, (c,), or None; `given` puts it in.
        dim: length d of an event.
        split: how many coordinates stay, 0 <= split < d. With 0 the others depend on
            the condition alone.
        interval: half the width of the box that the splines act in.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.maps import SplineCoupling
        >>> layer = SplineCoupling.create(jr.key(0), 2)
        >>> print(layer(jnp.array([1.0, 2.0])).round(4))
        [1. 2.]

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), "Neural spline flows".
    """

    conditioner: Conditioner
    condition: Float[Array, " c"] | None
    dim: int = eqx.field(static=True)
    split: int = eqx.field(static=True)
    interval: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        dim: int,
        *,
        split: int | None = None,
        num_conditions: int = 0,
        num_bins: int = 8,
        interval: int | float = 4.0,
        width: int = 64,
        depth: int = 2,
    ) -> "SplineCoupling":
        """A layer that is the identity, with a random network.

        Args:
            key: a random key.
            dim: length d of an event.
            split: how many coordinates stay, 0 <= split < d (None: d // 2).
            num_conditions: length of the condition; 0 for none.
            num_bins: bins of each spline, at least 2.
            interval: the splines act in [-interval, interval]; the default holds
                standardised data.
            width: of the hidden layers of the network.
            depth: number of its hidden layers.

        Returns:
            The layer; its condition, if it has one, is zero.

        Raises:
            ValueError: sizes out of range.
        """
        split = _checked_split(dim, split, num_conditions)
        _checks.check_count("num_bins", num_bins, 2)
        _checks.check_number("interval", interval, 0, open_low=True)
        num_outputs = (3 * num_bins - 1) * (dim - split)
        conditioner = Conditioner.create(
            key, split + num_conditions, num_outputs, width=width, depth=depth
        )
        condition = _no_condition(num_conditions)
        return cls(conditioner, condition, dim, split, float(interval))

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image and the sum of the logarithms of the slopes."""
        return evaluate(SplineCoupling._forward, self, x, (self.dim,))

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event with the given image, and minus the sum of these logarithms."""
        return evaluate(SplineCoupling._backward, self, y, (self.dim,))

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return self._move(x, is_inverse=False)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return self._move(y, is_inverse=True)

    def _move(self, z: Array, *, is_inverse: bool) -> tuple[Array, Array]:
        kept, rest = z[: self.split], z[self.split :]
        raw = _ask(self, z).reshape(len(rest), -1)
        moved, log_slope = _splines(raw, rest, self.interval, is_inverse)
        return jnp.concatenate([kept, moved]), jnp.sum(log_slope)


@functools.partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
def _splines(
    raw: Float[Array, "m outputs"],
    z: Float[Array, " m"],
    interval: float,
    is_inverse: bool,
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Each coordinate through its spline, and the logarithms of the slopes.

    A derivative computes this again, instead of keeping its many small arrays: a
    training step is up to twice as fast.
    """
    is_inside = jnp.abs(z) <= interval
    # outside, another number: a division there must not leak into a derivative
    inside = jnp.where(is_inside, z, jnp.zeros_like(z))
    b = _bin(raw, inside, interval, is_inverse)
    if is_inverse:
        r = _share((inside - b.y) * jnp.exp(-b.log_height))
        t, rest = bin_inverse(r, b)
        moved = b.x + jnp.exp(b.log_width) * t
        log_slope = -bin_log_slope(t, rest, b)
    else:
        t = _share((inside - b.x) * jnp.exp(-b.log_width))
        moved = b.y + jnp.exp(b.log_height) * bin_value(t, b)
        log_slope = bin_log_slope(t, 1 - t, b)
    zero = jnp.zeros_like(z)
    return jnp.where(is_inside, moved, z), jnp.where(is_inside, log_slope, zero)


def _bin(
    raw: Float[Array, "m outputs"],
    inside: Float[Array, " m"],
    interval: float,
    is_inverse: bool,
) -> Bin:
    """The bin, in x or for the inverse in y, that holds each coordinate.

    Found by comparison, and read by sums over the bins, because there are few and each
    coordinate has its own: no search, no gather, no scatter in derivatives.
    """
    num = (raw.shape[1] + 1) // 3
    least = 2 * interval * _LEAST_SHARE / num
    number = jnp.arange(num, dtype=raw.dtype)[None, :]
    # the bins are `least` + scale exp(raw) wide, their sum is 2 `interval`
    widths, width_scale = _exponentials(raw[:, :num], 2 * interval)
    heights, height_scale = _exponentials(raw[:, num : 2 * num], 2 * interval)
    searched = (heights, height_scale) if is_inverse else (widths, width_scale)
    parts, scale = lax.stop_gradient(searched)
    sums = jnp.matmul(  # a product is quicker than a cumulative sum
        parts,
        jnp.triu(jnp.ones_like(number, shape=(num, num - 1))),
        precision="highest",
    )
    ends = scale[:, None] * sums + (least * number[:, 1:] - interval)
    index = jnp.sum((ends <= inside[:, None]).astype(raw.dtype), axis=1)
    here = (number == index[:, None]).astype(raw.dtype)
    below = (number < index[:, None]).astype(raw.dtype)
    start = least * index - interval
    log_width = jnp.log(least + width_scale * jnp.sum(here * widths, axis=1))
    log_height = jnp.log(least + height_scale * jnp.sum(here * heights, axis=1))
    # zero means slope one: so it is at the two ends
    slopes = raw[:, 2 * num :]
    return Bin(
        start + width_scale * jnp.sum(below * widths, axis=1),
        start + height_scale * jnp.sum(below * heights, axis=1),
        log_width,
        log_height,
        _log_slope(jnp.sum(here[:, 1:] * slopes, axis=1)) - log_height + log_width,
        _log_slope(jnp.sum(here[:, :-1] * slopes, axis=1)) - log_height + log_width,
    )


def _checked_split(dim: int, split: int | None, num_conditions: int) -> int:
    """The number of coordinates that stay."""
    _checks.check_count("dim", dim)
    _checks.check_count("num_conditions", num_conditions, 0)
    split = dim // 2 if split is None else split
    _checks.check_split("split", split, dim)
    return split


def _no_condition(num: int) -> Array | None:
    return jnp.zeros(num) if num else None


def _ask(layer: AffineCoupling | SplineCoupling, z: Array) -> Array:
    """What the network makes of the coordinates that stay, and of the condition."""
    known = z[: layer.split]
    if layer.condition is not None:
        known = jnp.concatenate([known, layer.condition])
    return layer.conditioner(known)


def _share(t: Array) -> Array:
    """The t between 0 and 1 against rounding, with its derivative at both."""
    return jnp.where(t < 0, jnp.zeros_like(t), at_most_one(t))


def _exponentials(
    raw: Float[Array, "m k"], total: float
) -> tuple[Float[Array, "m k"], Float[Array, " m"]]:
    """Shares before they are divided by their sum, and what they are to be scaled by.

    Scaled, they and the k least increments have the sum `total`.
    """
    top = lax.stop_gradient(jnp.max(raw, axis=1, keepdims=True))
    parts = jnp.exp(raw - top)
    return parts, total * (1 - _LEAST_SHARE) / jnp.sum(parts, axis=1)


def _log_slope(raw: Float[Array, " m"]) -> Float[Array, " m"]:
    """Logarithms of slopes above `_LEAST_SLOPE`; zero for zero."""
    shift = math.log(math.expm1(1 - _LEAST_SLOPE))
    return jnp.log(_LEAST_SLOPE + jax.nn.softplus(raw + shift))
