"""Whether the log-densities of a model are those that data have."""

from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim import distribution, sort

_BATCH = 2**12  # events whose densities are computed at once


@runtime_checkable
class Density(Protocol):
    """A law with `log_prob(x)` of one event and `sample(key, num)`."""

    def log_prob(self, x: ArrayLike, /) -> Float[Array, ""]:
        """The log-density of one event, (d,), in nats."""
        ...

    def sample(self, key: PRNGKeyArray, num: int, /) -> Float[Array, "num d"]:
        """Independent samples."""
        ...


class Calibration(NamedTuple):
    """What `calibration` returns.

    Attributes:
        levels: for each event the mass, under the model, of the region of higher
            density: uniform in [0, 1] if the model is right, in ascending order.
        distance: of Kolmogorov, the greatest difference of the distribution functions
            of the two samples of log-densities, in [0, 1].
        p_value: how often a distance as large occurs if the model is right, for many
            events and samples.
        band: a distance that a right model exceeds in five of a hundred cases.
    """

    levels: Float[Array, " n"]
    distance: Float[Array, ""]
    p_value: Float[Array, ""]
    band: float


@explicit_mesh_guard
def calibration(
    flow: Density, x: ArrayLike, *, key: PRNGKeyArray, num_samples: int | None = None
) -> Calibration:
    """Where held-out events rank, by log-density, among samples of the model itself.

    A region of highest density that is to hold a share of the mass should hold that
    share of the events. Levels that pile up near 1 tell of events in places that the
    model deems unlikely: it is too narrow, or has learned its training samples by
    heart. Levels near 0 tell that it is too wide. A right model has uniform levels; the
    reverse does not follow, because they see nothing but the density: look at
    `two_sample_test` of events and samples too.

    Args:
        flow: a `Flow`, a `GaussianMixture`, or anything with `log_prob(x)` of one event
            and `sample(key, num)`.
        x: events that it was not fitted to, (n, d).
        key: a random key, for the samples.
        num_samples: how many; None: 4 n, and at least 1000. The band is
            1.36 sqrt(1 / n + 1 / num_samples).

    Returns:
        A `Calibration`. Ties of log-densities, as of uniform laws, count half in the
        levels; the p-value is too large then.

    Raises:
        ValueError: something that is no density; events that are not (n, d), are empty
            or NaN; `num_samples` < 1.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> import transportjax as tj
        >>> from transportjax.diagnostics import calibration
        >>> x = jr.normal(jr.key(0), (500, 2))
        >>> right = tj.Flow(tj.Affine(jnp.eye(2), jnp.zeros(2)), 2)
        >>> wide = tj.Flow(tj.Affine(jnp.eye(2) / 2, jnp.zeros(2)), 2)
        >>> found = [calibration(flow, x, key=jr.key(1)) for flow in (right, wide)]
        >>> print([bool(c.distance < c.band) for c in found])
        [True, False]

    References:
        Hyndman (1996), Computing and graphing highest density regions.
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian
        inference algorithms with simulation-based calibration.
    """
    _checks.check_key("key", key)
    _checks.check_kind("flow", flow, Density)
    x = _checks.as_float("x", x)
    _checks.check_points("x", x)
    num = max(4 * len(x), 1000) if num_samples is None else num_samples
    _checks.check_count("num_samples", num)
    ours, theirs = _log_probs(flow, x), _log_probs(flow, flow.sample(key, num))
    for of, values in (("x", ours), ("samples", theirs)):
        _checks.check_finite(f"flow.log_prob({of})", values)
    unit = (1 / len(x) + 1 / num) ** 0.5
    # 1.3581 is the quantile 0.95 of Kolmogorov's law
    levels, distance, p_value = _compared(ours, theirs, unit)
    return Calibration(levels, distance, p_value, 1.3581 * unit)


@jax.jit
def _compared(ours: Array, theirs: Array, unit: Array) -> tuple[Array, Array, Array]:
    """Levels, Kolmogorov's distance, and its p-value."""
    everything = jnp.concatenate([ours, theirs])
    ours_below = distribution(ours, everything, method="inverse")
    theirs_below = distribution(theirs, everything, method="inverse")
    upto = theirs_below[: len(ours)]
    above = distribution(-theirs, -ours, method="inverse")  # ties are in both
    distance = jnp.max(jnp.abs(ours_below - theirs_below))
    levels = sort((1 - upto + above) / 2)
    return levels, distance, _kolmogorov_tail(distance / unit)


@eqx.filter_jit
def _log_probs(flow: Density, x: Array) -> Array:
    values = lax.map(flow.log_prob, x, batch_size=min(len(x), _BATCH))
    # outside of the support: below all others
    return jnp.maximum(values, float(jnp.finfo(values.dtype).min))


def _kolmogorov_tail(t: Array) -> Array:
    """P(K > t) of Kolmogorov's law: 2 sum over j >= 1 of (-1)^(j - 1) exp(-2 j^2 t^2).

    For t < 0.2 it is one to seven digits and more.
    """
    j = jnp.arange(1, 41).astype(t.dtype)
    signs = jnp.where(j % 2 == 1, 1, -1).astype(t.dtype)
    series = 2 * jnp.sum(signs * jnp.exp(-2 * (j * t) ** 2))
    return jnp.where(t < 0.2, 1, jnp.clip(series, 0, 1))
