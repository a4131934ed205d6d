import jax
import numpy as np
import pytest
from helpers import DATA, assert_close

from transportjax.sliced import greedy_rotations, haar_rotation


def repulsions(rotations):
    """F of each rotation against all before it, from the second on."""
    rotations = np.asarray(rotations, np.float64)
    dim = rotations.shape[-1]
    cosines = [
        rotations[:k].reshape(-1, dim) @ rotations[k].T
        for k in range(1, len(rotations))
    ]
    return np.array([np.sum(6 / (9 - 4 * c**2)) for c in cosines])


@pytest.fixture(scope="module")
def published():
    return dict(np.load(DATA / "rotations.npz"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("num", "dim"), [(40, 2), (16, 3), (3, 4), (2, 1)])
def test_rotations_are_orthogonal_and_start_at_the_identity(num, dim, dtype, x64):
    rotations = greedy_rotations(num, dim, dtype)
    assert rotations.shape == (num, dim, dim)
    assert rotations.dtype == dtype
    assert np.array_equal(rotations[0], np.eye(dim))
    eye = np.broadcast_to(np.eye(dim), rotations.shape)
    tol = {"float32": 1e-6, "float64": 1e-14}[dtype]
    assert_close(rotations @ rotations.mT, eye, atol=tol)


def test_three_dimensions_are_as_good_as_thirty_restarts_of_bfgs(x64, published):
    found = repulsions(greedy_rotations(12, 3, "float64"))
    best = repulsions(published["greedy3"])
    printed = [7.0885, 14.2323, 21.5275, 28.8839, 35.9724, 43.3468]
    printed += [50.5633, 57.6595, 65.1011, 72.2414, 79.4016]
    assert_close(best, printed, rtol=0, atol=1e-4)  # F is what the paper means
    assert np.all(found <= best + 1e-3)


def test_three_dimensions_are_as_good_as_the_published_table(x64, published):
    # Its axes are the columns of the printed matrices, of six digits.
    u, _, v = np.linalg.svd(published["table"].transpose(0, 2, 1))
    table = np.cumsum(repulsions(u @ v))
    found = np.cumsum(repulsions(greedy_rotations(12, 3, "float64")))
    assert np.all(found <= table * (1 + 2e-5))


def test_two_dimensions_are_optimal(x64, published):
    found = greedy_rotations(40, 2, "float64")
    assert np.all(repulsions(found)[:11] <= repulsions(published["greedy2"]) + 1e-6)
    angles = np.linspace(0, np.pi / 2, 2001)
    axes = np.stack([np.cos(angles), np.sin(angles)], -1)
    for step in (5, 20, 39):  # no angle of a fine grid is better
        earlier = np.asarray(found[:step]).reshape(-1, 2)
        # The second axis, a quarter turn on, sees the same set of axes.
        every = 2 * np.sum(6 / (9 - 4 * (axes @ earlier.T) ** 2), axis=-1)
        assert repulsions(found)[step - 1] <= every.min() + 1e-9


def test_two_dimensions_halve_the_widest_gap():
    axes = np.asarray(greedy_rotations(4, 2))[:, 0]
    angles = np.degrees(np.arctan2(axes[:, 1], axes[:, 0]))
    assert_close(angles, [0, 45, 22.5, 67.5], rtol=1e-5)


def test_four_dimensions_find_the_24_cell(x64):
    # Two more bases at cosines 1/2 to each other: every pair costs 6/(9 - 1), the
    # least that is possible, for each row of squared cosines sums to one.
    assert_close(repulsions(greedy_rotations(3, 4)), [12, 24], rtol=1e-5)


def test_five_dimensions_are_better_than_random(key):
    found = repulsions(greedy_rotations(4, 5))
    keys = jax.random.split(key, (50, 4))
    draw = jax.jit(jax.vmap(jax.vmap(lambda k: haar_rotation(k, 5))))
    chance = np.array([repulsions(rotations) for rotations in draw(keys)])
    assert np.all(found < chance.min(axis=0))


def test_a_shorter_sequence_begins_a_longer_one():
    assert np.array_equal(greedy_rotations(4, 5)[:3], greedy_rotations(3, 5))
    longer = greedy_rotations(17, 3)
    assert np.array_equal(longer[:16], greedy_rotations(16, 3))
    assert_close(repulsions(longer)[-1], 115.6653, rtol=1e-5)


def test_is_a_constant_under_jit():
    inside = jax.jit(lambda: greedy_rotations(3, 6))()  # not asked for before
    assert_close(inside, greedy_rotations(3, 6))


@pytest.mark.parametrize(("num", "dim"), [(0, 3), (3, 0), (2.0, 3)])
def test_errors(num, dim, user_errors):
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        greedy_rotations(num, dim)
