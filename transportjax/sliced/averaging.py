"""What lies between several clouds: averaged profiles, and normal laws."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_weights,
    check_count,
    check_listed,
    check_points,
    check_profiles,
    common_float,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.levels import take
from transportjax.onedim.merging import (
    MergedLevels,
    pick,
    uniform_levels,
    weighted_levels,
)

from .profiles import SlicedProfile


@explicit_mesh_guard
def averaged_profile(
    profiles: Sequence[SlicedProfile],
    weights: ArrayLike | None = None,
    *,
    num: int | None = None,
) -> SlicedProfile:
    """The barycentre of each projection: the weighted mean of the quantile functions.

    Differentiable in the profiles and in `weights`. Profiles need not be the profile of
    any cloud after this: see `sliced_barycentre`.

    Args:
        profiles: profiles along the same directions, as of `sliced_profile`.
        weights: weights >= 0 of the profiles, `(s,)`; normalised. None: equal.
        num: how many values of equal masses to return: the means of the averaged
            quantile function over so many equal parts of [0, 1]. For a cloud of `num`
            points of equal masses they have the same barycentre as the exact profile.
            None: exact.

    Returns:
        A profile; if it is exact, of n values for profiles of n values of equal masses,
        and otherwise of as many values as all profiles have, less s - 1, and masses.

    Raises:
        ValueError: no profiles, or along different directions; bad weights or `num`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import averaged_profile, sliced_profile
        >>> one = sliced_profile(jnp.array([[0.0], [1.0]]), jnp.eye(1))
        >>> other = sliced_profile(jnp.array([[8.0], [4.0]]), jnp.eye(1))
        >>> print(averaged_profile([one, other]).values)
        [[2.  4.5]]

    References:
        Agueh and Carlier (2011), Barycenters in the Wasserstein space, section 6.1.
    """
    profiles = list(profiles)
    check_listed("profiles", profiles)
    for profile in profiles[1:]:
        check_profiles(profiles[0].directions, profile.directions)
    if num is not None:
        check_count("num", num)
    shares = shares_of(weights, len(profiles), profiles[0].values.dtype)
    return average(profiles, shares, num)[0]


def gaussian_start(
    key: PRNGKeyArray,
    clouds: ArrayLike | Sequence[ArrayLike],
    num: int,
    *,
    weights: ArrayLike | None = None,
    cloud_weights: Sequence[ArrayLike | None] | ArrayLike | None = None,
) -> Float[Array, "n d"]:
    """Points of a normal law between `clouds`: where a barycentre may start.

    Its mean and the root of its covariance are the weighted means of those of the
    clouds. Not differentiable: the derivative is zero.

    Args:
        key: a random key.
        clouds: points, one array `(n_i, d)` a cloud, or `(s, n, d)`.
        num: number of points.
        weights: weights >= 0 of the clouds, `(s,)`; normalised. None: equal.
        cloud_weights: for each cloud its masses >= 0, `(n_i,)`, or None: uniform.

    Returns:
        The points, `(num, d)`.

    Raises:
        ValueError: clouds of the wrong shape, empty, NaN or infinite; bad weights.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import gaussian_start
        >>> clouds = jnp.array([[[0.0, 1.0]], [[2.0, 3.0]]])
        >>> print(gaussian_start(jax.random.key(0), clouds, 2))
        [[1. 2.]
         [1. 2.]]
    """
    check_count("num", num)
    arrays, masses, shares, dtype = checked_clouds(clouds, cloud_weights, weights)
    inputs = lax.stop_gradient(Clouds(arrays, masses, shares))
    noise = jr.normal(key, (num, arrays[0].shape[1]), arrays[0].dtype)
    return _matched(noise, inputs).astype(dtype)


class Clouds(NamedTuple):
    """What the barycentre is of."""

    points: list[Float[Array, "_ d"]]
    masses: list[Float[Array, " _"] | None]
    shares: Float[Array, " s"]


def checked_clouds(
    clouds: Any, cloud_weights: Any, weights: Any
) -> tuple[list[Array], list[Array | None], Array, Any]:
    """Clouds, masses and normalised weights to compute with; the dtype to return."""
    clouds = list(clouds)
    check_listed("clouds", clouds)
    arrays = common_float(*((f"clouds[{i}]", x) for i, x in enumerate(clouds)))
    dtype = arrays[0].dtype
    work = working_dtype(dtype)
    check_points("clouds[0]", arrays[0])
    given = [None] * len(clouds) if cloud_weights is None else list(cloud_weights)
    check_listed("cloud_weights", given, len(clouds))
    masses: list[Array | None] = []
    for i, (x, mass) in enumerate(zip(arrays, given, strict=True)):
        check_points(f"clouds[{i}]", x, arrays[0].shape[1])
        masses.append(as_weights(f"cloud_weights[{i}]", mass, x.shape[:1], work))
    shares = shares_of(weights, len(clouds), work)
    return [x.astype(work) for x in arrays], masses, shares, dtype


def shares_of(weights: ArrayLike | None, num: int, dtype: Any) -> Array:
    """Weights of clouds, with sum one."""
    array = as_weights("weights", weights, (num,), dtype)
    if array is None:
        return jnp.full(num, 1 / num, dtype)
    array = array / jnp.max(array)
    return array / jnp.sum(array)


def average(
    profiles: list[SlicedProfile], shares: Array, num: int | None
) -> tuple[SlicedProfile, Array]:
    """The averaged profile; the weighted mean of W_2^2 to it.

    With `num` values, such that the energy of a cloud of `num` points of equal masses
    is exact; or, for None, with as many as it takes for any cloud.
    """
    if num is None:
        values, masses = _merged(profiles)
        within = 0 * values[..., 0]
    else:
        cells = [_cells(profile, num) for profile in profiles]
        values, within = (jnp.stack(a) for a in zip(*cells, strict=True))
        masses = None
    mean = jnp.tensordot(shares, values, 1, precision="highest")
    share = jnp.full_like(mean, 1 / mean.shape[1]) if masses is None else masses
    spread = jnp.sum(share[None] * (values - mean[None]) ** 2, axis=-1)
    profile = SlicedProfile(profiles[0].directions, mean, masses)
    return profile, shares @ (spread + within)


def _cells(profile: SlicedProfile, num: int) -> tuple[Array, Array]:
    """Means of the quantile functions over `num` equal parts of [0, 1]; W_2^2 to it."""
    values = profile.values
    if profile.weights is not None:
        equal = jnp.ones_like(values, shape=(len(values), num))
        return cell_means(values, weighted_levels(equal, profile.weights), num)
    if values.shape[1] == num:
        return values, 0 * values[:, 0]
    levels = uniform_levels(num, values.shape[1])
    levels = levels._replace(mass=levels.mass.astype(values.dtype))
    return cell_means(values, levels, num)


def _merged(profiles: list[SlicedProfile]) -> tuple[Array, Array | None]:
    """The values of all profiles on common levels; the masses between these."""
    sizes = {(profile.weights is None, profile.values.shape) for profile in profiles}
    values, masses = [profiles[0].values], masses_of(profiles[0])
    if len(sizes) == 1 and profiles[0].weights is None:
        return jnp.stack([profile.values for profile in profiles]), None
    for profile in profiles[1:]:
        levels = weighted_levels(masses, masses_of(profile))
        values = [take(v, levels.rows) for v in values]
        values.append(take(profile.values, levels.columns))
        masses = jnp.asarray(levels.mass)
    return jnp.stack(values), masses / jnp.sum(masses, axis=1, keepdims=True)


def masses_of(profile: SlicedProfile) -> Array:
    """The masses of a profile, also if they are uniform."""
    if profile.weights is None:
        return jnp.ones_like(profile.values)
    return profile.weights


def cell_means(y: Array, levels: MergedLevels, num: int) -> tuple[Array, Array]:
    """Means of sorted `y` over the `num` cells of the other side; the variance in them.

    A cell of mass zero takes what it meets.
    """
    met = pick(y, levels.columns)
    mass, cell = (jnp.broadcast_to(a, met.shape) for a in (levels.mass, levels.rows))

    @jax.vmap
    def sums(values: Array, cell: Array) -> Array:
        return jax.ops.segment_sum(values, cell, num, indices_are_sorted=True)

    share = jnp.where(take(sums(mass, cell), cell) > 0, mass, 1)
    means = sums(share * met, cell) / sums(share, cell)
    gap = met - take(means, cell)
    return means, jnp.sum(mass * gap**2, axis=1)


def moments(x: Array, masses: Array | None) -> tuple[Array, Array]:
    """The mean, and deviations from it that are scaled to sum up to the covariance."""
    if masses is None:
        masses = jnp.ones_like(x[:, 0])
    share = masses / jnp.max(masses)
    share = share / jnp.sum(share)
    mean = share @ x
    return mean, jnp.sqrt(share)[:, None] * (x - mean[None, :])


@jax.jit
def _matched(noise: Array, clouds: Clouds) -> Array:
    """Standard normal `noise`, given the averaged mean and root of the covariance."""
    mean = jnp.zeros_like(noise[0])
    root = jnp.zeros_like(noise, shape=(len(mean), len(mean)))
    for x, masses, share in zip(*clouds, strict=True):
        centre, deviations = moments(x, masses)
        values, vectors = jnp.linalg.eigh(deviations.T @ deviations)
        scaled = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
        mean, root = mean + share * centre, root + share * (scaled @ vectors.T)
    return mean[None, :] + jnp.matmul(noise, root, precision="highest")
