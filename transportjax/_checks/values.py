"""Errors on single arguments: dtypes, numbers, options."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

C = TypeVar("C", bound=Callable[..., Any])


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` can be read now, outside of a trace."""
    return not isinstance(x, jax.core.Tracer)


def is_on_host(x: Any) -> bool:
    """Whether numpy reads `x` without a copy between devices: nothing to compile."""
    if not isinstance(x, jax.Array):
        return True
    return is_concrete(x) and [d.platform for d in x.devices()] == ["cpu"]


def reads_values(check: C) -> C:
    """`check`, able to read the values of constants while a function is traced."""

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return check(*args, **kwargs)

    return cast(C, checked)


def as_float(name: str, x: Any) -> Array:
    """`x` as a floating-point array; integers and bools take the default float type."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        got = f"{type(x).__name__} {' '.join(repr(x).split()):.80}"
        more = " Fill in what is masked." if isinstance(x, np.ma.MaskedArray) else ""
        raise ValueError(
            f"`{name}` must be an array of numbers; got {got}.{more}"
        ) from error
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or jnp.issubdtype(
        x.dtype, jax.dtypes.prng_key
    ):
        raise ValueError(f"`{name}` must hold real numbers; got dtype {x.dtype}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    return x


def working_dtype(dtype: Any) -> Any:
    """The type to compute in for `dtype`: at least single precision."""
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32)


def common_float(*named: tuple[str, Any]) -> tuple[Array, ...]:
    """The arrays of `(name, array)` pairs as floats of their widest dtype."""
    arrays = [as_float(name, x) for name, x in named]
    dtypes = {x.dtype for x in arrays}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    if sum(dtype.itemsize == widest.itemsize for dtype in dtypes) > 1:
        widest = jnp.dtype(jnp.float32)  # float16 with bfloat16
    return tuple(x.astype(widest) for x in arrays)


@reads_values
def check_finite(name: str, x: Array) -> None:
    """Raises if concrete `x` holds NaN or infinity."""
    if not is_concrete(x):
        return
    np_or_jnp = np if is_on_host(x) else jnp
    if not bool(np_or_jnp.all(np_or_jnp.isfinite(x))):
        bad = "NaN" if bool(jnp.any(jnp.isnan(x))) else "infinity"
        raise ValueError(
            f"`{name}` must be finite; got {bad}. Remove such entries, or give them "
            "weight zero and a finite value."
        )


def check_key(name: str, key: Any) -> None:
    """Raises unless `key` is one random key, of either kind that JAX has."""
    dtype, ndim = getattr(key, "dtype", None), getattr(key, "ndim", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if (is_typed and ndim == 0) or (dtype == np.uint32 and ndim == 1):
        return
    got = f"{key!r:.40}" if dtype is None else f"{dtype} of shape {key.shape}"
    raise ValueError(
        f"`{name}` must be one random key, such as jax.random.key(0); got {got}."
    )


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raises unless `value` is an integer of at least `minimum`."""
    ok = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not ok or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}; got {value!r}.")


@reads_values
def check_number(
    name: str,
    value: Any,
    low: int | float = -math.inf,
    high: int | float = math.inf,
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


def check_listed(name: str, items: Collection[Any], num: int | None = None) -> None:
    """Raises unless `items` has at least one entry, or exactly `num`."""
    if num is not None and len(items) != num:
        raise ValueError(f"`{name}` must have {num} entries; got {len(items)}.")
    if len(items) < 1:
        raise ValueError(f"`{name}` must have at least one entry; got none.")


def check_given(name: str, value: Any, instead: str) -> None:
    """Raises if neither `value` nor something `instead` of it was given."""
    if value is None:
        raise ValueError(f"`{name}` must be given, or {instead}; got neither.")


def check_same_length(name: str, x: Array, other: str, y: Array) -> None:
    """Raises unless `x` and `y` have equal shapes."""
    if x.shape != y.shape:
        raise ValueError(
            f"`{name}` and `{other}` must have equal shapes; got {x.shape} and "
            f"{y.shape}."
        )


def as_float_dtype(dtype: Any) -> Any:
    """`dtype` as a floating-point dtype; None is the default float."""
    if dtype is None:
        return jnp.result_type(float)
    dtype = jnp.empty(0, dtype).dtype  # warns of float64 where that is disabled
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be a floating-point type; got {dtype}.")
    return dtype


@reads_values
def check_range(
    low_name: str, low: Any, high_name: str, high: Any, batch: tuple[int, ...]
) -> None:
    """Raises unless concrete `low` < `high`, finite, of shape () or `batch`."""
    for name, value in ((low_name, low), (high_name, high)):
        if np.shape(value) not in ((), batch):
            raise ValueError(
                f"`{name}` must be one number or have shape {batch}, one a row; got "
                f"shape {np.shape(value)}."
            )
    if not (is_concrete(low) and is_concrete(high)):
        return
    if not bool(np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(f"`{low_name}` and `{high_name}` must be finite.")
    if not bool(np.all(np.asarray(low) < np.asarray(high))):
        raise ValueError(
            f"`{high_name}` must be greater than `{low_name}`; got "
            f"{low_name} = {low!r:.40} and {high_name} = {high!r:.40}."
        )


@reads_values
def check_interval(low_name: str, low: Array, high_name: str, high: Array) -> None:
    """Raises unless `low` and `high` are two numbers with low < high."""
    for name, value in ((low_name, low), (high_name, high)):
        check_number(name, value)
    if is_concrete(low) and is_concrete(high) and not bool(low < high):
        raise ValueError(
            f"`{low_name}` must be below `{high_name}`; got {float(low):g} and "
            f"{float(high):g}."
        )


def check_at_most(name: str, count: int, maximum: int, unit: str) -> None:
    """Raises if `name` asks for more than `maximum` of something in a file."""
    if count > maximum:
        raise ValueError(f"`{name}` needs {count} {unit}; a file holds {maximum}.")


def exact_float_dtype(dtype: Any) -> Any:
    """`dtype` as a floating-point dtype, also where JAX has it disabled."""
    try:
        dtype = jnp.dtype(dtype)
        is_float = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        is_float = False
    if not is_float:
        raise ValueError(f"`dtype` must be a floating-point type; got {dtype}.")
    return dtype


def check_absent(name: str, value: Any, other: str) -> None:
    """Raises if `name` is given without `other`, which it belongs to."""
    if value is not None:
        raise ValueError(f"`{name}` was given, but not `{other}`.")
