"""Clouds with known laws, for tests of solvers."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np


def gaussian_cloud(key, n, mean, cov, dtype="float32"):
    """n points of N(mean, cov), their sample moments made exact."""
    mean, cov = np.asarray(mean, float), np.asarray(cov, float)
    x = np.asarray(jr.normal(key, (n, len(mean))), float)
    x = x - x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T, ddof=0)), x.T).T
    return jnp.asarray(mean + x @ np.linalg.cholesky(cov).T, dtype)


def ring_cloud(key, n, dim, dtype="float32"):
    """n points near a sphere of radius two, with a hole."""
    x = jr.normal(key, (n, dim))
    radius = 2 + 0.2 * jr.normal(jr.fold_in(key, 1), (n, 1))
    return jnp.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True) * radius, dtype)


def sliced_cost(x, y, num=64, seed=0):
    """Mean W_2^2 along random directions, by numpy's sort: equal sizes."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    theta = np.random.default_rng(seed).normal(size=(x.shape[1], num))
    theta /= np.linalg.norm(theta, axis=0)
    return float(np.mean((np.sort(x @ theta, 0) - np.sort(y @ theta, 0)) ** 2))
