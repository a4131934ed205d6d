import jax.numpy as jnp
import numpy as np
import pytest

from transportjax.apps.tone_curves import (
    _corners,
    _divide,
    _positions,
    each_block,
    tile_grid,
)


@pytest.mark.parametrize("by", [1, 2, 3, 7, 41, 4093, 65535, 1 << 20])
def test_integers_are_divided_exactly(by):
    rng = np.random.default_rng(by)
    most = min(2**30, 10**6 * by)  # the quotient of floats is off by one at most
    x = np.concatenate([np.arange(3000), rng.integers(0, most, 3000)])
    x = np.concatenate([x, x // by * by, np.maximum(x // by * by - 1, 0)])
    quotient, rest = _divide(jnp.asarray(x, jnp.int32), jnp.asarray(by, jnp.int32))
    np.testing.assert_array_equal(quotient, x // by)
    np.testing.assert_array_equal(rest, x % by)


def test_places_of_pixels():
    for width, first in ((1, 0), (7, 30), (5000, 131072 * 17), (65000, 131072 * 5000)):
        grid = jnp.asarray([60000, width, 1, 1], jnp.int32)
        start = jnp.asarray(divmod(first, width), jnp.int32)
        row, column = _positions(131072, start, grid)
        expected = np.divmod(first + np.arange(131072), width)
        np.testing.assert_array_equal((row, column), expected)


@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(6, 6, 2), (5, 41, 8), (41, 30, 4), (1, 9, 3)]
)
def test_weights_are_hats_about_the_centres_of_tiles(height, width, tiles):
    grid, num_tables = tile_grid((height, width), tiles)
    down, across = (int(n) for n in grid[2:])
    assert down * across <= num_tables
    weights = np.zeros((height * width + 5, down * across))
    start = jnp.zeros(2, jnp.int32)
    for tile, weight in _corners(len(weights), start, jnp.asarray(grid), "float32"):
        assert np.all((np.asarray(tile) >= 0) & (np.asarray(tile) < down * across))
        np.add.at(weights, (np.arange(len(weights)), np.asarray(tile)), weight)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)

    def hats(size, number):
        centre = np.clip((np.arange(size) + 0.5) * number / size - 0.5, 0, number - 1)
        return np.maximum(1 - np.abs(centre[:, None] - np.arange(number)), 0)

    rows, columns = hats(height, down), hats(width, across)
    expected = np.einsum("ia,jb->ijab", rows, columns).reshape(height * width, -1)
    np.testing.assert_allclose(weights[:-5], expected, atol=1e-6)


def test_tiles_are_square_and_no_more_than_pixels():
    for shape, tiles, expected in (
        ((100, 100), 8, (8, 8)),
        ((50, 100), 8, (4, 8)),
        ((100, 30), 8, (8, 2)),
        ((1, 100), 8, (1, 8)),
        ((3, 2), 8, (3, 2)),
        ((3, 2), None, (1, 1)),
    ):
        grid, _ = tile_grid(shape, tiles)
        assert tuple(grid) == (*shape, *expected)


def test_blocks_come_in_order_whatever_the_number(monkeypatch):
    monkeypatch.setattr("transportjax.apps.tone_curves.BLOCK", 10)
    flat = np.arange(97)[:, None]
    met = []

    def double(first, block, other):
        met.append((tuple(first), block.shape, len(other)))
        return jnp.asarray(2 * block + other[:, None])

    parts = list(each_block(double, flat, np.arange(97), 7))
    assert [start for start, _ in parts] == list(range(0, 97, 10))
    assert met == [(divmod(start, 7), (10, 1), 10) for start in range(0, 97, 10)]
    whole = np.concatenate([values for _, values in parts])
    np.testing.assert_array_equal(whole[:97, 0], 3 * np.arange(97))
