"""Errors on pictures, masks and tables of colours."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import as_float, check_finite, is_concrete, reads_values


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


def check_pixels(name: str, pixels: np.ndarray | Array) -> None:
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


def check_finite_pixels(name: str, pixels: np.ndarray) -> None:
    """Raises if a picture of floats holds NaN or infinity."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return
    bad = "NaN" if np.isnan(pixels).any() else "infinity"
    raise ValueError(
        f"`{name}` must be finite; got {bad}. Fill such pixels with a tone, and leave "
        "them out by `mask`."
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


def check_three_channels(name: str, shape: tuple[int, ...]) -> None:
    """Raises unless the last axis of `shape` holds three channels."""
    if not shape or shape[-1] != 3:
        raise ValueError(
            f"`{name}` must hold three channels on the last axis; got shape {shape}."
        )


@reads_values
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


def check_method_in_space(method: str, space: str) -> None:
    """Raises if colours cannot be transferred by `method` in `space`."""
    if method == "cdl" and space != "rgb":
        raise ValueError(
            "`method` 'cdl' works on colour pictures in the space 'rgb' only; got the "
            f"space {space!r}."
        )
    if method == "l2" and space in ("luma", "grey"):
        raise ValueError(
            "`method` 'l2' works on colour pictures, in spaces of two or three "
            f"channels; got the space {space!r}."
        )
    if method == "l2-published" and space not in ("rgb", "lab"):
        raise ValueError(
            "`method` 'l2-published' works on colour pictures in the spaces 'rgb' and "
            f"'lab' only; got the space {space!r}."
        )


def check_paired_pictures(method: str, source: tuple, palette: tuple) -> None:
    """Raises unless pixels can be taken as pairs."""
    if method not in ("l2", "l2-published"):
        raise ValueError(f"`pairs` needs the method 'l2'; got {method!r}.")
    if source[:2] != palette[:2]:
        raise ValueError(
            "with `pairs`, `source` and `palette` must be of one size; got "
            f"{source[1]} x {source[0]} and {palette[1]} x {palette[0]}."
        )


def check_pixels_left(count: int) -> None:
    """Raises if masks and NaN leave no pixel."""
    if not count:
        raise ValueError("no pixel to learn from: a mask is empty, or all is NaN.")


def check_colours_in_pairs(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    """Raises unless two clouds have as many colours, of the same channels."""
    if x != y:
        raise ValueError(f"`x` and `y` must have equal shapes; got {x} and {y}.")


def check_colour_picture(name: str, pixels: np.ndarray) -> None:
    """Raises unless the picture, its alpha apart, has three channels."""
    if pixels.shape[-1] != 3:
        raise ValueError(f"`{name}` must be a colour picture; got a grey one.")


def check_edits(before: np.ndarray, after: np.ndarray) -> None:
    """Raises unless each of some different colours has one that it shall become."""
    if len(before) != len(after):
        raise ValueError(
            "`edits` must have as many colours after as before; got "
            f"{len(after)} and {len(before)}."
        )
    if not len(before):
        raise ValueError("`edits` must have at least one entry; got none.")
    distances = np.linalg.norm(before[:, None] - before[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < 0.1:
        raise ValueError("`edits` must name different colours; got one of them twice.")
