import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.sliced import (
    pairwise_sliced_wasserstein,
    profile_distance,
    sliced_profile,
    sliced_wasserstein,
)


def problem(k=3, n=7, d=2, num=5):
    """Float64 clouds, directions, and weights of the clouds."""
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(k, n, d)) + rng.normal(size=(k, 1, d))
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return clouds, directions, rng.uniform(0.5, 1.5, (k, n))


def by_profiles(x, y, directions, **options):
    x, y = (sliced_profile(z, directions) for z in (x, y))
    return profile_distance(x, y, **options)


@pytest.mark.parametrize("p", [1, 2])
def test_is_the_sliced_distance(p, x64):
    (x, y, _), directions, _ = problem()
    y, w = y[:5], np.array([1.0, 2, 1, 0, 3])
    for root in (False, True):
        options = {"p": p, "weights": w, "root": root}
        found = by_profiles(x, y, directions, **options)
        assert_close(found, sliced_wasserstein(x, y, directions, **options))


def test_has_the_gradient_of_the_sliced_distance(x64):
    (x, y, _), directions, _ = problem()
    found = jax.jit(jax.grad(by_profiles, (0, 1, 2)))(x, y, directions)
    expected = jax.jit(jax.grad(sliced_wasserstein, (0, 1, 2)))(x, y, directions)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_weights(x64):
    (x, y, _), directions, (a, b, _) = problem()

    @jax.jit
    def value(x, a, b):
        one = sliced_profile(x, directions, weights=a)
        other = sliced_profile(y, directions, weights=b)
        return profile_distance(one, other)

    expected = sliced_wasserstein(x, y, directions, x_weights=a, y_weights=b)
    assert_close(value(x, a, b), expected)
    check_gradient(value, x, a, b)


def test_a_kept_target_is_not_sorted_again():
    (x, y, _), directions, _ = (np.float32(a) for a in problem())
    target = sliced_profile(y, directions)

    def loss(x):
        return profile_distance(sliced_profile(x, target.directions), target)

    text = jax.jit(jax.value_and_grad(loss)).lower(x).compile().as_text()
    assert text.count(" sort(") == 1


@pytest.mark.parametrize(("p", "weighted"), [(2, False), (1, False), (2, True)])
def test_pairwise_is_a_loop_over_pairs(p, weighted, x64):
    clouds, directions, weights = problem()
    weights = weights if weighted else None
    found = jax.jit(
        functools.partial(pairwise_sliced_wasserstein, p=p, cloud_weights=weights)
    )(clouds, directions)
    one = jax.jit(
        lambda x, y, a, b: sliced_wasserstein(
            x, y, directions, p=p, x_weights=a, y_weights=b
        )
    )
    masses = [None] * 3 if weights is None else weights
    expected = [
        [one(x, y, a, b) for y, b in zip(clouds, masses, strict=True)]
        for x, a in zip(clouds, masses, strict=True)
    ]
    assert_close(found, np.array(expected))
    assert np.array_equal(found, found.T)
    assert np.all(np.diag(found) == 0)


def test_pairwise_gradient(x64):
    clouds, directions, _ = problem()
    mix = np.random.default_rng(1).normal(size=(3, 3))
    options = {"p": 3, "root": True}

    @jax.jit
    def value(clouds, directions):
        return jnp.sum(mix * pairwise_sliced_wasserstein(clouds, directions, **options))

    check_gradient(value, clouds, directions)


def test_pairwise_of_equal_clouds_and_of_one(x64):
    clouds, directions, _ = problem()
    same = np.stack([clouds[0], clouds[0][::-1]])
    slope = jax.value_and_grad(
        lambda c: jnp.sum(pairwise_sliced_wasserstein(c, directions, root=True))
    )
    value, slopes = jax.jit(slope)(same)
    assert value == 0
    assert np.all(np.asarray(slopes) == 0)
    assert_close(pairwise_sliced_wasserstein(clouds[:1], directions), np.zeros((1, 1)))


def test_pairwise_far_from_the_origin(x64):
    clouds, directions, _ = (np.float32(a) for a in problem(n=40))
    clouds = clouds + np.float32(1e4)
    exact = pairwise_sliced_wasserstein(np.float64(clouds), np.float64(directions))
    found = pairwise_sliced_wasserstein(clouds, directions)
    assert found.dtype == "float32"
    assert_close(found, exact, rtol=1e-5)


def test_vmap_and_half_precision():
    (x, y, z), directions, _ = (jnp.asarray(a, "bfloat16") for a in problem())
    target = sliced_profile(z, directions)
    assert target.values.dtype == "float32"
    values = jax.vmap(
        lambda x: profile_distance(sliced_profile(x, directions), target)
    )(jnp.stack([x, y]))
    one = profile_distance(sliced_profile(y, directions), target)
    assert_close(values[1], one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, e: sliced_profile(x[0], e), r"`x` must have shape \(n, d\)"),
        (
            lambda x, e: sliced_profile(x, 2 * e),
            "`directions` must have rows of norm 1",
        ),
        (lambda x, e: sliced_profile(x, e, weights=e[0]), r"`weights` must have shape"),
        (
            lambda x, e: profile_distance(
                sliced_profile(x, e), sliced_profile(x, e[::-1])
            ),
            "must be profiles along the same directions",
        ),
        (
            lambda x, e: profile_distance(
                sliced_profile(x, e), sliced_profile(x, e), p=0
            ),
            "`p` must be in",
        ),
        (
            lambda x, e: pairwise_sliced_wasserstein(x, e),
            r"must have shape \(k, n, d\)",
        ),
    ],
)
def test_errors(call, message, user_errors):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 2)), np.eye(2))
