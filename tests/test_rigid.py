"""Rigid maps and similarities; the laws of all maps are in test_maps.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from scipy.spatial.transform import Rotation

from transportjax.maps import Rigid, Similarity

# general, identity, and half turns, where one way to a quaternion after another fails
QUATERNIONS = np.array(
    [
        [0.3, -0.5, 0.2, 0.7],
        [-0.3, 0.5, 0.8, -0.1],
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 1, 0, 0],
        [0.1, 0.2, 0.9, 0],
    ]
)


def test_quaternions_are_those_of_scipy(x64):
    for quaternion in QUATERNIONS:
        expected = Rotation.from_quat(quaternion).as_matrix()
        map = Rigid(3 * quaternion, jnp.array([1.0, 2.0, 3.0]))
        assert_close(map.matrix, expected)
        assert_close(map(jnp.ones(3)), expected.sum(1) + [1, 2, 3])


def test_a_quarter_turn_is_counterclockwise():
    turn = Rigid(jnp.pi / 2, jnp.array([0.0, 5.0]))
    assert_close(turn(jnp.array([1.0, 0.0])), [0.0, 6.0])
    assert_close(turn.inverse(jnp.array([0.0, 6.0])), [1.0, 0.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrices_come_back(dtype, x64):
    for quaternion in QUATERNIONS:
        matrix = Rotation.from_quat(quaternion).as_matrix().astype(dtype)
        map = Rigid.from_matrix(matrix, np.zeros(3, dtype))
        assert map.rotation.dtype == dtype
        assert_close(map.matrix, matrix)
        assert_close(jnp.linalg.norm(map.rotation), 1)
    for angle in (0.0, 1.0, -2.0, 3.1415926, -0.5):
        matrix = Rigid(angle, jnp.zeros(2)).matrix.astype(dtype)
        assert_close(Rigid.from_matrix(matrix, np.zeros(2, dtype)).matrix, matrix)


def test_identity():
    for dim in (2, 3):
        x = jnp.arange(1.0, dim + 1)
        np.testing.assert_array_equal(Rigid.identity(dim)(x), x)


def test_a_similarity_is_a_scaled_rotation_and_a_translation():
    turn = Rigid(QUATERNIONS[0], np.array([1.0, -2.0, 0.5]))
    map = Similarity(turn, np.log(2.5))
    x = jnp.array([0.3, -1.0, 2.0])
    assert_close(map(x), 2.5 * turn.matrix @ x + turn.translation)
    assert_close(map.matrix, 2.5 * turn.matrix)
    assert_close(map.transform_and_log_det(x)[1], 3 * np.log(2.5))
    np.testing.assert_array_equal(Similarity.identity(3)(x), x)


def test_derivatives(x64):
    weights = np.random.default_rng(1).normal(size=(3, 3))

    def to_matrix(rotation):
        return jnp.sum(weights * Rigid(rotation, jnp.zeros(3)).matrix)

    def there_and_back(rotation):
        matrix = Rigid(rotation, jnp.zeros(3)).matrix
        turned = Rigid.from_matrix(matrix, jnp.zeros(3)).rotation
        return turned @ weights[0, [0, 1, 2, 0]]

    for quaternion in QUATERNIONS[:2]:
        check_gradient(jax.jit(to_matrix), quaternion)
        check_gradient(jax.jit(there_and_back), quaternion)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rigid(np.zeros(2), np.zeros(2)), "`rotation` must be an angle"),
        (lambda: Rigid(0.0, np.zeros(3)), "`rotation` must be an angle"),
        (lambda: Rigid(np.zeros(4), np.zeros(3)), "not be the zero quaternion"),
        (lambda: Rigid(np.nan, np.zeros(2)), "`rotation` must be finite"),
        (lambda: Rigid.identity(4), "Rigid maps exist in dimension 2 to 3"),
        (
            lambda: Rigid.from_matrix(np.diag([1.0, -1.0]), np.zeros(2)),
            "`matrix` must be a rotation; .* determinant -1",
        ),
        (lambda: Rigid.from_matrix(np.eye(4), np.zeros(4)), "`matrix` must have shape"),
        (
            lambda: Rigid.from_matrix(2 * np.eye(3), np.zeros(3)),
            "Use `Affine` for other matrices",
        ),
        (lambda: Similarity(np.eye(2), 0.0), "`turn` must be a Rigid"),
        (lambda: Similarity(Rigid.identity(2), np.nan), "`log_scale` must be"),
    ],
)
def test_errors(make, message, user_errors):
    with pytest.raises(ValueError, match=message):
        make()
