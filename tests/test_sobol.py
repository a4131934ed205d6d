import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

from transportjax.sliced import sobol_directions
from transportjax.sliced.sobol import _sobol_points


@pytest.mark.parametrize("dim", [1, 2, 13, 21])
@pytest.mark.parametrize("num", [1, 2, 512])
def test_sobol_points_are_those_of_scipy(num, dim):
    peer = scipy.stats.qmc.Sobol(dim, scramble=False).random(num)
    assert np.array_equal(np.asarray(_sobol_points(num, dim)) / 2.0**32, peer)


@pytest.mark.parametrize("num", [1, 3, 16])
@pytest.mark.parametrize("dim", [1, 21])
def test_unshifted_sobol_directions_are_at_cell_centres(num, dim, x64):
    grid = 2 ** max(1, int(np.ceil(np.log2(num))))
    points = scipy.stats.qmc.Sobol(dim, scramble=False).random(grid)[:num]
    normal = scipy.stats.norm.ppf(points + 0.5 / grid)
    expected = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    assert_close(sobol_directions(num, dim, dtype="float64"), expected)
    assert_close(sobol_directions(num, dim, dtype="float32"), expected, atol=5e-5)
