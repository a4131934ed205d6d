import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from problems import gaussian_cloud, sliced_cost

from transportjax.sliced import (
    MaxSlicedDirections,
    haar_rotation,
    half_circle_directions,
    max_sliced_wasserstein,
    orthonormal_directions,
    projected_costs,
    random_directions,
    sliced_wasserstein,
)
from transportjax.solvers import idt

REFERENCE = np.load(DATA / "max_sliced.npz")
PROBLEMS = np.load(DATA / "sliced_wasserstein.npz")


def clouds(key, n=40, m=40, d=3):
    """Two clouds that differ most along the first two axes."""
    x, y = jr.normal(key, (n, d)), jr.normal(jr.fold_in(key, 1), (m, d))
    side = jnp.where(y[:, 1] > 0, 1.5, -1.5)
    return x, y.at[:, 0].set(0.3 * y[:, 0] + side)


# --- known answers -----------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.0])
def test_a_translation_is_found_exactly(p, key):
    x, step = jr.normal(key, (40, 3)), np.array([1.0, -2.0, 2.0], "float32")
    value, directions = max_sliced_wasserstein(x, x + step[None], key=key, p=p)
    assert_close(value, 3.0**p, rtol=1e-5)
    assert_close(abs(directions @ step), [3.0], rtol=1e-5)
    root, _ = max_sliced_wasserstein(x, x + step[None], key=key, p=p, root=True)
    assert_close(root, 3.0, rtol=1e-5)


def test_gaussians_that_differ_in_one_direction(key):
    # W_2^2(theta) = (sqrt(theta^T A theta) - sqrt(theta^T B theta))^2
    axis = np.array([0.6, 0.0, 0.8])
    x = gaussian_cloud(key, 4000, np.zeros(3), np.eye(3))
    matrix = np.eye(3) + 2 * np.outer(axis, axis)
    value, directions = max_sliced_wasserstein(x, x @ matrix.astype("float32"), key=key)
    assert_close(abs(directions @ axis), [1.0], rtol=2e-3)
    assert_close(value, 4.0, rtol=2e-2)


@pytest.mark.parametrize("p", [1, 2])
def test_a_dense_grid_of_directions_in_the_plane(p, key):
    x, y = clouds(key, 40, 30, 2)
    grid = half_circle_directions(4096)
    best = float(jnp.max(projected_costs(x, y, grid, p=p)))
    value, directions = max_sliced_wasserstein(x, y, key=key, p=p, num_steps=100)
    assert best * (1 - 1e-5) <= value <= best * (1 + 1e-4)
    assert_close(projected_costs(x, y, directions, p=p)[0], value)


def test_it_lies_between_the_sliced_distance_and_the_distance(key):
    x, y = clouds(key)
    value, _ = max_sliced_wasserstein(x, y, key=key)
    squares = np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=-1)
    exact = squares[scipy.optimize.linear_sum_assignment(squares)].mean()
    costs = projected_costs(x, y, random_directions(key, 2000, 3))
    assert jnp.mean(costs) < jnp.max(costs) < value < exact


def test_many_dimensions_where_random_directions_fail(key):
    x, y = clouds(key, 1000, 1000, 20)
    turn = haar_rotation(key, 20)
    value, directions = max_sliced_wasserstein(x @ turn, y @ turn, key=key)
    random = projected_costs(x @ turn, y @ turn, random_directions(key, 2000, 20))
    axis = projected_costs(x, y, jnp.eye(20)[:1])[0]
    assert value > 2 * jnp.max(random)
    assert value >= axis
    assert abs(directions @ turn[0])[0] > 0.8


def test_several_directions_are_a_frame_with_the_greatest_mean(key):
    x = jr.normal(key, (200, 5))
    scales = jnp.array([[4.0, 3.0, 1.0, 1.0, 1.0]])
    turn = haar_rotation(key, 5)
    search = functools.partial(max_sliced_wasserstein, x @ turn, key=key)
    y = (x * scales) @ turn
    value, frame = search(y, num=2)
    assert_close(frame @ frame.T, np.eye(2), atol=1e-5)
    assert_close(value, jnp.mean(projected_costs(x @ turn, y, frame)), rtol=1e-5)
    axes = projected_costs(x, x * scales, jnp.eye(5))
    assert value >= jnp.mean(axes[:2]) * (1 - 1e-4)
    # the plane of the two axes that differ
    assert_close(jnp.sum((frame @ turn.T)[:, :2] ** 2), 2.0, rtol=2e-2)
    one, _ = search(y)
    whole, basis = search(y, num=5)
    assert_close(basis @ basis.T, np.eye(5), atol=1e-5)
    many = orthonormal_directions(key, 500, 5)
    assert sliced_wasserstein(x @ turn, y, many) < whole < value < one


def test_more_steps_never_lower_the_value(key):
    x, y = clouds(key, 40, 40, 4)
    values = [
        float(max_sliced_wasserstein(x, y, key=key, num_steps=n, num_starts=2)[0])
        for n in (0, 2, 30)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0]


# --- against reference data --------------------------------------------------------


@pytest.mark.parametrize("name", "abcde")
def test_the_reference_is_the_best_of_its_directions(name, x64):
    fields = ["X", "Y", "P", "a", "b"]
    data = {f: PROBLEMS[f"{name}/{f}"] for f in fields if f"{name}/{f}" in PROBLEMS}
    masses = {"x_weights": data.get("a"), "y_weights": data.get("b")}

    @jax.jit
    @jax.value_and_grad
    def best(x, p):
        costs = projected_costs(x, data["Y"], data["P"].T, p=p, **masses)
        return jnp.max(costs) ** (1 / p)

    for p in (1.0, 2.0, 3.0):
        value, slope = best(data["X"], p)
        expected = REFERENCE[f"{name}_p{p:.0f}/max_value"]
        assert_close(value, expected)
        if name in "ac":
            assert_close(slope, REFERENCE[f"{name}_p{p:.0f}/gradient_X"])
        if name == "c":  # a maximum over the sphere is more than one over a few
            found, _ = max_sliced_wasserstein(
                data["X"],
                data["Y"],
                key=jr.key(0),
                p=jnp.asarray(p),
                root=True,
                **masses,
            )
            assert expected * (1 - 1e-9) < found < 2 * expected


# --- derivatives -------------------------------------------------------------------


def test_the_gradient_is_that_of_the_maximum(x64):
    # far apart, so that the maximum is not where projections coincide: in a kink
    x, y = (np.asarray(c, "float64") for c in clouds(jr.key(1), 12, 9))
    y = 0.3 * y + np.array([5.0, -3.0, 1.0])
    a, b = jnp.linspace(0.5, 1.5, 12), jnp.linspace(1.5, 0.5, 9)

    def distance(x, y, a, b):
        masses = {"x_weights": a, "y_weights": b}
        options = {"key": jr.key(0), "num_starts": 1, **masses}
        return max_sliced_wasserstein(x, y, **options)[0]

    # differences of the searched maximum itself: its direction moves with the points
    check_gradient(jax.jit(distance), x, y, a, b, eps=1e-5, rtol=1e-5, atol=1e-6)


def test_the_directions_are_held_in_the_gradient(key):
    x, y = clouds(key)
    options = {"key": key, "num": 2, "num_steps": 5}
    frame = max_sliced_wasserstein(x, y, **options)[1]
    slope = jax.grad(lambda y: max_sliced_wasserstein(x, y, **options)[0])(y)
    expected = jax.grad(lambda y: jnp.mean(projected_costs(x, y, frame)))(y)
    assert_close(slope, expected, rtol=1e-4, atol=1e-5)
    # and they have no slope of their own
    slope = jax.grad(lambda y: jnp.sum(max_sliced_wasserstein(x, y, **options)[1]))(y)
    assert np.all(slope == 0)


def test_equal_clouds_have_value_and_gradient_zero(key):
    x = jr.normal(key, (10, 3))
    value, slope = jax.value_and_grad(
        lambda x: max_sliced_wasserstein(x, x + 0.0, key=key, root=True)[0]
    )(x)
    assert value == 0
    assert np.all(slope == 0)


# --- transformations, dtypes, weights ----------------------------------------------


def test_jit_and_vmap(key):
    x, y = clouds(key)
    search = functools.partial(max_sliced_wasserstein, key=key, num_steps=10)
    value, directions = search(x, y)
    jitted = jax.jit(search)(x, y)
    assert_close(jitted[0], value, rtol=1e-4)
    batch = jax.vmap(search)(jnp.stack([x, x + 1]), jnp.stack([y, y]))
    assert_close(batch[0][0], value, rtol=1e-4)
    assert_close(abs(batch[1][0] @ directions.T), [[1.0]], rtol=1e-3)


def test_swept_numbers_do_not_compile_again(key):
    from transportjax.sliced.max_sliced import _search

    x, y = clouds(key)
    before = _search._cached._cache_size()
    for rate in (0.5, 1.0, 2):
        max_sliced_wasserstein(x, y, key=key, num_steps=3, learning_rate=rate)
    assert _search._cached._cache_size() == before + 1


def test_weights_are_repetitions(key):
    x, y = clouds(key, 12, 10)
    counts = np.arange(12) % 3 + 1
    options = {"key": key, "num_steps": 100}
    weighted, _ = max_sliced_wasserstein(x, y, x_weights=counts, **options)
    repeated, _ = max_sliced_wasserstein(np.repeat(x, counts, 0), y, **options)
    assert_close(weighted, repeated, rtol=1e-3)


def test_dtypes_and_one_dimension(key, x64):
    x, y = clouds(key)
    for dtype in ("bfloat16", "float16", "float32", "float64"):
        value, directions = max_sliced_wasserstein(
            x.astype(dtype), y.astype(dtype), key=key, num_steps=2
        )
        assert value.dtype == directions.dtype == dtype
    value, directions = max_sliced_wasserstein(
        np.array([[0], [1]]), np.array([[3], [4]]), key=key
    )
    assert_close(value, 9.0)
    assert_close(abs(directions), [[1.0]])
    far = np.array([[250, 0], [250, 3]], "uint8")
    assert_close(max_sliced_wasserstein(far * 0, far, key=key)[0], 250**2 + 4.5, 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 4}, "`num` must be at most 3, the dimension"),
        ({"num": 0}, "`num` must be an integer >= 1"),
        ({"p": 0.5}, "`p` must be in"),
        ({"num_steps": -1}, "`num_steps` must be an integer >= 0"),
        ({"num_starts": 0}, "`num_starts` must be"),
        ({"learning_rate": 0}, "`learning_rate` must be in"),
        ({"x_weights": -np.ones(5)}, "`x_weights` must be >= 0"),
        ({"y_weights": np.ones(4)}, "`y_weights` must have shape"),
    ],
)
def test_errors(options, message, key, user_errors):
    x = np.ones((5, 3))
    with pytest.raises(ValueError, match=message):
        max_sliced_wasserstein(x, x, key=key, **options)


# --- the strategy ------------------------------------------------------------------


def test_transfer_along_these_directions_takes_fewer_steps():
    n, d = 1000, 8
    x = jr.normal(jr.key(0), (n, d))
    y = jr.normal(jr.key(1), (n, d))
    y = y.at[:, 0].set(jnp.where(y[:, 0] > 0, 2.0, -2.0) + 0.3 * y[:, 1])
    y = y @ haar_rotation(jr.key(2), d)
    found = idt(x, y, key=jr.key(3), directions=MaxSlicedDirections(), num_steps=2)
    random = idt(x, y, key=jr.key(3), num_steps=8)
    assert sliced_cost(x, y) > 0.05
    assert sliced_cost(found.points, y) < sliced_cost(random.points, y) / 2


def test_the_strategy_looks_at_a_part_of_many_points(key):
    x, y = clouds(key, 3000, 2500, 4)
    strategy = MaxSlicedDirections(1, num_points=512)

    @jax.jit
    def rows(x):
        return strategy.sample(key, strategy.init(key, 4), x, y)[0]

    assert abs(rows(x)[0, 0]) > 0.7
    slope = jax.grad(lambda x: jnp.sum(rows(x)))(x)
    assert np.all(slope == 0)  # the search is held


@pytest.mark.parametrize("option", ["num", "num_starts", "num_points"])
def test_options_of_the_strategy_are_checked(option, key, user_errors):
    with pytest.raises(ValueError, match=f"`{option}` must be an integer >= 1"):
        MaxSlicedDirections(**{option: 0})
    with pytest.raises(ValueError, match="at most 2, the dimension"):
        MaxSlicedDirections(3).init(key, 2)
