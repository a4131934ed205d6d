"""New flows: whitening, then a stack of equal layers that start as the identity."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import everywhere, explicit_mesh_guard
from transportjax.maps import (
    AbstractBijection,
    Affine,
    AffineCoupling,
    Cayley,
    Chain,
    Permutation,
    RationalQuadraticSpline,
    Scan,
    SlicedMap,
    SplineCoupling,
)
from transportjax.solvers.gaussian_steps import log_tails
from transportjax.solvers.gaussianise import whitening

from .flow import Flow

_MOST_JUDGED = 5000  # samples by which the axes of the first layer are chosen


def coupling_flow(
    key: PRNGKeyArray,
    dim: int,
    *,
    data: ArrayLike | None = None,
    num_layers: int = 8,
    num_conditions: int = 0,
    rotate: bool = False,
    width: int = 64,
    depth: int = 2,
    bound: int | float = 2.0,
) -> Flow:
    """A flow of affine coupling layers: whitening, then layers that are the identity.

    The compile time does not depend on `num_layers`. Affine layers are quick, and fit
    smooth laws; `spline_flow` fits sharp and separate modes better.

    Args:
        key: a random key.
        dim: length d of an event.
        data: samples (n, d), n > d, that the first layer whitens, or whose columns it
            standardises, if it is these rather than mixtures of them that have a shape
            of their own; None: it starts as the identity, and the samples should be
            standardised.
        num_layers: number of coupling layers.
        num_conditions: length c of the condition, for p(x | c); 0 for none.
        rotate: whether trained rotations stand between the layers, in place of random
            permutations, by which the coordinates that stayed are moved next. The
            first two layers start in the axes of the first layer, each further pair
            in random ones.
        width: of the hidden layers of the networks.
        depth: number of their hidden layers.
        bound: largest logarithm of the scale of a layer.

    Returns:
        The flow; with `data` the Gaussian law with their mean and covariance, or their
        variances alone, up to four deviations, and with heavier tails beyond
        (`LogTails`); otherwise N(0, I), under every condition.

    Raises:
        ValueError: sizes out of range; data that cannot be whitened.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import coupling_flow
        >>> flow = coupling_flow(jr.key(0), 2, num_conditions=1)
        >>> print(f"{flow.log_prob(jnp.zeros(2), jnp.ones(1)):.2f}")
        -1.84

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), "Density estimation using Real NVP".
    """
    _checks.check_key("key", key)
    return _stack(
        key,
        dim,
        data,
        num_layers,
        _affine,
        rotate=rotate,
        num_conditions=num_conditions,
        width=width,
        depth=depth,
        bound=bound,
    )


def spline_flow(
    key: PRNGKeyArray,
    dim: int,
    *,
    data: ArrayLike | None = None,
    num_layers: int = 4,
    num_conditions: int = 0,
    rotate: bool = True,
    num_bins: int = 8,
    interval: int | float = 4.0,
    width: int = 64,
    depth: int = 2,
    sharpness: int | float = 0.5,
) -> Flow:
    """A flow of rational-quadratic spline couplings: a neural spline flow.

    Whitening, then layers that start as the identity. The compile time does not depend
    on `num_layers`.

    Args:
        key: a random key.
        dim: length d of an event.
        data: samples (n, d), n > d, that the first layer whitens, or whose columns it
            standardises, if it is these rather than mixtures of them that have a shape
            of their own; None: it starts as the identity, and the samples should be
            standardised.
        num_layers: number of coupling layers.
        num_conditions: length c of the condition, for p(x | c); 0 for none.
        rotate: whether trained rotations stand between the layers, in place of random
            permutations, by which the coordinates that stayed are moved next. The
            first two layers start in the axes of the first layer, each further pair
            in random ones.
        num_bins: bins of each spline, at least 2.
        interval: the splines act in [-interval, interval] of what it gives.
        width: of the hidden layers of the networks.
        depth: number of their hidden layers.
        sharpness: of their first layers, in units of He's rule: how fine the structure
            is that they find soon. With 2 edges and gaps of densities in the plane come
            sooner; from tables it generalises worse.

    Returns:
        The flow; with `data` the Gaussian law with their mean and covariance, or their
        variances alone, up to four deviations, and with heavier tails beyond
        (`LogTails`); otherwise N(0, I), under every condition.

    Raises:
        ValueError: sizes out of range; data that cannot be whitened.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import spline_flow
        >>> x = jr.normal(jr.key(0), (100, 2)) * jnp.array([[1.0, 9.0]])
        >>> flow = spline_flow(jr.key(1), 2, data=x)
        >>> flow.sample(jr.key(2), 3).shape
        (3, 2)

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), "Neural spline flows".
    """
    _checks.check_key("key", key)
    _checks.check_number("sharpness", sharpness, 0, open_low=True)
    return _stack(
        key,
        dim,
        data,
        num_layers,
        _spline,
        sharpness=float(sharpness),
        rotate=rotate,
        num_conditions=num_conditions,
        num_bins=num_bins,
        interval=interval,
        width=width,
        depth=depth,
    )


def gaussianisation_flow(
    key: PRNGKeyArray,
    dim: int,
    *,
    data: ArrayLike | None = None,
    num_layers: int = 16,
    num_knots: int = 12,
    interval: int | float = 4.0,
) -> Flow:
    """A flow of rotations and of one spline for each coordinate, all trained.

    The layers of `gaussianise` without networks: it has few leaves, and suits few
    samples. Unlike a map that `gaussianise` has fitted, it trains its rotations too.

    Args:
        key: a random key, for the rotations to start from.
        dim: length d of an event.
        data: samples (n, d), n > d, that the first layer whitens, or whose columns it
            standardises, if it is these rather than mixtures of them that have a shape
            of their own; None: it starts as the identity, and the samples should be
            standardised.
        num_layers: number of rotations.
        num_knots: knots of each spline, at least 2.
        interval: the knots start in [-interval, interval], equally spaced.

    Returns:
        The flow; with `data` the Gaussian law with their mean and covariance, or their
        variances alone, up to four deviations, and with heavier tails beyond
        (`LogTails`); otherwise N(0, I).

    Raises:
        ValueError: sizes out of range; data that cannot be whitened.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import gaussianisation_flow
        >>> flow = gaussianisation_flow(jr.key(0), 2)
        >>> print(f"{flow.log_prob(jnp.zeros(2)):.2f}")
        -1.84

    References:
        Meng, Song, Song and Ermon (2020), "Gaussianization flows".
    """
    _checks.check_key("key", key)
    _checks.check_number("interval", interval, 0, open_low=True)
    return _stack(
        key, dim, data, num_layers, _marginal, num_knots=num_knots, interval=interval
    )


# --- one layer, of a key and its number ----------------------------------------------


def _affine(
    key: PRNGKeyArray, number: Int[Array, ""], dim: int, rotate: bool, **options: Any
) -> Chain:
    mix, layer_key = _mix(key, number, dim, rotate)
    return Chain((mix, AffineCoupling.create(layer_key, dim, **options)))


def _spline(
    key: PRNGKeyArray,
    number: Int[Array, ""],
    dim: int,
    rotate: bool,
    sharpness: float,
    **options: Any,
) -> Chain:
    """A spline coupling whose network bends all over its inputs.

    With biases of zero all hidden units of a network of one input bend at zero.
    """
    mix, layer_key = _mix(key, number, dim, rotate)
    layer_key, spread_key = jr.split(layer_key)
    layer = SplineCoupling.create(layer_key, dim, **options)

    def leaves(layer: Any) -> tuple:
        return layer.conditioner.first, layer.conditioner.first_bias

    weights, bias = leaves(layer)
    noise = jr.normal(spread_key, bias.shape, bias.dtype)
    leaves_now = (sharpness * weights, sharpness * noise)
    return Chain((mix, eqx.tree_at(leaves, layer, leaves_now)))


def _marginal(
    key: PRNGKeyArray,
    number: Int[Array, ""],
    dim: int,
    num_knots: int,
    interval: int | float,
) -> Chain:
    del number
    spline = RationalQuadraticSpline.identity(num_knots, low=-interval, high=interval)
    marginals = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (dim, *leaf.shape)), spline
    )
    return Chain((Cayley.create(key, dim), SlicedMap(jnp.eye(dim), marginals)))


def _mix(
    key: PRNGKeyArray, number: Int[Array, ""], dim: int, rotate: bool
) -> tuple[AbstractBijection, PRNGKeyArray]:
    """The permutation, or rotation, before a coupling; and the key of that."""
    mix_key, layer_key = jr.split(key)
    order = _shuffle(mix_key, dim)
    if not rotate:
        return Permutation(order), layer_key
    # a pair of layers moves all coordinates: after it, other axes
    is_new = (number > 0) & (number % 2 == 0)
    turn = jnp.where(is_new, jr.orthogonal(mix_key, dim), jnp.eye(dim)[order])
    return Cayley.around(turn), layer_key


def _shuffle(key: PRNGKeyArray, dim: int) -> Int[Array, " d"]:
    """An order in which the coordinates that were moved come first, both shuffled."""
    first_key, last_key = jr.split(key)
    kept, moved = jnp.arange(dim // 2), jnp.arange(dim // 2, dim)
    parts = ((first_key, moved), (last_key, kept))
    # nothing to compile for one coordinate
    return jnp.concatenate(
        [part if len(part) < 2 else jr.permutation(key, part) for key, part in parts]
    )


def _stack(
    key: PRNGKeyArray,
    dim: int,
    data: ArrayLike | None,
    num_layers: int,
    layer: Callable[..., Chain],
    **options: Any,
) -> Flow:
    """First layers by the data and a stack of layers, in the dtype of the data."""
    _checks.check_count("dim", dim)
    _checks.check_count("num_layers", num_layers)
    every = tuple({"dim": dim, **options}.items())
    # within another program there are no compiler options
    is_outermost = all(_checks.is_concrete(x) for x in (key, jnp.zeros(())))
    make = _layers_at_once if is_outermost else _layers
    layers = Scan(make(key, num_layers, layer, every))
    if data is None:
        return Flow(Chain((Affine(jnp.eye(dim), jnp.zeros(dim)), layers)), dim)
    data = _checks.as_float("data", data)
    data = data.astype(_checks.working_dtype(data.dtype))
    _checks.check_samples_of_flow("data", data, dim)
    first = _first_layer(data)
    tails = log_tails(first.offset)
    return Flow(Chain((first, tails, layers)).astype(data.dtype), dim)


@explicit_mesh_guard
def _first_layer(data: Array) -> Affine:
    """Whitening, or scaling of the columns: in whose axes the data are likelier.

    Likelier as independent values. What a column has of its own, such as edges and
    values that repeat, is lost in the axes of the whitening; correlation stays in those
    of the columns.
    """
    whiten = whitening("data", data, None)
    if not _checks.is_concrete(data) or not data.is_fully_addressable:
        return whiten
    rows = np.asarray(data[:: -(-len(data) // _MOST_JUDGED)], np.float64)
    matrix = np.asarray(whiten.matrix, np.float64)
    root = np.linalg.inv(matrix)  # of the covariance
    mean, scale = -root @ np.asarray(whiten.offset), np.linalg.norm(root, axis=1)
    mixed = _entropy((rows - mean) @ matrix.T) - np.linalg.slogdet(matrix)[1]
    apart = _entropy((rows - mean) / scale) + np.sum(np.log(scale))
    if mixed < apart:
        return whiten
    place = everywhere(whiten.matrix)
    arrays = np.diag(1 / scale), -mean / scale
    return Affine(*(jax.device_put(a.astype(data.dtype), place) for a in arrays))


def _entropy(rows: np.ndarray) -> float:
    """The sum of the entropies of the columns, in nats, by Vasicek's spacings."""
    num = len(rows)
    reach = max(1, math.isqrt(num) // 2)
    ordered = np.sort(rows, axis=0)
    spacings = ordered[2 * reach :] - ordered[: -2 * reach]
    floor = np.finfo(np.float32).eps  # columns may repeat a value
    return float(np.sum(np.mean(np.log(np.maximum(spacings, floor)), axis=0)))


def _layers(
    key: PRNGKeyArray, num: int, layer: Callable[..., Chain], options: tuple
) -> Chain:
    """`num` layers on a leading axis, by one program."""
    make = functools.partial(layer, **dict(options))
    return jax.vmap(make)(jr.split(key, num), jnp.arange(num))


# with little effort, because it runs once
_layers_at_once = jax.jit(
    _layers,
    static_argnames=("num", "layer", "options"),
    compiler_options={"xla_backend_optimization_level": 0},
)
