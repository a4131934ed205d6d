"""Laws in the plane whose densities are known: moons, checkerboard, Gaussians, spirals.

All have means near zero and deviations near one. The moons and the spirals are curves
blurred by Gaussian noise: their densities are integrals along the curve, exact to
rounding by Gauss-Legendre quadrature, because the noise is wide next to the nodes.

References:
    Pedregosa et al. (2011), "Scikit-learn", `make_moons`.
    Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD": the other
    laws, but for uniform noise on the spirals.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

_NUM_NODES = 600
_CHUNK = 4000  # points whose distances to all nodes are held at once


@dataclasses.dataclass(frozen=True)
class Toy:
    """A law in the plane.

    Args:
        sample: from a generator of random numbers and n, samples (n, 2).
        log_prob: the logarithms of the density at points (n, 2), in nats.
    """

    sample: Callable[[np.random.Generator, int], np.ndarray]
    log_prob: Callable[[np.ndarray], np.ndarray]


def _curve_law(curve: Callable, noise: float, scales: tuple[float, float]) -> Toy:
    """Two curves, t in (0, 1) uniform on each, blurred, and divided by scales."""
    scale = np.array(scales)
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    places = np.concatenate([curve((nodes + 1) / 2, side) for side in (0, 1)])
    masses = np.tile(weights / 4, 2)  # the rule is for an interval of length two

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        t, side = rng.uniform(size=n), rng.integers(0, 2, n)
        x = np.where(side[:, None] == 0, curve(t, 0), curve(t, 1))
        return (x + noise * rng.normal(size=(n, 2))) / scale

    def log_prob(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64) * scale
        parts = [x[i : i + _CHUNK] for i in range(0, len(x), _CHUNK)]
        density = np.concatenate(
            [_blurred(part, places, masses, noise) for part in parts]
        )
        return np.log(density) + np.sum(np.log(scale))

    return Toy(sample, log_prob)


def _blurred(
    x: np.ndarray, places: np.ndarray, masses: np.ndarray, noise: float
) -> np.ndarray:
    """The density at x of masses that are blurred by normal noise."""
    squares = sum((x[:, None, i] - places[None, :, i]) ** 2 for i in range(2))
    kernel = np.exp(squares / (-2 * noise**2))
    tiny = np.finfo(np.float64).tiny  # far away the sum is zero
    return np.maximum(kernel @ masses / (2 * math.pi * noise**2), tiny)


def _moon(t: np.ndarray, side: int) -> np.ndarray:
    """A half circle; the other one grips it."""
    arc = np.stack([np.cos(math.pi * t) - 0.5, np.sin(math.pi * t) - 0.25], axis=-1)
    return -arc if side else arc


def _spiral(t: np.ndarray, side: int) -> np.ndarray:
    """An arm of one and a half turns, with mass in proportion to the angle."""
    angle = 3 * math.pi * np.sqrt(t)
    arm = angle[:, None] * np.stack([-np.cos(angle), np.sin(angle)], axis=-1) / 3
    return -arm if side else arm


def _gaussians(radius: float, noise: float) -> Toy:
    """Eight round Gaussians on a circle."""
    angle = np.arange(8) * (math.pi / 4)
    centres = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    masses = np.full(8, 1 / 8)

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        return centres[rng.integers(0, 8, n)] + noise * rng.normal(size=(n, 2))

    def log_prob(x: np.ndarray) -> np.ndarray:
        return np.log(_blurred(np.asarray(x, np.float64), centres, masses, noise))

    return Toy(sample, log_prob)


def _checkerboard(side: float) -> Toy:
    """Uniform on eight of the sixteen squares of a board."""

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        column, row = rng.integers(0, 4, n), 2 * rng.integers(0, 2, n)
        corner = np.stack([column, row + column % 2], axis=-1) - 2
        return side * (corner + rng.uniform(size=(n, 2)))

    def log_prob(x: np.ndarray) -> np.ndarray:
        square = np.floor(np.asarray(x, np.float64) / side).astype(int) + 2
        on_board = np.all((square >= 0) & (square < 4), axis=1)
        is_held = on_board & (np.sum(square, axis=1) % 2 == 0)
        return np.where(is_held, -math.log(8 * side**2), -np.inf)

    return Toy(sample, log_prob)


TOYS = {
    "moons": _curve_law(_moon, 0.08, (0.87, 0.4965)),
    "checkerboard": _checkerboard(2 / 2.3),
    "8 Gaussians": _gaussians(1.4, 0.14),
    "spirals": _curve_law(_spiral, 0.1, (1.57, 1.57)),
}
