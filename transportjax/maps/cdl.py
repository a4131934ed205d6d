"""The colour decision list of the ASC: slope, offset, power and saturation."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate

# ITU-R BT.709, as the specification of the ASC prescribes
_LUMA = np.array([0.2126, 0.7152, 0.0722])


class ColourDecision(AbstractBijection):
    """An ASC CDL: colours to (slope x + offset)^power, then their saturation scaled.

    Ten numbers that every grading program reads. Values below zero are left as they
    are by the power, and nothing is clipped ("no clamp"), so that the map is a
    bijection of all of R^3. The leaves are unconstrained.

    Differentiable in the colour and in the leaves; at slope x + offset = 0 the slope
    of a power below one is infinite, and the gradient there is that of negative values.

    Args:
        log_slope: logarithms of the three slopes.
        offset: the three offsets.
        log_power: logarithms of the three powers.
        log_saturation: logarithm of the saturation.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import ColourDecision
        >>> grade = ColourDecision.from_numbers(
        ...     slope=[2.0, 1.0, 1.0], offset=[0.0, 0.1, 0.0], power=[1.0, 1.0, 2.0]
        ... )
        >>> [round(x, 4) for x in grade(jnp.array([0.3, 0.3, 0.3])).tolist()]
        [0.6, 0.4, 0.09]

    References:
        American Society of Cinematographers (2009), ASC color decision list (ASC CDL)
        transfer functions and interchange syntax, version 1.2.
    """

    log_slope: Float[Array, "3"] = eqx.field(converter=as_leaf)
    offset: Float[Array, "3"] = eqx.field(converter=as_leaf)
    log_power: Float[Array, "3"] = eqx.field(converter=as_leaf)
    log_saturation: Float[Array, ""] = eqx.field(converter=as_leaf)

    @classmethod
    def from_numbers(
        cls,
        *,
        slope: ArrayLike | Sequence[int | float] = (1.0, 1.0, 1.0),
        offset: ArrayLike | Sequence[int | float] = (0.0, 0.0, 0.0),
        power: ArrayLike | Sequence[int | float] = (1.0, 1.0, 1.0),
        saturation: ArrayLike = 1.0,
    ) -> "ColourDecision":
        """The map with the numbers of a CDL; all but the offsets must be positive.

        Raises:
            ValueError: numbers of another shape, not finite, or not positive.
        """
        named = (("slope", slope), ("offset", offset), ("power", power))
        values = [_checks.as_float(name, value) for name, value in named]
        amount = _checks.as_float("saturation", saturation)
        for (name, _), value in zip(named, values, strict=True):
            _checks.check_decision(name, value, (3,), positive=name != "offset")
        _checks.check_decision("saturation", amount, (), positive=True)
        return cls(jnp.log(values[0]), values[1], jnp.log(values[2]), jnp.log(amount))

    @property
    def numbers(self) -> dict[str, Float[Array, "..."]]:
        """The slope, offset, power and saturation, by name."""
        return {
            "slope": jnp.exp(self.log_slope),
            "offset": self.offset,
            "power": jnp.exp(self.log_power),
            "saturation": jnp.exp(self.log_saturation),
        }

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "3"], Float[Array, ""]]:
        """The graded colour and the log-determinant."""
        return evaluate(ColourDecision._forward, self, x, (3,))

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "3"], Float[Array, ""]]:
        """The colour before the grade and the log-determinant."""
        return evaluate(ColourDecision._backward, self, y, (3,))

    def _forward(self, x: Array) -> tuple[Array, Array]:
        raised, log_slopes = _power(
            jnp.exp(self.log_slope) * x + self.offset, self.log_power
        )
        value = _saturate(raised, jnp.exp(self.log_saturation))
        log_det = jnp.sum(self.log_slope + log_slopes) + 2 * self.log_saturation
        return value, log_det

    def _backward(self, y: Array) -> tuple[Array, Array]:
        raised = _saturate(y, jnp.exp(-self.log_saturation))
        value, log_slopes = _power(raised, -self.log_power)
        log_det = jnp.sum(log_slopes - self.log_slope) - 2 * self.log_saturation
        return (value - self.offset) * jnp.exp(-self.log_slope), log_det


def _power(x: Array, log_power: Array) -> tuple[Array, Array]:
    """x^power where x > 0, else x; and the logarithms of the derivative."""
    positive = x > 0
    power = jnp.exp(log_power)
    log_x = jnp.log(jnp.where(positive, x, 1))
    value = jnp.where(positive, jnp.exp(power * log_x), x)
    return value, jnp.where(positive, log_power + (power - 1) * log_x, 0)


def _saturate(colour: Array, amount: Array) -> Array:
    """The distances to the grey of the same luma, times `amount`."""
    luma = jnp.sum(jnp.asarray(_LUMA, colour.dtype) * colour)
    return luma + amount * (colour - luma)
