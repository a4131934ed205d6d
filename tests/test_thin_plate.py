"""Thin plate splines; the laws of all maps are in test_maps.py."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient, images

from transportjax.maps import (
    Affine,
    ThinPlateSpline,
    control_grid,
    load,
    save,
    thin_plate_fit,
)
from transportjax.mixtures import kernel_density, l2_divergence, paired_divergence


@functools.cache
def cases(group):
    files = np.load(DATA / "warps.npz")
    return {
        name.split("/")[1]: files[name]
        for name in files.files
        if name.startswith(group + "/")
    }


def spline_of(case):
    leaves = (case["ctrl"], case["matrix"], case["shift"], case["weights"])
    return ThinPlateSpline(*map(jnp.asarray, leaves))


def moved(spline, x):
    return images(spline, jnp.asarray(x))


# --- against published programs ----------------------------------------------------


def test_values_of_gmmreg(x64):
    case = cases("tps")
    spline = spline_of(case)
    assert_close(spline.bumps, case["weights"], atol=1e-14)
    assert_close(moved(spline, case["X"]), case["moved"])
    assert_close(spline.bending_energy(), case["bending"])
    kernels = jax.vmap(lambda c: spline._at(c)[1])
    assert_close(kernels(spline.controls[:3]), case["K"])
    assert_close(kernels(jnp.asarray(case["X"][:3])), case["U"])


def cost(spline, x, y, scale, weight, variant="l2e"):
    p, q = (kernel_density(a, scale / 2) for a in (moved(spline, x), y))
    value = l2_divergence(p, q, variant=variant, normalisation="peak")
    return value + weight * spline.bending_energy()


def check_costs(value_and_slope, case, energy, slopes):
    value, slope = value_and_slope
    assert_close(value, case[energy], rtol=1e-9)
    for name, leaf in (
        ("shift", slope.shift),
        ("matrix", slope.matrix),
        ("weights", slope.coefficients),
    ):
        expected = case[f"{slopes}_{name}"]
        size = np.abs(expected).max()
        assert_close(leaf, expected, rtol=1e-8, atol=1e-9 * size)


@pytest.mark.parametrize(
    ("variant", "end"), [("l2e", ""), ("kernel_correlation", "_kc")]
)
def test_costs_and_gradients_of_gmmreg(variant, end, x64):
    case = cases("tps")
    x, y, s = (case[k] for k in ("X", "Y", "s"))
    function = functools.partial(cost, variant=variant)
    value = jax.jit(jax.value_and_grad(function))(spline_of(case), x, y, s, case["lam"])
    check_costs(value, case, "energy" + end, "grad" + end)


@pytest.mark.parametrize("level", [0, 3])
def test_costs_and_gradients_of_grogan(level, x64):
    case = cases("grogan")

    def energy(spline):
        scale = case["base"] * 2**level
        ratio = case["beta"] / case["alpha"]
        return case["alpha"] * cost(spline, case["X"], case["Y"], scale, ratio)

    value = jax.jit(jax.value_and_grad(energy))(spline_of(case))
    check_costs(value, case, f"tps_e_2_{level}", f"tps_g_2_{level}")


def test_costs_and_gradients_of_grogan_with_correspondences(x64):
    case = cases("grogan")
    rows, columns = (case[k].astype(int) for k in ("ca", "cb"))

    def energy(spline):
        x, y = moved(spline, case["X"][rows]), case["Yc"][columns]
        # its constant counts each pair once, its kernel twice
        pairs = paired_divergence(x, y, case["scale_corr"], weights=jnp.ones(len(x)))
        bending = case["beta_corr"] * spline.bending_energy()
        return case["alpha_corr"] * (pairs - len(x)) + bending

    value = jax.jit(jax.value_and_grad(energy))(spline_of(case))
    check_costs(value, case, "pcorr_e_2", "pcorr_g_2")


def test_affine_costs_and_gradients_of_grogan(x64):
    case = cases("grogan")

    def energy(parameters):
        leaves = parameters.reshape(4, 3, order="F")  # the translation comes first
        map = Affine(leaves[1:].T, leaves[0])
        p, q = (
            kernel_density(a, case["base"] * 2)
            for a in (images(map, jnp.asarray(case["X"])), case["Y"])
        )
        return l2_divergence(p, q, variant="l2e", normalisation="peak")

    given = case["aff_p_2"]
    by_column = np.concatenate([given[:3], given[3:].reshape(3, 3).ravel()])
    value, slope = jax.jit(jax.value_and_grad(energy))(
        by_column.reshape(4, 3).ravel(order="F")
    )
    assert_close(value, case["aff_e_2_2"], rtol=1e-9)
    assert_close(slope.reshape(4, 3, order="F").ravel(), case["aff_g_2_2"], rtol=1e-8)


# --- what a spline is --------------------------------------------------------------


@pytest.fixture(params=[2, 3], scope="module")
def warped(request):
    """Points, where they go, in two and three dimensions."""
    rng = np.random.default_rng(request.param)
    x = rng.normal(size=(12, request.param))
    return x, x + 0.1 * rng.normal(size=x.shape)


def test_side_conditions(warped, x64):
    x, y = warped
    eye = jnp.eye(x.shape[1])
    spline = ThinPlateSpline(x, eye, 0 * eye[0], y)
    assert_close(spline.bumps.sum(0), 0 * eye[0], atol=1e-12)
    assert_close(spline.bumps.T @ x, 0 * eye, atol=1e-12)
    again = eqx.tree_at(lambda s: s.coefficients, spline, spline.bumps)
    assert_close(again.bumps, spline.bumps, atol=1e-12)
    affine = ThinPlateSpline(x, eye, 0 * eye[0], 3 * x + 1)
    assert_close(affine.bumps, 0 * x, atol=1e-12)
    assert spline.bending_energy() > 0


@pytest.mark.parametrize("dim", [2, 3])
def test_controls_that_are_nearly_flat(dim):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, dim)).astype("float32") * np.float32([1, 1, 1e-2])[-dim:]
    bumps = ThinPlateSpline(x, jnp.eye(dim), jnp.zeros(dim), x[::-1]).bumps
    assert_close(bumps.T @ (x / x.std(0)), np.zeros((dim, dim)), atol=1e-4)


def test_interpolation(warped, x64):
    x, y = warped
    spline = thin_plate_fit(x, y)
    assert_close(moved(spline, x), y, rtol=1e-9)
    assert_close(spline.bumps, spline.coefficients, atol=1e-10)


def test_affine_maps_are_reproduced(warped, x64):
    x, _ = warped
    d = x.shape[1]
    matrix, shift = np.eye(d) + 0.3 * np.ones((d, d)), np.arange(d)
    for smoothness in (0, 10):
        spline = thin_plate_fit(x, x @ matrix.T + shift, smoothness=smoothness)
        assert_close(spline.matrix, matrix, rtol=1e-8, atol=1e-9)
        assert_close(spline.shift, shift, rtol=1e-8, atol=1e-8)
        assert_close(spline.bending_energy(), 0.0, atol=1e-12)


def test_a_smoothing_spline_minimises_its_cost(warped, x64):
    x, y = warped

    @jax.jit
    @jax.grad
    def slopes(leaves, smoothness):
        spline = ThinPlateSpline(x, *leaves)
        squares = jnp.sum((moved(spline, x) - y) ** 2, axis=1)
        return jnp.sum(squares / smoothness) + spline.bending_energy()

    for smoothness in (0.3, np.linspace(0.1, 2, len(x))):
        best = thin_plate_fit(x, y, smoothness=smoothness)
        leaves = (best.matrix, best.shift, best.coefficients)
        for slope in jax.tree.leaves(slopes(leaves, smoothness)):
            assert_close(slope, 0 * slope, atol=1e-9)
    some = np.where(np.arange(len(x)) < 3, 0, 1.0)  # zero: met exactly
    assert_close(moved(thin_plate_fit(x, y, smoothness=some), x)[:3], y[:3], rtol=1e-8)
    limit = thin_plate_fit(x, y, smoothness=1e9)
    assert limit.bending_energy() < 1e-12
    ones = np.hstack([np.ones((len(x), 1)), x])
    expected = np.linalg.lstsq(ones, y, rcond=None)[0]
    assert_close(limit.matrix, expected[1:].T, rtol=1e-6, atol=1e-7)


def test_scaled_data_give_the_scaled_spline(warped, x64):
    x, y = warped
    point = x.mean(0)
    expected = thin_plate_fit(x, y)(point)
    assert_close(thin_plate_fit(100 * x, 100 * y)(100 * point), 100 * expected)


def test_derivatives_of_a_fit(x64):
    rng = np.random.default_rng(0)
    x, y, point = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), np.zeros(2)

    @jax.jit
    def value(x, y, smoothness, point):
        return jnp.sum(jnp.sin(thin_plate_fit(x, y, smoothness=smoothness)(point)))

    check_gradient(value, x, y, 0.3, point, rtol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_derivatives_at_a_control_point_are_finite(dim, x64):
    controls = jnp.asarray(np.random.default_rng(1).normal(size=(6, dim)))
    spline = thin_plate_fit(controls, controls[::-1])

    def value(spline, x):
        y, log_det = spline.transform_and_log_det(x)
        return jnp.sum(y) + log_det

    slopes = jax.jit(jax.grad(value, (0, 1)))(spline, controls[2])
    for slope in jax.tree.leaves(slopes):
        assert np.all(np.isfinite(slope))
    jacobian = jax.jit(jax.jacfwd(spline))(controls[2])
    assert_close(spline.jacobian(controls[2]), jacobian)


def test_second_derivatives_of_the_inverse(x64):
    controls = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)))
    leaves = (controls, jnp.eye(2), jnp.zeros(2), 0.05 * controls[::-1])
    spline = ThinPlateSpline(*leaves)
    y = jnp.array([0.2, -0.3])
    slope = jax.jit(jax.jacfwd(spline.inverse))
    check_gradient(lambda y: jnp.sum(jnp.sin(slope(y))), y, rtol=1e-5)


def test_a_file_holds_all_of_it(tmp_path):
    controls = control_grid(np.random.default_rng(0).normal(size=(20, 3)), 3)
    spline = thin_plate_fit(controls, controls + 0.1 * controls**2)
    save(tmp_path / "map", spline)
    np.testing.assert_array_equal(load(tmp_path / "map").bumps, spline.bumps)


# --- grids -------------------------------------------------------------------------


def test_grids():
    points = jnp.array([[0.0, 1.0, 2.0], [10.0, 1.0, 6.0], [5.0, 1.0, 3.0]])
    grid = control_grid(points, 3)
    assert grid.shape == (27, 3)
    assert_close(grid.min(0), [-0.5, 0.725, 1.8])
    assert_close(grid.max(0), [10.5, 1.275, 6.2])
    assert_close(jnp.sort(grid[:, 0])[9:18], jnp.full(9, 5.0))
    np.testing.assert_array_equal(jax.jit(control_grid)(points).shape, (216, 3))
    for dim, num in ((1, 5), (2, 64), (4, 625)):
        assert control_grid(np.eye(dim + 1)[:, :dim]).shape == (num, dim)
    assert control_grid(jnp.array([[0, 0], [255, 255]], "uint8"), 2).dtype == "float32"


# --- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: ThinPlateSpline.identity(c[:3]), "`controls` must be more than 3"),
        (lambda c: ThinPlateSpline.identity(c[0]), r"`controls` must have shape \(k,"),
        (
            lambda c: ThinPlateSpline.identity(c * np.array([1, 1, 0])),
            "`controls` must not lie in a line or plane",
        ),
        (
            lambda c: ThinPlateSpline.identity(np.hstack([c, c[:, :1] ** 2])),
            "Thin plate splines exist in dimension 2 to 3; got dimension 4",
        ),
        (
            lambda c: ThinPlateSpline(c, np.eye(3), np.zeros(3), c[1:]),
            r"`coefficients` must have shape \(9, 3\)",
        ),
        (
            lambda c: ThinPlateSpline(c, np.eye(2), np.zeros(3), c),
            r"`matrix` must have shape \(3, 3\)",
        ),
        (lambda c: thin_plate_fit(c, c[1:]), "`x` and `y` must have equal shapes"),
        (lambda c: thin_plate_fit(c, c, smoothness=-1), "`smoothness` must be >= 0"),
        (lambda c: thin_plate_fit(c * np.nan, c), "`x` must be finite"),
        (
            lambda c: thin_plate_fit(np.concatenate([c, c[:1]]), np.ones((10, 3))),
            "`x` must be distinct points where `smoothness` is 0",
        ),
        (lambda c: control_grid(c, 1), "`num` must be an integer >= 2"),
        (lambda c: control_grid(0 * c), "`points` must not all be the same point"),
    ],
)
def test_errors(make, message, user_errors):
    with pytest.raises(ValueError, match=message):
        make(np.random.default_rng(0).normal(size=(9, 3)).astype("float32"))
