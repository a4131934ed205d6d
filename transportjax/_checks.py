"""Every error that a user can meet is worded here.

Shapes, dtypes and options are checked always; values (NaN, negative weights) whenever
the array is concrete, because a traced array has no values to look at.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` can be read now, outside of a trace."""
    return not isinstance(x, jax.core.Tracer)


def as_float(name: str, x: Any) -> Array:
    """`x` as a floating-point array; integers and bools take the default float type."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers; got {x!r:.80}.") from (
            error
        )
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or jnp.issubdtype(
        x.dtype, jax.dtypes.prng_key
    ):
        raise ValueError(f"`{name}` must hold real numbers; got dtype {x.dtype}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    return x


def common_float(*named: tuple[str, Any]) -> tuple[Array, ...]:
    """The arrays of `(name, array)` pairs as floats of one dtype, the widest of them."""
    arrays = [as_float(name, x) for name, x in named]
    dtypes = {x.dtype for x in arrays}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    if sum(dtype.itemsize == widest.itemsize for dtype in dtypes) > 1:
        widest = jnp.dtype(jnp.float32)  # float16 with bfloat16
    return tuple(x.astype(widest) for x in arrays)


def check_finite(name: str, x: Array) -> None:
    """Raises if concrete `x` holds NaN or infinity."""
    if not is_concrete(x):
        return
    if not bool(jnp.all(jnp.isfinite(x))):
        bad = "NaN" if bool(jnp.any(jnp.isnan(x))) else "infinity"
        raise ValueError(
            f"`{name}` must be finite; got {bad}. Remove such entries, or give them "
            "weight zero and a finite value."
        )


def check_samples(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis of at least one finite sample."""
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one sample on its last axis; got shape "
            f"{x.shape}."
        )
    check_finite(name, x)


def check_points(name: str, x: Array, dim: int | None = None) -> None:
    """Raises unless `x` is a finite, non-empty `(n, d)` cloud (of dimension `dim`)."""
    if x.ndim != 2:
        raise ValueError(f"`{name}` must have shape (n, d); got {x.shape}.")
    if x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(f"`{name}` must not be empty; got shape {x.shape}.")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(
            f"`{name}` must have {dim} columns like the other cloud; got shape "
            f"{x.shape}."
        )
    check_finite(name, x)


def check_weights(name: str, weights: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `weights` has `shape`, is >= 0, and sums to more than zero."""
    if weights.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, one weight a sample; got "
            f"{weights.shape}."
        )
    if not is_concrete(weights):
        return
    check_finite(name, weights)
    least = float(jnp.min(weights))
    if least < 0:
        raise ValueError(
            f"`{name}` must be >= 0; got a minimum of {least:g}. Are they logarithms?"
        )
    if not bool(jnp.all(jnp.sum(weights, axis=-1) > 0)):
        raise ValueError(f"`{name}` must not be all zero.")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raises unless `value` is an integer of at least `minimum`."""
    ok = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not ok or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}; got {value!r}.")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> None:
    """Raises unless concrete `value` is one number in [low, high] (or (low, high])."""
    if not is_concrete(value):
        return
    if np.ndim(value) != 0 or isinstance(value, str | bytes):
        raise ValueError(f"`{name}` must be one number; got {value!r:.80}.")
    number = float(value)
    if not (low <= number <= high) or (open_low and number == low):
        bracket = "(" if open_low else "["
        raise ValueError(
            f"`{name}` must be in {bracket}{low:g}, {high:g}]; got {number:g}."
        )


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"`{name}` must be one of {listed}; got {value!r}.")


def check_same_length(name: str, x: Array, other: str, y: Array) -> None:
    """Raises unless `x` and `y` have equal shapes."""
    if x.shape != y.shape:
        raise ValueError(
            f"`{name}` and `{other}` must have equal shapes; got {x.shape} and "
            f"{y.shape}."
        )
