"""Which noise goes with which data point: couplings of two batches, inside jit.

Each returns, for the rows of x, the numbers of their partners in y. The nearer a
coupling is to the optimal one, the straighter are the paths that flow matching learns
from, and the fewer steps the field takes to follow.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim import argsort

from .distances import squared_distances

_FEW = 8  # coordinates, up to which all rows exchange partners with all
_BLOCK = 64  # rows that do so in more dimensions
_REACH = 0.5  # between the places of rows that meet, in roots of their number


@explicit_mesh_guard
def sliced_coupling(
    key: PRNGKeyArray,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_steps: int = 32,
    labels: ArrayLike | None = None,
) -> Int[Array, " n"]:
    """Partners of the rows of x in y, one to one: by one sort, and by exchanges.

    The order of both clouds along a random line pairs them first. In each step the rows
    of x then meet two by two, those from even places of that order those from odd ones
    near by, and exchange partners where that lowers |x_i - y_j|^2 + |x_k - y_l|^2. The
    cost never rises, and a step takes O(n d), all rows at once, without a matrix of all
    costs.

    In more than eight dimensions lines tell nothing. There the rows meet in blocks of
    64, as they come, whose inner products are computed once, in O(64 n d); a step takes
    O(n) then. Shuffle data that come in an order.

    In one dimension the first pairing is optimal.

    The partners are whole numbers: nothing here is differentiable.

    Args:
        key: a random key, for the line, or in blocks for who meets whom.
        x: noise, (n, d).
        y: data, (n, d).
        num_steps: rounds of exchanges, >= 0. The default has most of the effect on the
            paths, for little time; more of them gain less and less.
        labels: whole numbers, (n,), one a row of y. The same row of x then stands for
            that label, and gets a partner of the same label; so x stays independent of
            the labels, as it must for a conditional flow: its noise at generation is.

    Returns:
        A permutation: x[i] goes with y[partners[i]].

    Raises:
        ValueError: clouds of different shapes, empty, NaN or infinite; labels of
            another length or that are not whole numbers.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import sliced_coupling
        >>> x, y = jnp.array([[0.0], [2.0], [1.0]]), jnp.array([[9.0], [7.0], [8.0]])
        >>> print(sliced_coupling(jr.key(0), x, y))
        [1 0 2]

    References:
        Croes (1958), A method for solving traveling-salesman problems: exchanges of
        two pairs.
        Tong et al. (2024), Improving and generalizing flow-based generative models with
        minibatch optimal transport, section 3.2: what a coupling is for.
    """
    x, y = _checks.common_float(("x", x), ("y", y))
    _checks.check_points("x", x)
    _checks.check_points("y", y)
    _checks.check_same_length("x", x, "y", y)
    _checks.check_count("num_steps", num_steps, 0)
    if labels is not None:
        labels = _checks.as_labels("labels", labels, x.shape[0])
    work = _checks.working_dtype(x.dtype)
    return _sliced(key, x.astype(work), y.astype(work), labels, num_steps)


@functools.partial(jax.jit, static_argnums=4)
def _sliced(
    key: PRNGKeyArray, x: Array, y: Array, labels: Array | None, num_steps: int
) -> Int[Array, " n"]:
    if x.shape[1] > _FEW:
        totals = jr.randint(key, (num_steps,), 0, x.shape[0], jnp.int32)
        x_order, partners = _within_blocks(x, y, labels, totals)
    else:
        x_order, partners = _among_all(key, x, y, labels, num_steps)
    return jnp.zeros_like(partners).at[x_order].set(partners, unique_indices=True)


def _among_all(
    key: PRNGKeyArray, x: Array, y: Array, labels: Array | None, num_steps: int
) -> tuple[Array, Array]:
    """An order of the rows of x, and their partners.

    Rows from even places are the first half of the columns of `pairs`, those from odd
    ones the second half, which is shifted after each round. Without labels the shifts
    are known when it is compiled: whole slices are copied, and no index is computed.
    """
    num, dim = x.shape
    line = jr.normal(key, (dim,), x.dtype)
    values = jnp.stack([jnp.matmul(v, line, precision="highest") for v in (x, y)])
    x_order, y_order = _order(values, labels)
    # The bits of the numbers, not their values, are in the last row.
    bits = lax.bitcast_convert_type(y_order.astype(f"i{x.dtype.itemsize}"), x.dtype)
    pairs = jnp.concatenate([x.T[:, x_order], y.T[:, y_order], bits[None, :]])
    pairs = _halves(pairs, jnp.nan)  # nothing is gained with a column of NaN
    far: Any = max(1, round(_REACH * num**0.5))
    if labels is not None:
        labels = labels[x_order]
        far = _reach_in_groups(labels, x.dtype)
        labels = _halves(labels, 0)
    moves = (np.arange(2 * dim + 1) >= dim)[:, None]  # all but the rows of x

    def exchange(state: tuple[Array, Any], shift: Any) -> tuple[Array, Any]:
        pairs, labels = state
        first, second = jnp.split(pairs, 2, axis=1)
        xs, ys = first[:dim] - second[:dim], first[dim:-1] - second[dim:-1]
        # Rounded once, for both of a pair: two kernels might decide differently.
        gain = lax.optimization_barrier(-jnp.sum(xs * ys, axis=0))
        swap = (gain > 0)[None, :] & moves
        if labels is not None:
            even, odd = jnp.split(labels, 2)
            swap &= (even == odd)[None, :]
            labels = _shifted(even, odd, shift)
        first, second = jnp.where(swap, second, first), jnp.where(swap, first, second)
        # Without this barrier a round would be computed again within the next one.
        return lax.optimization_barrier((_shifted(first, second, shift), labels))

    # Rows meet 0, -2, 1 and -1 times `far` apart, then `drift` more than that.
    cycles, rest = divmod(num_steps, 4)
    drift = far // 8 | 1
    shifts = (-2 * far, 3 * far, -2 * far, far + drift)

    def cycle(state: tuple[Array, Any], _: None) -> tuple:
        for shift in shifts:
            state = exchange(state, shift)
        return state, None

    state = lax.scan(cycle, (pairs, labels), None, length=cycles)[0]
    for shift in shifts[:rest]:
        state = exchange(state, shift)
    first, second = jnp.split(state[0][-1], 2)
    second = jnp.roll(second, cycles * drift + sum(shifts[:rest]))
    partners = jnp.stack([first, second], axis=1).reshape(-1)[:num]
    bits = lax.bitcast_convert_type(partners, f"i{x.dtype.itemsize}")
    return x_order, bits.astype(y_order.dtype)


def _halves(rows: Array, fill: float | int) -> Array:
    """Even entries of the last axis, then odd ones; as many, by a `fill` at the end."""
    pad = [(0, 0)] * (rows.ndim - 1) + [(0, rows.shape[-1] % 2)]
    rows = jnp.pad(rows, pad, constant_values=fill)
    return jnp.concatenate([rows[..., 0::2], rows[..., 1::2]], axis=-1)


def _shifted(first: Array, second: Array, shift: int | Array) -> Array:
    """Both in one row, with the entries of the second `shift` places to the left."""
    return jnp.concatenate([first, jnp.roll(second, -shift, axis=-1)], axis=-1)


def _reach_in_groups(labels: Int[Array, " n"], dtype: Any) -> Int[Array, ""]:
    """How far apart rows meet, from the mean size of groups of the same label."""
    num_groups = 1 + jnp.sum((labels[1:] != labels[:-1]).astype(dtype))
    far = jnp.round(_REACH * jnp.sqrt(labels.shape[0] / num_groups))
    return jnp.maximum(far, 1).astype("int32")


def _order(values: Array, labels: Array | None) -> Int[Array, "2 n"]:
    """By value; by label first, if there are labels."""
    order = argsort(values)
    if labels is None:
        return order
    return jnp.take_along_axis(order, argsort(labels[order]), axis=1)


def _within_blocks(
    x: Array, y: Array, labels: Array | None, totals: Array
) -> tuple[Array, Array]:
    """An order of the rows of x, and their partners, from the same block of rows.

    All inner products of a block are at hand: a round takes the same time for any d.
    """
    num = x.shape[0]
    order = jnp.zeros_like(x[:, 0], jnp.int32) + jnp.arange(num, dtype="int32")
    if labels is not None:
        order = argsort(labels)
        x, y, labels = x[order], y[order], labels[order]
    block = min(num, _BLOCK)

    def blocks(rows: Array, fill: float | int) -> Array:
        pad = [(0, -num % block)] + [(0, 0)] * (rows.ndim - 1)
        rows = jnp.pad(rows, pad, constant_values=fill)
        return rows.reshape(-1, block, *rows.shape[1:])

    # Nothing is gained by an exchange with a row that is not there.
    x, y = blocks(x, jnp.nan), blocks(y, jnp.nan)
    products = jnp.matmul(x, y.mT, precision="highest")
    if labels is not None:
        labels = blocks(labels, 0)
        same = labels[:, :, None] == labels[:, None, :]
        products = jnp.where(same, products, -jnp.inf)

    place = jnp.arange(block, dtype="int32")

    def exchange(carry: tuple[Array, Array], total: Array) -> tuple:
        partners, mine = carry
        # Rows whose places in their block sum to `total`, modulo its size, meet.
        other = (total - place) % block
        others = partners[:, other]
        theirs = jnp.take_along_axis(
            products, others[..., None], axis=2, mode="promise_in_bounds"
        )[..., 0]
        gain = theirs - mine
        swap = gain + gain[:, other] > 0  # the same sum for both of a pair: they agree
        partners = jnp.where(swap, others, partners)
        return (partners, jnp.where(swap, theirs, mine)), None

    start = jnp.zeros_like(x[..., 0], jnp.int32)
    start = start + place[None, :]
    own = jnp.einsum("...ii->...i", products)
    partners = lax.scan(exchange, (start, own), totals)[0][0]
    begin = jnp.arange(len(start), dtype="int32")[:, None] * block
    return order, order[(partners + begin).reshape(-1)[:num]]


@explicit_mesh_guard
def sinkhorn_coupling(
    key: PRNGKeyArray,
    x: ArrayLike,
    y: ArrayLike,
    *,
    epsilon: int | float | ArrayLike = 0.05,
    num_steps: int = 100,
    labels: ArrayLike | None = None,
) -> Int[Array, " n"]:
    """Partners of the rows of x in y, drawn at random from the entropic optimal plan.

    A row of the plan, normalised, is the law of the partner of a row of x; points of y
    can be taken several times, or not at all. With an `epsilon` of 2 s^2 over the mean
    squared distance and `bridge_path` of sigma s, flow matching learns a Schroedinger
    bridge. `sliced_coupling` uses each point of y once, and takes less time and memory.

    Takes O(n m) memory and O(n m) for each step.

    Args:
        key: a random key, for the draws.
        x: noise, (n, d).
        y: data, (m, d).
        epsilon: strength of the entropy, > 0, in units of the mean of |x_i - y_j|^2:
            the smaller, the nearer to the optimal plan and the more steps it takes.
        num_steps: steps of Sinkhorn's algorithm, in the log domain.
        labels: as for `sliced_coupling`; needs n = m.

    Returns:
        Numbers of rows of y, (n,).

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite; `epsilon`
            that is not positive; labels of another length.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.flows import sinkhorn_coupling
        >>> x, y = jnp.array([[0.0], [2.0], [1.0]]), jnp.array([[9.0], [7.0], [8.0]])
        >>> print(sinkhorn_coupling(jr.key(0), x, y, epsilon=1e-3, num_steps=500))
        [1 0 2]

    References:
        Cuturi (2013), Sinkhorn distances: lightspeed computation of optimal transport.
        Tong et al. (2024), Improving and generalizing flow-based generative models with
        minibatch optimal transport, section 3.2.
    """
    x, y = _checks.common_float(("x", x), ("y", y))
    _checks.check_points("x", x)
    _checks.check_points("y", y, x.shape[1])
    _checks.check_number("epsilon", epsilon, 0, open_low=True)
    _checks.check_count("num_steps", num_steps)
    if labels is not None:
        _checks.check_same_length("x", x, "y", y)
        labels = _checks.as_labels("labels", labels, x.shape[0])
    work = _checks.working_dtype(x.dtype)
    epsilon = jnp.asarray(epsilon).astype(work)
    return _sinkhorn(key, x.astype(work), y.astype(work), epsilon, labels, num_steps)


@functools.partial(jax.jit, static_argnums=5)
def _sinkhorn(
    key: PRNGKeyArray,
    x: Array,
    y: Array,
    epsilon: Array,
    labels: Array | None,
    num_steps: int,
) -> Int[Array, " n"]:
    cost = squared_distances(x, y)
    mean = jnp.mean(cost)
    logits = -cost / (epsilon * jnp.where(mean > 0, mean, 1))
    if labels is not None:
        same = labels[:, None] == labels[None, :]
        logits = jnp.where(same, logits, -jnp.inf)

    def step(g: Array, _: None) -> tuple[Array, None]:
        f = -jax.nn.logsumexp(logits + g[None, :], axis=1)
        return -jax.nn.logsumexp(logits + f[:, None], axis=0), None

    start = jnp.sum(jnp.zeros_like(logits), axis=0)
    g = lax.scan(step, start, None, length=num_steps)[0]
    return jr.categorical(key, logits + g[None, :], axis=1).astype("int32")
