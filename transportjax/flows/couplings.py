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
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim import argsort
from transportjax.onedim.sorting import unpermute

from .distances import squared_distances

_FEW = 8  # coordinates, up to which all rows exchange partners with all
_BLOCK = 64  # rows that do so in more dimensions, at most
_REACH = 0.08  # how far apart rows meet, in units of n^(2/3) num_steps^(1/2)


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
    as many as there are steps, up to 64, whose inner products are computed once; a step
    takes O(n) then.

    In one dimension the first pairing is optimal.

    The partners are whole numbers: nothing here is differentiable.

    Args:
        key: a random key, for the line, or in blocks for who meets whom first.
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
    _checks.check_key("key", key)
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
    x, y = lax.stop_gradient((x, y))
    couple = _within_blocks if x.shape[1] > _FEW else _along_a_line
    return couple(key, x, y, labels, num_steps)


def _along_a_line(
    key: PRNGKeyArray, x: Array, y: Array, labels: Array | None, num_steps: int
) -> Int[Array, " n"]:
    """Partners from the order along a line, and by exchanges between rows near by.

    Rows from even places of the order meet those from odd ones, `offset` pairs further
    on. The latter have a margin on both sides, so that those at the ends meet something
    too: NaN, with which nothing is gained.
    """
    num, dim = x.shape
    line = jr.normal(key, (dim,), x.dtype)
    values = jnp.stack([jnp.matmul(v, line, precision="highest") for v in (x, y)])
    x_order, y_order = _order(values, labels)
    margin = _reach(num, num_steps)
    begins = margin + _offsets(margin, num_steps)
    if labels is not None:
        labels = labels[x_order]
        reach = _reach_in_groups(labels, num_steps, x.dtype)
        begins = margin + _offsets(reach, num_steps)

    def halves(rows: Array, fill: float | int) -> tuple[Array, Array]:
        pad = [(0, 0)] * (rows.ndim - 1) + [(margin, margin + num % 2)]
        odd = jnp.pad(rows[..., 1::2], pad, constant_values=fill)
        return rows[..., 0::2], odd

    # The bits of the numbers, not their values, are in the last row.
    bits = lax.bitcast_convert_type(y_order.astype(f"i{x.dtype.itemsize}"), x.dtype)
    state = halves(jnp.concatenate([y.T[:, y_order], bits[None, :]]), 0)
    points = halves(x.T[:, x_order], jnp.nan)
    groups = None if labels is None else halves(labels, 0)
    if dim > 1:  # on the line itself the order is optimal
        step = functools.partial(_exchange, points, groups)
        state = lax.scan(step, state, jnp.asarray(begins))[0]
    even, odd = state[0][-1], state[1][-1, margin : margin + state[0].shape[1]]
    partners = jnp.stack([even, odd], axis=1).reshape(-1)[:num]
    bits = lax.bitcast_convert_type(partners, f"i{x.dtype.itemsize}")
    return unpermute(bits.astype(y_order.dtype), x_order)


def _exchange(
    points: tuple[Array, Array],
    groups: tuple[Array, Array] | None,
    state: tuple[Array, Array],
    begin: Array,
) -> tuple[tuple[Array, Array], None]:
    """One round of exchanges, between all even rows and the odd ones from `begin` on.

    Slices of whole arrays meet: no index is computed. The rows of x stay in place.
    """
    (dim, half), (even, odd) = points[0].shape, state

    def met(rows: Array) -> Array:
        return lax.dynamic_slice_in_dim(rows, begin, half, axis=-1)

    other = met(odd)
    xs, ys = points[0] - met(points[1]), (even - other)[:dim]
    swap = -_sum_of_rows(xs * ys) > 0
    if groups is not None:
        swap &= groups[0] == met(groups[1])
    swap = swap[None, :]
    new = jnp.where(swap, even, other)
    odd = lax.dynamic_update_slice_in_dim(odd, new, begin, axis=1)
    return (jnp.where(swap, other, even), odd), None


def _sum_of_rows(rows: Array) -> Array:
    """The sum over the first axis, computed once, for both of a pair.

    It decides who exchanges, and must not be rounded anew by each kernel that asks; a
    reduction is computed once. Plain sums are handed to a library on a CPU, whose call
    takes longer than all else in a round of 4096 rows; a - (-b) is not.
    """
    zero = np.zeros((), rows.dtype)
    return lax.optimization_barrier(
        lax.reduce(rows, zero, lambda a, b: a - (-b), dimensions=(0,))
    )


def _reach(num: int, num_steps: int) -> int:
    """How far apart, in pairs along the line, rows meet at most."""
    reach = 1 + round(_REACH * num ** (2 / 3) * num_steps**0.5)
    return max(1, min(reach, num // 2))


def _reach_in_groups(
    labels: Int[Array, " n"], num_steps: int, dtype: Any
) -> Int[Array, ""]:
    """The same for groups of one label, from their mean size."""
    num_groups = 1 + jnp.sum((labels[1:] != labels[:-1]).astype(dtype))
    size = labels.shape[0] / num_groups
    reach = 1 + jnp.round(_REACH * size ** (2 / 3) * num_steps**0.5)
    return jnp.clip(reach, 1, jnp.maximum(size // 2, 1)).astype("int32")


def _offsets(reach: Any, num_steps: int) -> Any:
    """Whole numbers from -reach to reach, evenly spread, near and far in turn.

    They are the sequence of van der Corput: the bits of 0, 1, 2, ... in reverse order.
    """
    width = max(1, (num_steps - 1).bit_length())
    places = [int(f"{i:0{width}b}"[::-1], 2) for i in range(num_steps)]
    places = np.asarray(places, "int32") - 2 ** (width - 1)
    return (2 * places * reach + 2 ** (width - 1)) >> width


def _order(values: Array, labels: Array | None) -> Int[Array, "2 n"]:
    """By value; by label first, if there are labels."""
    order = argsort(values)
    if labels is None:
        return order
    return jnp.take_along_axis(order, argsort(labels[order]), axis=1)


def _within_blocks(
    key: PRNGKeyArray, x: Array, y: Array, labels: Array | None, num_steps: int
) -> Int[Array, " n"]:
    """Partners from the same block of rows, by exchanges.

    All inner products of a block are at hand: a round takes the same time for any d. A
    block is a power of two, so that the rows whose places differ by the bits of a
    number meet two by two; it has no more rows than there are numbers to go through.
    The rows of a block are as far apart as can be: it sees all of data in an order.
    """
    num, dim = x.shape
    size = 2 ** max(1, (min(num, num_steps, _BLOCK) - 1).bit_length())
    pad = -num % size
    # Nothing is gained by an exchange with a row that is not there.
    x, y = (jnp.pad(v, [(0, pad), (0, 0)], constant_values=jnp.nan) for v in (x, y))
    count = (num + pad) // size
    order = None
    if labels is not None:  # blocks of neighbours in the order of the labels
        last = jnp.iinfo(labels.dtype).max
        labels = jnp.pad(labels, (0, pad), constant_values=last)
        order = argsort(labels).reshape(count, size).T.reshape(-1)
        x, y, labels = x[order], y[order], labels[order].reshape(size, count)
    x, y = (v.reshape(size, count, dim) for v in (x, y))
    products = jnp.einsum("ibd,jbd->bij", x, y, precision="highest")
    if labels is not None:
        same = labels.T[:, :, None] == labels.T[:, None, :]
        products = jnp.where(same, products, -jnp.inf)
    start = jr.randint(key, (), 0, size - 1, jnp.int32)
    numbers = 1 + (start + jnp.arange(num_steps, dtype="int32")) % (size - 1)
    slots = _exchanged(products, numbers)
    partners = slots * count + jnp.arange(count, dtype="int32")[:, None]
    partners = partners.T.reshape(-1)
    if order is not None:
        partners = unpermute(order[partners], order)
    return partners[:num]


def _exchanged(
    products: Float[Array, "b k k"], numbers: Int[Array, " steps"]
) -> Int[Array, "b k"]:
    """The place in its block of the partner of each row, after all rounds."""
    count, size, _ = products.shape
    flat = products.reshape(-1)
    mine = jnp.einsum("bii->bi", products).reshape(-1)
    row = jnp.arange(count * size, dtype="int32")

    def at(values: Array, index: Array) -> Array:
        return values.at[index].get(mode="promise_in_bounds")

    def exchange(carry: tuple[Array, Array], number: Array) -> tuple:
        partners, mine = carry
        other = row ^ number  # within the block, whose size is a power of two
        others = at(partners, other)
        theirs = at(flat, row * size + others)
        gain = theirs - mine
        swap = gain + at(gain, other) > 0  # the same sum for both of a pair: they agree
        partners = jnp.where(swap, others, partners)
        return (partners, jnp.where(swap, theirs, mine)), None

    start = jnp.zeros_like(mine, jnp.int32) + row % size
    partners = lax.scan(exchange, (start, mine), numbers)[0][0]
    return partners.reshape(count, size)


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
    _checks.check_key("key", key)
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
