"""Errors on mixtures, their pair sums, and registration."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .clouds import check_points
from .slices import check_on_sphere
from .values import (
    check_count,
    check_finite,
    check_same_length,
    is_concrete,
    is_on_host,
    reads_values,
)


def check_mixture(means: Array, covariances: Array, weights: Array) -> None:
    """Raises unless the leaves of a Gaussian mixture fit together."""
    check_points("means", means)
    k, d = means.shape
    shapes = [(n, *rest) for rest in ((), (d,), (d, d)) for n in (k, 1)]
    if covariances.shape not in shapes:
        raise ValueError(
            f"`covariances` must have shape ({k},) for variances, ({k}, {d}) for "
            f"diagonals or ({k}, {d}, {d}) for matrices, or a leading axis of 1 if all "
            f"components share one; got {covariances.shape}."
        )
    check_covariances("covariances", covariances)
    check_signed_weights("weights", weights, k)


def check_start(
    name: str, means: Array, weights: Array, shape: tuple[int, int]
) -> None:
    """Raises unless a mixture to start from has means of this shape, weights >= 0."""
    if means.shape != shape:
        raise ValueError(
            f"`{name}` must have means of shape {shape}; got {means.shape}."
        )
    check_signed_weights(f"{name}.weights", weights, shape[0], positive=True)


def check_mixture_map(
    log_weights: Array, means: Array, shears: Array, log_scales: Array
) -> None:
    """Raises unless the leaves of the map of a mixture fit together."""
    check_points("means", means)
    k, d = means.shape
    for name, leaf, shape in (
        ("log_weights", log_weights, (k,)),
        ("shears", shears, (k, d, d)),
        ("log_scales", log_scales, (k, d)),
    ):
        if leaf.shape != shape:
            raise ValueError(
                f"`{name}` must have shape {shape}, to go with `means` of shape "
                f"{means.shape}; got {leaf.shape}."
            )


@reads_values
def check_covariances(name: str, covariances: Array) -> None:
    """Raises unless concrete variances, diagonals or matrices are positive definite."""
    check_finite(name, covariances)
    if not is_concrete(covariances):
        return
    if covariances.ndim < 3:
        on_host = is_on_host(covariances)
        least = float((np.asarray(covariances) if on_host else covariances).min())
        if least <= 0:
            raise ValueError(
                f"`{name}` must be positive; got a variance of {least:g}. They are "
                "variances, in units of the points squared."
            )
        return
    values = np.asarray(covariances, dtype=np.float64)
    diagonals = np.abs(np.diagonal(values, axis1=1, axis2=2))
    size = np.sqrt(diagonals[:, :, None] * diagonals[:, None, :])
    if np.any(np.abs(values - values.swapaxes(1, 2)) > 1e-3 * size):
        raise ValueError(f"`{name}` must be symmetric matrices.")
    try:
        np.linalg.cholesky((values + values.swapaxes(1, 2)) / 2)
    except np.linalg.LinAlgError:
        least = float(np.min(np.linalg.eigvalsh((values + values.swapaxes(1, 2)) / 2)))
        raise ValueError(
            f"`{name}` must be positive definite; got an eigenvalue of {least:g}. Add "
            "a small multiple of the identity."
        ) from None


@reads_values
def check_signed_weights(
    name: str, weights: Array, num: int, *, positive: bool = False
) -> None:
    """Raises unless `weights` are `num` finite numbers, not all zero (or negative)."""
    if weights.shape != (num,):
        raise ValueError(
            f"`{name}` must have shape ({num},), one weight a component; got "
            f"{weights.shape}."
        )
    if not is_concrete(weights):
        return
    check_finite(name, weights)
    values = np.asarray(weights) if is_on_host(weights) else weights
    if not bool((values != 0).any()):
        raise ValueError(f"`{name}` must not be all zero.")
    if positive and bool((values < 0).any()):
        raise ValueError(
            f"`{name}` must be >= 0 where a logarithm or samples are asked for; got a "
            f"minimum of {float(values.min()):g}."
        )


@reads_values
def check_width(name: str, value: Array) -> None:
    """Raises unless `value` is one positive, finite length."""
    if value.shape != ():
        raise ValueError(f"`{name}` must be one number; got shape {value.shape}.")
    if is_concrete(value) and not (bool(value > 0) and bool(jnp.isfinite(value))):
        raise ValueError(f"`{name}` must be positive; got {float(value):g}.")


def check_square(name: str, value: Array) -> None:
    """Raises unless the square of a length is a positive number of its dtype."""
    if is_concrete(value) and not 0 < float(value**2) < math.inf:
        raise ValueError(
            f"`{name}` must have a square that {value.dtype} can hold; got "
            f"{float(value):g}. Change the unit of the points."
        )


def check_items(name: str, shapes: list[tuple[int, ...]]) -> None:
    """Raises unless leaves of items have one length as leading axis, or 1."""
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if not lengths or 0 in lengths or len(lengths - {1}) > 1:
        raise ValueError(
            f"`{name}` must hold arrays with one leading axis of items, of the same "
            f"length, or of length 1 where they are shared; got shapes {shapes}."
        )


def check_mixtures(p: Any, q: Any) -> None:
    """Raises unless `p` and `q` are mixtures of one class."""
    for name, mixture in (("p", p), ("q", q)):
        if not (hasattr(mixture, "items") and hasattr(mixture, "weights")):
            raise ValueError(
                f"`{name}` must be a mixture, as `kernel_density(points, bandwidth)` "
                f"makes one; got an object of type {type(mixture).__name__}."
            )
    if type(p) is not type(q):
        raise ValueError(
            "`p` and `q` must be mixtures of one class; got a "
            f"{type(p).__name__} and a {type(q).__name__}."
        )


def check_mixture_pair(p_items: Any, q_items: Any, *, same_kernel: bool) -> None:
    """Raises unless the components of two mixtures have an inner product."""
    dims = [jax.tree.leaves(items)[0].shape[-1] for items in (p_items, q_items)]
    if dims[0] != dims[1]:
        raise ValueError(
            f"`p` and `q` must be of one dimension; got {dims[0]} and {dims[1]}."
        )
    if not same_kernel:
        raise ValueError("`p` and `q` must be mixtures with the same static options.")


@reads_values
def check_variances(name: str, variances: Array, dtype: Any) -> None:
    """Raises if concrete variances of `name` are too large for its dtype."""
    if not is_concrete(variances):
        return
    np_or_jnp = np if is_on_host(variances) else jnp
    most = float(np_or_jnp.max(np_or_jnp.abs(variances)))
    if float(jnp.finfo(dtype).max) < most < math.inf:
        raise ValueError(
            f"`{name}` has variances up to {most:g}, which {dtype} does not hold: give "
            "it in float32."
        )


def check_peak(is_peak: bool, is_shared: bool) -> None:
    """Raises if a peak is asked for that mixtures do not have."""
    if is_peak and not is_shared:
        raise ValueError(
            "`normalisation` must be 'density' unless each of `p` and `q` has one "
            "isotropic covariance for all components, of shape (1,); got 'peak'."
        )


def check_log_kernel(shape: tuple[int, ...]) -> None:
    """Raises unless a log-kernel has returned one number for a pair of items."""
    if shape != ():
        raise ValueError(
            "`log_kernel` must return a scalar for one item of each side; got shape "
            f"{shape}."
        )


@reads_values
def check_concentrations(name: str, concentrations: Array) -> None:
    """Raises if concrete concentrations are negative or not finite."""
    if not is_concrete(concentrations) or concentrations.size == 0:
        return
    check_finite(name, concentrations)
    least = float(jnp.min(concentrations))
    if least < 0:
        raise ValueError(
            f"`{name}` must be >= 0; got a minimum of {least:g}. Turn the direction "
            "round instead."
        )


def check_sphere_dimension(name: str, dim: Any) -> None:
    """Raises unless `dim` is the dimension of a space around a sphere."""
    check_count(name, dim, 2)


def check_directional(
    directions: Array, concentrations: Array, weights: Array | None = None
) -> None:
    """Raises unless the leaves of a von Mises-Fisher mixture fit together."""
    check_on_sphere("directions", directions)
    k = directions.shape[0]
    if concentrations.shape not in ((k,), (1,)):
        raise ValueError(
            f"`concentrations` must have shape ({k},), or (1,) if all components share "
            f"one; got {concentrations.shape}."
        )
    check_concentrations("concentrations", concentrations)
    if weights is not None:
        check_signed_weights("weights", weights, k)


def check_oriented(means: Array, covariances: Array, directions: Array) -> None:
    """Raises unless positions and directions of a mixture fit together."""
    check_same_length("means", means, "directions", directions)
    if covariances.ndim != 1:
        raise ValueError(
            "`covariances` must be isotropic, variances of shape "
            f"({means.shape[0]},) or (1,); got {covariances.shape}."
        )


def check_num_components(k: int, num: int, name: str = "k") -> None:
    """Raises if more clusters or components are asked for than there are points."""
    if k > num:
        raise ValueError(
            f"`{name}` must be at most {num}, the number of points; got {k}."
        )


def as_num_modes(name: str, value: Any, dim: int) -> tuple[int, ...]:
    """Modes of a Fourier series, one number >= 1 for each of `dim` axes, or none."""

    def is_count(num: Any) -> bool:
        return isinstance(num, int | np.integer) and not isinstance(num, bool)

    modes: Any = value
    if is_count(value):
        modes = (value,) * (dim if value else 0)
    ok = isinstance(modes, tuple | list) and len(modes) in (0, dim)
    if not ok or not all(is_count(num) and num > 0 for num in modes):
        raise ValueError(
            f"`{name}` must be an integer >= 0, or {dim} integers >= 1, one for each "
            f"axis; got {value!r}."
        )
    if modes and dim > 3:
        raise ValueError(
            f"`{name}` must be 0 or () for points of more than three dimensions, where "
            f"there is no Fourier series; got {value!r} in dimension {dim}."
        )
    return tuple(int(num) for num in modes)
