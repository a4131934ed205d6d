"""Coupling layers: a part of the event is moved by functions of the rest."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks

from .bijection import AbstractBijection, evaluate
from .bin_splines import RawSplines, splines
from .conditioner import Conditioner
from .lanes import lanes


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
        _checks.check_key("key", key)
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
        return self._move(x, is_inverse=False)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return self._move(y, is_inverse=True)

    def _move(self, z: Array, *, is_inverse: bool) -> tuple[Array, Array]:
        def move(conditioner: Conditioner, known: Array, rest: Array):
            raw, shift = jnp.split(conditioner.many(known), 2)
            log_scale = self.bound * jnp.tanh(raw / self.bound)
            if is_inverse:
                moved = jnp.exp(-log_scale) * (rest - shift)
                return moved, -jnp.sum(log_scale, axis=0)
            return jnp.exp(log_scale) * rest + shift, jnp.sum(log_scale, axis=0)

        rest = z[self.split :]
        moved, log_det = lanes(move, self.conditioner, _known(self, z), rest)
        return jnp.concatenate([z[: self.split], moved]), log_det


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
        _checks.check_key("key", key)
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
        def move(conditioner: Conditioner, known: Array, rest: Array):
            raw = _raw(conditioner, known, rest.shape[0])
            moved, log_slope = splines(raw, rest, self.interval, is_inverse)
            return moved, jnp.sum(log_slope, axis=0)

        rest = z[self.split :]
        moved, log_det = lanes(move, self.conditioner, _known(self, z), rest)
        return jnp.concatenate([z[: self.split], moved]), log_det


def _raw(conditioner: Conditioner, known: Array, num_moved: int) -> RawSplines:
    """The outputs, by three products: to divide one in a derivative is slower."""
    features = conditioner.features(known)
    width, num = features.shape
    weights = conditioner.last.reshape(num_moved, -1, width)
    bias = conditioner.last_bias.reshape(num_moved, -1)
    num_bins = (weights.shape[1] + 1) // 3
    parts = (jnp.split(x, (num_bins, 2 * num_bins), axis=1) for x in (weights, bias))
    return RawSplines(
        *(
            (w.reshape(-1, width) @ features).reshape(num_moved, -1, num)
            + b[:, :, None]
            for w, b in zip(*parts, strict=True)
        )
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


def _known(layer: AffineCoupling | SplineCoupling, z: Array) -> Array:
    """What the network is told: the coordinates that stay, and the condition."""
    known = z[: layer.split]
    if layer.condition is None:
        return known
    return jnp.concatenate([known, layer.condition])
