"""Errors on sets of small pictures of one size."""

from typing import Any

import numpy as np

MOST_VALUES = 1024  # of a picture: time and memory grow with its square
_FEWEST = 10


def as_pictures(name: str, x: Any) -> np.ndarray:
    """`x` as uint8 or uint16, (n, h, w) or (n, h, w, c); raises unless it fits."""
    x = np.asarray(x)
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise ValueError(
            f"`{name}` must be (n, h, w) or (n, h, w, c); got shape {x.shape}."
        )
    if x.ndim == 4 and x.shape[3] not in (1, 3):
        raise ValueError(
            f"`{name}` must have one or three channels, in the last axis; got shape "
            f"{x.shape}."
        )
    if x.dtype in (np.uint8, np.uint16):
        return x
    if (
        x.dtype.kind not in "fiub"
        or not np.isfinite(x).all()
        or (x != np.round(x)).any()
    ):
        raise ValueError(
            f"`{name}` must hold whole numbers, 0 to 255 or 0 to 65535; got dtype "
            f"{x.dtype} with others. Multiply by 255 and round, if 1 is white."
        )
    if x.min() < 0 or x.max() > 65535:
        raise ValueError(
            f"`{name}` must be in 0, ..., 65535; got values from {x.min():g} to "
            f"{x.max():g}."
        )
    return x.astype(np.uint8 if x.max() < 256 else np.uint16)


def check_pictures_to_fit(name: str, pictures: np.ndarray) -> None:
    """Raises unless these are small enough, many enough, and differ."""
    num, size = len(pictures), pictures[0].size
    if size > MOST_VALUES:
        shape = " x ".join(map(str, pictures.shape[1:]))
        raise ValueError(
            f"`{name}` must have at most {MOST_VALUES} values each; got {shape} = "
            f"{size}. Make them smaller first."
        )
    if num < _FEWEST:
        raise ValueError(f"a law of pictures needs at least {_FEWEST}; got {num}.")
    if (pictures == pictures[:1]).all():
        raise ValueError("all pictures are equal: there is nothing to fit.")


def check_pictures_of_law(
    name: str, shape: tuple[int, ...], dtype: str, law: Any
) -> None:
    """Raises unless pictures are of the size and depth that a law was fitted to."""
    found = shape[1:]
    if found[:2] != law.shape[:2] or (found[2:] or (1,)) != (law.shape[2:] or (1,)):
        shown = [" x ".join(map(str, each)) for each in (law.shape, found)]
        raise ValueError(
            f"`{name}` must be of the size that the flow was fitted to, {shown[0]}; "
            f"got {shown[1]}."
        )
    if (dtype, law.dtype) == ("uint16", "uint8"):
        raise ValueError(
            f"`{name}` must have 8 bits, as those that the flow was fitted to; got 16."
        )
