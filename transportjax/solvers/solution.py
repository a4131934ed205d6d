"""What a solver returns."""

import equinox as eqx
from jaxtyping import Array, Float

from transportjax.maps import AbstractBijection


class Solution(eqx.Module):
    """A fitted transport: the map, where it takes the source, and how it went.

    Attributes:
        map: the fitted map of one event, (d,) to (d,); `jax.vmap(solution.map)(x)`.
        points: the source, transported, (n, d).
        stats: one trace an entry, each with one number a step.
    """

    map: AbstractBijection
    points: Float[Array, "n d"]
    stats: dict[str, Float[Array, " l"]]
