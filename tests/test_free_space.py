"""Free space of range scans: pictures with known gaps, and what it decides."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.maps import Rigid
from transportjax.solvers import register
from transportjax.solvers.annealing import _DEEP
from transportjax.solvers.free_space import _ASIDE, INTRUSION, intrusion, view_of


def plate(n=24):
    """A square of width two across the line of sight, at z = 0."""
    side = np.linspace(-1, 1, n)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([grid, np.zeros((n * n, 1))], axis=1).astype("float32")


def seen_from(x, place, weights=None):
    weights = jnp.full(len(x), 1 / len(x), x.dtype) if weights is None else weights
    return view_of(jnp.asarray(x), jnp.asarray(weights), jnp.asarray(place, x.dtype))


def one(view, *place, width=0.1):
    points = jnp.asarray([place], view.depth.dtype)
    return float(intrusion(view, points, jnp.ones(1, points.dtype), jnp.float32(width)))


@pytest.mark.parametrize("distance", [3.0, 1e4])
def test_what_is_before_or_beside_a_plate(distance):
    x = plate()
    view = seen_from(x, [0, 0, distance])
    assert one(view, 0.1, 0.2, 0.0) == 0
    assert one(view, 0.1, 0.2, -5.0) == 0  # hidden
    before = 0.5 - 0.5 * float(view.step)
    expected = before**2 / (before**2 + 0.01)
    assert_close(one(view, 0.1, 0.2, 0.5), expected, rtol=1e-3)
    assert _ASIDE > one(view, 1.6, 0.0, 0.0) > 0.8 * _ASIDE
    assert one(view, 4.0, 0.0, -2.0) > 0.98 * _ASIDE
    assert one(view, 1.6, 0.0, 0.0) < one(view, 1.9, 0.0, 0.0)


def test_perspective():
    # seen from a distance of three, the plate hides twice its width at z = -3
    x = plate()
    near, far = (seen_from(x, [0, 0, z]) for z in (3.0, 1e4))
    assert one(near, 1.7, 0.0, -3.0) == 0
    assert one(far, 1.7, 0.0, -3.0) > 0.8 * _ASIDE


def test_weightless_points_are_not_in_the_picture():
    x = plate()
    more = np.concatenate([x, np.array([[0, 0, 2], [5, 0, 0]], "float32")])
    weights = (np.arange(len(more)) < len(x)).astype("float32") / len(x)
    view = seen_from(more, [0, 0, 9], weights)
    assert one(view, 0.0, 0.0, 1.0) > 0.9
    assert one(view, 3.0, 0.0, 0.0) > 0.9 * _ASIDE


def test_gradient(x64):
    x = plate().astype("float64")
    x[:, 2] = 0.3 * x[:, 0]
    view = seen_from(x, [0.2, 0.1, 4.0])
    places = np.array([[0.11, 0.23, 0.4], [1.55, 0.32, 0.1], [-3.0, 2.0, 0.3]])
    weights = jnp.array([0.2, 0.5, 0.3])
    check_gradient(lambda p: intrusion(view, p, weights, jnp.asarray(0.5)), places)


def test_it_counts_in_a_registration():
    # the target stands before the source for its scanner, which for that of the target
    # is behind the surface
    x, up = plate(10), np.array([0, 0, 0.6], "float32")
    options: dict = {"bandwidths": [0.5], "centre": False, "num_steps": 1}

    def cost(y, **seen):
        return register(x, y, Rigid.identity(3), **options, **seen).stats["cost"][0]

    eye, free = np.array([0, 0, 1e3], "float32"), cost(x + up)
    assert_close(cost(x + up, target_viewpoint=eye), free, rtol=1e-4)
    step = 2 / 7
    gap = (0.6 - 0.5 * step) / (0.5 * _DEEP)
    share = 0.5 * gap**2 / (1 + gap**2)
    expected = free - INTRUSION * share * cost(x)
    assert_close(cost(x + up, source_viewpoint=eye), expected, rtol=1e-3)


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source_viewpoint": np.ones(2)},
            r"`source_viewpoint` must have shape \(3,\)",
        ),
        ({"target_viewpoint": [0, 0, np.nan]}, "`target_viewpoint` must be finite"),
    ],
)
def test_errors(change: dict, message: str):
    x = plate(3)
    with pytest.raises(ValueError, match=message):
        register(x, x, Rigid.identity(3), **change)
    with pytest.raises(ValueError, match=r"must be None for maps that are not a Rigid"):
        register(x[:, :2], x[:, :2], Rigid.identity(2), source_viewpoint=np.ones(3))
