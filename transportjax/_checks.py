"""Every error that a user can meet is worded here.

Shapes, dtypes and options are checked always; values (NaN, negative weights) whenever
the array is concrete, because a traced array has no values to look at.
"""

import functools
import json
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


def _reads_values(check: C) -> C:
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
    """The arrays of `(name, array)` pairs as floats of their widest dtype."""
    arrays = [as_float(name, x) for name, x in named]
    dtypes = {x.dtype for x in arrays}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    if sum(dtype.itemsize == widest.itemsize for dtype in dtypes) > 1:
        widest = jnp.dtype(jnp.float32)  # float16 with bfloat16
    return tuple(x.astype(widest) for x in arrays)


@_reads_values
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


@_reads_values
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


@_reads_values
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


def check_same_length(name: str, x: Array, other: str, y: Array) -> None:
    """Raises unless `x` and `y` have equal shapes."""
    if x.shape != y.shape:
        raise ValueError(
            f"`{name}` and `{other}` must have equal shapes; got {x.shape} and "
            f"{y.shape}."
        )


def as_unit_colours(name: str, x: Any) -> Array:
    """`x` as floating-point colours; bytes are refused, for their white is not 1."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jnp.unsignedinteger):
        white = jnp.iinfo(dtype).max
        raise ValueError(
            f"`{name}` must hold colours with white at 1; got dtype {dtype}. Divide it "
            f"by {white} first."
        )
    return as_float(name, x)


def check_picture(name: str, x: Array) -> None:
    """Raises unless `x` is a finite, non-empty `(h, w, c)` picture."""
    if x.ndim != 3:
        raise ValueError(
            f"`{name}` must have shape (h, w, c), a single channel with c = 1; got "
            f"{x.shape}."
        )
    if 0 in x.shape:
        raise ValueError(f"`{name}` must not be empty; got shape {x.shape}.")
    check_finite(name, x)


def check_sortable(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis that 32-bit indices can count."""
    if x.ndim < 1:
        raise ValueError(f"`{name}` must have a last axis to sort along; got a scalar.")
    if x.shape[-1] >= 2**31:
        raise ValueError(
            f"`{name}` must have fewer than 2^31 entries on its last axis, so that 32 "
            f"bits can count them; got {x.shape[-1]}."
        )


def as_float_dtype(dtype: Any) -> Any:
    """`dtype` as a floating-point dtype; None is the default float."""
    if dtype is None:
        return jnp.result_type(float)
    dtype = jnp.empty(0, dtype).dtype  # warns of float64 where that is disabled
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be a floating-point type; got {dtype}.")
    return dtype


def check_dimension(
    subject: str, dim: int, low: int, high: int, instead: str = ""
) -> None:
    """Raises unless `low <= dim <= high`, the dimensions in which `subject` exist."""
    if not low <= dim <= high:
        where = f"{low}" if low == high else f"{low} to {high}"
        advice = f" Use {instead}." if instead else ""
        raise ValueError(
            f"{subject} exist in dimension {where}; got dimension {dim}.{advice}"
        )


def check_directions(
    name: str, directions: Array, dim: int | None = None, *, sets: bool = False
) -> None:
    """Raises unless `directions` is `(p, d)` (or `sets` of it) with rows of norm 1."""
    if directions.ndim not in (2, 2 + sets) or 0 in directions.shape:
        shape = "(p, d) or (l, p, d)" if sets else "(p, d)"
        raise ValueError(
            f"`{name}` must have shape {shape}, one direction a row; got "
            f"{directions.shape}."
        )
    if dim is not None and directions.shape[-1] != dim:
        raise ValueError(
            f"`{name}` must have {dim} columns, one for each coordinate of the points; "
            f"got shape {directions.shape}. Is it transposed?"
        )
    if not is_concrete(directions):
        return
    with jax.ensure_compile_time_eval():  # a constant of a traced function has values
        check_finite(name, directions)
        norms = jnp.linalg.norm(directions.astype(jnp.float32), axis=-1)
        worst = float(norms.reshape(-1)[jnp.argmax(jnp.abs(norms - 1))])
    if abs(worst - 1) > 1e-2:
        raise ValueError(
            f"`{name}` must have rows of norm 1; got a row of norm {worst:g}. Divide "
            "each row by its norm."
        )


def check_levels(
    name: str, x: Array, low: float = 0.0, high: float = 1.0, what: str = "levels"
) -> None:
    """Raises if concrete `x` holds NaN or a number outside of [low, high]."""
    if not is_concrete(x) or x.size == 0:
        return
    with jax.ensure_compile_time_eval():
        least, greatest = float(jnp.min(x)), float(jnp.max(x))
    if not (low <= least and greatest <= high):  # also if one of them is NaN
        raise ValueError(
            f"`{name}` must hold {what} in [{low:g}, {high:g}]; got a minimum of "
            f"{least:g} and a maximum of {greatest:g}."
        )


def check_batch(name: str, x: Array, other: str, batch: tuple[int, ...]) -> None:
    """Raises unless `x` is one row (k,) or has the leading axes `batch` of `other`."""
    if x.ndim != 1 and x.shape[:-1] != batch:
        raise ValueError(
            f"`{name}` must have shape (k,), or the leading axes {batch} of `{other}`; "
            f"got {x.shape}."
        )


@_reads_values
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


@_reads_values
def check_counts(name: str, counts: Array) -> None:
    """Raises unless integer `counts` are >= 0, not all zero, and can be summed."""
    if counts.ndim < 1 or counts.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one bin on its last axis; got shape "
            f"{counts.shape}."
        )
    if not is_concrete(counts):
        return
    values = np.asarray(counts)
    if values.min() < 0:
        raise ValueError(f"`{name}` must be >= 0; got a minimum of {values.min()}.")
    totals = values.sum(axis=-1, dtype=np.float64)
    if totals.min() == 0:
        raise ValueError(f"`{name}` must not be all zero.")
    if totals.max() > np.iinfo(values.dtype).max:
        raise ValueError(
            f"`{name}` must have a total that fits in {values.dtype}; got "
            f"{totals.max():g}. Pass them as floats."
        )


def check_stored_dtype(name: str, dtype: Any) -> None:
    """Raises unless `dtype` is one that pixels are stored in: 8 or 16 bits, floats."""
    if np.dtype(dtype) not in (np.uint8, np.uint16) and np.dtype(dtype).kind != "f":
        raise ValueError(f"`{name}` must be uint8, uint16 or float; got {dtype}.")


def check_stored_picture(pixels: Any, alpha: Any) -> None:
    """Raises unless `pixels` is (h, w, 1 or 3), and `alpha` None or (h, w) like it."""
    allowed = (np.uint8, np.uint16, np.float32)
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in allowed:
        got = getattr(pixels, "dtype", type(pixels).__name__)
        raise ValueError(
            f"`pixels` must be a numpy array of uint8, uint16 or float32; got {got}."
        )
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            "`pixels` must have shape (h, w, 1) or (h, w, 3), not empty, with `alpha` "
            f"apart; got {pixels.shape}."
        )
    if alpha is None:
        return
    if not isinstance(alpha, np.ndarray) or alpha.dtype != pixels.dtype:
        got = getattr(alpha, "dtype", type(alpha).__name__)
        raise ValueError(
            f"`alpha` must be a numpy array of {pixels.dtype} like `pixels`; got {got}."
        )
    if alpha.shape != pixels.shape[:2]:
        raise ValueError(
            f"`alpha` must have shape {pixels.shape[:2]} like `pixels`; got "
            f"{alpha.shape}."
        )


def check_event(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `x` is one event of the given shape."""
    if x.shape != shape:
        raise ValueError(
            f"`{name}` must be one event of shape {shape}; got {x.shape}. For many "
            "events, with a leading axis, use jax.vmap(map)(x)."
        )


def check_bijection(name: str, x: Any, base: type) -> None:
    """Raises unless `x` is a map, an instance of `base`."""
    if not isinstance(x, base):
        raise ValueError(
            f"`{name}` must be a map, of a class in transportjax.maps; got an object "
            f"of type {type(x).__name__}."
        )


def check_stacked(
    name: str, shapes: list[tuple[int, ...]], num: int | None = None
) -> None:
    """Raises unless all leaf `shapes` begin with one axis of the same length `num`."""
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths or (num is not None and lengths != {num}):
        wanted = "the same length" if num is None else f"length {num}"
        raise ValueError(
            f"`{name}` must have a leading axis of {wanted} on every leaf; got leaves "
            f"of shapes {shapes}. Build it by jax.vmap over the constructor."
        )


@_reads_values
def check_orthonormal(name: str, directions: Array) -> None:
    """Raises unless `directions` is `(p, d)`, p <= d, with orthonormal rows."""
    check_directions(name, directions)
    if directions.ndim != 2:
        raise ValueError(f"`{name}` must have shape (p, d); got {directions.shape}.")
    p, d = directions.shape
    if p > d:
        raise ValueError(
            f"`{name}` must have at most as many rows as columns, because more than d "
            f"directions cannot be orthogonal in dimension d; got shape {(p, d)}. "
            "Use several layers."
        )
    if not is_concrete(directions) or p * p * d > 2**22:  # 4 M products: 1 ms
        return
    rows = directions.astype(jnp.float32)
    gram = jnp.matmul(rows, rows.T, precision="highest")
    worst = float(jnp.max(jnp.abs(gram - jnp.eye(p, dtype=gram.dtype))))
    if worst > 1e-2:
        raise ValueError(
            f"`{name}` must have orthonormal rows; got rows with an inner product that "
            f"is wrong by {worst:g}. Orthonormalise them, for example by QR."
        )


@_reads_values
def check_knots(x_name: str, x: Array, y_name: str, y: Array) -> None:
    """Raises unless `x` and `y` are finite, non-decreasing knots of one shape (k,)."""
    for name, knots in ((x_name, x), (y_name, y)):
        if knots.ndim != 1 or knots.shape[0] < 1:
            raise ValueError(
                f"`{name}` must have shape (k,) with at least one knot; got "
                f"{knots.shape}. For many curves use jax.vmap."
            )
    check_same_length(x_name, x, y_name, y)
    for name, knots in ((x_name, x), (y_name, y)):
        check_finite(name, knots)
        if is_concrete(knots) and not bool(jnp.all(knots[1:] >= knots[:-1])):
            index = int(jnp.argmax(knots[1:] < knots[:-1]))
            raise ValueError(
                f"`{name}` must not decrease; got {float(knots[index]):g} before "
                f"{float(knots[index + 1]):g} at index {index}."
            )


@_reads_values
def check_slopes(name: str, slopes: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `slopes` has `shape` and is finite and positive."""
    if slopes.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, one slope a knot; got {slopes.shape}."
        )
    check_finite(name, slopes)
    if is_concrete(slopes) and not bool(jnp.all(slopes > 0)):
        raise ValueError(
            f"`{name}` must be positive; got a minimum of {float(jnp.min(slopes)):g}."
        )


@_reads_values
def check_interval(low_name: str, low: Array, high_name: str, high: Array) -> None:
    """Raises unless `low` and `high` are two numbers with low < high."""
    for name, value in ((low_name, low), (high_name, high)):
        check_number(name, value)
    if is_concrete(low) and is_concrete(high) and not bool(low < high):
        raise ValueError(
            f"`{low_name}` must be below `{high_name}`; got {float(low):g} and "
            f"{float(high):g}."
        )


def check_affine(matrix: Array, offset: Array) -> None:
    """Raises unless `matrix` is (d, d) and `offset` is (d,)."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 1:
        raise ValueError(f"`matrix` must have shape (d, d); got {matrix.shape}.")
    if offset.shape != matrix.shape[:1]:
        raise ValueError(
            f"`offset` must have shape {matrix.shape[:1]}, like the rows of `matrix`; "
            f"got {offset.shape}."
        )


@_reads_values
def check_moments(
    mean_name: str, mean: Array, cov_name: str, cov: Array, dim: int | None = None
) -> None:
    """Raises unless `mean` is (d,) and `cov` a covariance matrix, (d, d)."""
    if mean.ndim != 1 or mean.shape[0] < 1 or dim not in (None, mean.shape[0]):
        wanted = "(d,)" if dim is None else f"({dim},), like the other mean"
        raise ValueError(f"`{mean_name}` must have shape {wanted}; got {mean.shape}.")
    if cov.shape != 2 * mean.shape:
        raise ValueError(
            f"`{cov_name}` must have shape {2 * mean.shape}, to go with `{mean_name}`; "
            f"got {cov.shape}."
        )
    check_finite(mean_name, mean)
    check_finite(cov_name, cov)
    if not is_concrete(cov):
        return
    values = np.asarray(cov, dtype=np.float64)
    size = np.max(np.abs(values))
    if np.max(np.abs(values - values.T)) > 1e-3 * size:
        raise ValueError(f"`{cov_name}` must be symmetric.")
    least = float(np.min(np.linalg.eigvalsh((values + values.T) / 2)))
    if least < -1e-3 * size:
        raise ValueError(
            f"`{cov_name}` must be positive semidefinite; got an eigenvalue of "
            f"{least:g}."
        )


def check_ranks(name: str, ranks: Array, n: int) -> None:
    """Raises unless `ranks` are integers, if concrete in 0 ... n - 1."""
    if not jnp.issubdtype(ranks.dtype, jnp.integer) or ranks.ndim > 1:
        raise ValueError(
            f"`{name}` must be an integer or integers of shape (k,); got dtype "
            f"{ranks.dtype} and shape {ranks.shape}."
        )
    if not is_concrete(ranks) or ranks.size == 0:
        return
    with jax.ensure_compile_time_eval():
        least, greatest = int(ranks.min()), int(ranks.max())
    if least < 0 or greatest >= n:
        raise ValueError(
            f"`{name}` must be in 0 ... {n - 1}; got a minimum of {least} and a "
            f"maximum of {greatest}."
        )


def check_pixels(name: str, pixels: np.ndarray) -> None:
    """Raises unless `pixels` is a picture: (h, w) or (h, w, 1 to 4), a known dtype."""
    if pixels.dtype == object or pixels.ndim not in (2, 3):
        raise ValueError(
            f"`{name}` must be a picture, (h, w) or (h, w, c); got shape "
            f"{pixels.shape}."
        )
    if pixels.size == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {pixels.shape}.")
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"`{name}` must have 1 to 4 channels on its last axis; got shape "
            f"{pixels.shape}."
        )
    kinds = (np.bool_, np.uint8, np.uint16)
    if pixels.dtype not in kinds and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(
            f"`{name}` must be uint8, uint16 or float in [0, 1]; got {pixels.dtype}. "
            "Convert it first, so that black and white are known."
        )


def check_mask(name: str, mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises unless `mask` has the size of the picture and lies in [0, 1]."""
    if mask.shape != shape:
        raise ValueError(
            f"`{name}` must have the size of its picture, {shape}; got {mask.shape}."
        )
    if np.issubdtype(mask.dtype, np.floating) and not (
        np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1
    ):
        raise ValueError(f"`{name}` must lie in [0, 1].")


def check_json(name: str, value: Any) -> None:
    """Raises unless `value` consists of JSON values, and comes back as it was."""
    try:
        is_kept = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        is_kept = False
    if not is_kept:
        raise ValueError(
            f"`{name}` must consist of strings, finite numbers, bools, None, lists, "
            f"and dictionaries with strings as keys; got {value!r:.80}."
        )


def check_metadata(name: str, value: Any) -> None:
    """Raises unless `value` is a dictionary of JSON values."""
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a dictionary; got {value!r:.80}.")
    check_json(name, value)


def check_at_most(name: str, count: int, maximum: int, unit: str) -> None:
    """Raises if `name` asks for more than `maximum` of something in a file."""
    if count > maximum:
        raise ValueError(f"`{name}` needs {count} {unit}; a file holds {maximum}.")


@_reads_values
def check_storable(name: str, x: Any, dtypes: Collection[str]) -> None:
    """Raises if array `x` is traced, or of a dtype that a file does not hold."""
    if not is_concrete(x):
        raise ValueError(f"`{name}` must not be traced; save it outside of jax.jit.")
    if x.dtype.name not in dtypes:
        raise ValueError(f"`{name}` holds an array of dtype {x.dtype}; no file can.")


def check_saveable(
    name: str, class_name: str, is_known: bool, known: Collection[str]
) -> None:
    """Raises unless a file can hold objects of the class."""
    if not is_known:
        raise ValueError(
            f"`{name}` holds an object of type {class_name}; a file can hold "
            f"{', '.join(known)}, tuples, arrays, numbers and strings."
        )


@_reads_values
def check_grid(low: Array, high: Array, values: Array) -> None:
    """Raises unless `values` are >= 2 non-decreasing values on a grid low < high."""
    if low.shape or high.shape or values.ndim != 1 or values.shape[0] < 2:
        raise ValueError(
            "`low` and `high` must be numbers and `values` (k,), k >= 2; got shapes "
            f"{low.shape}, {high.shape} and {values.shape}."
        )
    for name, x in (("low", low), ("high", high), ("values", values)):
        check_finite(name, x)
    if is_concrete(low) and is_concrete(high) and not bool(low < high):
        raise ValueError(f"`low` must be less than `high`; got {low} and {high}.")
    if is_concrete(values) and not bool(jnp.all(jnp.diff(values) >= 0)):
        raise ValueError("`values` must not decrease.")


def check_batches(name: str, x: Array, other: str, y: Array) -> None:
    """Raises unless the leading axes of `x` and `y` broadcast."""
    try:
        np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except ValueError:
        raise ValueError(
            f"`{name}` and `{other}` must have leading axes that broadcast; got shapes "
            f"{x.shape} and {y.shape}."
        ) from None


def check_ascending(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis and, if concrete, is finite and ascends."""
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one entry on its last axis; got shape "
            f"{x.shape}."
        )
    if not is_concrete(x):
        return
    with jax.ensure_compile_time_eval():
        check_finite(name, x)
        # differences of the size of rounding errors are let pass
        size = jnp.max(jnp.abs(x)) * (8 * float(jnp.finfo(x.dtype).eps))
        ascends = bool(jnp.all(x[..., 1:] >= x[..., :-1] - size))
    if not ascends:
        raise ValueError(f"`{name}` must ascend along its last axis; sort it.")


def check_three_channels(name: str, shape: tuple[int, ...]) -> None:
    """Raises unless the last axis of `shape` holds three channels."""
    if not shape or shape[-1] != 3:
        raise ValueError(
            f"`{name}` must hold three channels on the last axis; got shape {shape}."
        )


@_reads_values
def check_colour_table(table: Array, low: Array, high: Array) -> None:
    """Raises unless `table` is finite, (k, k, k, 3), on a domain low < high."""
    shape = table.shape
    if len(shape) != 4 or shape != (shape[0],) * 3 + (3,) or shape[0] < 2:
        raise ValueError(
            f"`table` must have shape (k, k, k, 3) with k >= 2; got {shape}."
        )
    for name, x in (("low", low), ("high", high)):
        if x.shape not in ((), (3,)):
            raise ValueError(
                f"`{name}` must be a number or one a channel; got shape {x.shape}."
            )
    for name, x in (("table", table), ("low", low), ("high", high)):
        check_finite(name, x)
    both = is_concrete(low) and is_concrete(high)
    if both and not bool(np.all(np.asarray(low) < np.asarray(high))):
        raise ValueError(f"`low` must be less than `high`; got {low} and {high}.")


def check_function_of_colours(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Raises unless a function of colours has kept their shape."""
    if shape != expected:
        raise ValueError(
            f"`function` must return one colour for each colour, shape {expected}; got "
            f"{shape}."
        )


def check_title(title: Any, longest: int) -> None:
    """Raises unless `title` is one printable line without quotation marks."""
    if not isinstance(title, str) or not title.isprintable() or '"' in title:
        raise ValueError(
            "`title` must be one line of printable characters without quotation "
            f"marks; got {title!r:.80}."
        )
    if len(title.encode()) > longest:
        raise ValueError(
            f"`title` must have at most {longest} bytes; got {title!r:.80}."
        )


@_reads_values
def check_spread(name: str, shape: tuple[int, ...], cov: Array) -> None:
    """Raises unless n samples in d dimensions are enough, and fill the space."""
    n, d = shape
    if n <= d:
        raise ValueError(
            f"`{name}` must have more samples than dimensions; got {n} samples in "
            f"dimension {d}."
        )
    if not is_concrete(cov):
        return
    variances = np.linalg.eigvalsh(np.asarray(cov, np.float64))
    if variances[0] <= 10 * d * float(jnp.finfo(cov.dtype).eps) * variances[-1]:
        raise ValueError(
            f"`{name}` must vary in every direction; its smallest variance is "
            f"{variances[0]:.2g}, its largest {variances[-1]:.2g}. Remove columns that "
            "are constant or that follow from others, or add a little noise."
        )


def check_clouds(name: str, x: Array) -> None:
    """Raises unless `x` is a finite, non-empty stack `(k, n, d)` of clouds."""
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(
            f"`{name}` must have shape (k, n, d), k clouds of n points each; got "
            f"{x.shape}."
        )
    check_finite(name, x)


def check_profiles(x_directions: Array, y_directions: Array) -> None:
    """Raises unless two profiles are along the same directions."""
    same = x_directions.shape == y_directions.shape
    if same and is_concrete(x_directions) and is_concrete(y_directions):
        same = bool(jnp.all(x_directions == y_directions))
    if not same:
        raise ValueError(
            "`x` and `y` must be profiles along the same directions; got directions of "
            f"shapes {x_directions.shape} and {y_directions.shape} that differ."
        )


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
