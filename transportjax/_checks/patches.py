"""Errors on patches of pictures and on levels of grey."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from .clouds import check_points
from .values import check_count, is_concrete, reads_values


def as_picture_shape(name: str, shape: Any) -> tuple[int, ...]:
    """`shape` as (h, w) or (h, w, c)."""
    if not isinstance(shape, Sequence) or len(shape) not in (2, 3):
        raise ValueError(f"`{name}` must be (h, w) or (h, w, c); got {shape!r}.")
    for length in shape:
        check_count(name, length)
    return tuple(int(length) for length in shape)


def as_patch_sizes(
    name: str, sizes: Any, shape: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """`sizes` as pairs (height, width) that divide a picture of that shape."""
    sizes = sizes if isinstance(sizes, Sequence) else (sizes,)
    if len(sizes) < 1:
        raise ValueError(f"`{name}` must have at least one entry; got none.")
    return tuple(_as_patch_size(name, size, shape) for size in sizes)


def _as_patch_size(name: str, size: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must hold sides of squares or pairs (height, width); got "
            f"{size!r}."
        )
    for side, length in zip(pair, shape, strict=False):
        check_count(name, side)
        if length % side:
            raise ValueError(
                f"`{name}` must divide the picture, {shape[0]} x {shape[1]}, into "
                f"whole patches; got {pair[0]} x {pair[1]}."
            )
    return int(pair[0]), int(pair[1])


def check_pixel_count(name: str, shape: tuple[int, ...], count: int, dim: int) -> None:
    """Raises unless pictures of that shape have `dim` values."""
    if count != dim:
        raise ValueError(
            f"`{name}` = {shape} makes {count} values; the points have dimension {dim}."
        )


def check_equal_rows(name: str, counts: dict[tuple[int, int], int]) -> None:
    """Raises unless patches of all sizes give as many directions."""
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{h} x {w}: {n}" for (h, w), n in counts.items())
        raise ValueError(
            f"`{name}` must give as many directions a step with patches of every "
            f"size; got {listed}. Let it give a whole basis, or use one size."
        )


@reads_values
def as_level_numbers(name: str, x: Any, num_levels: int) -> Array:
    """`x` as an integer array (n, d) of numbers of levels."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` must hold integers, the numbers of levels, without noise; got "
            f"dtype {x.dtype}."
        )
    check_points(name, x)
    if is_concrete(x) and not 0 <= int(jnp.min(x)) <= int(jnp.max(x)) < num_levels:
        raise ValueError(
            f"`{name}` must be in 0, ..., {num_levels - 1}; got values from "
            f"{int(jnp.min(x))} to {int(jnp.max(x))}."
        )
    return x.astype(jnp.int32)
