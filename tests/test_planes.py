import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient

from transportjax.sliced import (
    circle_projections,
    random_planes,
    sphere_planes,
    spherical_sliced_wasserstein,
)

REFERENCE = dict(np.load(DATA / "circle.npz"))


@pytest.mark.parametrize("dim", [2, 3, 5, 6])
@pytest.mark.parametrize("sample", [sphere_planes, random_planes])
def test_are_orthonormal(sample, dim, key):
    planes = sample(key, 7, dim)
    assert planes.shape == (7, 2, dim)
    grams = planes @ planes.mT
    assert_close(grams, np.broadcast_to(np.eye(2), (7, 2, 2)), atol=2e-6)
    if sample is sphere_planes and dim >= 4:  # blocks of dim // 2
        rows = planes[: dim // 2].reshape(-1, dim)
        assert_close(rows @ rows.T, np.eye(len(rows)), atol=2e-6)


@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("sample", [sphere_planes, random_planes])
def test_each_is_uniform(sample, dim, key):
    """E[P P^T] and E[(P_11)^2] of the projections P are those of a uniform plane."""
    planes = jax.jit(jax.vmap(lambda k: sample(k, 3, dim)))(jr.split(key, 4000))
    projections = jnp.einsum("spij,spik->spjk", planes, planes)
    mean = jnp.mean(projections, axis=0)
    assert_close(mean, np.broadcast_to(2 / dim * np.eye(dim), mean.shape), atol=0.03)
    # the squared norm of a projected unit vector is of the law Beta(1, (d - 2) / 2)
    second = jnp.mean(projections[..., 0, 0] ** 2, axis=0)
    assert_close(second, np.full(3, 8 / (dim * (dim + 2))), atol=0.03)


def test_extreme_normals():
    from transportjax.sliced.planes import _orthogonal_planes

    normals = jnp.array([[0, 0, 1], [0, 0, -1], [0, 1, 0], [1, 0, -0.0]], "float32")
    planes = _orthogonal_planes(normals)
    assert_close(planes @ planes.mT, np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-6)
    assert_close(jnp.einsum("pij,pj->pi", planes, normals), np.zeros((4, 2)))


@pytest.mark.parametrize(("dim", "gain"), [(3, 10), (6, 3)])
def test_spread_evenly_they_are_more_accurate(dim, gain):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, dim)) + 2 * np.eye(dim)[:2, None]
    x, y = (np.float32(z / np.linalg.norm(z, axis=1, keepdims=True)) for z in (x, y))

    def error(sample):
        keys = jr.split(jr.key(0), 20)
        value = lambda k: spherical_sliced_wasserstein(x, y, sample(k, 30, dim))  # noqa: E731
        return float(jnp.std(jax.lax.map(value, keys)))

    assert gain * error(sphere_planes) < error(random_planes)


def test_dtypes_and_jit(key):
    for sample in (sphere_planes, random_planes):
        planes = sample(key, 4, 3, "bfloat16")
        assert planes.dtype == "bfloat16"
        traced = jax.jit(lambda k, sample=sample: sample(k, 4, 3))(key)
        assert_close(traced, sample(key, 4, 3), atol=1e-6)


@pytest.mark.parametrize("name", "abc")
def test_projections_of_reference(name, x64):
    arrays = [REFERENCE[f"sphere_{name}/{f}"] for f in ("X", "planes", "coordinates")]
    found = circle_projections(*arrays[:2])
    assert_close(found, arrays[2], rtol=1e-12)
    single = circle_projections(*(z.astype("float32") for z in arrays[:2]))
    assert single.dtype == "float32"
    assert_close(single, arrays[2], rtol=1e-5, atol=1e-6)


def test_projections(x64, key):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    planes = np.asarray(sphere_planes(key, 3, 4))
    check_gradient(
        jax.jit(lambda x, planes: jnp.sum(jnp.sin(7 * circle_projections(x, planes)))),
        x,
        planes,
    )
    slope = jax.grad(lambda x: jnp.sum(circle_projections(x, planes) ** 2))
    gradient = jax.jit(slope)(x)
    assert_close(jnp.sum(gradient * x, axis=1), np.zeros(5), atol=1e-14)  # tangent


def test_a_point_orthogonal_to_the_plane(key):
    plane = jnp.eye(2, 3)[None]
    x = jnp.array([[0.0, 0.0, 1.0], [1e-9, -1e-9, 1.0], [0.0, -1e-5, 1.0]])
    assert_close(circle_projections(x, plane), [[0, 0, 0.75]], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(circle_projections(x, plane))))(x)
    assert bool(jnp.all(slope[:2] == 0))
    assert_close(slope[2], [1e5 / (2 * np.pi), 0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "planes", "message"),
    [
        (np.eye(3)[0], np.eye(2, 3)[None], "`x` must have shape (n, d)"),
        (np.ones((1, 1)), np.ones((1, 2, 1)), "`x` must lie on a sphere in dimension"),
        (2 * np.eye(3), np.eye(2, 3)[None], "a point of norm 2. Divide each point"),
        (1.001 * np.eye(3), np.eye(2, 3)[None], "`x` must lie on the unit sphere"),
        (np.eye(3), np.eye(3, 2)[None], "`planes` must have shape (p, 2, 3)"),
        (np.eye(3), np.ones((1, 2, 3)), "`planes` must have orthonormal rows"),
        (np.eye(3), np.full((1, 2, 3), np.nan), "`planes` must be finite"),
    ],
)
def test_errors(x, planes, message, user_errors):
    with pytest.raises(ValueError, match=re.escape(message)):
        circle_projections(np.float32(x), np.float32(planes))


def test_errors_of_samplers(key, user_errors):
    for sample in (sphere_planes, random_planes):
        with pytest.raises(ValueError, match="`dim` must be an integer >= 2; got 1"):
            sample(key, 3, 1)
        with pytest.raises(ValueError, match="`num` must be an integer >= 1; got 0"):
            sample(key, 0, 3)
