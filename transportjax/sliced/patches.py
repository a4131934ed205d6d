"""Patches of pictures as a strategy of directions."""

import functools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax._checks import (
    as_patch_sizes,
    as_picture_shape,
    check_equal_rows,
    check_kind,
    check_pixel_count,
)

from .strategies import AbstractDirections, OrthonormalDirections, Sample


class PatchDirections(AbstractDirections):
    """Directions inside of patches that tile a picture, its edges joined.

    Neighbouring pixels depend on each other most, and a direction through all pixels of
    many sees nothing of it: almost every projection looks normal. So each patch of a
    tiling gets directions of its own, the rows of a block-diagonal matrix. At every
    step the next size comes, and the tiling is shifted at random, around the edges.

    Pixels lie in the points row by row, those of one place together: `x.reshape(shape)`
    is a picture. Patches hold all channels.

    Args:
        shape: of the pictures, (h, w) or (h, w, c).
        sizes: of the patches, in turn: sides of squares or pairs (height, width) that
            divide the picture. One size may stand alone.
        inner: the strategy within a patch, for points of as many dimensions as a patch
            has values. None: one random rotation each. With patches of several sizes
            it must give a whole basis. A state belongs to a place in the tiling.

    Raises:
        ValueError: another shape, sizes that do not divide it, `inner` that gives more
            directions for one size than for another; points of another dimension.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import PatchDirections
        >>> strategy, key = PatchDirections((2, 4), 2), jax.random.key(0)
        >>> x = y = jnp.ones((5, 8))
        >>> rows, _, _ = strategy.sample(key, strategy.init(key, 8), x, y)
        >>> print((rows != 0).sum(axis=1))  # each looks at four pixels of eight
        [4 4 4 4 4 4 4 4]

    References:
        Dai and Seljak (2021), "Sliced iterative normalizing flows", section 3.4.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[tuple[int, int], ...] = eqx.field(static=True)
    inner: AbstractDirections

    def __init__(
        self,
        shape: Sequence[int],
        sizes: int | Sequence[int | Sequence[int]] = (4, 2),
        inner: AbstractDirections | None = None,
    ):
        self.shape = as_picture_shape("shape", shape)
        self.sizes = as_patch_sizes("sizes", sizes, self.shape)
        if inner is not None:
            check_kind("inner", inner, AbstractDirections)
        self.inner = OrthonormalDirections() if inner is None else inner

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Array, tuple]:
        """The number of steps made, and a state for each patch of each size."""
        check_pixel_count("shape", self.shape, math.prod(self.shape), dim)
        states = []
        for number, size in enumerate(self.sizes):
            values = math.prod(size) * math.prod(self.shape[2:])
            keys = jr.split(jr.fold_in(key, number), dim // values)
            states.append(jax.vmap(lambda k, d=values: self.inner.init(k, d))(keys))
        return jnp.int32(0), tuple(states)

    def sample(
        self,
        key: PRNGKeyArray,
        state: tuple[Array, tuple],
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """Directions in the patches of the next size."""
        step, states = state
        key_shift, key_inner = jr.split(key)
        shift = jr.randint(key_shift, (2,), 0, np.array(self.shape[:2]), "int32")

        def look(number: int) -> Sample:
            places = self._places(self.sizes[number], shift)
            rows, weights, own = jax.vmap(self.inner.sample)(
                jr.split(key_inner, len(places)),
                states[number],
                x.T[places].mT,
                y.T[places].mT,
            )
            others = (*states[:number], own, *states[number + 1 :])
            return _spread(rows, places, x.shape[1]), weights.reshape(-1), others

        looks = [functools.partial(look, number) for number in range(len(self.sizes))]
        shapes = [jax.eval_shape(each)[0].shape[0] for each in looks]
        check_equal_rows("inner", dict(zip(self.sizes, shapes, strict=True)))
        rows, weights, states = lax.switch(step % len(looks), looks)
        return rows, weights / jnp.sum(weights), (step + 1, states)

    def _places(
        self, size: tuple[int, int], shift: Int[Array, " 2"]
    ) -> Int[Array, "patches values"]:
        """Where in a point the values of each patch of a shifted tiling are."""
        height, width, *channels = self.shape
        down = (shift[0] + np.arange(height, dtype=np.int32)) % height
        right = (shift[1] + np.arange(width, dtype=np.int32)) % width
        count = math.prod(channels)
        places = (down[:, None] * width + right[None, :])[:, :, None] * count
        places = places + np.arange(count, dtype=np.int32)[None, None, :]
        parts = (height // size[0], size[0], width // size[1], size[1], count)
        places = places.reshape(parts).transpose(0, 2, 1, 3, 4)
        return places.reshape(parts[0] * parts[2], -1)


def _spread(
    rows: Float[Array, "patches p values"],
    places: Int[Array, "patches values"],
    dim: int,
) -> Float[Array, "q d"]:
    """The directions in patches as directions in whole pictures."""
    patches, count, _ = rows.shape
    zeros = jnp.zeros((patches, count, dim), rows.dtype)
    first, second = np.arange(patches)[:, None, None], np.arange(count)[None, :, None]
    spread = zeros.at[first, second, places[:, None, :]].set(rows)
    return spread.reshape(patches * count, dim)
