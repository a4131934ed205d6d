"""From POT's conventions to ours and back.

POT takes arrays of numpy or JAX, and returns the kind it was given; samples lie on the
first axis, and further axes are a batch; no weights are None or an empty list; a seed
is a number, a `RandomState`, or None.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


def to_jax(x: Any) -> Any:
    """An array of JAX of the same dtype; None for None and for an empty list."""
    if x is None or (isinstance(x, list) and not x):
        return None
    return jnp.asarray(x)


def rows(x: Any) -> Any:
    """Samples of the first axis on the last one, where we have them."""
    x = to_jax(x)
    return None if x is None else jnp.moveaxis(x, 0, -1)


def columns(x: Any) -> Any:
    """The inverse of `rows`."""
    return jnp.moveaxis(x, -1, 0)


def is_jax(x: Any) -> bool:
    """Whether POT would compute with JAX on this."""
    return isinstance(x, jax.Array)


def back(value: Any, like: Any) -> Any:
    """Results in the kind of array that `like` is, in any nesting."""
    if is_jax(like):
        return value
    return jax.tree.map(lambda x: np.asarray(x)[()], value)


def key_of(seed: Any) -> Any:
    """A key: the same one for the same number; a `RandomState` moves on."""
    if seed is None:
        seed = np.random.default_rng().integers(2**31)
    elif isinstance(seed, np.random.RandomState):
        seed = seed.randint(2**31 - 1)
    return jr.key(int(seed))


def float_dtype(type_as: Any) -> Any:
    """The dtype to draw in: that of `type_as`, or POT's own, which is double."""
    return jnp.dtype("float64") if type_as is None else jnp.asarray(type_as).dtype


def refuses_by_assertion(function: Callable) -> Callable:
    """Where POT asserts, our ValueError is turned into an AssertionError."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AssertionError(str(error)) from error

    return wrapped
