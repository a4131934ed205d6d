"""Sliced transport on the sphere under POT's names; POT's planes are columns."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from transportjax import onedim, sliced

from .arrays import back, float_dtype, is_jax, key_of, to_jax


def get_projections_sphere(
    d: int,
    n_projections: int,
    seed: Any = None,
    backend: Any = None,
    type_as: Any = None,
) -> Any:
    """`sliced.sphere_planes`, each as two columns."""
    planes = sliced.sphere_planes(
        key_of(seed), n_projections, d, float_dtype(type_as)
    ).mT
    as_jax = is_jax(type_as) or str(backend) == "jax"
    return planes if as_jax else np.asarray(planes)


def _planes(x: Any, projections: Any, n_projections: int, seed: Any) -> Any:
    """The planes, as rows: the ones that are given, or random ones."""
    if projections is None:
        dim = jnp.shape(x)[1]
        projections = get_projections_sphere(dim, n_projections, seed, type_as=x)
    return to_jax(projections).mT


def projection_sphere_to_circle(
    x: Any,
    n_projections: int = 50,
    projections: Any = None,
    seed: Any = None,
    backend: Any = None,
) -> Any:
    """`sliced.circle_projections`, and the planes."""
    planes = _planes(x, projections, n_projections, seed)
    return back((sliced.circle_projections(to_jax(x), planes), planes.mT), x)


def _log(distance: Callable, planes: Any, clouds: tuple, like: Any) -> dict:
    """The planes, and the distance on the circle of each."""
    on_circles = (sliced.circle_projections(x, planes) for x in clouds)
    record = {"projections": planes.mT, "projected_emds": distance(*on_circles)}
    return back(record, like)


def sliced_wasserstein_sphere(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: Any = 2,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
) -> Any:
    """`sliced.spherical_sliced_wasserstein`, the root of it."""
    planes = _planes(X_s, projections, n_projections, seed)
    options = {"p": p, "x_weights": to_jax(a), "y_weights": to_jax(b)}
    clouds = to_jax(X_s), to_jax(X_t)
    value = sliced.spherical_sliced_wasserstein(*clouds, planes, root=True, **options)
    value = back(value, X_s)
    if not log:
        return value

    def distance(x: Any, y: Any) -> Any:
        return onedim.wasserstein_circle(x, y, **options)

    return value, _log(distance, planes, clouds, X_s)


def sliced_wasserstein_sphere_unif(
    X_s: Any,
    a: Any = None,
    n_projections: int = 50,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
) -> Any:
    """`sliced.spherical_sliced_uniform`, the root of it."""
    planes = _planes(X_s, projections, n_projections, seed)
    weights = {"x_weights": to_jax(a)}
    cloud = to_jax(X_s)
    value = sliced.spherical_sliced_uniform(cloud, planes, root=True, **weights)
    value = back(value, X_s)
    if not log:
        return value

    def distance(x: Any) -> Any:
        return onedim.wasserstein_circle_uniform(x, **weights)

    return value, _log(distance, planes, (cloud,), X_s)


def linear_sliced_wasserstein_sphere(
    X_s: Any,
    X_t: Any = None,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
) -> Any:
    """`sliced.linear_spherical_sliced`, the root of it."""
    planes = _planes(X_s, projections, n_projections, seed)
    weights = {"x_weights": to_jax(a), "y_weights": to_jax(b)}
    x, y = to_jax(X_s), to_jax(X_t)
    value = sliced.linear_spherical_sliced(x, y, planes, root=True, **weights)
    value = back(value, X_s)
    if not log:
        return value

    def distance(x: Any, y: Any = None) -> Any:
        return onedim.linear_circular_wasserstein(x, y, **weights)

    clouds = (x,) if y is None else (x, y)
    return value, _log(distance, planes, clouds, X_s)


NAMES = {
    "sliced.get_projections_sphere": get_projections_sphere,
    "sliced.projection_sphere_to_circle": projection_sphere_to_circle,
    "sliced_wasserstein_sphere": sliced_wasserstein_sphere,
    "sliced_wasserstein_sphere_unif": sliced_wasserstein_sphere_unif,
    "linear_sliced_wasserstein_sphere": linear_sliced_wasserstein_sphere,
}
