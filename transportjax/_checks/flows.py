"""Errors on learnable flows and their training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import check_finite, is_concrete, reads_values


def check_split(name: str, split: Any, dim: int) -> None:
    """Raises unless `split` is an integer in [0, dim)."""
    ok = isinstance(split, int | np.integer) and not isinstance(split, bool)
    if not ok or not 0 <= split < dim:
        raise ValueError(
            f"`{name}` must be an integer in [0, {dim}), the number of coordinates of "
            f"{dim} that stay; got {split!r}. In dimension 1 none can stay."
        )


def check_takes_condition(name: str, takes: bool) -> None:
    """Raises unless a map has a layer that depends on a condition."""
    if not takes:
        raise ValueError(
            f"`{name}` takes no condition: it has no conditional layer. Make its "
            "layers with `num_conditions`."
        )


def check_unconditional(name: str, takes: bool, instead: str) -> None:
    """Raises if a flow takes a condition where none is given."""
    if takes:
        raise ValueError(f"`{name}` has conditional layers: {instead}.")


def check_condition(name: str, shape: tuple[int, ...], num: int) -> None:
    """Raises unless `shape` is that of one condition."""
    if shape != (num,):
        raise ValueError(
            f"`{name}` must be one condition of shape {(num,)}; got {shape}. For many, "
            "with a leading axis, use jax.vmap."
        )


@reads_values
def check_order(name: str, order: Array) -> None:
    """Raises unless `order` is a permutation of 0, ..., d - 1."""
    is_whole = jnp.issubdtype(order.dtype, jnp.integer)
    if order.ndim != 1 or order.shape[0] < 1 or not is_whole:
        raise ValueError(
            f"`{name}` must be integers of shape (d,); got {order.dtype} of shape "
            f"{order.shape}."
        )
    if is_concrete(order):
        values = np.asarray(order)
        if not np.array_equal(np.sort(values), np.arange(len(values))):
            raise ValueError(
                f"`{name}` must hold each of 0, ..., {len(values) - 1} once; got "
                f"{values}."
            )


@reads_values
def check_reflections(name: str, vectors: Array) -> None:
    """Raises unless `vectors` is (r, d), finite, without a zero row."""
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"`{name}` must have shape (r, d); got {vectors.shape}.")
    check_finite(name, vectors)
    if is_concrete(vectors) and not bool(jnp.all(jnp.any(vectors != 0, axis=1))):
        raise ValueError(f"`{name}` must not hold a zero vector.")


@reads_values
def check_support(low: Array, high: Array) -> None:
    """Raises unless `low` < `high` are bounds of one shape, () or (d,), not NaN."""
    if low.shape != high.shape or low.ndim > 1:
        raise ValueError(
            "`low` and `high` must both have shape () or (d,); got shapes "
            f"{low.shape} and {high.shape}."
        )
    known = is_concrete(low) and is_concrete(high)
    if known and not bool(jnp.all(low < high)):  # also if one of them is NaN
        raise ValueError(f"`low` must be less than `high`; got {low} and {high}.")


def check_threshold(name: str, x: Array) -> None:
    """Raises unless `x` is () or (d,), and not negative."""
    if x.ndim > 1:
        raise ValueError(f"`{name}` must have shape () or (d,); got shape {x.shape}.")
    # by numpy, which knows no mesh; also if it is NaN
    if is_concrete(x) and not np.all(np.asarray(x) >= 0):
        raise ValueError(f"`{name}` must be at least 0; got {x}.")


def check_flow_map(shape: tuple[int, ...], dim: int) -> None:
    """Raises unless the image of an event of length `dim` has the same shape."""
    if shape != (dim,):
        raise ValueError(
            f"`map` must take events of shape {(dim,)} to events of the same shape; "
            f"got an image of shape {shape}."
        )


def check_rows_alike(name: str, leaves: list[Array]) -> int | None:
    """The common number of rows of some arrays, None without any; raises otherwise."""
    shapes = [leaf.shape for leaf in leaves]
    lengths = {shape[0] if shape else None for shape in shapes}
    if not shapes:
        return None
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"`{name}` must hold arrays with the same number of rows; got shapes "
            f"{shapes}."
        )
    if 0 in lengths:
        raise ValueError(f"`{name}` must not be empty; got shapes {shapes}.")
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            check_finite(name, leaf)
    return shapes[0][0]


def check_batch_size(name: str, size: int, num_rows: int | None) -> None:
    """Raises if a batch is larger than the data."""
    if num_rows is not None and size > num_rows:
        raise ValueError(
            f"`{name}` must not exceed the number of rows to train on, {num_rows}; got "
            f"{size}."
        )


def check_loss(name: str, value: Any) -> None:
    """Raises unless the (abstract) value of a loss is one real number."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    is_real = is_array and jnp.issubdtype(value.dtype, jnp.floating)
    if not is_real or value.shape != ():
        got = f"{value.dtype} of shape {value.shape}" if is_array else type(value)
        raise ValueError(f"`{name}` must return one real number; got {got}.")


_ENSEMBLE = (
    "Train an ensemble as one model, by the sum of the losses of its members; see "
    "`minimise`."
)


def check_not_traced(name: str, tree: Any, instead: str = _ENSEMBLE) -> None:
    """Raises within jit, vmap or grad: `name` is a loop that looks at values."""
    if not all(map(is_concrete, jax.tree.leaves(tree))):
        raise ValueError(
            f"`{name}` cannot be called within jit, vmap or grad: it looks at values "
            f"to stop. {instead}"
        )


def check_optimiser(name: str, optimiser: Any) -> None:
    """Raises unless `optimiser` is one of optax, or None."""
    is_one = hasattr(optimiser, "init") and hasattr(optimiser, "update")
    if optimiser is not None and not is_one:
        raise ValueError(
            f"`{name}` must be an optimiser of optax, such as optax.adam(1e-3); got "
            f"{optimiser!r:.80}."
        )


def check_path(name: str, found: Any, shape: tuple[int, ...]) -> None:
    """Raises unless a path has returned a place and a velocity for each time."""
    shapes = [jnp.shape(each) for each in jax.tree.leaves(found)]
    if not isinstance(found, tuple) or shapes != [shape, shape]:
        raise ValueError(
            f"`{name}` must return a place and a velocity, both of shape {shape[1:]}; "
            f"got {[each[1:] for each in shapes]}."
        )


def check_has_leaves(name: str, leaves: list[Any]) -> None:
    """Raises if there is nothing to train."""
    if not leaves:
        raise ValueError(
            f"`{name}` has nothing to train: no floating-point array that is not held "
            "constant."
        )


def check_same_structure(name: str, got: Any, wanted: Any) -> None:
    """Raises unless two pytrees have equal structures, shapes and dtypes."""

    def describe(tree: Any) -> tuple:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

    if describe(got) != describe(wanted):
        raise ValueError(
            f"`{name}` must come from a run with the same model, data and optimiser."
        )


def check_share(name: str, share: Any, num_rows: int) -> int:
    """How many of `num_rows` a share in [0, 1) is; raises unless some are left."""
    is_real = isinstance(share, int | float | np.number | np.ndarray | Array)
    number = float(share) if is_real else float("nan")
    is_share = 0 <= number < 1
    count = round(number * num_rows) if is_share else 0
    if not is_share or count >= num_rows or (number > 0 and count < 1):
        raise ValueError(
            f"`{name}` must be a share in [0, 1) that leaves at least one sample on "
            f"both sides, 0 for none, or data; got {share!r} of {num_rows} samples."
        )
    return count


def check_skew(base_name: str, base: Array, name: str, skew: Array) -> None:
    """Raises unless `base` is square and `skew` has the entries above its diagonal."""
    rows, dim = base.shape
    if rows != dim:
        raise ValueError(f"`{base_name}` must have shape (d, d); got {base.shape}.")
    wanted = (dim * (dim - 1) // 2,)
    if skew.shape != wanted:
        raise ValueError(
            f"`{name}` must have shape {wanted}, the entries above the diagonal of a "
            f"matrix {dim} x {dim}; got {skew.shape}."
        )


def check_samples_of_flow(name: str, x: Array, dim: int) -> None:
    """Raises unless `x` is a finite, non-empty (n, dim)."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(
            f"`{name}` must have shape (n, {dim}), like the events of the flow; got "
            f"{x.shape}."
        )
    if x.shape[0] < 1:
        raise ValueError(f"`{name}` must not be empty; got shape {x.shape}.")
    check_finite(name, x)


def check_conditions(name: str, conditions: Array, num: int) -> None:
    """Raises unless `conditions` is a finite (num, c)."""
    if conditions.ndim != 2 or conditions.shape[0] != num:
        raise ValueError(
            f"`{name}` must have shape ({num}, c), one condition a sample; got "
            f"{conditions.shape}."
        )
    check_finite(name, conditions)


def check_both_conditional(conditions: Any, others: Any) -> None:
    """Raises unless both the samples and the held-out ones have conditions, or none."""
    if (conditions is None) != (others is None):
        raise ValueError(
            "`held_out` must be a pair (samples, conditions) if there are "
            "`conditions`, and samples alone if there are none."
        )


def as_labels(name: str, labels: Any, num: int) -> Array:
    """`labels` as an array; raises unless they are `num` whole numbers."""
    labels = jnp.asarray(labels)
    if labels.shape != (num,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` must be integers of shape ({num},), one label a row; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return labels


@reads_values
def as_partners(name: str, partners: Any, num: int, num_rows: int) -> Array:
    """`partners` as an array; raises unless they are `num` numbers of `num_rows` rows.

    Values are looked at where they are concrete.
    """
    partners = jnp.asarray(partners)
    if partners.shape != (num,) or not jnp.issubdtype(partners.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` must be integers of shape ({num},), one row number each; got "
            f"{partners.dtype} of shape {partners.shape}."
        )
    if is_concrete(partners):
        least, greatest = int(jnp.min(partners)), int(jnp.max(partners))
        if least < 0 or greatest >= num_rows:
            raise ValueError(
                f"`{name}` must be in 0, ..., {num_rows - 1}; got a minimum of {least} "
                f"and a maximum of {greatest}."
            )
    return partners


def check_velocities(name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raises unless a field has returned velocities of the right shape."""
    if got != wanted:
        raise ValueError(
            f"`{name}` must return one velocity of shape {wanted[1:]} for each place; "
            f"got {got[1:]}."
        )


@reads_values
def check_positive(name: str, values: Array) -> None:
    """Raises unless concrete `values` are all above zero."""
    if is_concrete(values) and not bool(jnp.all(values > 0)):
        raise ValueError(f"`{name}` must be positive; got {values}.")


@reads_values
def as_signs(name: str, signs: Any) -> Array:
    """`signs` as 8-bit integers; raises unless they are (r, d) numbers +1 or -1."""
    signs = jnp.asarray(signs)
    if signs.ndim != 2 or 0 in signs.shape:
        raise ValueError(f"`{name}` must have shape (r, d); got {signs.shape}.")
    if is_concrete(signs) and not bool(jnp.all(jnp.abs(signs) == 1)):
        raise ValueError(f"`{name}` must hold +1 and -1 only.")
    return signs.astype("int8")


@reads_values
def check_time(name: str, t: Array) -> None:
    """Raises unless concrete `t` is one number in [0, 1)."""
    if t.shape != ():
        raise ValueError(f"`{name}` must be one number; got shape {t.shape}.")
    if is_concrete(t) and not bool((t >= 0) & (t < 1)):
        raise ValueError(f"`{name}` must be in [0, 1); got {float(t):g}.")


def check_num_clouds(name: str, num: int, least: int) -> None:
    """Raises if there are fewer clouds than it takes to see a change."""
    if num < least:
        raise ValueError(f"`{name}` must hold at least {least} clouds; got {num}.")


def check_layer(name: str, cloud: np.ndarray, num: int) -> None:
    """Raises unless `cloud` is a finite (num, d)."""
    if cloud.ndim != 2 or 0 in cloud.shape or len(cloud) != num:
        raise ValueError(
            f"`{name}` must have shape (n, d), with the n points of the first cloud; "
            f"got {cloud.shape}."
        )
    if not np.all(np.isfinite(cloud)):
        raise ValueError(f"`{name}` must be finite.")


def check_num_neighbours(num_neighbours: int, num: int) -> None:
    """Raises if a point is asked for more neighbours than there are."""
    if num_neighbours >= num:
        raise ValueError(
            f"`num_neighbours` must be below the number of points, {num}; got "
            f"{num_neighbours}."
        )


def check_connected(name: str, hops: np.ndarray) -> None:
    """Raises if some points have no way to each other."""
    if not np.all(np.isfinite(hops)):
        num = len(np.unique(np.isfinite(hops), axis=0))
        raise ValueError(
            f"The graph of `{name}` falls into {num} parts that no edge joins. Give "
            "more `num_neighbours`."
        )


def check_continuous(name: str, x: Any) -> None:
    """Raises if `x` holds integers or bools: they have no density."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jnp.inexact):
        return
    if np.dtype(dtype).kind not in "biu":
        raise ValueError(
            f"`{name}` must hold numbers; got {dtype}. Make them so: "
            f"{name}.astype(float), dates as days."
        )
    raise ValueError(
        f"`{name}` must be continuous to have a density; got {dtype}. Make it so: "
        f"{name} + jax.random.uniform(key, {name}.shape)."
    )
