"""Errors on what passes between this library and others."""

from typing import Any


def as_event_shape(name: str, shape: Any) -> tuple[int, ...]:
    """`shape` as a tuple; raises unless it is that of one event, () or (d,)."""
    try:
        shape = tuple(shape)
    except TypeError:
        raise ValueError(f"`{name}` must be a tuple; got {shape!r}.") from None
    check_one_axis(name, shape)
    return shape


def check_one_axis(name: str, shape: tuple[int, ...]) -> None:
    """Raises unless `shape` has one axis at most."""
    if len(shape) > 1:
        raise ValueError(f"`{name}` must be () or (d,), of one event; got {shape}.")


def check_same_event(name: str, image: tuple[int, ...], shape: tuple) -> None:
    """Raises unless the image of an event of shape `shape` has that shape too."""
    if image != shape:
        raise ValueError(
            f"`{name}` must take events of shape {shape} to events of the same shape; "
            f"got an image of shape {image}."
        )


def check_leading_axes(name: str, shape: tuple[int, ...]) -> None:
    """Raises unless `shape` is (..., c)."""
    if len(shape) < 1:
        raise ValueError(f"`{name}` must have shape (..., c); got {shape}.")
