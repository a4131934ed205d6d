"""Each column made normal by itself: what `gaussianise` starts with on tables."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from transportjax._checks import is_concrete, least_spread
from transportjax.maps import AbstractBijection, Affine, SlicedMap
from transportjax.maps.affine import moments

from .gaussian_steps import log_tails, normal_loss
from .normal_splines import apply_splines, fit_normal_splines, no_knots, spline_maps

_BANDWIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # in units of Scott's rule
_UNCHANGED = len(_BANDWIDTHS)  # the choice to leave a column as it is
_NUM_FOLDS = 5
_MOST_ROWS = 20_000  # that the bandwidths are chosen by
_NUM_KNOTS = 64


class Choice(NamedTuple):
    """The means and deviations of the columns, and which bandwidth each has."""

    mean: Float[Array, "d 1"]
    deviation: Float[Array, "d 1"]
    bandwidth: Int[Array, " d"]

    def is_empty(self) -> bool:
        """Whether all columns are known to stay as they are."""
        return is_concrete(self.bandwidth) and bool(
            np.all(np.asarray(self.bandwidth) == _UNCHANGED)
        )


class Columns(NamedTuple):
    """The maps of the columns, where they take the points, and the log-determinants."""

    maps: tuple[AbstractBijection, ...]
    points: Float[Array, "n d"]
    log_dets: Float[Array, " n"]


@jax.jit
def choose_columns(
    points: Float[Array, "n d"],
    fitted: Float[Array, " n"],
    judged: Float[Array, " n"] | None,
) -> Choice:
    """The bandwidths under which the numbers are likeliest by the splines of others.

    A column for which none is good stays as it is; so do all, if there are judged
    samples, and a normal law makes these no likelier with the columns than without.
    """
    shares = fitted / jnp.sum(fitted)
    mean = jnp.matmul(shares, points, precision="highest")
    centred = (points - mean[None, :]).T
    variance = jnp.matmul(centred**2, shares, precision="highest")
    deviation = jnp.sqrt(variance)[:, None]
    x = centred / deviation
    stride = -(-x.shape[1] // _MOST_ROWS)
    best = jnp.argmax(_scores(x[:, ::stride], fitted[::stride]), axis=0)
    choice = Choice(mean[:, None], deviation, best)
    if judged is None:
        return choice
    moved, log_slopes = apply_splines(_fit(x, fitted, best), x)
    log_dets = jnp.stack([jnp.zeros_like(fitted), jnp.sum(log_slopes, axis=0)])
    losses = jax.vmap(loss_when_normal, in_axes=(0, 0, None, None))(
        jnp.stack([x, moved]), log_dets, shares, judged
    )
    # not a number where the columns leave no spread
    return choice._replace(bandwidth=jnp.where(losses[1] < losses[0], best, _UNCHANGED))


@jax.jit
def fit_columns(
    points: Float[Array, "n d"], weights: Float[Array, " n"], choice: Choice
) -> Columns:
    """The columns fitted with given bandwidths."""
    mean, deviation = choice.mean[:, 0], choice.deviation[:, 0]
    x = (points.T - choice.mean) / choice.deviation
    knots = _fit(x, weights, choice.bandwidth)
    moved, log_slopes = apply_splines(knots, x)
    log_dets = jnp.sum(log_slopes - jnp.log(choice.deviation), axis=0)
    scaling = Affine(jnp.diag(1 / deviation), -mean / deviation)
    splines = jax.tree.map(lambda leaf: leaf[0], spline_maps(knots[None]))
    layer = SlicedMap(jnp.eye(len(mean), dtype=mean.dtype), splines)
    return Columns((scaling, layer), moved.T, log_dets)


def _fit(
    x: Float[Array, "d n"], weights: Float[Array, " n"], bandwidth: Int[Array, " d"]
) -> Float[Array, "3 d k"]:
    """The splines of standardised columns."""
    width = jnp.append(np.array(_BANDWIDTHS), 1).astype(x.dtype)[bandwidth]
    one = jnp.ones((), x.dtype)
    knots, _ = fit_normal_splines(x, weights, width[:, None], one, _NUM_KNOTS)
    stays = (bandwidth == _UNCHANGED)[None, :, None]
    return jnp.where(stays, no_knots(_NUM_KNOTS)[:, None].astype(x.dtype), knots)


def _scores(x: Float[Array, "d n"], weights: Float[Array, " n"]) -> Float[Array, "c d"]:
    """The log-likelihood of each column under each choice, by the other folds."""
    fold = np.arange(x.shape[1]) % _NUM_FOLDS
    choices, parts = np.divmod(np.arange(_UNCHANGED * _NUM_FOLDS), _NUM_FOLDS)

    def score(case: tuple[Array, Array]) -> Float[Array, " d"]:
        choice, part = case
        is_kept = fold == part
        others = jnp.where(is_kept, 0, weights)
        knots = _fit(x, others, jnp.full(len(x), choice, "int32"))
        z, log_slopes = apply_splines(knots, x)
        kept = jnp.where(is_kept, weights, 0)
        return jnp.matmul(log_slopes - z**2 / 2, kept, precision="highest")

    cases = (jnp.asarray(choices, "int32"), jnp.asarray(parts, "int32"))
    scores = lax.map(score, cases).reshape(-1, _NUM_FOLDS, len(x)).sum(axis=1)
    # a fold without masses: nothing to fit to
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    unchanged = jnp.matmul(-(x**2) / 2, weights, precision="highest")
    return jnp.concatenate([scores, unchanged[None]])


def loss_when_normal(
    z: Float[Array, "d n"],
    log_dets: Float[Array, " n"],
    fitted: Float[Array, " n"],
    judged: Float[Array, " n"],
) -> Float[Array, ""]:
    """The loss of judged samples under the normal law of the others; NaN if flat.

    Far out it is that of `LogTails` behind the whitening.
    """
    mean, cov = moments(z.T, fitted)
    values, vectors = jnp.linalg.eigh(cov)
    white = jnp.matmul(vectors.T, z - mean[:, None], precision="highest")
    white = white / jnp.sqrt(values)[:, None]
    white = jnp.matmul(vectors, white, precision="highest")
    tails = log_tails(z[:, 0])
    in_lanes = jax.vmap(tails.transform_and_log_det, in_axes=1, out_axes=(1, 0))
    drawn, tail_log_dets = in_lanes(white)
    log_dets = log_dets + tail_log_dets - jnp.sum(jnp.log(values)) / 2
    loss = normal_loss(drawn, log_dets, judged)
    least = 2 * least_spread(
        len(z), z.dtype, z.shape[1]
    )  # of all samples it may be less
    is_flat = values[0] < least * values[-1]
    return jnp.where(is_flat, jnp.nan, loss)
