"""Sliced and Radon barycentres: ours next to plain jax.numpy.

The sizes are those of Bonneel, Rabin, Peyré and Pfister (2015), three clouds of 40,000
points and pictures of 1024 x 1024 pixels, but fewer directions (theirs: 100), steps
(100) and angles (2048), as the names of the cases say; time is linear in all of them.
"""

from argparse import Namespace
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from transportjax.sliced import (
    FixedDirections,
    half_circle_angles,
    half_circle_directions,
    inverse_radon,
    radon_barycentre,
    radon_transform,
    sliced_barycentre,
)

from .harness import Case, Rival

_TIES = 3e-2  # where two projections tie to rounding, their order is free


def cases(options: Namespace) -> Iterator[Case]:
    """Newton steps, stochastic steps, a sweep of weights; Radon, back, and between."""
    n, num, steps = (1000, 20, 3) if options.quick else (40_000, 30, 3)
    clouds, weights = _clouds(n, options.dtype)
    directions = np.asarray(half_circle_directions(num), options.dtype)
    size = f"3 x {n}"
    arrays = (clouds, weights, directions)
    yield Case(f"{steps} steps {size}, {num}", arrays, _newton(steps), rtol=_TIES)
    few = directions.reshape(num // 10, 10, 2, order="F")[:steps]
    yield Case(
        f"{len(few)} fresh steps {size}, 10",
        (clouds, weights, few),
        _stochastic(len(few)),
        rtol=_TIES,
    )
    n, num = (500, 10) if options.quick else (4000, 15)
    clouds, weights = _clouds(n, options.dtype)
    sweep = np.random.default_rng(1).dirichlet(np.ones(3), 16).astype(options.dtype)
    arrays = (clouds, sweep, directions[::2])
    yield Case(f"16 weights, 5 steps 3 x {n}, {num}", arrays, _sweep(), rtol=_TIES)
    n, num = (64, 20) if options.quick else (1024, 24)
    images = _pictures(n, options.dtype)
    angles = np.asarray(half_circle_angles(num), options.dtype)
    yield Case(f"Radon {n}^2, {num}", (images[0], angles), _radon(), rtol=2e-2)
    sinogram = np.asarray(radon_transform(images[0], angles))
    yield Case(f"inverse {n}^2, {num}", (sinogram, angles), _inverse(n), rtol=2e-2)
    yield Case(f"Radon barycentre {n}^2, {num}", (images, weights), _between(num))


def _clouds(n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A normal law, a ring and a square."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 0.1 * rng.normal(size=n)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    clouds = np.stack(
        [rng.normal(size=(n, 2)), ring, rng.uniform(-1, 1, (n, 2))]
    ).astype(dtype)
    return clouds, np.array([0.5, 0.3, 0.2], dtype)


def _pictures(n: int, dtype: str) -> np.ndarray:
    """Normal laws."""
    place = (np.arange(n) - (n - 1) / 2) / n

    def one(x, y, s):
        square = (place[None, :] - x) ** 2 + (place[:, None] - y) ** 2
        return np.exp(-square / (2 * s**2))

    laws = (one(-0.2, 0, 0.1), one(0.1, 0.2, 0.06), one(0.1, -0.1, 0.08))
    return np.stack(laws).astype(dtype)


def _plain_targets(clouds, weights, directions):
    targets = jnp.sort(jnp.einsum("snd,pd->psn", clouds, directions))
    return jnp.einsum("s,psn->pn", weights, targets)


def _plain_step(x, directions, target):
    """A Newton step, as one writes it down first."""
    projections = directions @ x.T
    order = jnp.argsort(projections)
    values = jnp.take_along_axis(projections, order, axis=1)
    rows = jnp.arange(len(directions))[:, None]
    residual = jnp.zeros_like(values).at[rows, order].set(values - target)
    return x - residual.T @ jnp.linalg.pinv(directions).T


def _newton(steps: int) -> dict[str, Rival]:
    def ours(clouds, weights, directions):
        return sliced_barycentre(
            clouds, weights, directions=directions, num_steps=steps
        ).points

    def plain(clouds, weights, directions):
        target = _plain_targets(clouds, weights, directions)
        return jax.lax.fori_loop(
            0, steps, lambda _, x: _plain_step(x, directions, target), clouds[0]
        )

    return {"transportjax": Rival(ours), "jax.numpy": Rival(plain)}


def _stochastic(steps: int) -> dict[str, Rival]:
    def ours(clouds, weights, table):
        return sliced_barycentre(
            clouds,
            weights,
            directions=FixedDirections(table),
            key=jax.random.key(0),
            num_steps=steps,
        ).points

    def plain(clouds, weights, table):
        def step(x, directions):
            target = _plain_targets(clouds, weights, directions)
            return _plain_step(x, directions, target), None

        return jax.lax.scan(step, clouds[0], table)[0]

    return {"transportjax": Rival(ours), "jax.numpy": Rival(plain)}


def _sweep() -> dict[str, Rival]:
    rivals = _newton(5)
    return {
        name: Rival(jax.vmap(rivals[name].function, (None, 0, None)))
        for name in ("transportjax", "jax.numpy")
    }


def _radon() -> dict[str, Rival]:
    """The plain one turns the picture, and sums up its columns."""

    def plain(image, angles):
        n = len(image)
        num = int(np.ceil(np.sqrt(2) * n)) + 2
        t = jnp.arange(num) - (num - 1) / 2

        def project(angle):
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            x = cos * t[:, None] - sin * t[None, :] + (n - 1) / 2
            y = sin * t[:, None] + cos * t[None, :] + (n - 1) / 2
            return map_coordinates(image, [y, x], order=1).sum(1)

        return jax.lax.map(project, angles)

    return {"transportjax": Rival(radon_transform), "jax.numpy": Rival(plain)}


def _inverse(n: int) -> dict[str, Rival]:
    def ours(sinogram, angles):
        return inverse_radon(sinogram, angles, shape=(n, n))

    def plain(sinogram, angles):
        num = sinogram.shape[1]
        length = 2 ** int(np.ceil(np.log2(2 * num)))
        place = np.fft.fftfreq(length, 1 / length)
        kernel = np.where(place % 2 == 1, -1 / np.maximum(place**2, 1) / np.pi**2, 0)
        kernel[0] = 0.25
        ramp = jnp.asarray(np.fft.rfft(kernel).real, sinogram.dtype)
        rows = jnp.fft.irfft(jnp.fft.rfft(sinogram, length) * ramp, length)[:, :num]
        t, place = jnp.arange(num) - (num - 1) / 2, jnp.arange(n) - (n - 1) / 2

        def spread(item):
            row, angle = item
            return jnp.interp(
                jnp.cos(angle) * place[None, :] + jnp.sin(angle) * place[:, None],
                t,
                row,
            )

        total = jax.lax.scan(
            lambda image, item: (image + spread(item), None),
            jnp.zeros((n, n), sinogram.dtype),
            (rows, angles),
        )[0]
        return total * np.pi / len(angles)

    return {"transportjax": Rival(ours), "jax.numpy": Rival(plain)}


def _between(num: int) -> dict[str, Rival]:
    def ours(images, weights):
        return radon_barycentre(images, weights, num_angles=num)

    return {"transportjax": Rival(ours)}
