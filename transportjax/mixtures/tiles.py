"""Products with a matrix of Gaussians, one tile after the other.

    K_ij = 2^(-|x_i - y_j|^2),    out_ic = sum over j of K_ij columns_jc

The points come scaled by sqrt(log2 e) / s: then K_ij = exp(-|x_i - y_j|^2 / s^2). K is
never held as a whole: memory is that of the points, the columns, and one tile. All
derivatives are such products again, with more columns, so that any number of them can
be taken, forward and reverse. On processors a tile costs, in three dimensions and for
the four columns of a gradient, 1.1 to 1.7 times what the same arithmetic costs if it is
written by hand for their vector units (benchmarks/mixtures.py):

* coordinates are separate rows and their differences are unrolled: a sum along a last
  axis of three numbers is not vectorised;
* the exponential is a polynomial for arguments <= 0 (`_exp2_minus`);
* the products with all columns are one matrix product.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from transportjax._sharding import varying_alike

_ROWS, _COLUMNS = 1024, 512  # a tile of a processor: two megabytes in single precision
_GROWTH = 8  # of both for an accelerator, which needs more work at once
_UNROLLED = 16  # coordinates of which the differences are added up in one go
_LN2 = math.log(2)


def scaled_points(
    x: Float[Array, "n d"], y: Float[Array, "m d"], scale: Float[Array, ""]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Both clouds from their common centre on, in the unit of length of `tiles`.

    The centre keeps the numbers small, which keeps the rounding of products of them
    small; the same shift of both changes nothing else.
    """
    low = jnp.minimum(jnp.min(x, axis=0), jnp.min(y, axis=0))
    high = jnp.maximum(jnp.max(x, axis=0), jnp.max(y, axis=0))
    centre = lax.stop_gradient(low + (high - low) / 2)[None, :]
    factor = math.sqrt(math.log2(math.e)) / scale
    return (x - centre) * factor, (y - centre) * factor


def pair_total(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    x_weights: Float[Array, " n"],
    y_weights: Float[Array, " m"],
) -> Float[Array, ""]:
    """sum_ij a_i b_j K_ij, of scaled points."""
    return _pair_total(*varying_alike((x, y, x_weights, y_weights)))


def self_total(x: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, ""]:
    """sum_ij a_i a_j K_ij, of scaled points: its gradient takes one pass, not two."""
    return _self_total(*varying_alike((x, weights)))


def kernel_product(
    x: Float[Array, "n d"], y: Float[Array, "m d"], columns: Float[Array, "m c"]
) -> Float[Array, "n c"]:
    """sum_j K_ij columns_jc, of scaled points."""
    return _kernel_product(*varying_alike((x, y, columns)))


# --- sums over all pairs -----------------------------------------------------------


@jax.custom_jvp
def _pair_total(x: Array, y: Array, a: Array, b: Array) -> Array:
    return inner(a, _kernel_product(x, y, b[:, None])[:, 0])


@functools.partial(_pair_total.defjvp, symbolic_zeros=True)
def _pair_total_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The gradient times the tangents.

    It is made in the pass over all pairs that makes the value, one for each cloud that
    moves. The tangent is linear in the tangents of the inputs, with coefficients that
    are known at once, so reverse mode scales the gradient and that is all.
    """
    x, y, a, b = primals
    dx, dy, da, db = map(_or_none, tangents)
    value, tangent = None, jnp.zeros_like(a[0])
    if dx is not None or da is not None:
        value, tangent = _one_side(x, y, a, b, dx, da)
    if dy is not None or db is not None:
        value, rest = _one_side(y, x, b, a, dy, db)
        tangent = tangent + rest
    return (_pair_total(x, y, a, b) if value is None else value), tangent


@jax.custom_jvp
def _self_total(x: Array, a: Array) -> Array:
    return _pair_total(x, x, a, a)


@functools.partial(_self_total.defjvp, symbolic_zeros=True)
def _self_total_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """As above; each point occurs on both sides, which doubles the gradient."""
    (x, a), (dx, da) = primals, map(_or_none, tangents)
    value, tangent = _one_side(x, x, a, a, dx, da)
    return value, 2 * tangent


def _one_side(
    x: Array, y: Array, a: Array, b: Array, dx: Array | None, da: Array | None
) -> tuple[Array, Array]:
    """sum_ij a_i b_j K_ij, and its tangent for tangents of `x` and `a`.

    With u = K b, the derivative in a_i is u_i, and the one in x_i is
    -2 log(2) a_i sum_j K_ij b_j (x_i - y_j) = -2 log(2) a_i (x_i u_i - (K (b y))_i).
    """
    columns = b[:, None] if dx is None else _with_moments(b[:, None], y)
    out = _kernel_product(x, y, columns)
    u = out[:, 0]
    tangent = jnp.zeros_like(a[0])
    if dx is not None:
        slope = (-2 * _LN2) * a[:, None] * (x * u[:, None] - out[:, 1:])
        tangent = tangent + inner(slope.reshape(-1), dx.reshape(-1))
    if da is not None:
        tangent = tangent + inner(u, da)
    return inner(a, u), tangent


def inner(x: Array, y: Array) -> Array:
    """The sum of products, added up in blocks: as exact for a million as for few."""
    size = max(1, math.isqrt(len(x)))
    products = jnp.pad(x * y, (0, -len(x) % size)).reshape(-1, size)
    return jnp.sum(jnp.sum(products, axis=0))


# --- the product -------------------------------------------------------------------


@jax.custom_jvp
def _kernel_product(x: Array, y: Array, columns: Array) -> Array:
    num_rows, num_columns = num_tiles(len(x), len(y))
    rows = tiles(x, num_rows).swapaxes(1, 2)
    others = tiles(y, num_columns).swapaxes(1, 2)
    weights = tiles(columns, num_columns).swapaxes(1, 2)

    def row(points: Array) -> Array:
        if num_columns == 1:
            return _tile(points, others[0], weights[0])

        def add(carry: tuple, tile: tuple) -> tuple[tuple, None]:
            # after Kahan: what rounding lost so far is taken off the next term
            total, lost = carry
            term = _tile(points, *tile) - lost
            result = lax.optimization_barrier(total + term)
            return (result, (result - total) - term), None

        zero = jnp.zeros_like(weights, shape=(weights.shape[1], points.shape[1]))
        return lax.scan(add, (zero, zero), (others, weights))[0][0]

    out = row(rows[0])[None] if num_rows == 1 else lax.map(row, rows)
    out = out.transpose(2, 0, 1)  # the order of `tiles`
    return out.reshape(-1, out.shape[2])[: len(x)]


@functools.partial(_kernel_product.defjvp, symbolic_zeros=True)
def _kernel_product_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivative of the kernel, multiplied out into products with the kernel.

    With B the columns, the derivative of K_ij = 2^(-|x_i - y_j|^2) is
    -2 log(2) K_ij (x_i - y_j).(dx_i - dy_j), so that, over the coordinates k,

        d(K B) = K (dB - 2 log(2) (y.dy) B)
                 + 2 log(2) sum_k x_k K (B dy_k)
                 + 2 log(2) sum_k dx_k (K (B y_k) - x_k K B).

    The first two are linear in tangents within a product, of which reverse mode takes
    the transpose; the last has coefficients that are known at once.
    """
    (x, y, columns), (dx, dy, dcolumns) = primals, map(_or_none, tangents)
    num = columns.shape[1]
    known = columns if dx is None else _with_moments(columns, y)
    out = _kernel_product(x, y, known)
    value, tangent = out[:, :num], jnp.zeros_like(out[:, :num])
    if dx is not None:
        moments = out[:, num:].reshape(len(x), -1, num)
        slopes = (2 * _LN2) * (moments - x[:, :, None] * value[:, None, :])
        tangent = tangent + jnp.sum(slopes * dx[:, :, None], axis=1)
    if dy is not None:
        along = jnp.sum(y * dy, axis=1, keepdims=True)
        moved = jnp.concatenate([-along * columns, _moments(columns, dy)], axis=1)
        if dcolumns is not None:
            moved = moved.at[:, :num].add(dcolumns / (2 * _LN2))
        out = _kernel_product(x, y, moved).reshape(len(x), -1, num)
        total = out[:, 0] + jnp.sum(x[:, :, None] * out[:, 1:], axis=1)
        tangent = tangent + (2 * _LN2) * total
    elif dcolumns is not None:
        tangent = tangent + _kernel_product(x, y, dcolumns)
    return value, tangent


def _or_none(tangent: Array | SymbolicZero) -> Array | None:
    return None if isinstance(tangent, SymbolicZero) else tangent


def _moments(columns: Array, y: Array) -> Array:
    """The columns times each coordinate: (m, d c)."""
    return (y[:, :, None] * columns[:, None, :]).reshape(len(y), -1)


def _with_moments(columns: Array, y: Array) -> Array:
    return jnp.concatenate([columns, _moments(columns, y)], axis=1)


# --- one tile ----------------------------------------------------------------------


def num_tiles(n: int, m: int) -> tuple[int, int]:
    """Into how many parts the rows and the columns of K are split."""
    growth = 1 if jax.default_backend() == "cpu" else _GROWTH
    return -(-n // (_ROWS * growth)), -(-m // (_COLUMNS * growth))


def tiles(points: Array, num: int) -> Array:
    """Every `num`-th point together, filled up with zeros: (num, size, d).

    Tiles of neighbours would do, but these spread over the devices that hold the rows.
    """
    points = jnp.pad(points, ((0, -len(points) % num), (0, 0)))
    return points.reshape(-1, num, points.shape[1]).swapaxes(0, 1)


@functools.partial(
    jax.checkpoint, prevent_cse=False
)  # no tile is kept for reverse mode
def _tile(x: Array, y: Array, columns: Array) -> Array:
    """The product of one tile: x (d, r), y (d, q), columns (c, q) to (c, r)."""
    # The barrier keeps the slices of a loop out of the loop over pairs, which would not
    # be vectorised with them. The columns have one of their own, to be transposed.
    x, y = lax.optimization_barrier((x, y))
    columns = lax.optimization_barrier(columns)
    kernel = exp2_minus(squared_distances(x, y))
    return jnp.matmul(columns, kernel, precision="highest")


def squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 of points in columns, (q, r), from differences: no cancellation."""

    def part(x: Array, y: Array) -> Array:
        gaps = [u[None, :] - v[:, None] for u, v in zip(x, y, strict=True)]
        return functools.reduce(jnp.add, [gap * gap for gap in gaps])

    d = len(x)
    if d <= _UNROLLED:
        return part(x, y)
    blocks = [
        jnp.pad(points, ((0, -d % _UNROLLED), (0, 0))).reshape(-1, _UNROLLED, size)
        for points, size in ((x, x.shape[1]), (y, y.shape[1]))
    ]
    zero = jnp.zeros_like(x, shape=(y.shape[1], x.shape[1]))
    return lax.scan(lambda c, b: (c + part(*b), None), zero, tuple(blocks))[0]


# Minimax polynomials of 2^-g, |g| <= 1/2, made exact at g = 0; errors 2e-9 and 3e-18.
_SINGLE = (1, -0.6931472057371958, 0.24022646890645522, -0.05550328777105325)
_SINGLE += (0.009618488956331182, -0.0013399931177239738, 0.00015345812161311630)
_DOUBLE = (1, -0.6931471805599453305, 0.240226506959101562, -0.0555041086648199216)
_DOUBLE += (0.009618129107588335, -0.001333355814678992, 0.0001540353046251443)
_DOUBLE += (-1.525273348998853e-05, 1.3215433089676399e-06, -1.0178198021671931e-07)
_DOUBLE += (7.074105613508143e-09, -4.435282706957277e-10)


def exp2_minus(s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2^-s for s >= 0."""
    return lax.platform_dependent(
        s, cpu=_exp2_minus, default=lambda s: jnp.exp(-_LN2 * s)
    )


def _exp2_minus(s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2^-s for s >= 0; zero where it would be smaller than the smallest normal number.

    With s = w + g, w whole: the polynomial of 2^-g times 2^-w, whose bits are bias - w
    in the place of the exponent. The last bits of 1.5 2^bits + bias - w are these.
    """
    single = s.dtype == jnp.float32
    integer, bits, bias = (jnp.int32, 23, 127) if single else (jnp.int64, 52, 1023)
    # a selection, not a minimum: it is one instruction, and keeps NaN
    s = jnp.where(s > bias, jnp.asarray(bias, s.dtype), s)
    whole = jnp.round(s)
    g = s - whole
    first, *others = reversed(_SINGLE if single else _DOUBLE)
    power = jnp.full_like(g, first)
    for coefficient in others:
        power = power * g + coefficient
    # a multiplication, because it keeps NaN, which adding to the exponent would not
    place = lax.bitcast_convert_type((1.5 * 2**bits + bias) - whole, integer)
    return power * lax.bitcast_convert_type(place << bits, s.dtype)
