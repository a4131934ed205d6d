"""A density within seconds, without gradient descent: what `fit_flow` starts from."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import Chain, GaussianMixtureMap
from transportjax.mixtures import (
    GaussianMixture,
    SelectedMixture,
    select_gaussian_mixture,
)
from transportjax.mixtures.model_selection import mean_loss_of
from transportjax.sliced import AbstractDirections, OrthonormalDirections
from transportjax.solvers import gaussianise
from transportjax.solvers.gaussianise import MOST_RANDOM, robust_whitening, whitening

from .flow import Flow
from .likelihood import mean_loss, thinned

MANY = 5000  # samples, from which what is trained soon takes the place of the fit
_WORK = 9e6  # values that all steps of the fit move: some seconds
_FIT_STEPS = (60, 300)
_MOST_MIXED, _LEAST_MIXED = 3, 1000  # dimensions and samples for mixtures


def first_fit(
    train: dict, kept: dict, key: PRNGKeyArray, progress: Any
) -> tuple[Flow, float]:
    """The best flow without training, and the mean of -log p over the held-out samples.

    Mixtures come first, where they are tried: they take less time.

    Args:
        train: samples "x", (n, d), and "weights", (n,) or None.
        kept: the same of the held-out ones.
        key: that of `fit_flow`, of which the first of four is used, and a seed.
        progress: None, or called after each fit as `fit_flow` says.
    """
    part, shares = thinned((train["x"], train["weights"]))
    # an error, by its name here
    explicit_mesh_guard(whitening)("x", part, shares)
    found: list[tuple[Flow, float]] = []

    def take(flow: Flow, loss: float) -> None:
        found.append((flow, loss))
        if progress is not None:
            flow, loss = min(found, key=lambda pair: pair[1])
            progress(flow, 0, loss)

    if suits_mixtures(part):
        mixture_fit(part, shares, kept, key, take)
    take(*_gaussianised(part, shares, kept, jr.split(key, 4)[0]))
    return min(found, key=lambda pair: pair[1])


def suits_mixtures(x: Array) -> bool:
    """Whether some components may fill the space, and can be counted reliably."""
    num, dim = x.shape
    return dim <= _MOST_MIXED and num >= _LEAST_MIXED and x.is_fully_addressable


def mixture_fit(
    part: Array, shares: Array | None, kept: dict, key: PRNGKeyArray, take: Any
) -> None:
    """Gaussian mixtures of the whitened samples, far ones drawn in, as flows.

    `take` is called with the best one so far and the mean of -log p of it over the
    held-out samples, after each that is better.
    """
    num, dim = part.shape
    rows = np.concatenate([part, kept["x"]])
    first = explicit_mesh_guard(robust_whitening)("x", part, shares)
    moved, log_dets = _moved(first, jnp.asarray(rows))
    moved, log_dets = np.asarray(moved), np.asarray(log_dets)
    points, others = np.split(moved, [num])

    def take_mixture(selected: SelectedMixture) -> None:
        mixture = _with_normal(selected.mixture, num)
        map = Chain((*first.maps, GaussianMixtureMap.from_mixture(mixture)))
        flow = Flow(map, dim)
        if kept["weights"] is None:  # nothing to compile
            loss = mean_loss_of(mixture, others) - float(np.mean(log_dets[num:]))
        else:
            loss = loss_of(flow, kept)
        take(flow, loss)

    select_gaussian_mixture(
        points, others, key=key, weights=shares, progress=take_mixture
    )


def _with_normal(mixture: GaussianMixture, num: int) -> GaussianMixture:
    """With N(0, I), of the mass of one sample, for those that lie off all the others.

    Under the other components they might be so unlikely that they outweigh all else.
    """
    means, covariances, weights = map(np.asarray, jax.tree.leaves(mixture))
    dim, share = means.shape[1], 1 / (num + 1)
    leaves = (
        np.concatenate([means, np.zeros((1, dim))]),
        np.concatenate([covariances, np.eye(dim)[None]]),
        np.append((1 - share) * weights, share),
    )
    return GaussianMixture(*(jnp.asarray(leaf, means.dtype) for leaf in leaves))


@eqx.filter_jit
@explicit_mesh_guard
def _moved(map: Chain, x: Array) -> tuple[Array, Array]:
    return jax.vmap(map.transform_and_log_det)(x)


def _gaussianised(
    part: Array, shares: Array | None, kept: dict, key: PRNGKeyArray
) -> tuple[Flow, float]:
    """The flow by `gaussianise`, and the same of it."""
    solution = gaussianise(
        part,
        key=key,
        num_steps=int(np.clip(_WORK / part.size, *_FIT_STEPS)),
        directions=_directions(*part.shape),
        weights=shares,
        held_out=kept["x"],
    )
    flow = Flow(solution.map, part.shape[1])
    if kept["weights"] is None:  # it was judged so: nothing to compile
        return flow, float(np.nanmin(solution.stats["held_out"]))
    return flow, loss_of(flow, kept)


def loss_of(flow: Flow, kept: dict) -> float:
    """The mean of -log p over the held-out samples."""
    loss = eqx.filter_jit(explicit_mesh_guard(mean_loss))
    return float(loss(flow, kept, jr.key(0)))  # the key is unused


def _directions(num: int, dim: int) -> AbstractDirections | None:
    """The defaults of the fit; random axes where they would take long to compile."""
    return OrthonormalDirections() if num >= MANY and dim > MOST_RANDOM else None
