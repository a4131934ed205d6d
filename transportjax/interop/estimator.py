"""A flow with the interface of scikit-learn's estimators."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from transportjax import _checks
from transportjax.apps.density import draw, fit_density, log_likelihood
from transportjax.flows import Flow
from transportjax.maps import AbstractBijection

from .packages import imported


class FlowEstimator:
    """A density, a sampler and a transform to independent normal columns.

    It fits `gaussianise` to nine tenths of the standardised rows, and in up to three
    dimensions, from 1000 rows on, Gaussian mixtures; what makes the others likelier is
    kept. `clone`, `Pipeline` and `GridSearchCV` of scikit-learn take it, with the mean
    log-likelihood as score; scikit-learn is not needed otherwise. Arrays of numpy, or
    data frames, go in, arrays come out; the map computes in float32. Columns are taken
    as continuous: whole numbers need noise, `X + random.uniform(size=X.shape)`, or a
    `fit_table_law` of `transportjax.apps`, which takes numbers that repeat as such.

    Args:
        num_steps: of `gaussianise`, at most.
        training: steps of a training by `fit_flow`, after the fit, at most; 0: none.
        random_state: an integer, for the fit. The same gives the same flow.

    Attributes:
        flow_: the `Flow` of the standardised columns.
        mean_: means of the columns, (d,).
        scale_: their standard deviations, (d,).
        n_features_in_: d.
        feature_names_in_: names of the columns, (d,), if it was fitted to a data frame.
        scores_: mean log-likelihood of the tenth held out, standardised, in nats,
            under "a normal law", "the flow", and "the trained flow" if it was.

    Example:
        >>> import numpy as np
        >>> from transportjax.interop import FlowEstimator
        >>> X = np.random.default_rng(0).exponential(size=(500, 2))
        >>> model = FlowEstimator(num_steps=5).fit(X)
        >>> model.sample(10, random_state=0).shape, model.score_samples(X).shape
        ((10, 2), (500,))
    """

    flow_: Flow
    mean_: np.ndarray
    scale_: np.ndarray
    n_features_in_: int
    scores_: dict[str, float]

    def __init__(
        self, num_steps: int = 300, training: int = 0, random_state: int | None = 0
    ):
        self.num_steps = num_steps
        self.training = training
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowEstimator":
        """Fits the law of the rows of X.

        Args:
            X: samples, (n, d), n > d, finite; or a data frame of them. Other data
                frames must then have the same columns.
            y: not used.
            sample_weight: masses >= 0 of the samples, (n,). A sample of weight zero is
                left out.

        Raises:
            ValueError: samples that are no such array, are constant in a column or lie
                in a subspace; bad weights or options.
        """
        x = _checks.as_table("X", X)
        names = _checks.column_names(X)
        _checks.check_num_steps("training", self.training)
        weights = _checks.as_weights(
            "sample_weight",
            None if sample_weight is None else np.asarray(sample_weight, np.float32),
            x.shape[:1],
            jnp.dtype("float32"),
        )
        if weights is not None:  # a row without a weight is none
            x, weights = x[np.asarray(weights) > 0], weights[weights > 0]
        _checks.check_num_rows("X", *x.shape)
        _checks.check_varying("X", x)
        masses = None if weights is None else np.asarray(weights, float)
        with np.errstate(all="ignore"):  # a square may be too large, or too small
            mean = np.average(x, axis=0, weights=masses)
            scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=masses))
        _checks.check_deviations(names, scale, np.ones(len(scale), bool))
        seed = _seed(self.random_state)
        map, self.scores_ = fit_density(
            jnp.asarray((x - mean) / scale, "float32"),
            key=jr.key(seed),
            num_steps=self.num_steps,
            train=int(self.training),
            weights=weights,
        )
        self.flow_ = Flow(map, x.shape[1])
        self.mean_, self.scale_, self.n_features_in_ = mean, scale, x.shape[1]
        vars(self).pop("feature_names_in_", None)  # of an earlier fit
        if names:
            self.feature_names_in_ = np.array(names, dtype=object)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (n,), in nats."""
        values = _by_rows(log_likelihood, self._fitted(), self._standard(X))
        return values - np.log(self.scale_).sum()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows, in nats a row."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int | np.integer = 1, random_state: Any = None
    ) -> np.ndarray:
        """Rows drawn from the law, (n_samples, d).

        Args:
            n_samples: how many.
            random_state: an integer, a generator of numpy, or None for other rows at
                each call.
        """
        _checks.check_count("n_samples", n_samples)
        key = jr.key(_seed(random_state))
        rows = draw(self._fitted(), key, int(n_samples))
        return np.asarray(rows, np.float64) * self.scale_ + self.mean_

    def transform(self, X: Any) -> np.ndarray:
        """The rows as independent standard normal columns, (n, d)."""
        return _by_rows(_forward, self._fitted().map, self._standard(X))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows of data from rows that `transform` returned, (n, d)."""
        x = _checks.as_table("X", X, self._dim())
        moved = _by_rows(_backward, self._fitted().map, x.astype(np.float32))
        return moved * self.scale_ + self.mean_

    def fit_transform(
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> np.ndarray:
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, y, sample_weight).transform(X)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor and their values."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> "FlowEstimator":
        """Changes arguments of the constructor.

        Raises:
            ValueError: an unknown name.
        """
        for name, value in params.items():
            _checks.check_choice("params", name, _PARAMETERS)
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"FlowEstimator({inner})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "flow_")

    def __sklearn_tags__(self) -> Any:
        utils = imported("sklearn.utils", "scikit-learn")
        return utils.Tags(
            estimator_type="density_estimator",
            target_tags=utils.TargetTags(required=False),
            transformer_tags=utils.TransformerTags(),
        )

    def _dim(self) -> int:
        return self._fitted().dim

    def _fitted(self) -> Flow:
        _checks.check_fitted("FlowEstimator", hasattr(self, "flow_"))
        return self.flow_

    def _standard(self, X: Any) -> np.ndarray:
        names = tuple(getattr(self, "feature_names_in_", ()))
        x = _checks.as_table("X", X, self._dim(), names)
        return ((x - self.mean_) / self.scale_).astype(np.float32)


_ROWS = 1024  # that go through the flow at a time
_PARAMETERS = tuple(inspect.signature(FlowEstimator).parameters)


def _seed(random_state: Any) -> int:
    """A seed from what scikit-learn calls a random state."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return _checks.as_seed("random_state", random_state)


def _by_rows(function: Callable[..., Array], model: Any, x: np.ndarray) -> np.ndarray:
    """`function(model, x)` in float64, always by as many rows at a time.

    So it is compiled once, and the result of a row does not depend on the others.
    """
    more = -len(x) % _ROWS
    padded = np.pad(x, ((0, more), (0, 0)), "edge")
    parts = np.split(padded, len(padded) // _ROWS)
    found = [np.asarray(function(model, jnp.asarray(part))) for part in parts]
    return np.concatenate(found)[: len(x)].astype(np.float64)


@eqx.filter_jit
def _forward(map: AbstractBijection, x: Array) -> Array:
    return jax.vmap(map)(x)


@eqx.filter_jit
def _backward(map: AbstractBijection, z: Array) -> Array:
    return jax.vmap(map.inverse)(z)
