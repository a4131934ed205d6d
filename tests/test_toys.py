import numpy as np
import pytest

from benchmarks.toys import TOYS

each_toy = pytest.mark.parametrize("name", TOYS)
TRUTHS = {"moons": -1.615, "checkerboard": -1.800, "8 Gaussians": -0.985}
TRUTHS["spirals"] = -1.638


@each_toy
def test_densities_integrate_to_one_and_to_the_entropy(name):
    # edges of the squares of the board lie between the points of the grid
    side, step = np.linspace(-80 / 23, 80 / 23, 320, endpoint=False, retstep=True)
    side = side + step / 2
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    values = TOYS[name].log_prob(grid)
    masses = np.exp(values) * step**2
    assert np.sum(masses) == pytest.approx(1, abs=1e-5)
    entropy_terms = np.where(masses > 0, values, 0) * masses
    assert np.sum(entropy_terms) == pytest.approx(TRUTHS[name], abs=1e-3)


@each_toy
def test_samples_have_the_density(name):
    toy = TOYS[name]
    x = toy.sample(np.random.default_rng(0), 20_000)
    assert x.shape == (20_000, 2)
    np.testing.assert_allclose(np.mean(x, axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.std(x, axis=0), 1, atol=0.03)
    values = toy.log_prob(x)
    error = np.std(values) / len(x) ** 0.5
    assert np.mean(values) == pytest.approx(TRUTHS[name], abs=4 * error + 1e-3)
    # counts in a coarse grid against the mass of its cells
    edges = np.linspace(-80 / 23, 80 / 23, 17)
    counts = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])[0]
    fine = 12
    side = np.linspace(-80 / 23, 80 / 23, 16 * fine, endpoint=False)
    step = side[1] - side[0]
    grid = (
        np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2) + step / 2
    )
    masses = (
        np.exp(toy.log_prob(grid)).reshape(16, fine, 16, fine).sum((1, 3)) * step**2
    )
    expected = len(x) * masses
    held = expected > 5
    score = np.sum((counts - expected)[held] ** 2 / expected[held])
    assert score < np.sum(held) + 5 * (2 * np.sum(held)) ** 0.5
