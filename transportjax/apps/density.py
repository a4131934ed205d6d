"""A density of samples without choices to make: fitted, judged, perhaps trained."""

import math
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import check_more_rows
from transportjax.flows import Flow, fit_flow
from transportjax.flows.first_fit import mixture_fit, suits_mixtures
from transportjax.flows.likelihood import in_blocks, in_two, normalised, thinned
from transportjax.maps import AbstractBijection
from transportjax.solvers import gaussianise

_HELD_OUT = 0.1  # share of the samples that the fit is judged by


def fit_density(
    x: Float[Array, "n d"],
    *,
    key: PRNGKeyArray,
    num_steps: int,
    train: int,
    weights: Float[Array, " n"] | None = None,
    log_volumes: Float[np.ndarray, " n"] | None = None,
) -> tuple[AbstractBijection, dict[str, float]]:
    """A map from standardised samples to N(0, I), and how likely others are under it.

    `gaussianise`, on nine tenths of the samples, of very many on a part of these; in up
    to three dimensions, from 1000 samples on, Gaussian mixtures, too; then `fit_flow`,
    if asked for. Kept is what makes the others most likely.

    Returns:
        The map, and the mean log-likelihood of the samples held out, in nats: under "a
        normal law" with the moments of the others, "the flow", and, when it was
        trained, "the trained flow". `log_volumes` of these samples are added, and the
        mean has their weights.
    """
    split_key, fit_key, train_key = jr.split(key, 3)
    num, dim = x.shape
    count = max(1, round(_HELD_OUT * num))
    check_more_rows(num - count, dim)
    places = np.arange(num)
    (rest, masses, _), (kept, kept_masses, places) = in_two(
        split_key, (x, weights, places), count
    )
    part, shares = thinned((rest, masses))
    kept_masses = None if weights is None else np.asarray(kept_masses)

    def mean(values: Any) -> float:
        return float(np.average(np.asarray(values, np.float64), weights=kept_masses))

    scores = {"a normal law": mean(_normal_scores(rest, masses, kept))}
    map = gaussianise(part, key=fit_key, num_steps=num_steps, weights=shares).map
    flow = Flow(map, dim)
    found = [(flow, -mean(log_likelihood(flow, kept)))]
    if suits_mixtures(part):
        judged = normalised({"x": kept, "conditions": None, "weights": kept_masses})
        mixture_fit(part, shares, judged, fit_key, lambda *each: found.append(each))
    flow, loss = min(found, key=lambda pair: pair[1])
    scores["the flow"] = -loss
    if train:
        result = fit_flow(
            rest,
            key=train_key,
            fitted=flow,
            weights=masses,
            held_out=(kept, kept_masses),
            num_steps=train,
        )
        flow = result.model
        scores["the trained flow"] = mean(log_likelihood(result.model, kept))
    if log_volumes is not None:
        volume = mean(log_volumes[np.asarray(places)])
        scores = {name: score + volume for name, score in scores.items()}
    return flow.map, scores


@eqx.filter_jit
def draw(flow: Flow, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
    """Samples of a flow."""
    return flow.sample(key, num)


@eqx.filter_jit
def log_likelihood(flow: Flow, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """The log-density of each sample, in nats."""
    return in_blocks(flow.log_prob, x)


def _normal_scores(x: Array, weights: Array | None, kept: Array) -> np.ndarray:
    """The log-likelihoods of `kept` under the normal law with the moments of x."""
    rows = np.asarray(x, np.float64)
    masses = None if weights is None else np.asarray(weights, np.float64)
    mean = np.average(rows, axis=0, weights=masses)
    cov = np.atleast_2d(np.cov(rows.T, aweights=masses))
    centred = np.asarray(kept, np.float64) - mean
    white = np.linalg.solve(np.linalg.cholesky(cov), centred.T)
    log_volume = np.linalg.slogdet(cov).logabsdet / 2
    constant = x.shape[1] * math.log(2 * math.pi) / 2
    return -np.sum(white**2, axis=0) / 2 - log_volume - constant
