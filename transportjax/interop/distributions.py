"""Flows as distributions of flowjax, numpyro and distrax."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike

from transportjax import _checks
from transportjax.flows import Flow
from transportjax.maps import Invert

from .bijections import to_distrax, to_flowjax
from .packages import imported


def to_flowjax_distribution(flow: Flow) -> Any:
    """A flow as a distribution of flowjax: `log_prob`, `sample`, `fit_to_data`.

    Its `bijection` generates: it is the inverse of the flow's map. A conditional flow
    has the `cond_shape` of its map.

    Args:
        flow: a `Flow`.

    Returns:
        A `flowjax.distributions.Transformed`.

    Raises:
        ImportError: flowjax is not installed.
        ValueError: something else than a flow.
    """
    _checks.check_kind("flow", flow, Flow)
    laws = imported("flowjax.distributions")
    bijection = to_flowjax(Invert(flow.map), (flow.dim,))
    return laws.Transformed(laws.StandardNormal((flow.dim,)), bijection)


def to_distrax_distribution(flow: Flow) -> Any:
    """A flow as a distribution of distrax, with `log_prob` and `sample(seed=...)`.

    A conditional flow stays under the condition that it holds; another one is put in by
    `maps.given(flow, condition)`.

    Args:
        flow: a `Flow`.

    Returns:
        A `distrax.Transformed`: a standard normal law under the inverse of the map.

    Raises:
        ImportError: distrax is not installed.
        ValueError: something else than a flow.
    """
    _checks.check_kind("flow", flow, Flow)
    distrax = imported("distrax")
    sample = jax.eval_shape(lambda key: flow.sample(key, 1), jr.key(0))
    mean, deviation = (make(flow.dim, sample.dtype) for make in (jnp.zeros, jnp.ones))
    normal = distrax.MultivariateNormalDiag(mean, deviation)
    return distrax.Transformed(normal, to_distrax(Invert(flow.map), (flow.dim,)))


def to_numpyro(flow: Flow, condition: ArrayLike | None = None) -> Any:
    """A flow as a distribution of numpyro, for a prior or a likelihood in a model.

    Args:
        flow: a `Flow`.
        condition: (..., c); its leading axes are the batch shape. None: the condition
            that the flow holds, if any.

    Returns:
        A `numpyro.distributions.Distribution` with event shape (d,) and all of R^d as
        support. Differentiable in values, leaves and condition.

    Raises:
        ImportError: numpyro is not installed.
        ValueError: something else than a flow; a condition of the wrong length, or
            where the flow takes none.
    """
    _checks.check_kind("flow", flow, Flow)
    if condition is not None:
        condition = _checks.as_float("condition", condition)
        _checks.check_leading_axes("condition", condition.shape)
        one = jax.ShapeDtypeStruct(condition.shape[-1:], condition.dtype)
        event = jax.ShapeDtypeStruct((flow.dim,), condition.dtype)
        jax.eval_shape(flow.log_prob, event, one)  # its own error, if they misfit
    return _numpyro_class()(flow, condition)


@functools.cache
def _numpyro_class() -> Any:
    laws = imported("numpyro.distributions")
    util = imported("numpyro.distributions.util")

    class TransportDistribution(laws.Distribution):
        """A flow of transportjax."""

        support = laws.constraints.real_vector
        pytree_data_fields = ("flow", "condition")

        def __init__(self, flow, condition, *, validate_args=None):
            self.flow, self.condition = flow, condition
            batch_shape = () if condition is None else condition.shape[:-1]
            super().__init__(batch_shape, (flow.dim,), validate_args=validate_args)

        def sample(self, key, sample_shape=()):
            shape = (*sample_shape, *self.batch_shape)
            count = math.prod(shape)
            if self.condition is None:
                drawn = self.flow.sample(key, count)
            else:
                length = self.condition.shape[-1]
                each = jnp.broadcast_to(self.condition, (*shape, length))
                drawn = jax.vmap(lambda k, c: self.flow.sample(k, 1, c)[0])(
                    jr.split(key, count), each.reshape(count, length)
                )
            return drawn.reshape(*shape, *self.event_shape)

        @util.validate_sample
        def log_prob(self, value):
            if self.condition is None:
                return jnp.vectorize(self.flow.log_prob, signature="(d)->()")(value)
            log_prob = jnp.vectorize(self.flow.log_prob, signature="(d),(c)->()")
            return log_prob(value, self.condition)

    return TransportDistribution
