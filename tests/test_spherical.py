import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import (
    circle_coordinates,
    linear_circular_wasserstein,
    wasserstein_circle,
    wasserstein_circle_uniform,
)
from transportjax.sliced import (
    circle_projections,
    linear_spherical_sliced,
    sphere_planes,
    spherical_sliced_uniform,
    spherical_sliced_wasserstein,
)

REFERENCE = dict(np.load(DATA / "circle.npz"))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cloud(seed, n, d, dtype="float64"):
    return unit(np.random.default_rng(seed).normal(size=(n, d))).astype(dtype)


@eqx.filter_jit
def distance(x, y, planes, p=2, a=None, b=None, chunk=None, root=False):
    options = {"x_weights": a, "y_weights": b, "chunk": chunk, "root": root}
    return spherical_sliced_wasserstein(x, y, planes, p=p, **options)


# --- against reference data --------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "dtype"), [(1, "float64"), (2, "float64"), (2, "float32")]
)
@pytest.mark.parametrize("name", "abc")
def test_reference(name, p, dtype, x64):
    given = [
        REFERENCE.get(f"sphere_{name}/{f}") for f in ("X", "Y", "planes", "a", "b")
    ]
    arrays = [None if z is None else jnp.asarray(z, dtype) for z in given]
    x, y, planes, a, b = arrays
    value = lambda x, y: distance(x, y, planes, p, a, b, root=True)  # noqa: E731
    found, gradients = jax.jit(jax.value_and_grad(value, (0, 1)))(x, y)
    assert found.dtype == dtype
    case, double = f"sphere_{name}_p{p}", dtype == "float64"
    assert_close(found, REFERENCE[f"{case}/value"], rtol=2e-9 if double else 2e-5)
    for gradient, field in zip(gradients, "XY", strict=True):
        expected = REFERENCE[f"{case}/gradient_{field}"]
        gradient, rtol = np.asarray(gradient), 1e-6 if double else 1e-4
        assert_close(gradient, expected, rtol, rtol * np.abs(expected).max())


@pytest.mark.parametrize("name", "ab")
def test_uniform_reference(name, x64):
    x, planes = (REFERENCE[f"sphere_{name}/{f}"] for f in ("X", "planes"))
    value = functools.partial(spherical_sliced_uniform, planes=planes, root=True)
    found, gradient = jax.jit(jax.value_and_grad(value))(x)
    assert_close(found, REFERENCE[f"sphere_{name}_uniform/value"])
    assert_close(gradient, REFERENCE[f"sphere_{name}_uniform/gradient_X"])
    single = value(x.astype("float32"), planes=planes.astype("float32"))
    assert_close(single, REFERENCE[f"sphere_{name}_uniform/value"])


# --- known answers -----------------------------------------------------------------


def test_two_points():
    # in three dimensions the plane of x and y sees their angle, another one does not
    x, y = np.eye(3, dtype="float32")[:1], np.float32([[np.cos(1), np.sin(1), 0]])
    plane = np.eye(3, dtype="float32")[None]
    angle = 1 / (2 * np.pi)
    assert_close(distance(x, y, plane[:, :2], 1), angle)
    assert_close(distance(x, y, plane[:, :0:-1], 1), 0.25)  # x is put at 0
    both = np.concatenate([plane[:, :2], plane[:, ::2]])
    assert_close(distance(x, y, both), angle**2 / 2)
    assert_close(distance(x, y, both, root=True), angle / 2**0.5)
    for p in (1, 2):  # antipodes are half a turn apart on every circle
        planes = sphere_planes(jr.key(0), 5, 4)
        x = cloud(0, 1, 4, "float32")
        assert_close(distance(x, -x, planes, p), 0.5**p)


@pytest.mark.parametrize("weighted", [False, True])
def test_two_dimensions_are_the_circle(weighted, key, x64):
    x, y = cloud(1, 7, 2), cloud(2, 5, 2)
    rng = np.random.default_rng(3)
    a, b = (rng.uniform(size=7), rng.uniform(size=5)) if weighted else (None, None)
    u, v = circle_coordinates(x), circle_coordinates(y)
    planes = sphere_planes(key, 3, 2)  # rotations and reflections
    masses = {"x_weights": a, "y_weights": b}
    for p in (1, 2):
        expected = wasserstein_circle(u, v, p=p, **masses)
        assert_close(distance(x, y, planes, p, a, b), expected, rtol=1e-12)
    expected = linear_circular_wasserstein(u, v, **masses)
    assert_close(linear_spherical_sliced(x, y, planes, **masses), expected, 1e-12)
    expected = wasserstein_circle_uniform(u, x_weights=a)
    found = spherical_sliced_uniform(x, planes, x_weights=a)
    assert_close(found, expected, rtol=1e-12)
    assert_close(linear_spherical_sliced(x, None, planes, x_weights=a), expected)


def test_is_the_mean_over_planes(key, x64):
    x, y, planes = cloud(1, 6, 4), cloud(2, 8, 4), sphere_planes(key, 7, 4)
    u, v = circle_projections(x, planes), circle_projections(y, planes)
    for chunk in (None, 3, 1):
        assert_close(
            distance(x, y, planes, chunk=chunk), wasserstein_circle(u, v).mean()
        )
        found = linear_spherical_sliced(x, y, planes, chunk=chunk)
        assert_close(found, linear_circular_wasserstein(u, v).mean())
        found = spherical_sliced_uniform(x, planes, chunk=chunk)
        assert_close(found, wasserstein_circle_uniform(u).mean())


def test_laws(key):
    x, y = cloud(1, 9, 3, "float32"), cloud(2, 9, 3, "float32")
    planes = sphere_planes(key, 20, 3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn = turn.astype("float32")
    a = np.float32([2, 0, 1, 1, 0, 3, 0, 1, 1])
    assert distance(x, x, planes) == 0
    assert_close(distance(x @ turn, y @ turn, planes @ turn), distance(x, y, planes))
    assert_close(distance(y, x, planes), distance(x, y, planes))
    repeated = np.repeat(x, np.int32(a), axis=0)
    assert_close(distance(x, y, planes, a=a), distance(repeated, y, planes))
    linear = linear_spherical_sliced(x, y, planes)
    assert linear >= distance(x, y, planes)
    assert_close(linear_spherical_sliced(x, y, planes, root=True), linear**0.5)
    slope = jax.grad(lambda x: distance(x, x * 1, planes, root=True))
    gradient = jax.jit(slope)(x)
    assert bool(jnp.all(gradient == 0))


def test_uniform_law_is_the_limit_of_its_samples(key):
    x, planes = cloud(1, 20, 3, "float32"), sphere_planes(key, 50, 3)
    k = np.arange(20_000) + 0.5  # a Fibonacci spiral
    z, angle = 1 - k / 10_000, k * np.pi * (5**0.5 - 1)
    radius = np.sqrt(1 - z**2)
    many = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1)
    expected = distance(x, many.astype("float32"), planes)
    assert_close(spherical_sliced_uniform(x, planes), expected, rtol=2e-3)
    assert spherical_sliced_uniform(many.astype("float32"), planes) < 1e-6


# --- derivatives -------------------------------------------------------------------


def test_gradients(key, x64):
    x, y, planes = cloud(1, 5, 3), cloud(2, 4, 3), np.asarray(sphere_planes(key, 3, 3))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 1.5, 5), rng.uniform(0.5, 1.5, 4)
    weighted = lambda x, y, planes, a, b, p: distance(x, y, planes, p, a, b, 2)  # noqa: E731
    arguments = x, y, planes, a, b, np.array(1.7)
    check_gradient(jax.jit(weighted), *arguments)
    slopes = jax.jit(jax.grad(weighted, (0, 1)))(*arguments)
    for gradient, z in zip(slopes, (x, y), strict=True):
        assert_close(jnp.sum(gradient * z, axis=1), np.zeros(len(z)), atol=1e-15)
    both = lambda x, planes, a: (  # noqa: E731
        linear_spherical_sliced(x, y, planes, x_weights=a)
        + spherical_sliced_uniform(x, planes, x_weights=a)
    )
    check_gradient(jax.jit(both), x, planes, a)


def test_descent_spreads_points(key):
    """Points that cluster are driven apart; the value falls towards its bound."""
    x = unit(cloud(1, 30, 3) + 2 * np.eye(3)[0]).astype("float32")
    slope = jax.grad(spherical_sliced_uniform)

    @jax.jit
    def descend(x):
        def step(x, key):
            x = x - 30 * slope(x, sphere_planes(key, 20, 3))
            return x / jnp.linalg.norm(x, axis=1, keepdims=True), None

        return jax.lax.scan(step, x, jr.split(key, 300))[0]

    planes = sphere_planes(key, 200, 3)
    before, after = (spherical_sliced_uniform(z, planes) for z in (x, descend(x)))
    assert before > 0.03
    assert 1 / (12 * 30**2) < after < 0.003


# --- dtypes, errors, devices -------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, key):
    x, planes = jnp.asarray(cloud(1, 6, 3), dtype), sphere_planes(key, 4, 3, dtype)
    for y in (jnp.asarray(cloud(2, 5, 3), dtype), None):
        found = linear_spherical_sliced(x, y, planes)
        assert found.dtype == dtype
        unit = lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
        exact = [z if z is None else unit(z.astype("float32")) for z in (x, y, planes)]
        expected = linear_spherical_sliced(*exact)
        assert_close(np.float32(found), expected, rtol=2e-2)
    assert_close(distance(np.eye(3, dtype=int), np.eye(3)[::-1] * 1.0, planes), 0.0)
    mixed = spherical_sliced_uniform(x, planes.astype("float32"))
    assert mixed.dtype == "float32"  # and the points count as being on the sphere


def test_errors(key, user_errors):
    x, planes = jnp.asarray(cloud(1, 4, 3, "float32")), sphere_planes(key, 2, 3)
    for call, message in [
        (lambda: distance(x, 2 * x, planes), None),  # traced values are not looked at
        (
            lambda: spherical_sliced_wasserstein(x, 2 * x, planes),
            "`y` must lie on the unit sphere; got a point of norm 2",
        ),
        (
            lambda: spherical_sliced_uniform(1.001 * x, planes),
            "`x` must lie on the unit sphere; got a point of norm 1.001",
        ),
        (
            lambda: spherical_sliced_wasserstein(x, x[:, :2], planes),
            "`y` must have 3 columns",
        ),
        (
            lambda: spherical_sliced_wasserstein(x, x, planes.mT),
            "`planes` must have shape (p, 2, 3)",
        ),
        (
            lambda: spherical_sliced_wasserstein(x, x, planes, p=0.5),
            "`p` must be in [1, 100]",
        ),
        (
            lambda: spherical_sliced_wasserstein(
                x, x, planes, y_weights=-(x[:, 0] ** 2)
            ),
            "`y_weights` must be >= 0",
        ),
        (
            lambda: spherical_sliced_uniform(x, planes, x_weights=jnp.ones(3)),
            "`x_weights` must have shape (4,)",
        ),
        (
            lambda: linear_spherical_sliced(x, None, planes, y_weights=jnp.ones(4)),
            "`y_weights` was given, but not `y`",
        ),
        (
            lambda: spherical_sliced_uniform(x, planes, chunk=0),
            "`chunk` must be an integer >= 1",
        ),
    ]:
        if message is None:
            assert bool(jnp.isfinite(call()))
            continue
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_transformations_and_devices(key):
    x, y = (jnp.asarray(cloud(k, 8, 3, "float32")) for k in (1, 2))
    planes, a = sphere_planes(key, 8, 3), jr.uniform(key, (8,))

    def everything(x, y, planes, a):
        value = spherical_sliced_wasserstein(x, y, planes, chunk=4)
        return value + spherical_sliced_uniform(x, planes, x_weights=a)

    run = jax.value_and_grad(everything, (0, 1, 2, 3))
    expected = jax.jit(run)(x, y, planes, a)
    same = functools.partial(jax.tree.map, functools.partial(assert_close, atol=1e-5))
    same(everything(x, y, planes, a), expected[0])
    rows = jax.jit(jax.vmap(everything))(*(z[None] for z in (x, y, planes, a)))
    same(rows[0], expected[0])
    auto = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Auto,))
    explicit = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Explicit,))
    for mesh in (auto, explicit):
        split = jax.device_put(planes, NamedSharding(mesh, P("p")))
        others = (jax.device_put(z, NamedSharding(mesh, P())) for z in (x, y, a))
        x_, y_, a_ = others
        same(jax.jit(run)(x_, y_, split, a_), expected)

    def share(x, y, planes, a):
        return jax.lax.pmean(everything(x, y, planes, a), "p")

    specs = (P(), P(), P("p"), P())
    mapped = jax.shard_map(
        share, mesh=auto, in_specs=specs, out_specs=P(), check_vma=True
    )
    same(jax.jit(mapped)(x, y, planes, a), expected[0])
