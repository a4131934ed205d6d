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
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim import argsort

from .distances import squared_distances

_FEW = 8  # coordinates, up to which all rows exchange partners with all
_BLOCK = 64  # rows that do so in more dimensions


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

    The order of both clouds along a random line pairs them first, and in strips across
    it their order along a second one. In each step the rows of x then meet two by two,
    as in the rounds of a tournament, and exchange partners where that lowers
    |x_i - y_j|^2 + |x_k - y_l|^2. The cost never rises, and a step takes O(n d), all
    rows at once, without a matrix of all costs.

    In more than eight dimensions lines tell nothing. There the rows meet in blocks of
    64, as they come, whose inner products are computed once, in O(64 n d); a step takes
    O(n) then. Shuffle data that come in an order.

    In one dimension the first pairing is optimal.

    The partners are whole numbers: nothing here is differentiable.

    Args:
        key: a random key, for the line and for who meets whom.
        x: noise, (n, d).
        y: data, (n, d).
        num_steps: rounds of exchanges, >= 0. The default has most of the effect on the
            paths, for little time. After some n of them hardly a pair is left that
            would gain by an exchange.
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
    line_key, round_key = jr.split(key)
    totals = jr.randint(round_key, (num_steps,), 0, x.shape[0], jnp.int32)
    if x.shape[1] > _FEW:
        x_order, partners = _within_blocks(x, y, labels, totals)
    else:
        x_order, partners = _among_all(line_key, x, y, labels, totals)
    return jnp.zeros_like(partners).at[x_order].set(partners, unique_indices=True)


def _among_all(
    key: PRNGKeyArray, x: Array, y: Array, labels: Array | None, totals: Array
) -> tuple[Array, Array]:
    """An order of the rows of x, and their partners.

    Coordinates lead: the rows that are met are then a slice of all rows backwards.
    """
    axes = _axes(key, x.shape[1], x.dtype)
    values = jnp.stack([axes @ x.T, axes @ y.T])
    x_order, y_order = jax.vmap(lambda v: _order(v, labels))(values)
    place = jnp.zeros_like(x_order) + jnp.arange(x.shape[0], dtype=x_order.dtype)
    first, size = 0, x.shape[0]
    if labels is not None:
        first, size = _groups(x_order, labels)
    x, y = x.T[:, x_order], y.T[:, y_order]

    def exchange(carry: tuple[Array, Array], total: Array) -> tuple:
        points, partners = carry
        # Rows whose places in their group sum to `total`, modulo its size, meet.
        other = first + (total - (place - first)) % size

        def meet(rows: Array) -> Array:
            return _backwards(rows, total) if labels is None else rows[..., other]

        others = meet(points)
        gain = jnp.sum((x - meet(x)) * (others - points), axis=0)
        # Both of a pair must agree: the decision of the first of them is taken.
        swap = jnp.where(place < other, gain, meet(gain)) > 0
        partners = jnp.where(swap, meet(partners), partners)
        return (jnp.where(swap, others, points), partners), None

    return x_order, lax.scan(exchange, (y, y_order), totals)[0][1]


def _backwards(rows: Array, total: Array) -> Array:
    """For each place i along the last axis of length n, what is at (total - i) % n."""
    num = rows.shape[-1]
    twice = jnp.concatenate([rows[..., ::-1]] * 2, axis=-1)
    return lax.dynamic_slice_in_dim(twice, num - 1 - total, num, axis=-1)


def _axes(key: PRNGKeyArray, dim: int, dtype: Any) -> Float[Array, "p d"]:
    """Two random orthonormal directions; one in one dimension."""
    first, *more = jr.normal(key, (min(dim, 2), dim), dtype)
    rows = [first] + [row - (row @ first) / (first @ first) * first for row in more]
    return jnp.stack([row / jnp.linalg.norm(row) for row in rows])


def _order(values: Array, labels: Array | None) -> Int[Array, " n"]:
    """By label, in strips by the first row of values, and in a strip by the second.

    A group of s has strips of about sqrt(s), or of one if there is one row.
    """
    order = argsort(values[0])
    if labels is not None:
        order = order[argsort(labels[order])]
    if len(values) == 1:
        return order
    second = values[1, order]
    if labels is None:
        num = order.shape[0]
        width = round(num**0.5)
        padded = jnp.pad(second, (0, -num % width), constant_values=jnp.inf)
        inner = argsort(padded.reshape(-1, width))
        begin = jnp.arange(len(inner), dtype=inner.dtype)[:, None] * width
        return order[(begin + inner).reshape(-1)[:num]]
    first, size = _groups(order, labels)
    width = jnp.round(jnp.sqrt(size.astype(values.dtype))).astype(order.dtype)
    place = jnp.arange(order.shape[0], dtype=order.dtype)
    strip = first + (place - first) // width
    inner = argsort(second)
    return order[inner[argsort(strip[inner])]]


def _groups(order: Array, labels: Array) -> tuple[Array, Array]:
    """Where the group of rows of one label begins, and its size, for each place."""
    labels = labels[order]
    first = jnp.searchsorted(labels, labels).astype(order.dtype)
    end = jnp.searchsorted(labels, labels, side="right").astype(order.dtype)
    return first, end - first


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

    def exchange(carry: tuple[Array, Array], total: Array) -> tuple:
        partners, mine = carry
        total = total % block
        others = _backwards(partners, total)
        theirs = jnp.take_along_axis(products, others[..., None], axis=2)[..., 0]
        # The sums are the same for both of a pair: they agree.
        after, before = (v + _backwards(v, total) for v in (theirs, mine))
        swap = after > before
        partners = jnp.where(swap, others, partners)
        return (partners, jnp.where(swap, theirs, mine)), None

    start = jnp.zeros_like(x[..., 0], jnp.int32)
    start = start + jnp.arange(block, dtype="int32")[None, :]
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
