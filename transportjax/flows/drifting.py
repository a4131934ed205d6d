"""Drifting: generators that are trained along a field from their samples to the data.

At every step of its training a generator f of one step is moved towards its own
samples, displaced by a field V: the loss is |f(e) - stop_gradient(f(e) + V)|^2. All
that is needed is a field that leads from the law of the samples to that of the data,
and vanishes where the two are equal. Here are four, each at the samples themselves.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.mixtures import kernel_density, l2_divergence
from transportjax.onedim import quantile_transfer
from transportjax.sliced import haar_rotation
from transportjax.sliced.distance import root_of_cost
from transportjax.sliced.pair import checked_pair

from .distances import squared_distances

_APART = 100.0  # added to the distance of a sample to itself, in units of the mean one
_LEAST_SHARE = 1e-6  # of a product of the two softmaxes


@explicit_mesh_guard
def two_sided_drift(
    x: ArrayLike,
    y: ArrayLike,
    *,
    temperatures: Sequence[int | float] | ArrayLike = (0.02, 0.05, 0.2),
    negatives: ArrayLike | None = None,
    negative_weight: int | float | ArrayLike = 1.0,
    equalise: bool = True,
) -> Float[Array, "n d"]:
    """The field of drifting: attraction by data and repulsion by samples, in balance.

    The kernel exp(-|x - y| / (R s)), s the mean distance, is made a softmax over the
    targets (samples, negatives and data) and one over the samples; a is the geometric
    mean of the two, and

        V(x_i) = sum over j, k of a_ij a_ik (y_j - z_k),

    where y_j are the data and z_k the other samples and the negatives. It does not
    die out far from the data as `l2_drift` does, but moves hardly any mass between far
    groups. In tens of dimensions, with batches of hundreds, it gathers the samples in
    the middle of the data: add a field that keeps them apart, as
    `examples/drifting_digits.py` does. All distances to all targets are held in memory.

    Differentiable, though a `drift_loss` holds it constant.

    Args:
        x: samples of the generator, (n, d). In many dimensions features of them.
        y: data, (m, d).
        temperatures: R > 0, in units of the mean distance: small ones see details,
            large ones see far. The fields of all are added.
        negatives: further points to keep away from, (r, d). With real data of all
            classes here, and in y those of one class, the generator learns the class
            with a guidance of strength a >= 1, for a `negative_weight` of
            (a - 1) (n - 1) / r.
        negative_weight: weight of each of their shares a, next to one for a sample.
        equalise: whether the field of each temperature is divided by its root mean
            square, so that all count alike at all times. The size of the field says
            nothing about the distance then, nor does its loss.

    Returns:
        The field at the samples, (n, d), a displacement in units of the points. With
        `equalise` the part of each temperature has a root mean square, over samples and
        coordinates, of s / sqrt(d).

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite;
            `temperatures` that are none or not positive; a `negative_weight` below 0.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.flows import drift_loss, two_sided_drift
        >>> data = 5 + jr.normal(jr.key(0), (64, 2))
        >>> def loss(shift, noise):
        ...     x = noise + shift
        ...     return drift_loss(x, two_sided_drift(x, data))
        >>> bool(jax.grad(loss)(0.0, jr.normal(jr.key(1), (64, 2))) < 0)
        True

    References:
        Deng, Li, Li, Du and He (2026), Generative modeling via drifting.
    """
    x, y = _checks.common_float(("x", x), ("y", y))
    _checks.check_points("x", x)
    _checks.check_points("y", y, x.shape[1])
    scales = _checks.as_float("temperatures", temperatures)
    _checks.check_vector("temperatures", scales)
    _checks.check_positive("temperatures", scales)
    _checks.check_number("negative_weight", negative_weight, 0)
    extra = y[:0] if negatives is None else _checks.as_float("negatives", negatives)
    if negatives is not None:
        _checks.check_points("negatives", extra, x.shape[1])
    work = _checks.working_dtype(x.dtype)
    others = jnp.asarray(negative_weight).astype(work)
    clouds = [points.astype(work) for points in (x, extra, y)]
    return _two_sided(*clouds, others, scales.astype(work), equalise).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=5)
def _two_sided(
    x: Array, extra: Array, y: Array, weight: Array, scales: Array, equalise: bool
) -> Array:
    # in a unit whose square is a number of the dtype, about the middle of the data
    middle = lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    x, extra, y = (points - middle for points in (x, extra, y))
    largest = [jnp.max(jnp.abs(points), initial=0) for points in (x, extra, y)]
    length = lax.stop_gradient(jnp.max(jnp.stack(largest)))
    length = jnp.where(length > 0, length, 1)
    x, extra, y = (points / length for points in (x, extra, y))
    repelling = jnp.concatenate([x, extra])
    targets = jnp.concatenate([repelling, y])
    ones = jnp.ones_like
    weights = jnp.concatenate([ones(x), weight * ones(extra), ones(y)])[:, 0]
    distances = root_of_cost(squared_distances(x, targets), 2)
    itself = jnp.eye(*distances.shape, dtype=x.dtype)
    distances = jnp.where(itself > 0, 0, distances)  # not what a product rounds to
    # as a mean over the samples of weighted means over the targets
    mean = jnp.mean(distances @ weights) / jnp.sum(weights)
    mean = jnp.where(mean > 0, mean, 1)
    relative = distances / mean + _APART * itself
    unit = mean / x.shape[1] ** 0.5

    def add(total: Array, scale: Array) -> tuple[Array, None]:
        shares = _shares(-relative / scale) * weights[None, :]
        repel, attract = jnp.split(shares, [len(repelling)], axis=1)
        field = _exchange(attract, y, repel, repelling)
        if equalise:
            size = root_of_cost(jnp.mean((field / unit) ** 2), 2)
            field = field / jnp.where(size > 0, size, 1)
        return total + field, None

    start = jnp.zeros_like(x) + 0 * unit
    return length * lax.scan(add, start, scales)[0]


def _shares(logits: Array) -> Array:
    """The geometric mean of the softmaxes over the targets and over the samples."""
    rows, columns = jax.nn.softmax(logits, axis=1), jax.nn.softmax(logits, axis=0)
    return jnp.sqrt(jnp.maximum(rows * columns, _LEAST_SHARE))


def _exchange(attract: Array, y: Array, repel: Array, z: Array) -> Array:
    """The sum over j, k of a_ij b_ik (y_j - z_k); changes sign if y and z change."""
    middle = jnp.mean(y, axis=0, keepdims=True)  # where differences lose fewer digits
    pull = jnp.sum(repel, axis=1, keepdims=True) * (attract @ (y - middle))
    push = jnp.sum(attract, axis=1, keepdims=True) * (repel @ (z - middle))
    return pull - push


@explicit_mesh_guard
def score_drift(
    x: ArrayLike, y: ArrayLike, *, bandwidth: int | float | ArrayLike
) -> Float[Array, "n d"]:
    """h^2 (grad log p_h - grad log q_h) at the samples: scores of two smoothed laws.

    p_h and q_h are the kernel densities of the data and of the samples, with Gaussians
    of standard deviation h. The field is the difference of two mean shifts, a length;
    moving samples along it is the Wasserstein gradient flow of the Kullback-Leibler
    divergence from q_h to p_h. Exactly zero if the samples are the data.

    Differentiable in all arguments.

    Args:
        x: samples, (n, d).
        y: data, (m, d).
        bandwidth: h > 0, in units of the points. Far from the data the field points to
            the nearest of them, whatever h.

    Returns:
        The field at the samples, (n, d), in units of the points.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite; a
            `bandwidth` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.flows import score_drift
        >>> x, y = jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [5.0]])
        >>> print(score_drift(x, y, bandwidth=0.1))
        [[1.]
         [1.]]

    References:
        Cheng (1995), Mean shift, mode seeking, and clustering.
    """
    x, y, h, dtype = _prepared(x, y, bandwidth)
    # in units of h, whose square may be no number of the dtype
    middle = lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    x, y = (x - middle) / h, (y - middle) / h
    return (h * _score_field(x, x, y)).astype(dtype)


def _score_field(places: Array, x: Array, y: Array) -> Array:
    return _mean_shift(places, y) - _mean_shift(places, x)


def _mean_shift(x: Array, y: Array) -> Array:
    """The gradient at x of the logarithm of a kernel density of y, of deviation one."""
    shares = jax.nn.softmax(-squared_distances(x, y) / 2, axis=1)
    return jnp.matmul(shares, y, precision="highest") - x


@explicit_mesh_guard
def l2_drift(
    x: ArrayLike, y: ArrayLike, *, bandwidth: int | float | ArrayLike
) -> Float[Array, "n d"]:
    """-n/2 times the gradient, in the samples, of the L2 divergence to the data.

    The divergence is that of kernel densities, `variant="l2e"` of `l2_divergence`. The
    field is grad p - grad q at the samples, of the densities p of the data and q of the
    samples smoothed by Gaussians of standard deviation sqrt(2) h: the field of the
    maximum mean discrepancy with that kernel. Unlike the other fields it dies out far
    from the data. Zero if the samples are the data.

    Differentiable in all arguments, in forward mode.

    Args:
        x: samples, (n, d).
        y: data, (m, d).
        bandwidth: h > 0 of each kernel density, in units of the points.

    Returns:
        The field at the samples, (n, d), in units of 1 / length^(d + 1).

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite; a
            `bandwidth` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.flows import l2_drift
        >>> x, y = jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [5.0]])
        >>> print(l2_drift(x, y, bandwidth=1.0).round(3))
        [[0.05 ]
         [0.038]]

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models. Gretton et al. (2012), A kernel two-sample test, section 2.2.
    """
    x, y, h, dtype = _prepared(x, y, bandwidth)
    p = kernel_density(y, h)

    def divergence(x: Array) -> Array:
        return l2_divergence(kernel_density(x, h), p, variant="l2e")

    return (-len(x) / 2 * jax.grad(divergence)(x)).astype(dtype)


@explicit_mesh_guard
def sliced_drift(
    x: ArrayLike, y: ArrayLike, *, key: PRNGKeyArray, num_rotations: int = 8
) -> Float[Array, "n d"]:
    """The mean displacement of the samples by the optimal transfers along random axes.

    The mean over rotations of sum_k (T_k(r_k . x) - r_k . x) r_k, where T_k is the
    increasing map from the samples to the data along the axis r_k. It is minus the
    gradient of SW_2^2 times n d / 2, and a move by the whole of it for one rotation is
    a step of iterative distribution transfer. Zero if the samples are the data.

    The derivative in x is that of -x, almost everywhere; differentiable in y.

    Args:
        x: samples, (n, d).
        y: data, (m, d).
        key: a random key, for the rotations.
        num_rotations: how many random sets of d orthonormal axes are taken.

    Returns:
        The field at the samples, (n, d), in units of the points.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import sliced_drift
        >>> x = jr.normal(jr.key(0), (50, 2))
        >>> field = sliced_drift(x, x + 3, key=jr.key(1))  # a translation: exact
        >>> bool(jnp.allclose(field, 3, atol=1e-4))
        True

    References:
        Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures. Pitie, Kokaram and Dahyot (2007), Automated colour grading using
        colour distribution transfer.
    """
    _checks.check_key("key", key)
    pair, dtype = checked_pair(x, y)
    _checks.check_count("num_rotations", num_rotations)
    return _sliced(jr.split(key, num_rotations), pair.x, pair.y).astype(dtype)


@jax.jit
def _sliced(keys: Array, x: Array, y: Array) -> Array:
    def add(total: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        axes = haar_rotation(key, x.shape[1], x.dtype)
        project = functools.partial(jnp.matmul, precision="highest")
        here, there = project(axes, x.T), project(axes, y.T)
        return total + project((quantile_transfer(here, there) - here).T, axes), None

    start = jnp.zeros_like(x) + 0 * jnp.sum(y)
    return lax.scan(add, start, keys)[0] / keys.shape[0]


def _prepared(x: Any, y: Any, bandwidth: Any) -> tuple[Array, Array, Array, Any]:
    """The arguments, checked, in the precision to compute with; the dtype of both."""
    pair, dtype = checked_pair(x, y)
    _checks.check_number("bandwidth", bandwidth, 0, open_low=True)
    return pair.x, pair.y, jnp.asarray(bandwidth).astype(pair.x.dtype), dtype


def drift_loss(x: ArrayLike, field: ArrayLike) -> Float[Array, ""]:
    """The mean squared error of samples to their displaced selves, held constant.

    The value is mean |V|^2 / d, in units of the field squared; its descent moves the
    samples along the field. With the samples of a generator:

        loss = drift_loss(x, two_sided_drift(x, y))

    Args:
        x: samples, (n, d); differentiable.
        field: a field at them, (n, d), in their units; held constant.

    Returns:
        The loss.

    Raises:
        ValueError: arrays of unequal shapes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.flows import drift_loss
        >>> x, field = jnp.zeros((1, 2)), jnp.array([[3.0, 0.0]])
        >>> print(drift_loss(x, field), jax.grad(drift_loss)(x, field))
        4.5 [[-3. 0.]]
    """
    x, field = _checks.common_float(("x", x), ("field", field))
    _checks.check_same_length("x", x, "field", field)
    return jnp.mean((x - lax.stop_gradient(x + field)) ** 2)
