import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

import transportjax as tj
from transportjax.diagnostics import (
    energy_distance,
    mmd,
    nearest_neighbour_kl,
    two_sample_test,
)

STATISTICS = {
    "energy": energy_distance,
    "mmd": mmd,
    "kl": nearest_neighbour_kl,
    "sliced": functools.partial(
        tj.sliced_wasserstein, directions=tj.half_circle_directions(8)
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_level_and_power(name):
    statistic = STATISTICS[name]
    x, y = jr.normal(jr.key(0), (2, 120, 2))
    same = two_sample_test(x, y, statistic, key=jr.key(1), num_permutations=99)
    assert same.null.shape == (99,)
    assert same.p_value > 0.02
    assert_close(same.value, statistic(x, y), rtol=1e-3, atol=1e-5)
    other = two_sample_test(x, 2 * y, statistic, key=jr.key(1), num_permutations=99)
    assert_close(other.p_value, 0.01)
    assert other.value > other.null.max()


@pytest.mark.parametrize("statistic", [energy_distance, mmd])
def test_one_pass_is_one_by_one(statistic, x64):
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2))
    y = y[:15] + 0.2
    # the same law of permutations, another order: the moments agree
    both = np.concatenate([x, y])
    h = {} if statistic is energy_distance else {"bandwidth": chosen(x, y)}
    plain = functools.partial(statistic, **h)
    slow = two_sample_test(x, y, plain, key=jr.key(4), num_permutations=4000)
    many = two_sample_test(x, y, statistic, key=jr.key(5), num_permutations=4000)
    assert_close(many.value, slow.value)
    spread = float(slow.null.std()) / 4000**0.5
    np.testing.assert_allclose(many.null.mean(), slow.null.mean(), atol=6 * spread)
    np.testing.assert_allclose(many.null.std(), slow.null.std(), rtol=0.15)
    assert abs(many.p_value - slow.p_value) < 0.05
    # the mean over all divisions of a sum of pairs is known
    if statistic is energy_distance:
        gaps = np.linalg.norm(both[:, None] - both[None], axis=-1)
        expected = (1 / 20 + 1 / 15) * gaps.sum() / (35 * 34)
        np.testing.assert_allclose(many.null.mean(), expected, atol=6 * spread)


def chosen(x, y):
    from transportjax.diagnostics.divergences import median_distance

    return median_distance(jnp.asarray(x), jnp.asarray(y))


def test_p_values_are_uniform_if_the_laws_are_equal():
    values = []
    for seed in range(60):
        x, y = jr.normal(jr.key(seed), (2, 20, 2))
        test = two_sample_test(x, y, key=jr.key(100 + seed), num_permutations=49)
        values.append(float(test.p_value))
    assert 0.37 < np.mean(values) < 0.64  # four standard errors
    assert np.mean(np.array(values) <= 0.1) < 0.27


def test_constant_clouds_do_not_differ():
    x = jnp.ones((120, 2))
    test = two_sample_test(x, x, key=jr.key(0), num_permutations=99)
    assert test.value == 0
    assert test.p_value == 1


@pytest.mark.parametrize("name", STATISTICS)
def test_divisions_that_repeat_are_equal(name):
    """Of six points, in other orders too: two of the twenty divisions are theirs."""
    statistic = STATISTICS[name]
    if name == "kl":
        statistic = functools.partial(statistic, num_neighbours=1)
    x = jnp.array([[0.0, 0.3], [1.0, 0.1], [2.0, 7.0]])
    y = jnp.array([[10.0, 1.0], [11.0, 0.3], [12.0, 4.0]])
    for scale in (1.0, 1 / 3, 0.1):
        test = two_sample_test(
            scale * x, scale * y, statistic, key=jr.key(0), num_permutations=1000
        )
        assert abs(test.p_value - 0.1) < 0.03
    same = two_sample_test(x, x, statistic, key=jr.key(0))
    assert same.p_value == 1 or name == "kl"  # that is below zero here


@pytest.mark.parametrize("statistic", [energy_distance, mmd, nearest_neighbour_kl])
@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_any_unit_in_float32(statistic, scale):
    x, y = jr.normal(jr.key(0), (2, 40, 2))
    unit = scale if statistic is energy_distance else 1
    found, expected = (
        two_sample_test(x * s, (y + 1) * s, statistic, key=jr.key(1))
        for s in (scale, 1)
    )
    assert_close(found.value / unit, expected.value, rtol=1e-4)
    assert_close(found.null / unit, expected.null, rtol=1e-3, atol=1e-5)
    assert found.p_value == expected.p_value < 0.02


def test_a_value_that_is_none_has_no_level():
    x = jnp.ones((10, 2))  # the logarithm of zero over zero
    assert jnp.isnan(two_sample_test(x, x, nearest_neighbour_kl, key=jr.key(0)).p_value)


def test_bad_input(user_errors):
    x = jnp.ones((10, 2))
    with pytest.raises(ValueError, match="`statistic` must return one real number"):
        two_sample_test(x, x, lambda x, y: x, key=jr.key(0))
    with pytest.raises(ValueError, match="`num_permutations` must be an integer"):
        two_sample_test(x, x, key=jr.key(0), num_permutations=0)
    with pytest.raises(ValueError, match="`y` must have 2 columns"):
        two_sample_test(x, x[:, :1], key=jr.key(0))
