import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.onedim import binned_atoms


def _numpy_atoms(x, weights, num_bins):
    places = np.linspace(x.min(), x.max(), num_bins)
    width = places[1] - places[0]
    share = np.maximum(1 - np.abs(x[:, None] - places) / width, 0)
    return places, weights @ share / weights.sum()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_places_and_masses_are_those_of_numpy(key, x64, dtype):
    x = jr.uniform(key, (3, 400), dtype=dtype)
    weights = jr.uniform(jr.fold_in(key, 1), (400,), dtype=dtype)
    position, mass = binned_atoms(x, num_bins=37, weights=weights)
    assert position.dtype == mass.dtype == x.dtype
    for row in range(3):
        expected = _numpy_atoms(np.asarray(x[row]), np.asarray(weights), 37)
        assert_close(position[row], expected[0])
        assert_close(mass[row], expected[1])


def test_the_mean_is_kept_for_large_and_offset_samples():
    x = np.float32(1e4) + np.random.default_rng(0).normal(size=200_000)
    x = x.astype(np.float32)
    position, mass = binned_atoms(x, num_bins=64)
    exact = x.astype(np.float64).mean()
    kept = float(np.sum(np.asarray(position, np.float64) * np.asarray(mass)))
    assert abs(kept / np.asarray(mass, np.float64).sum() - exact) < 2e-3


def test_positions_increase_also_for_constant_tied_and_few_samples():
    cases = [
        jnp.zeros(5),
        jnp.full(5, 7.0),
        jnp.full(3, -1e20),
        jnp.array([1.0]),
        jnp.array([0.0, 0.0, 1.0, 1.0]),
        jnp.array([3, 4, 250], "uint8"),
    ]
    for x in cases:
        position, mass = binned_atoms(x, num_bins=16)
        assert bool(jnp.all(jnp.diff(position) > 0)), x
        assert_close(mass.sum(), 1.0)
        mean = jnp.asarray(x, "float32").mean()
        assert_close(jnp.sum(position * mass) / mean if mean else 1.0, 1.0)


def test_one_outlier_does_not_take_all_bins():
    x = np.random.default_rng(1).normal(size=20_000)
    x[0] = 1e6
    position, mass = binned_atoms(x.astype(np.float32), num_bins=256)
    assert int((np.asarray(mass) > 0).sum()) <= 3  # it makes the deviation: 7000
    x[0] = 40
    position, mass = binned_atoms(x.astype(np.float32), num_bins=256)
    assert int((np.asarray(mass) > 0).sum()) > 100
    assert 8 < float(position[-1]) < 9


def test_samples_of_weight_zero_count_for_nothing():
    x = jnp.array([0.0, 1.0, 2.0, 1e9, -1e9])
    weights = jnp.array([1.0, 2.0, 1.0, 0.0, 0.0])
    position, mass = binned_atoms(x, num_bins=4, weights=weights)
    assert_close(position, binned_atoms(x[:3], num_bins=4, weights=weights[:3])[0])
    assert_close(mass, jnp.full(4, 0.25))


def test_gradients_are_those_of_finite_differences(key, x64):
    x = jr.uniform(key, (40,), dtype="float64")
    weights = 0.5 + jr.uniform(jr.fold_in(key, 1), (40,), dtype="float64")
    target = jnp.linspace(0, 1, 8)

    def loss(x, weights):
        position, mass = binned_atoms(x, num_bins=8, weights=weights)
        return jnp.sum((position - target) ** 2 * mass + mass**2)

    check_gradient(loss, x, weights)


def test_masses_are_continuous_where_a_histogram_jumps():
    x = jnp.linspace(0.0, 1.0, 11)
    for shift in (-1e-4, 1e-4):
        moved = x.at[5].add(shift)  # it is on a place, of which there are three
        mass = binned_atoms(moved, num_bins=3)[1]
        assert_close(mass, binned_atoms(x, num_bins=3)[1], atol=5e-5)


def test_jit_and_vmap_agree_with_the_plain_call(key):
    x = jr.normal(key, (4, 100))
    plain = binned_atoms(x, num_bins=10)
    for other in (
        jax.jit(lambda x: binned_atoms(x, num_bins=10))(x),
        jax.vmap(lambda x: binned_atoms(x, num_bins=10))(x),
    ):
        for a, b in zip(plain, other, strict=True):
            assert_close(a, b)


def test_bad_input_is_named(user_errors):
    with pytest.raises(ValueError, match="`x`"):
        binned_atoms(jnp.array([]), num_bins=4)
    with pytest.raises(ValueError, match="NaN"):
        binned_atoms(jnp.array([1.0, jnp.nan]), num_bins=4)
    with pytest.raises(ValueError, match="`num_bins`"):
        binned_atoms(jnp.ones(3), num_bins=1)
    with pytest.raises(ValueError, match="`weights`"):
        binned_atoms(jnp.ones(3), num_bins=2, weights=jnp.array([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="`weights`"):
        binned_atoms(jnp.ones((2, 3)), num_bins=2, weights=jnp.ones(2))
