import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient, images

from transportjax.maps import (
    Affine,
    Chain,
    Rigid,
    ThinPlateSpline,
    transport_normals,
)
from transportjax.maps.small_matrices import cofactor

FILES = np.load(DATA / "warps.npz")


@pytest.mark.parametrize("group", ["d2", "d3"])
def test_splines_by_mpmath(group, x64):
    case = {
        name: jnp.asarray(FILES[f"{group}/{name}"])
        for name in ("X", "N", "tps_C", "tps_W", "tps_A", "tps_t")
    }
    # these weights do not obey the side conditions: what they lack is affine
    shift, matrix, weights = (case[k] for k in ("tps_t", "tps_A", "tps_W"))
    spline = ThinPlateSpline(case["tps_C"], matrix, shift, weights)
    x, normals = case["X"], case["N"]
    assert_close(spline.bumps, weights, atol=1e-10)
    assert_close(images(spline, x), FILES[f"{group}/tps_phi"], rtol=1e-9)
    assert_close(
        jax.jit(jax.vmap(spline.jacobian))(x), FILES[f"{group}/tps_J"], rtol=1e-9
    )
    moved = transport_normals(spline, x, normals)
    assert_close(moved, FILES[f"{group}/tps_normals"], rtol=1e-9)


def test_areas_of_triangles(x64):
    rng = np.random.default_rng(0)
    for matrix in (rng.normal(size=(3, 3)), np.diag([1.0, 1.0, -1.0])):
        first, second = rng.normal(size=(2, 3))
        area = np.cross(first, second)
        expected = np.cross(matrix @ first, matrix @ second)
        assert_close(cofactor(jnp.asarray(matrix)) @ area, expected)
        moved = transport_normals(Affine(matrix, jnp.zeros(3)), first[None], area[None])
        assert_close(moved[0], expected / np.linalg.norm(expected))


def test_a_circle_becomes_an_ellipse(x64):
    angles = np.linspace(0, 6, 20)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    map = Affine(jnp.diag(jnp.array([3.0, 1.0])), jnp.ones(2))
    expected = circle / np.array([3.0, 1.0])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert_close(transport_normals(map, circle, 7 * circle), expected)
    # any other map, by automatic derivatives
    assert_close(transport_normals(Chain((map,)), circle, circle), expected)


def test_rotations_rotate_normals(x64):
    rng = np.random.default_rng(0)
    turn = Rigid(rng.normal(size=4), rng.normal(size=3))
    normals = rng.normal(size=(5, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    moved = transport_normals(turn, rng.normal(size=(5, 3)), normals)
    assert_close(moved, normals @ np.asarray(turn.matrix).T)


def test_degenerate_normals_stay_finite(x64):
    flat = Affine(jnp.diag(jnp.array([1.0, 1.0, 0.0])), jnp.zeros(3))
    normals = jnp.array([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    moved = transport_normals(flat, 0 * normals, normals)
    assert_close(moved, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    slope = jax.grad(lambda n: jnp.sum(transport_normals(flat, 0 * n, n)))(normals)
    assert np.all(np.isfinite(slope))
    for size in (1e-30, 1e30):
        scaled = transport_normals(
            flat, 0 * normals, (size * normals).astype("float32")
        )
        assert_close(scaled, moved)


def test_derivatives(x64):
    rng = np.random.default_rng(0)
    leaves = (rng.normal(size=(6, 3)), np.eye(3), np.zeros(3), rng.normal(size=(6, 3)))

    @jax.jit
    def value(x, normals, *leaves):
        spline = ThinPlateSpline(*leaves)
        return jnp.sum(jnp.sin(transport_normals(spline, x, normals)))

    x, normals = rng.normal(size=(2, 4, 3))
    check_gradient(value, x, normals, *leaves, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normals": np.ones((4, 3))}, r"`normals` must have shape \(5, 3\)"),
        ({"normals": np.full((5, 3), np.nan)}, "`normals` must be finite"),
        ({"x": np.ones(3)}, r"`x` must have shape \(n, d\)"),
        ({"map": jnp.sin}, "`map` must be a map"),
    ],
)
def test_errors(change, message, user_errors):
    options = {"map": Rigid.identity(3), "x": np.ones((5, 3)), "normals": np.eye(5, 3)}
    with pytest.raises(ValueError, match=message):
        transport_normals(**(options | change))
