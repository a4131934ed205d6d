import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jss
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close, images, preimages
from problems import gaussian_cloud, ring_cloud

from transportjax._checks import check_spread
from transportjax.maps import load, save
from transportjax.sliced import PrincipalDirections
from transportjax.solvers import gaussianise
from transportjax.solvers.gaussianise import _moments, _moments_by_numpy, whitening
from transportjax.solvers.normal_splines import (
    apply_splines,
    fit_normal_splines,
    spline_maps,
)


@jax.jit
def forward(map, x):
    return jax.vmap(map.transform_and_log_det)(x)


def _log_density(solution, x):
    z, log_det = forward(solution.map, x)
    return jnp.sum(jss.norm.logpdf(z), axis=1) + log_det


def _normal_log_density(x, mean, cov):
    centred = np.asarray(x, float) - np.asarray(mean)
    mahalanobis = np.sum(centred * np.linalg.solve(cov, centred.T).T, axis=1)
    return -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * np.asarray(cov))[1])


@pytest.fixture(scope="module")
def fitted():
    return gaussianise(ring_cloud(jr.key(0), 2000, 2), key=jr.key(1))


def test_new_points_become_normal(fitted):
    fresh = ring_cloud(jr.key(5), 2000, 2)
    z = np.asarray(forward(fitted.map, fresh)[0])
    assert np.abs(z.mean(0)).max() < 0.08
    assert np.abs(np.cov(z.T) - np.eye(2)).max() < 0.12
    angle = np.random.default_rng(0).uniform(0, np.pi, 20)
    line = np.sort(z @ np.stack([np.cos(angle), np.sin(angle)]), axis=0)
    normal = jss.norm.ppf((np.arange(2000) + 0.5) / 2000)
    assert np.sqrt(np.mean((line - np.asarray(normal)[:, None]) ** 2)) < 0.12


def test_the_density_holds_on_new_points(fitted):
    # the law: a uniform angle, a radius of N(2, 0.2^2); density 1 / (2 pi r) N(r)
    fresh = ring_cloud(jr.key(6), 2000, 2)
    radius = jnp.linalg.norm(fresh, axis=1)
    exact = jss.norm.logpdf(radius, 2.0, 0.2) - jnp.log(2 * jnp.pi * radius)
    estimate = _log_density(fitted, fresh)
    gaussian = _normal_log_density(fresh, np.mean(fresh, 0), np.cov(fresh.T))
    gap = float(exact.mean() - estimate.mean())
    assert -0.02 < gap < 0.25
    assert gap < 0.3 * float(exact.mean() - gaussian.mean())


def test_the_density_integrates_to_one(fitted):
    side = np.linspace(-4.5, 4.5, 301)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(np.asarray(_log_density(fitted, jnp.asarray(grid, "float32"))))
    assert density.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_it_is_bound_to_no_device(fitted):
    # or functions of what comes out of it are compiled a second time
    assert not any(leaf.committed for leaf in jax.tree.leaves(fitted.map))


def test_it_inverts_and_is_saved(fitted, tmp_path):
    z = jr.normal(jr.key(7), (100, 2))
    x = preimages(fitted.map, z)
    image = forward(fitted.map, x)[0]
    assert_close(image, z, atol=2e-3)
    save(tmp_path / "flow", fitted.map)
    np.testing.assert_array_equal(forward(load(tmp_path / "flow"), x)[0], image)


def test_normal_samples_hardly_move():
    moments = [1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]
    solution = gaussianise(gaussian_cloud(jr.key(0), 2000, *moments), key=jr.key(1))
    fresh = gaussian_cloud(jr.key(2), 5000, *moments)
    gap = _normal_log_density(fresh, *moments) - _log_density(solution, fresh)
    assert abs(float(gap.mean())) < 0.02


def test_the_spline_of_a_projection_is_its_transfer_to_a_normal_law():
    levels = (np.arange(20_000) + 0.5) / 20_000
    ones = jnp.ones(len(levels))

    @jax.jit
    def spline(x, width):
        whole = jnp.ones(())
        knots, cost = fit_normal_splines(x[None], ones, width, whole, 64)
        splines = spline_maps(knots[None])
        return jax.tree.map(lambda leaf: leaf[0, 0], splines), cost

    # smoothing does not move what is normal
    normal, cost = spline(jnp.asarray(scipy.stats.norm.ppf(levels), "float32"), 0.5)
    x = jnp.linspace(-2.5, 2.5, 50)
    assert_close(images(normal, x), x, atol=0.01)
    assert float(cost) < 1e-4
    # and without it the spline is Phi^-1 o F
    uniform, _ = spline(jnp.asarray(levels, "float32"), 0.02)
    x = jnp.linspace(0.02, 0.98, 50)
    assert_close(images(uniform, x), scipy.stats.norm.ppf(x), atol=0.02)


def test_splines_applied_as_knots_are_the_maps():
    rng = np.random.default_rng(0)
    knots = np.cumsum(rng.exponential(size=(2, 3, 20)), axis=-1) - 10
    slopes = rng.exponential(size=(1, 3, 20)) + 0.01
    knots = jnp.asarray(np.concatenate([knots, slopes]), "float32")
    z = jnp.asarray(rng.normal(size=(3, 200)) * 12, "float32")

    @jax.jit
    def by_maps(knots, z):
        maps = jax.tree.map(lambda a: a[0], spline_maps(knots[None]))
        each = jax.vmap(lambda map, z: map.transform_and_log_det(z), (None, 0))
        return jax.vmap(each)(maps, z)

    value, log_slope = jax.jit(apply_splines)(knots, z)
    expected = by_maps(knots, z)
    assert_close(value, expected[0], atol=3e-5)
    assert_close(log_slope, expected[1], atol=3e-4)


def test_the_number_of_steps_is_that_of_the_best_held_out_likelihood(fitted):
    x, others = ring_cloud(jr.key(0), 1500, 2), ring_cloud(jr.key(3), 500, 2)
    solution = gaussianise(x, held_out=others, key=jr.key(1), patience=10)
    trace = np.asarray(solution.stats["held_out"])
    count = len(solution.map.maps[-1])
    assert 10 < count == trace.argmin() == len(trace) - 1 - 10
    assert solution.stats["cost"].shape == (count,)
    assert_close(-_log_density(solution, others).mean(), trace[count], rtol=1e-4)
    assert_close(solution.points, forward(solution.map, x)[0], atol=1e-3)
    # of a share, the points are those of all samples, in their order
    source = ring_cloud(jr.key(0), 2000, 2)
    assert_close(fitted.points, forward(fitted.map, source)[0], atol=1e-3)


def test_few_samples_are_not_overfitted_and_vmap_fits_several_sets():
    fresh = ring_cloud(jr.key(6), 2000, 2)
    sets = jnp.stack([ring_cloud(jr.key(seed), 100, 2) for seed in range(2)])
    keys = jr.split(jr.key(1))
    both = jax.jit(jax.vmap(lambda x, key: gaussianise(x, key=key)))(sets, keys)
    for i, x in enumerate(sets):
        solution = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        moments = np.mean(x, 0), np.cov(np.asarray(x).T)
        gaussian = _normal_log_density(fresh, *moments).mean()
        assert float(_log_density(solution, fresh).mean()) > gaussian + 0.1
        # under vmap the number of layers is static: the surplus is the identity
        layers = solution.map.maps[-1]
        assert_close(forward(solution.map, x)[0], solution.points, atol=5e-3)
        cost = np.asarray(solution.stats["cost"])
        count = int(np.isfinite(cost).sum())
        assert 0 < count < len(layers) == len(cost) == 300
        assert np.isnan(cost[count:]).all()
        assert np.nanargmin(solution.stats["held_out"]) == count
        surplus = layers[count:]
        np.testing.assert_array_equal(surplus(x[0]), x[0])


def test_weights_ties_and_gradients():
    x = ring_cloud(jr.key(0), 200, 2)
    ones = jnp.ones(250)
    options = {"key": jr.key(1), "num_steps": 4, "held_out": 0}

    def fit(x, weights):
        return gaussianise(x, weights=weights, **options).map

    def image(map):
        return forward(map, x)[0]

    # a weight of two is a sample that is there twice, one of zero is not there; but for
    # the width of the kernel, which knows the effective number of samples
    twice = fit(jnp.concatenate([x, x[:50]]), ones)
    weights = ones.at[:50].set(2.0).at[200:].set(0.0)
    weighted = fit(jnp.concatenate([x, 5 + x[:50]]), weights)
    assert_close(image(weighted), image(twice), atol=0.05)
    apart = fit(jnp.concatenate([x, 5 + x[:50]]), ones)
    assert float(abs(image(apart) - image(twice)).max()) > 0.5
    rounded = fit(jnp.round(jnp.concatenate([x, x[:50]])), ones)
    assert bool(jnp.all(jnp.isfinite(image(rounded))))

    def loss(map):
        z, log_det = forward(map, x)
        return jnp.mean(0.5 * jnp.sum(z**2, axis=1) - log_det)

    gradient = jax.jit(jax.grad(loss))(twice)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


def test_structure_in_few_of_many_dimensions_is_found():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]

    def cloud(key, n):
        rest = jr.normal(jr.fold_in(key, 1), (n, 10))
        x = jnp.concatenate([ring_cloud(key, n, 2), rest], axis=1)
        return jnp.matmul(x, jnp.asarray(turn, x.dtype), precision="highest")

    x, fresh = cloud(jr.key(0), 2000), cloud(jr.key(1), 2000)
    solution = gaussianise(x, key=jr.key(2), num_steps=40)
    gaussian = _normal_log_density(fresh, np.mean(x, 0), np.cov(x.T)).mean()
    assert float(_log_density(solution, fresh).mean()) > gaussian + 0.3


def test_principal_axes():
    x = np.random.default_rng(0).normal(size=(500, 4)) * [1, 5, 2, 3]
    strategy = PrincipalDirections(2)
    state = strategy.init(jr.key(0), 4)
    points = jnp.asarray(x + 7, "float32")
    axes = strategy.sample(jr.key(0), state, points, points)[0]
    expected = np.linalg.eigh(np.cov(x.T))[1].T[::-1][:2]
    assert_close(abs(np.sum(np.asarray(axes) * expected, axis=1)), np.ones(2), 1e-4)


def table(kind, n, d, condition):
    """Standardised columns whose covariance has exactly that condition number."""
    rng = np.random.default_rng(n + d)
    x = rng.exponential(size=(n, d)) if kind == "skew" else rng.normal(size=(n, d))
    left = np.linalg.svd(x - x.mean(0), full_matrices=False)[0]
    variances = np.geomspace(1, 1 / condition, d)
    if kind == "one":  # all but one direction alike
        variances = np.append(np.ones(d - 1), 1 / condition)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = left * np.sqrt(n * variances) @ turn
    return x + 50 * x.std(0) if kind == "far" else x


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("kind", ["even", "one", "skew", "far"])
@pytest.mark.parametrize(
    ("n", "d"), [(50, 3), (1000, 3), (100_000, 3), (5000, 30), (3000, 300)]
)
def test_a_table_in_a_subspace_is_refused_and_a_narrow_one_is_not(n, d, kind, by_numpy):
    def check(x):
        x = x.astype(np.float32)
        found = (_moments_by_numpy if by_numpy else _moments)(x, None)
        check_spread("x", x.shape, *found)

    check(table(kind, n, d, 1e5 if by_numpy else 1e4))
    with pytest.raises(ValueError, match="`x` must vary in every direction"):
        check(table(kind, n, d, 1e30))


def test_a_wide_table_is_whitened():
    """What it is checked for is what it needs: the covariance becomes the identity."""
    x = table("even", 3000, 1000, 4e4).astype(np.float32)
    map = whitening("x", jnp.asarray(x), None)
    z = x.astype(float) @ np.asarray(map.matrix, float).T + np.asarray(map.offset)
    assert np.abs(np.cov(z.T) - np.eye(1000)).max() < 5e-3


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e6])
def test_columns_far_from_zero_that_differ_by_rounding_alone(offset):
    x = np.random.default_rng(0).normal(size=(1000, 3))
    whitening("x", jnp.asarray((x + offset).astype(np.float32)), None)
    x[:, 2] = x[:, 0] + x[:, 1]
    with pytest.raises(ValueError, match="`x` must vary in every direction"):
        whitening("x", jnp.asarray((x + offset).astype(np.float32)), None)


def test_bad_input_is_named(user_errors):
    x = ring_cloud(jr.key(0), 30, 2)
    flat = x.at[:, 1].set(0.0)
    cases = [
        ("`source`", jnp.ones(3), {}),
        ("NaN", x.at[0, 0].set(jnp.nan), {}),
        ("`source`", flat, {}),
        ("vary in every column", jnp.full((30, 1), 3.3), {}),
        ("vary in every column", jnp.full((30, 2), 0.1), {}),
        ("vary in every column", x.at[:, 1].set(0.1), {}),
        ("`source`", x[:2], {}),
        ("`source` must be continuous", jnp.round(x).astype(int), {}),
        ("`num_knots`", x, {"num_knots": 2}),
        ("`bandwidth`", x, {"bandwidth": 0.0}),
        ("`step_size`", x, {"step_size": 2.0}),
        ("`weights`", x, {"weights": -jnp.ones(30)}),
        ("`held_out`", x, {"held_out": 1.5}),
        ("`held_out`", x, {"held_out": jnp.ones((4, 3))}),
        ("`patience`", x, {"patience": 0}),
    ]
    for match, source, more in cases:
        with pytest.raises(ValueError, match=match):
            gaussianise(source, key=jr.key(0), **more)
