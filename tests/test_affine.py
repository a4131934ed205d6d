import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from helpers import DATA, assert_close, check_gradient, images, preimages
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.maps import Affine, gaussian_map, monge_kantorovich_linear


def random_covariance(seed, d=3):
    root = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return root @ root.T / d


def map_by_scipy(cov_x, cov_y):
    root = scipy.linalg.sqrtm(cov_x)
    inverse = np.linalg.inv(root)
    return inverse @ scipy.linalg.sqrtm(root @ cov_y @ root) @ inverse


def clouds(seed=0, n=60, m=90, d=3):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    target = rng.exponential(size=(m, d)) @ rng.normal(size=(d, d))
    return source, target


matrix_of = jax.jit(lambda *moments: gaussian_map(*moments).matrix)


def test_values_by_hand():
    map = Affine(np.array([[1, 2], [0, 3]]), np.array([10, 20]))
    value, log_det = map.transform_and_log_det(np.array([1, 1]))
    assert_close(value, [13, 23])
    assert_close(log_det, np.log(3))
    assert_close(map.inverse(np.array([13, 23])), [1, 1])


def test_the_inverse_is_as_exact_as_a_solve():
    # the Hilbert matrix, of condition 1.5e4
    hilbert = (1 / (np.arange(4)[:, None] + np.arange(4) + 1)).astype("float32")
    map = Affine(hilbert, jnp.zeros(4))
    y = np.random.default_rng(0).normal(size=(200, 4)).astype("float32") @ hilbert

    def residual(x):
        return np.abs(np.asarray(x, "float64") @ hilbert - y).max()

    solved = jnp.linalg.solve(hilbert, y.T).T
    assert residual(preimages(map, y)) <= 2 * residual(solved)


def test_a_singular_matrix_has_no_volume():
    map = Affine(np.diag([1.0, 0.0]), np.zeros(2))
    assert_close(map(np.ones(2)), [1, 0])
    assert map.transform_and_log_det(np.ones(2))[1] == -np.inf


def test_one_dimension_is_the_ratio_of_deviations():
    mean, one = np.ones(1), np.ones((1, 1))
    map = gaussian_map(mean, 4 * one, 2 * mean, 9 * one)
    assert_close(map(np.array([3.0])), [5.0])


@pytest.mark.parametrize("d", [2, 5])
def test_it_is_symmetric_positive_and_carries_one_gaussian_to_the_other(d, x64):
    cov_x, cov_y = random_covariance(1, d), random_covariance(2, d)
    mean_x, mean_y = np.arange(d) * 1.0, np.ones(d)
    map = gaussian_map(mean_x, cov_x, mean_y, cov_y)
    assert_close(map.matrix, map.matrix.T, rtol=0, atol=0)
    assert np.all(np.linalg.eigvalsh(map.matrix) > 0)
    assert_close(map.matrix @ cov_x @ map.matrix.T, cov_y)
    assert_close(map(mean_x), mean_y)
    assert_close(map.matrix, map_by_scipy(cov_x, cov_y))


def test_equal_gaussians_give_the_identity():
    cov = random_covariance(0)
    assert_close(matrix_of(np.ones(3), cov, np.ones(3), cov), np.eye(3))


def test_exchange_inverts_and_rotations_commute(x64):
    cov_x, cov_y, zero = random_covariance(1), random_covariance(2), np.zeros(3)
    matrix = matrix_of(zero, cov_x, zero, cov_y)
    assert_close(matrix_of(zero, cov_y, zero, cov_x), np.linalg.inv(matrix))
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = matrix_of(zero, q @ cov_x @ q.T, zero, q @ cov_y @ q.T)
    assert_close(rotated, q @ matrix @ q.T)
    assert_close(matrix_of(zero, cov_x, zero, 9 * cov_y), 3 * matrix)


def test_parity_with_the_colour_transfer_of_the_literature(x64):
    data = np.load(DATA / "mkl.npz")
    map = gaussian_map(data["muA"], data["covA"], data["muB"], data["covB"])
    assert_close(map.matrix, map_by_scipy(data["covA"], data["covB"]), rtol=1e-12)
    # the 2.2e-16 that the reference adds to its eigenvalues is 5.6e-10 of the matrix
    assert_close(map.matrix, data["T"], rtol=1e-9)
    values, vectors = np.linalg.eigh(data["covA"])
    root = vectors * np.sqrt(values)
    middle, turn = np.linalg.eigh(root.T @ data["covB"] @ root)
    roots = (turn * np.sqrt(middle + 2.2e-16)) @ turn.T
    inverse = vectors / np.sqrt(values)
    added = inverse @ (roots - (turn * np.sqrt(middle)) @ turn.T) @ inverse.T
    assert_close(map.matrix + added, data["T"], rtol=1e-11)
    assert_close(map.offset, data["muB"] - map.matrix @ data["muA"])


def test_from_samples_it_is_the_map_of_their_moments(x64):
    source, target = clouds()
    map = monge_kantorovich_linear(source, target)
    expected = map_by_scipy(np.cov(source.T), np.cov(target.T))
    assert_close(map.matrix, expected)
    moved = images(map, source)
    assert_close(np.mean(moved, axis=0), np.mean(target, axis=0))
    assert_close(np.cov(moved.T), np.cov(target.T))


def test_weights(x64):
    source, target = clouds()
    rng = np.random.default_rng(1)
    a, b = rng.random(60) * (np.arange(60) % 4 > 0), rng.random(90)

    def weigh(a, b):
        return monge_kantorovich_linear(
            source, target, source_weights=a, target_weights=b
        )

    expected = map_by_scipy(np.cov(source.T, aweights=a), np.cov(target.T, aweights=b))
    assert_close(weigh(a, b).matrix, expected)
    mean = np.average(source, axis=0, weights=a)
    assert_close(weigh(a, b)(mean), np.average(target, axis=0, weights=b))
    assert_close(weigh(1e300 * a, 1e-300 * b).matrix, expected)
    equal = weigh(np.full(60, 7.0), None)
    assert_close(equal.matrix, monge_kantorovich_linear(source, target).matrix)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_grey_source_keeps_the_colours_it_does_not_know(dtype):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        grey = np.repeat(rng.random((500, 1)), 3, axis=1).astype(dtype)
        target = clouds()[1].astype(dtype)
        map = monge_kantorovich_linear(grey, target)
        moved = images(map, grey)
        assert_close(np.mean(moved, axis=0), np.mean(target, axis=0), rtol=1e-4)
        line = np.ones(3) / np.sqrt(3)
        assert_close(np.var(moved @ line, ddof=1), line @ np.cov(target.T) @ line, 1e-4)
        assert np.max(np.abs(map.matrix)) < 10
        for colour in (np.array([1, -1, 0]), np.array([1, 1, -2])):
            assert_close(map.matrix @ colour.astype(dtype), colour, rtol=1e-4)


def test_a_flat_target_is_reached(x64):
    source, target = clouds()
    target[:, 2] = 0.25
    map = monge_kantorovich_linear(source, target)
    moved = images(map, source)
    assert_close(moved[:, 2], np.full(60, 0.25), rtol=1e-7)
    assert_close(np.cov(moved.T), np.cov(target.T), rtol=1e-7)


def test_constant_clouds_are_translated():
    source, target = np.ones((4, 2)), np.full((3, 2), 5.0)
    for x, y in [(source, target), (source[:1], target[:1])]:
        map = monge_kantorovich_linear(x, y)
        assert_close(map.matrix, np.eye(2))
        assert_close(map(np.array([2.0, 3.0])), [6.0, 7.0])


def test_far_from_zero_float32_keeps_the_spread():
    source, target = clouds(n=4000, m=4000)

    def far(x):
        return (x + 1e4).astype("float32")

    map = monge_kantorovich_linear(far(source), far(target))
    expected = map_by_scipy(np.cov(far(source).T), np.cov(far(target).T))
    assert_close(map.matrix, expected, rtol=1e-4)


def test_pictures_of_bytes_are_numbers():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 256, (2, 50, 3)).astype("uint8")
    exact = monge_kantorovich_linear(source / 1.0, target / 1.0)
    assert_close(monge_kantorovich_linear(source, target).matrix, exact.matrix)
    half = monge_kantorovich_linear(source / 255, (target / 255).astype("float16"))
    assert half.matrix.dtype == "float32"


@jax.jit
def some_number(mean_x, cov_x, mean_y, cov_y):
    map = gaussian_map(mean_x, cov_x, mean_y, cov_y)
    weights = jnp.arange(9.0).reshape(3, 3) ** 2
    return jnp.sum(weights * map.matrix**3) + jnp.sum(map.offset)


@jax.jit
def sum_of_its_gradient(*moments):
    return sum(map(jnp.sum, jax.grad(some_number, (1, 3))(*moments)))


@pytest.mark.parametrize(
    ("cov_x", "cov_y"),
    [
        (random_covariance(1), random_covariance(2)),
        (np.eye(3), random_covariance(2)),
        (random_covariance(1), np.eye(3)),
        (np.eye(3), 2 * np.eye(3)),
        (np.diag([1.0, 1.0, 2.0]), np.diag([3.0, 3.0, 3.0])),
    ],
    ids=["generic", "round source", "round target", "both round", "two equal"],
)
def test_derivatives_also_where_eigenvalues_are_equal(cov_x, cov_y, x64):
    for function in (some_number, sum_of_its_gradient):
        check_gradient(function, np.ones(3), cov_x, np.zeros(3), cov_y, rtol=1e-5)


def test_derivatives_in_samples_and_weights(x64):
    source, target = clouds(n=7, m=9)
    weights = np.random.default_rng(0).random(7)

    @jax.jit
    def loss(source, target, weights):
        map = monge_kantorovich_linear(source, target, source_weights=weights)
        return jnp.sum(jax.vmap(map)(source) ** 3)

    check_gradient(loss, source, target, weights, rtol=1e-5)


def test_derivatives_are_finite_where_variance_is_missing():
    grey = np.repeat(np.linspace(0, 1, 9)[:, None], 3, axis=1)
    flat = clouds(n=9, m=9)[0] * np.array([1, 1, 0])
    constant = np.ones((9, 3))

    @jax.jit
    @jax.grad
    def gradient(both):
        map = monge_kantorovich_linear(*both)
        return jnp.sum(jax.vmap(map)(both[0]) ** 2)

    for both in [(grey, flat), (flat, grey), (grey, grey), (constant, flat)]:
        for array in gradient(jnp.asarray(both)):
            assert np.all(np.isfinite(array))


def ill_conditioned_pairs(count):
    """Covariances in float32: two photographs', then spectra over four decades."""
    data = np.load(DATA / "mkl.npz")
    yield data["covA"].astype("float32"), data["covB"].astype("float32")
    rng = np.random.default_rng(0)
    for _ in range(count - 1):
        turns = np.linalg.qr(rng.normal(size=(2, 3, 3)))[0]
        spectra = 10 ** rng.uniform(-4, 0, (2, 1, 3))
        cov_x, cov_y = (turns * spectra) @ turns.transpose(0, 2, 1)
        yield tuple(((c + c.T) / 2).astype("float32") for c in (cov_x, cov_y))


def test_float32_loses_only_the_rounding_of_its_input():
    """Errors in units of what rounding both covariances again does to the exact map.

    The formula without a step of Newton's method has a median of 2, the textbook's
    roots many times that.
    """
    rng = np.random.default_rng(1)

    def rounded(cov):
        noise = np.triu(rng.uniform(-1, 1, (3, 3))) * 2**-24
        return cov * (1 + noise + np.triu(noise, 1).T)

    ratios = []
    for pair in ill_conditioned_pairs(60):
        matrix = matrix_of(np.zeros(3), pair[0], np.zeros(3), pair[1])
        assert matrix.dtype == "float32"
        covs = [cov.astype("float64") for cov in pair]
        exact = map_by_scipy(*covs)
        again = [map_by_scipy(*map(rounded, covs)) for _ in range(8)]
        unit = max(np.abs(other - exact).max() for other in again)
        ratios.append(np.abs(np.asarray(matrix, "float64") - exact).max() / unit)
    assert np.median(ratios) < 0.7
    assert max(ratios) < 4


def test_many_maps_by_vmap():
    covs = np.stack([random_covariance(seed) for seed in range(4)])
    matrices = jax.vmap(matrix_of, in_axes=(None, 0, None, None))(
        np.zeros(3), covs, np.zeros(3), np.eye(3)
    )
    for cov, matrix in zip(covs, matrices, strict=True):
        assert_close(matrix, map_by_scipy(cov, np.eye(3)), rtol=1e-4)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_clouds_may_be_sharded(kind):
    source, target = (jnp.asarray(a) for a in clouds(n=64, m=80))
    mesh = jax.make_mesh((4,), ("data",), (kind,))

    def place(a):
        return jax.device_put(a, NamedSharding(mesh, P("data")))

    fit = jax.jit(monge_kantorovich_linear)
    expected = fit(source, target)
    map = fit(place(source), place(target))
    assert_close(map.matrix, expected.matrix, rtol=1e-4)
    assert_close(map.offset, expected.offset, rtol=1e-4)
    text = fit.lower(place(source), place(target)).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_errors(user_errors):
    eye, zero = np.eye(2), np.zeros(2)
    for arguments, match in [
        (
            (np.zeros(3), eye, zero, eye),
            r"`cov_x` must have shape \(3, 3\), to go with",
        ),
        ((zero, eye, np.zeros(3), eye), r"`mean_y` must have shape \(2,\), like"),
        ((zero, eye + [[0, 1], [0, 0]], zero, eye), "`cov_x` must be symmetric"),
        ((zero, eye, zero, -eye), "`cov_y` must be positive semidefinite"),
        ((zero, np.nan * eye, zero, eye), "`cov_x` must be finite"),
        ((0.0, eye, zero, eye), r"`mean_x` must have shape \(d,\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            gaussian_map(*arguments)
    points = jr.normal(jr.key(0), (5, 2))
    with pytest.raises(ValueError, match="`target` must have 2 columns"):
        monge_kantorovich_linear(points, np.ones((4, 3)))
    with pytest.raises(ValueError, match="`source_weights` must be >= 0"):
        monge_kantorovich_linear(points, points, source_weights=-np.ones(5))
    with pytest.raises(ValueError, match="`target` must not be empty"):
        monge_kantorovich_linear(points, np.ones((0, 2)))
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(d, d\)"):
        Affine(np.ones((2, 3)), zero)
    with pytest.raises(ValueError, match=r"`offset` must have shape \(2,\)"):
        Affine(eye, np.zeros(3))
