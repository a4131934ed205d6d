"""Transport plans: which mass goes from which point to which, without a matrix."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


class Plan(eqx.Module):
    """A sparse transport plan: `mass[k]` goes from `x[rows[k]]` to `y[columns[k]]`.

    The number of entries is static, so the mass of an entry may be zero, and several
    entries may belong to one pair: their masses add up. Behind any batch of plans.
    """

    rows: Int32[Array, "*batch k"]
    columns: Int32[Array, "*batch k"]
    mass: Float[Array, "*batch k"]

    def to_dense(self, n: int, m: int) -> Float[Array, "*batch n m"]:
        """The plan as a matrix of n rows and m columns."""

        def scatter(rows: Array, columns: Array, mass: Array) -> Array:
            return jnp.zeros((n, m), mass.dtype).at[rows, columns].add(mass)

        return jnp.vectorize(scatter, signature="(k),(k),(k)->(n,m)")(
            self.rows, self.columns, self.mass
        )
