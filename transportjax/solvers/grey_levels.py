"""The first layer of a density of rounded values: pixels, counts, marks."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from transportjax._checks import as_level_numbers, check_count, check_number
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import Chain, MonotoneLinear, SlicedMap, SupportMap

_MARGIN = 4e-6  # of the range, about the levels: 32 units of its rounding


@explicit_mesh_guard
def level_map(
    source: ArrayLike, *, num_levels: int = 256, prior: ArrayLike = 10.0
) -> Chain:
    """The map from rounded values, with uniform noise in each level, to the line.

    A rounded value v has no density, but v + u, u uniform in [0, 1), has one, and the
    mean of its logarithm bounds that of the probability of v from below (Jensen). Its
    distribution function is a polyline with corners at the levels. Each coordinate goes
    through its own, exactly, and then through a logit. So `gaussianise` meets smooth
    marginals where a logit alone leaves cliffs, such as that of a black background, and
    has to find out how coordinates depend on each other, no more:

        noisy = source + jr.uniform(key, source.shape)
        first = level_map(source)
        z = jax.vmap(first)(noisy)
        solution = gaussianise(z, key=key, ...)
        flow = Flow(Chain((first, solution.map)), dim)

    `-flow.log_prob(noisy) / (dim * math.log(2))` is then the code length in bits per
    dimension; a law that makes all of 256 levels equally likely has 8.

    The map is differentiable in its input, but for the levels. It is not to be trained:
    polylines that grow leave the support of the logit. Train `solution.map` on z.

    Args:
        source: integers 0, ..., num_levels - 1, without the noise, (n, d).
        num_levels: how many levels there are.
        prior: how many values, shared out like those of all coordinates together, are
            added to those of each: levels that a coordinate has not met stay possible.

    Returns:
        A `Chain` of a `SlicedMap` of polylines along the axes, and a `SupportMap`.

    Raises:
        ValueError: a source that is not (n, d), is empty, not integer or out of range;
            options out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.solvers import level_map
        >>> x = jnp.array([[0], [0], [0], [1]])  # three quarters are below one
        >>> map = level_map(x, num_levels=2, prior=0.01)
        >>> print(map(jnp.array([1.0])).round(1))  # log(3 / 1)
        [1.1]

    References:
        Theis, van den Oord and Bethge (2016), "A note on the evaluation of generative
        models", section 3.1, for the noise and the bound.
    """
    check_count("num_levels", num_levels, 2)
    check_number("prior", prior, 0, open_low=True)
    values = as_level_numbers("source", source, num_levels)
    polylines = _polylines(values, num_levels, jnp.asarray(prior, float))
    high = jnp.full(values.shape[1], num_levels, polylines.x0.dtype)
    margin = _MARGIN * high
    axes = jnp.eye(values.shape[1], dtype=high.dtype)
    return Chain((SlicedMap(axes, polylines), SupportMap(-margin, high + margin)))


@functools.partial(jax.jit, static_argnames="num_levels")
def _polylines(
    values: Int[Array, "n d"], num_levels: int, prior: Float[Array, ""]
) -> MonotoneLinear:
    """The distribution functions of all coordinates, in units of levels."""
    counts = jax.vmap(lambda v: jnp.bincount(v, length=num_levels))(values.T)
    counts = counts.astype(prior.dtype)
    common = jnp.sum(counts, axis=0) + 1
    shares = counts + prior * (common / jnp.sum(common))[None, :]
    shares = shares / jnp.sum(shares, axis=1, keepdims=True)
    heights = jnp.pad(jnp.cumsum(shares, axis=1), ((0, 0), (1, 0)))
    levels = jnp.arange(num_levels + 1, dtype=prior.dtype)
    return jax.vmap(MonotoneLinear.from_knots, in_axes=(None, 0))(
        levels, num_levels * heights
    )
