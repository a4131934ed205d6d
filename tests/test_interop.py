import functools
import importlib
import pickle
import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.sparse
from helpers import assert_close, perturbed

import transportjax as tj
from transportjax.flows import (
    Flow,
    maximum_likelihood,
)
from transportjax.interop import (
    FlowEstimator,
    from_flowjax,
    packages,
    to_distrax,
    to_distrax_distribution,
    to_flowjax,
    to_flowjax_distribution,
    to_numpyro,
)
from transportjax.maps import (
    AffineCoupling,
    Chain,
    Invert,
    MonotoneLinear,
    Scan,
    SlicedMap,
    given,
)
from transportjax.sliced import haar_rotation


def needs(name):
    """The package, or the test is skipped; what it warns of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture
def loose():
    """Other libraries promote dtypes and ranks on their own."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def law():
    """A law with an exact density: N((1, -2), A A^T)."""
    matrix = jnp.array([[2.0, 0.0], [0.5, 1.5]])
    generate = tj.Affine(matrix, jnp.array([1.0, -2.0]))
    return Flow(Invert(generate), 2)


def exact(x):
    matrix = np.array([[2.0, 0.0], [0.5, 1.5]])
    z = (np.asarray(x) - [1.0, -2.0]) @ np.linalg.inv(matrix).T
    return -np.sum(z**2, -1) / 2 - np.log(2 * np.pi) - np.log(3.0)


@functools.cache
def curved():
    """A curved flow, with directions that must not be trained, and samples."""
    x = jr.exponential(jr.key(0), (200, 2))
    knots = jnp.array([[-2.0, 0.0, 1.0, 3.0], [-1.0, 0.5, 1.0, 2.0]])
    heights = jnp.array([[-2.5, 0.5, 1.0, 2.0], [-1.5, 0.0, 1.5, 2.0]])
    marginals = jax.vmap(MonotoneLinear.from_knots)(knots, heights)
    turns = jax.vmap(haar_rotation, (0, None))(jr.split(jr.key(1), 2), 2)
    layers = jax.vmap(SlicedMap, (0, None))(turns, marginals)
    first = tj.Affine(jnp.array([[1.0, 0.2], [0.0, 2.0]]), jnp.array([-1.0, 0.5]))
    return Flow(Chain((first, Scan(layers))), 2), x


def mapped(map, x, inverse=False):
    method = "inverse_and_log_det" if inverse else "transform_and_log_det"
    return jax.jit(jax.vmap(lambda e: getattr(map, method)(e)))(x)


def conditional():
    layer = AffineCoupling.create(jr.key(0), 2, num_conditions=3, width=8)
    flow = Flow(layer, 2)
    moved, fixed = eqx.partition(flow, eqx.is_inexact_array)
    return eqx.combine(perturbed(moved, jr.key(1), 0.3), fixed)


def assert_moments(samples, mean, cov):
    """Within five standard errors of a normal law."""
    samples = np.asarray(samples, np.float64)
    error = 5 * np.sqrt(np.diag(cov).max() / len(samples))
    np.testing.assert_allclose(samples.mean(0), mean, atol=error)
    scale = np.sqrt(np.diag(cov))
    off = (np.cov(samples.T) - cov) / np.outer(scale, scale)
    assert abs(off).max() < 5 * np.sqrt(2 / len(samples))


MEAN, COV = np.array([1.0, -2.0]), np.array([[4.0, 1.0], [1.0, 2.5]])


class TestFlowjax:
    def test_a_map_is_a_bijection(self, loose):
        needs("flowjax")
        flow, x = curved()
        bijection = to_flowjax(flow.map, (2,))
        z, log_det = mapped(bijection, x)
        expected, expected_log_det = mapped(flow.map, x)
        assert_close(z, expected)
        assert_close(log_det, expected_log_det)
        back, log_det = mapped(bijection, z, inverse=True)
        np.testing.assert_allclose(back, x, atol=1e-4)
        np.testing.assert_allclose(log_det, -expected_log_det, atol=1e-3)
        with pytest.raises(ValueError, match="Expected input shape"):
            bijection.transform(jnp.zeros(3))

    def test_a_flow_is_a_distribution(self, key, loose):
        needs("flowjax")
        distribution = to_flowjax_distribution(law())
        samples = distribution.sample(key, (4000,))
        assert_moments(samples, MEAN, COV)
        np.testing.assert_allclose(
            distribution.log_prob(samples), exact(samples), atol=1e-4
        )

    def test_flowjax_trains_it_and_leaves_constants_alone(self, key, loose):
        needs("flowjax")
        from flowjax.train import fit_to_data

        flow, x = curved()
        before = to_flowjax_distribution(flow)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after, losses = fit_to_data(
                key, before, x, max_epochs=2, batch_size=50, show_progress=False
            )
        start, end = (d.bijection.map.map.maps[-1].layers for d in (before, after))
        moved = start.marginals.log_heights - end.marginals.log_heights
        assert float(abs(moved).max()) > 0
        np.testing.assert_array_equal(start.directions.tree, end.directions.tree)
        assert np.isfinite(losses["train"]).all()

    def test_conditions(self, key, loose):
        needs("flowjax")
        flow = conditional()
        distribution = to_flowjax_distribution(flow)
        assert distribution.cond_shape == (3,)
        x, c = jr.normal(key, (6, 2)), jr.normal(jr.key(3), (6, 3))
        got = distribution.log_prob(x, c)
        assert_close(got, jax.vmap(flow.log_prob)(x, c))
        assert float(abs(got - jax.vmap(flow.log_prob)(x)).max()) > 1e-3
        with pytest.raises((ValueError, TypeError)):
            distribution.log_prob(x)

    def test_a_bijection_is_a_map(self, key, loose):
        bijections = needs("flowjax").bijections
        theirs = bijections.Chain(
            [
                bijections.TriangularAffine(
                    jnp.array([1.0, 2.0]), jnp.array([[2.0, 0.0], [3.0, 0.5]])
                ),
                bijections.LeakyTanh(1.5, (2,)),
            ]
        )
        ours = from_flowjax(theirs)
        x = jr.normal(key, (7, 2))
        y, log_det = jax.jit(
            jax.vmap(lambda m, x: m.transform_and_log_det(x), (None, 0))
        )(ours, x)
        expected, expected_log_det = mapped(theirs, x)
        assert_close(y, expected)
        assert_close(log_det, expected_log_det)
        jacobian = jax.vmap(jax.jacobian(ours))(x)
        np.testing.assert_allclose(
            log_det, np.linalg.slogdet(jacobian).logabsdet, atol=1e-4
        )
        chain = Chain((tj.Affine(2.0 * jnp.eye(2), jnp.ones(2)), ours))
        np.testing.assert_allclose(
            jax.vmap(chain.inverse)(jax.vmap(chain)(x)), x, atol=1e-4
        )
        assert jax.tree.structure(ours.bijection) == jax.tree.structure(theirs)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(ours))

    def test_there_and_back(self, key, loose):
        needs("flowjax")
        flow, x = curved()
        again = from_flowjax(to_flowjax(flow.map, (2,)))
        assert_close(jax.vmap(Flow(again, 2).log_prob)(x), jax.vmap(flow.log_prob)(x))

    def test_a_scalar_bijection(self, loose):
        bijections = needs("flowjax").bijections
        ours = from_flowjax(bijections.Exp())
        assert_close(ours(jnp.float32(1.0)), np.float32(np.e))
        assert_close(ours.inverse(jnp.float32(1.0)), np.float32(0.0))
        line = MonotoneLinear.from_knots(jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0]))
        assert_close(to_flowjax(line, ()).transform(0.5), np.float32(1.0))

    def test_a_flow_of_theirs_under_a_condition_is_trained(self, key, loose):
        needs("flowjax")
        from flowjax import flows
        from flowjax.distributions import StandardNormal

        theirs = flows.coupling_flow(
            jr.key(0),
            base_dist=StandardNormal((2,)),
            cond_dim=1,
            flow_layers=1,
            nn_width=8,
        )
        flow = Flow(Invert(from_flowjax(theirs.bijection)), 2)
        c = jr.normal(key, (300, 1))
        x = jnp.concatenate([c, -c], 1) + 0.5 * jr.normal(jr.key(2), (300, 2))
        assert_close(jax.vmap(flow.log_prob)(x, c), theirs.log_prob(x, c), 1e-4)
        result = maximum_likelihood(
            flow, x, conditions=c, key=jr.key(3), num_steps=30, block=10
        )
        assert result.stats["held_out"][-1] < result.stats["held_out"][0]
        moved = given(result.model, jnp.ones(1))
        assert moved.sample(jr.key(4), 3).shape == (3, 2)

    def test_errors(self, user_errors, loose):
        bijections = needs("flowjax.bijections")
        double = tj.Affine(2.0 * jnp.eye(2), jnp.zeros(2))
        with pytest.raises(ValueError, match="`map` must be"):
            to_flowjax(jnp.exp, (2,))
        with pytest.raises(ValueError, match="`shape` must be"):
            to_flowjax(double, (2, 2))
        with pytest.raises(ValueError, match="`shape` must be"):
            to_flowjax(double, 2)
        with pytest.raises(ValueError, match=r"\(3,\)"):
            to_flowjax(double, (3,))
        with pytest.raises(ValueError, match="`bijection` must be"):
            from_flowjax(double)
        with pytest.raises(ValueError, match=r"`bijection\.shape` must be"):
            from_flowjax(bijections.Affine(jnp.zeros((2, 2)), jnp.ones((2, 2))))
        with pytest.raises(ValueError, match="`flow` must be"):
            to_flowjax_distribution(double)


class TestNumpyro:
    def test_a_flow_is_a_distribution(self, key, loose):
        needs("numpyro")
        distribution = to_numpyro(law())
        assert (distribution.batch_shape, distribution.event_shape) == ((), (2,))
        samples = distribution.sample(key, (40, 100))
        assert samples.shape == (40, 100, 2)
        assert_moments(samples.reshape(-1, 2), MEAN, COV)
        np.testing.assert_allclose(
            distribution.log_prob(samples), exact(samples), atol=1e-4
        )
        assert distribution.sample(key).shape == (2,)
        assert bool(distribution.support(samples).all())

    def test_in_a_model(self, key, loose):
        numpyro = needs("numpyro")
        from numpyro.infer.util import log_density

        def model(y=None):
            x = numpyro.sample("x", to_numpyro(law()))
            numpyro.sample("y", numpyro.distributions.Normal(x[0], 1.0), obs=y)

        x = jnp.array([0.3, -1.0])
        value, trace = log_density(model, (jnp.float32(2.0),), {}, {"x": x})
        normal = -0.5 * (2.0 - 0.3) ** 2 - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(value, exact(x) + normal, rtol=1e-5)
        seeded = numpyro.handlers.seed(model, 0)
        assert numpyro.handlers.trace(seeded).get_trace()["x"]["value"].shape == (2,)

    def test_a_batch_of_conditions(self, key, loose):
        needs("numpyro")
        flow = conditional()
        c = jr.normal(key, (4, 1, 3))
        distribution = to_numpyro(flow, c)
        assert distribution.batch_shape == (4, 1)
        samples = distribution.sample(jr.key(1), (5,))
        assert samples.shape == (5, 4, 1, 2)
        got = jax.jit(lambda d, x: d.log_prob(x))(distribution, samples)
        expected = flow.log_prob(samples[2, 3, 0], c[3, 0])
        assert got.shape == (5, 4, 1)
        assert_close(got[2, 3, 0], expected)
        gradient = eqx.filter_grad(lambda f: to_numpyro(f, c).log_prob(samples).sum())(
            flow
        )
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))

    def test_errors(self, user_errors, loose):
        needs("numpyro")
        with pytest.raises(ValueError, match="takes no condition"):
            to_numpyro(law(), jnp.zeros(3))
        with pytest.raises(ValueError, match="`condition` must be one"):
            to_numpyro(conditional(), jnp.zeros(2))
        with pytest.raises(ValueError, match="`condition` must have"):
            to_numpyro(conditional(), 1.0)
        with pytest.raises(ValueError, match="`flow` must be"):
            to_numpyro(law().map)


class TestDistrax:
    def test_a_map_is_a_bijector(self, key, loose):
        needs("distrax")
        flow, x = curved()
        bijector = to_distrax(flow.map, (2,))
        y, log_det = jax.jit(lambda b, x: b.forward_and_log_det(x))(
            bijector, x[:12].reshape(3, 4, 2)
        )
        expected, expected_log_det = mapped(flow.map, x[:12])
        assert_close(y, expected.reshape(3, 4, 2), 1e-4)
        assert_close(log_det, expected_log_det.reshape(3, 4), 1e-4)
        back = bijector.inverse(y)
        np.testing.assert_allclose(back, x[:12].reshape(3, 4, 2), atol=1e-4)
        line = MonotoneLinear.from_knots(jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0]))
        got, log_det = to_distrax(line, ()).forward_and_log_det(jnp.array([0.5, 0.25]))
        assert_close(got, np.array([1.0, 0.5], np.float32))
        assert log_det.shape == (2,)

    def test_a_flow_is_a_distribution(self, key, loose):
        needs("distrax")
        distribution = to_distrax_distribution(law())
        samples = distribution.sample(seed=key, sample_shape=4000)
        assert (distribution.event_shape, distribution.batch_shape) == ((2,), ())
        assert_moments(samples, MEAN, COV)
        np.testing.assert_allclose(
            distribution.log_prob(samples), exact(samples), atol=1e-4
        )


class TestEstimator:
    """Numbers in and out are of numpy; scikit-learn is not needed but for the last."""

    @staticmethod
    def samples(num=300, seed=0):
        z = np.random.default_rng(seed).normal(size=(num, 2))
        return 1e5 + z @ [[3.0, 1.0], [0.0, 0.5]]

    @staticmethod
    @functools.cache
    def fitted():
        return FlowEstimator(num_steps=5).fit(TestEstimator.samples())

    def test_density(self):
        model, x = self.fitted(), self.samples(2000, seed=1)
        z = (x - 1e5) @ np.linalg.inv([[3.0, 1.0], [0.0, 0.5]])
        true = -np.sum(z**2, 1) / 2 - np.log(2 * np.pi) - np.log(1.5)
        scores = model.score_samples(x)
        assert scores.shape == (2000,)
        assert scores.dtype == np.float64
        assert 0 < np.mean(true - scores) < 0.15  # the divergence of the laws
        assert model.score(x) == scores.mean()
        assert set(model.scores_) == {"a normal law", "the flow"}

    def test_samples(self):
        model = self.fitted()
        drawn = model.sample(4000, random_state=0)
        np.testing.assert_array_equal(drawn, model.sample(4000, random_state=0))
        x = self.samples()
        assert abs(drawn.mean(0) - x.mean(0)).max() < 0.3
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), rtol=0.2, atol=0.1)
        one = model.sample(np.int64(1), random_state=np.random.default_rng(3))
        assert one.shape == (1, 2)
        assert (one != model.sample(1)).any()

    def test_transform(self):
        model, x = self.fitted(), self.samples()
        z = model.transform(x)
        assert abs(np.cov(z.T) - np.eye(2)).max() < 0.25
        np.testing.assert_allclose(model.inverse_transform(z), x, atol=2e-2)

    def test_weights(self):
        """Rows without weight are not there."""
        x = np.concatenate([self.samples(), 1e5 + 50 * np.ones((300, 2))])
        x[300:] += np.random.default_rng(2).normal(size=(300, 2))
        weights = np.repeat([1.0, 0.0], 300)
        model = FlowEstimator(num_steps=5).fit(x, sample_weight=weights)
        drawn = model.sample(2000, random_state=0)
        assert abs(drawn.mean(0) - x[:300].mean(0)).max() < 0.5
        np.testing.assert_allclose(drawn.std(0), x[:300].std(0), rtol=0.2)

    def test_parameters(self):
        model = FlowEstimator(num_steps=7)
        wanted = {"num_steps": 7, "training": 0, "random_state": 0}
        assert model.get_params() == wanted
        assert model.set_params(training=3).training == 3
        assert repr(model) == "FlowEstimator(num_steps=7, training=3, random_state=0)"
        with pytest.raises(ValueError, match="`params` must be"):
            model.set_params(depth=3)

    def test_errors(self, user_errors):
        x = self.samples(20)
        with pytest.raises(ValueError, match="not fitted"):
            FlowEstimator().transform(x)
        with pytest.raises(ValueError, match="X has 1 features, but .* expecting 2"):
            self.fitted().transform(x[:, :1])
        for values, message in (
            (x[0], r"`X` must have shape \(n, d\)"),
            (np.where(x > 1e5, np.nan, x), "`X` must be finite"),
            (np.ones((9, 2)), "must vary in every column"),
            (x[:2], "more rows than columns; got n_samples = 2"),
            ([["a"]], "array of numbers"),
            (np.ma.masked_less(x, 1e5), "must not have masked entries"),
            (x[:0], r"`X` has 0 sample\(s\)"),
            (x[:, :0], r"`X` has 0 feature\(s\)"),
            (x * 1j, "`X` must be real"),
            (scipy.sparse.csr_array(x), "sparse input is not supported"),
            (x * 1e200, "column 1 has no standard deviation"),
        ):
            with pytest.raises(ValueError, match=message):
                FlowEstimator().fit(values)
        with pytest.raises(
            TypeError, match=r"`X` .* must be a string or a real number"
        ):
            FlowEstimator().fit([[{}]])
        # but for a row without weight
        moved = np.where(np.arange(20)[:, None] == 0, [[0, 1]], x * [[1, 0]])
        with pytest.raises(ValueError, match="must vary in every column"):
            FlowEstimator().fit(moved, sample_weight=np.arange(20) > 0)
        with pytest.raises(ValueError, match="`sample_weight`"):
            FlowEstimator().fit(x, sample_weight=np.ones(3))
        with pytest.raises(ValueError, match="`training` must be an integer"):
            FlowEstimator(training=-1).fit(x)
        with pytest.raises(ValueError, match="`random_state` must be"):
            FlowEstimator(random_state="a").fit(x)

    def test_rows_of_weight_zero_are_none(self):
        x = self.samples(40)
        weights = np.arange(40) % 4
        model, other = (
            FlowEstimator(num_steps=2).fit(*each)
            for each in (
                (x, None, weights),
                (x[weights > 0], None, weights[weights > 0]),
            )
        )
        np.testing.assert_array_equal(model.score_samples(x), other.score_samples(x))
        assert model.scores_ == other.scores_
        # the scores are those of the held-out rows as often as they weigh
        doubled = FlowEstimator(num_steps=2).fit(x, None, 2 * weights)
        for name, score in model.scores_.items():
            np.testing.assert_allclose(doubled.scores_[name], score, rtol=1e-5)

    def test_data_frames(self):
        """Anything with `columns` that numpy can make an array of."""

        class Frame:
            def __init__(self, values, columns):
                self.values, self.columns = values, columns

            def __array__(self, dtype=None, copy=None):
                return np.array(self.values, dtype)

        x = self.samples(40)
        model = FlowEstimator(num_steps=2).fit(Frame(x, ["a", "b"]))
        assert model.feature_names_in_.tolist() == ["a", "b"]
        plain = FlowEstimator(num_steps=2).fit(x)
        assert not hasattr(plain, "feature_names_in_")
        np.testing.assert_array_equal(model.transform(x), plain.transform(x))
        assert model.score(Frame(x, ["a", "b"])) == plain.score(x)
        with pytest.raises(ValueError, match="fitted, in their order: a, b; got b, a"):
            model.transform(Frame(x[:, ::-1], ["b", "a"]))
        assert not hasattr(model.fit(x), "feature_names_in_")

    def test_a_row_by_itself_is_the_same_bit_for_bit(self):
        model, x = self.fitted(), self.samples(1100)
        for method in (model.score_samples, model.transform, model.inverse_transform):
            found = method(x)
            assert found.dtype == np.float64
            for rows in (slice(18, 19), slice(1020, 1100)):
                np.testing.assert_array_equal(method(x[rows]), found[rows])

    def test_it_can_be_pickled(self):
        again = pickle.loads(pickle.dumps(self.fitted()))
        x = self.samples(9)
        np.testing.assert_array_equal(again.transform(x), self.fitted().transform(x))

    def test_with_scikit_learn(self):
        needs("sklearn")
        from sklearn.base import clone
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.utils.validation import check_is_fitted

        x = self.samples()
        copy = clone(self.fitted())
        assert not hasattr(copy, "flow_")
        with pytest.raises(Exception, match="not fitted"):
            check_is_fitted(copy)
        check_is_fitted(self.fitted())
        pipe = make_pipeline(StandardScaler(), FlowEstimator(num_steps=5)).fit(x)
        volume = np.log(pipe[0].scale_).sum()
        np.testing.assert_allclose(
            pipe.score(x) - volume, self.fitted().score(x), atol=1e-3
        )
        assert pipe.transform(x).shape == x.shape
        grid = {"num_steps": [1, 5]}
        search = GridSearchCV(
            FlowEstimator(), grid, cv=2, error_score="raise", refit=False
        ).fit(x)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert search.best_params_["num_steps"] in (1, 5)


def test_a_missing_package_is_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install flowjax"):
        packages.imported("paramax", "flowjax")
    with pytest.raises(ImportError, match="needs the package numpyro: pip install"):
        packages.imported("numpyro.distributions")


def test_nothing_foreign_is_imported_before_use():
    code = (
        "import sys, transportjax.interop; "
        "print([m for m in ('flowjax', 'paramax', 'numpyro', 'distrax', 'sklearn') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
