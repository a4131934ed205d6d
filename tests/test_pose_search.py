"""All translations at once: against sums over pairs of points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, images, preimages

from transportjax.maps import Rigid
from transportjax.solvers.clouds import Cloud, Data, normalised
from transportjax.solvers.frames import Frame
from transportjax.solvers.free_space import _ASIDE, INTRUSION, intrusion
from transportjax.solvers.pose_search import _CELLS, _HALF, best_translations
from transportjax.solvers.rotations import spread_quaternions


def helix(n=60, dim=3):
    t = np.linspace(0, 5, n)
    x = np.stack([(1 + t) * np.cos(t), (1 + t) * np.sin(t), 2 * t], axis=1)[:, :dim]
    return x.astype("float32")


def outward(x):
    normals = x + np.ones_like(x) / 3
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def problem(dim, *, normals, views=False):
    """A cloud, and the part of it that is left, turned and moved; normalised."""
    rng = np.random.default_rng(0)
    x = helix(dim=dim)
    turn = spread_quaternions(40)[7] if dim == 3 else np.array(2.0)
    map = Rigid(jnp.asarray(turn, "float32"), jnp.zeros(dim, "float32"))
    y = np.asarray(images(map, x))[:45]
    eye = np.array([0, 0, 60], "float32") if views else None
    clouds = []
    for points, weights in ((x, np.ones(60)), (y, rng.uniform(0.5, 1.5, 45))):
        weights = jnp.asarray(weights / weights.sum(), "float32")
        own = jnp.asarray(outward(points)) if normals else None
        clouds.append(Cloud(jnp.asarray(points), weights, own, eye))
    middles = [c.weights @ c.points for c in clouds]
    frame = Frame(middles[0], middles[1], jnp.asarray(4.0))
    data = normalised(Data(*clouds, None, jnp.zeros(())), frame)
    truth = (map(middles[0]) - middles[1]) / 4.0
    return data, map.matrix, truth


def overlap(data, matrix, shift, kernel):
    """The sum over pairs, as it is defined."""
    source, target = (jax.tree.map(np.asarray, c) for c in (data.source, data.target))
    matrix, shift = np.asarray(matrix), np.asarray(shift)
    step = 2 * _HALF / _CELLS[len(matrix)]
    moved = source.points @ matrix.T + shift
    squares = ((moved[:, None] - target.points[None]) ** 2).sum(-1)
    value = np.exp(-squares / (4 * step**2))
    if source.normals is not None:
        value = value * kernel((source.normals @ matrix.T) @ target.normals.T)
    return source.weights @ value @ target.weights


KERNELS = {False: lambda c: ((1 + c) / 2) ** 2, True: lambda c: c**2}


@pytest.mark.parametrize(
    ("dim", "normals", "symmetric"),
    [(2, False, False), (3, False, False), (3, True, False), (2, True, True)],
)
def test_overlaps_are_those_of_pairs(dim, normals, symmetric):
    data, matrix, truth = problem(dim, normals=normals)
    turns = jnp.stack([matrix, jnp.eye(dim)])
    run = jax.jit(functools.partial(best_translations, symmetric=symmetric))
    scores, shifts = run(data, turns)
    step = 2 * _HALF / _CELLS[dim]
    assert np.abs(shifts[0] - truth).max() < step
    assert scores[0] > scores[1]
    eye, kernel = jnp.eye(dim), KERNELS[symmetric]
    ends = [data._replace(source=c, target=c) for c in (data.source, data.target)]
    whole = np.sqrt(np.prod([overlap(d, eye, 0 * truth, kernel) for d in ends]))
    for k in range(2):
        expected = overlap(data, turns[k], shifts[k], kernel) / whole
        # points spread over the corners of cells are wider by a part of a cell
        assert_close(scores[k], expected, rtol=0.15)


def test_free_space_counts():
    data, matrix, _ = problem(3, normals=False, views=True)
    run = jax.jit(functools.partial(best_translations, symmetric=False))
    score, shift = run(data, matrix[None])
    map = Rigid.from_matrix(matrix, shift[0])
    width = jnp.asarray(0.5 * 2 * _HALF / _CELLS[3])
    source, target = data.source, data.target
    moved = images(map, source.points)
    inside = intrusion(data.views[1], moved, source.weights, width)
    back = preimages(map, target.points)
    inside = inside + intrusion(data.views[0], back, target.weights, width)
    assert inside > 0.1 * _ASIDE
    ends = [data._replace(source=c, target=c) for c in (source, target)]
    eye = jnp.eye(3)
    whole = np.sqrt(np.prod([overlap(d, eye, 0 * shift[0], KERNELS[0]) for d in ends]))
    expected = overlap(data, matrix, shift[0], KERNELS[0]) / whole
    assert_close(score[0], expected - INTRUSION * inside / 2, atol=0.1)


def test_points_off_the_grid_do_not_count():
    data, matrix, truth = problem(3, normals=False)
    x = data.source.points.at[-1].set(50.0)
    masses = data.source.weights.at[-1].set(0.0)
    far = data._replace(source=data.source._replace(points=x))
    gone = data._replace(source=data.source._replace(weights=masses))
    run = jax.jit(functools.partial(best_translations, symmetric=False))
    assert_close(run(far, matrix[None])[1], run(gone, matrix[None])[1])
