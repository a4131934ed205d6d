"""Registration of shapes: how well, and how fast, next to pycpd and probreg.

Without data, shapes are made here: contours and surfaces with normals, whose samples do
not correspond, with noise, outliers and missing parts. The quality is the root mean
square distance of the moved points to where they should be, in percent of the radius of
the shape, the median over eight draws.

    python -m benchmarks registration --data FOLDER

adds published experiments, those that are there of FOLDER/fish/fish_{X,Y}.txt and
FOLDER/face/face_{X,Y}.txt. The quality is, in percent of the radius: of the fish, the
distance of points of equal index; of the faces, that of nearest neighbours.

REGISTRATION_CASES chooses among them: beginnings of names, with semicolons between.
"""

import functools
import os
from argparse import Namespace
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from transportjax.maps import (
    GaussianWarp,
    Rigid,
    ThinPlateSpline,
    control_grid,
    transport_normals,
)
from transportjax.solvers import register

from .harness import Case, Rival

_DRAWS = 8
_CHOSEN = tuple(os.environ.get("REGISTRATION_CASES", "").split(";"))


def cases(options: Namespace) -> Iterator[Case]:
    """Shapes made here, then the published ones if there are data."""
    for name, make in _PROBLEMS.items():
        if not name.startswith(_CHOSEN):
            continue
        draws = range(2 if options.quick else _DRAWS)
        problems = [make(np.random.default_rng(seed), options.dtype) for seed in draws]
        yield _made(name, problems)
    data = getattr(options, "data", None)
    if data is None:
        return
    for name in ("fish", "face"):
        if not (data / name).exists() or not name.startswith(_CHOSEN):
            continue
        clouds = [np.loadtxt(data / name / f"{name}_{k}.txt") for k in "XY"]
        yield _published(name, *(cloud.astype(options.dtype) for cloud in clouds))


# --- shapes made here --------------------------------------------------------------


def _made(name: str, problems: list[tuple]) -> Case:
    """A problem is source, normals, target, normals, and the true images."""
    rigid = name.startswith("rigid")
    dim = problems[0][0].shape[1]

    def start(x: np.ndarray, y: np.ndarray) -> Rigid | ThinPlateSpline:
        if rigid:
            return Rigid.identity(dim)
        return ThinPlateSpline.identity(control_grid(np.concatenate([x, y])))

    def by_points(problems: list[tuple]) -> list:
        return [register(x, y, start(x, y)).points for x, _, y, _, _ in problems]

    def by_normals(problems: list[tuple]) -> list:
        return [
            register(
                *(x, y, start(x, y)),
                source_normals=x_normals,
                target_normals=y_normals,
            ).points
            for x, x_normals, y, y_normals, _ in problems
        ]

    def quality(outputs: list) -> float:
        errors = [
            _percent(points, problem[-1])
            for points, problem in zip(outputs, problems, strict=True)
        ]
        return float(np.median(errors))

    rivals = {
        "points": Rival(by_points, jit=False),
        "points and normals": Rival(by_normals, jit=False),
    }
    for peer, move in _peers(dim, rigid).items():

        def by_peer(problems: list[tuple], move: _Move = move) -> list:
            return [move(x, y) for x, _, y, _, _ in problems]

        rivals[peer] = Rival(by_peer, jit=False)
    return Case(name, (_Opaque(problems),), _unwrapped(rivals), quality=quality)


class _Opaque:
    """Arguments that the harness hands on as they are."""

    def __init__(self, value: list):
        self.value, self.shape = value, ()


def _unwrapped(rivals: dict[str, Rival]) -> dict[str, Rival]:
    return {
        name: Rival(rival.function, jit=False, prepare=lambda opaque: (opaque.value,))
        for name, rival in rivals.items()
    }


def _percent(points: object, truth: np.ndarray) -> float:
    """Root mean square error, in percent of the radius of the truth."""
    error = np.mean(np.sum((np.asarray(points) - truth) ** 2, axis=1))
    radius = np.mean(np.sum((truth - truth.mean(axis=0)) ** 2, axis=1))
    return float(100 * np.sqrt(error / radius))


def _curve(t: np.ndarray, waves: tuple) -> tuple[np.ndarray, np.ndarray]:
    """A closed curve in polar coordinates, and its outward normals."""
    radius, slope = np.ones_like(t), np.zeros_like(t)
    for size, count, phase in waves:
        radius += size * np.cos(count * t + phase)
        slope -= size * count * np.sin(count * t + phase)
    cos, sin = np.cos(t), np.sin(t)
    x = np.stack([radius * cos, radius * sin], axis=1)
    tangent = np.stack([slope * cos - radius * sin, slope * sin + radius * cos], axis=1)
    return x, np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)


_ELLIPSE, _STAR = ((0.2, 2, 0.0),), ((0.15, 2, 0.0), (0.25, 5, 1.0))


def _contour(
    waves: tuple, rng: np.random.Generator, dtype: str, *, missing: float = 0.0
) -> tuple:
    """A contour, and another sample of it, turned by up to 30 degrees."""
    t = np.sort(rng.uniform(0, 2 * np.pi, 120))
    u = np.sort(rng.uniform(2 * np.pi * missing, 2 * np.pi, 100))
    angle, shift = rng.uniform(-0.5, 0.5), rng.normal(size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    (x, x_normals), (y, y_normals) = _curve(t, waves), _curve(u, waves)
    y = y + 0.01 * rng.normal(size=y.shape)
    found = (x, x_normals, y @ turn.T + shift, y_normals @ turn.T, x @ turn.T + shift)
    return tuple(a.astype(dtype) for a in found)


def _bent(rng: np.random.Generator, dtype: str, *, uneven: float = 0.0) -> tuple:
    """A star, and another sample of it, bent smoothly.

    Uneven samples crowd at places of their own, to which points alone may slide.
    """
    t, u = (np.sort(rng.uniform(0, 2 * np.pi, 150)) for _ in range(2))
    if uneven:
        t, u = (a + uneven * np.sin(a + rng.uniform(0, 2 * np.pi)) for a in (t, u))
    (x, x_normals), (y, y_normals) = _curve(t, _STAR), _curve(u, _STAR)
    grid = np.asarray(control_grid(np.concatenate([x, y]), 3))
    spline = ThinPlateSpline(
        grid, np.eye(2), np.zeros(2), 0.15 * rng.normal(size=grid.shape)
    )
    moved = np.asarray(transport_normals(spline, y, y_normals))
    images = [np.asarray(jax.vmap(spline)(jnp.asarray(a))) for a in (y, x)]
    return tuple(a.astype(dtype) for a in (x, x_normals, images[0], moved, images[1]))


def _surface(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """A thin shell with bumps: two sheets close to each other, and its normals."""
    u = rng.normal(size=(num, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    axes = np.array([1.0, 0.8, 0.12])
    x = u * axes
    bump = 0.15 * np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1])
    slopes = [
        0.45 * np.cos(3 * x[:, 0]) * np.cos(2 * x[:, 1]),
        -0.3 * np.sin(3 * x[:, 0]) * np.sin(2 * x[:, 1]),
    ]
    normal = u / axes
    normal[:, 0] -= slopes[0] * normal[:, 2]
    normal[:, 1] -= slopes[1] * normal[:, 2]
    return x + bump[:, None] * np.array([0, 0, 1.0]), normal


def _shell(rng: np.random.Generator, dtype: str) -> tuple:
    """The shell, and the one sheet of it that is seen from above, turned."""
    (x, x_normals), (y, y_normals) = _surface(rng, 500), _surface(rng, 600)
    seen = np.flatnonzero(y_normals[:, 2] > 0)[:250]
    map = Rigid(
        jnp.asarray([*(0.15 * rng.normal(size=3)), 1.0]),
        jnp.asarray(rng.normal(size=3)),
    )
    turn, shift = np.asarray(map.matrix), np.asarray(map.translation)
    y, y_normals = y[seen] @ turn.T + shift, y_normals[seen] @ turn.T
    return tuple(
        a.astype(dtype) for a in (x, x_normals, y, y_normals, x @ turn.T + shift)
    )


def _cluttered(share: float, rng: np.random.Generator, dtype: str) -> tuple:
    """A star among stray points, `share` of the number of its own."""
    x, x_normals, y, y_normals, truth = _contour(_STAR, rng, "float64")
    stray = rng.uniform(-2, 2, (int(share * len(y)), 2)) + y.mean(axis=0)
    normals = rng.normal(size=stray.shape)
    found = (x, x_normals, np.concatenate([y, stray]))
    found = (*found, np.concatenate([y_normals, normals]), truth)
    return tuple(a.astype(dtype) for a in found)


_PROBLEMS: dict[str, Callable[..., tuple]] = {
    "rigid, ellipse": functools.partial(_contour, _ELLIPSE),
    "rigid, ellipse, 30 % missing": functools.partial(_contour, _ELLIPSE, missing=0.3),
    "rigid, star, 50 % missing": functools.partial(_contour, _STAR, missing=0.5),
    "rigid, star, 50 % stray": functools.partial(_cluttered, 0.5),
    "rigid, star, 200 % stray": functools.partial(_cluttered, 2.0),
    "rigid, shell, one sheet": _shell,
    "spline, star": _bent,
    "spline, star, uneven samples": functools.partial(_bent, uneven=0.5),
}


_Move = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _peers(dim: int, rigid: bool) -> dict[str, _Move]:
    """What is installed, on clouds that are centred and divided by their deviation.

    The rigid maps of probreg are of space alone.
    """
    found: dict[str, _Move] = {}
    try:
        import pycpd

        kind = pycpd.RigidRegistration if rigid else pycpd.DeformableRegistration
        options = {"w": 0.5} if rigid else {}
        found["pycpd"] = lambda x, y: kind(X=y, Y=x, **options).register()[0]
    except ImportError:
        pass
    try:
        from probreg import cpd, filterreg, l2dist_regs

        name = "rigid" if rigid else "nonrigid"
        if dim == 3 or not rigid:
            share = {"w": 0.5} if rigid else {}
            found["probreg, CPD"] = lambda x, y: cpd.registration_cpd(
                x, y, name, maxiter=150, tol=1e-6, **share
            ).transformation.transform(x)
            found["probreg, GMMReg"] = lambda x, y: l2dist_regs.registration_gmmreg(
                x, y, name, n_gmm_components=4 * min(len(x), len(y)) // 5
            ).transform(x)
        if dim == 3 and rigid:
            found["probreg, FilterReg"] = lambda x, y: filterreg.registration_filterreg(
                x, y, w=0.5, maxiter=150, tol=1e-6
            ).transformation.transform(x)
    except ImportError:
        pass
    return {peer: functools.partial(_normalised, move) for peer, move in found.items()}


def _normalised(move: _Move, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    centre, radius = y.mean(axis=0), y.std()
    moved = move((x - x.mean(axis=0)) / radius, (y - centre) / radius)
    return np.asarray(moved) * radius + centre


# --- published experiments ---------------------------------------------------------


def _published(name: str, x: np.ndarray, y: np.ndarray) -> Case:
    grid = control_grid(np.concatenate([x, y]))

    def fitted(start: ThinPlateSpline | GaussianWarp) -> Callable:
        return lambda x, y: register(x, y, start).points

    def quality(points: object) -> float:
        if name == "fish":
            return _percent(points, y)
        distances = np.linalg.norm(np.asarray(points)[:, None] - y[None], axis=2)
        nearest = [distances.min(axis=k) for k in (0, 1)]
        radius = np.sqrt(np.mean(np.sum((y - y.mean(axis=0)) ** 2, axis=1)))
        return float(100 * np.mean([np.sqrt(np.mean(d**2)) for d in nearest]) / radius)

    rivals = {
        "thin plate spline": Rival(fitted(ThinPlateSpline.identity(grid)), jit=False),
        "Gaussian warp": Rival(fitted(GaussianWarp.identity(grid)), jit=False),
    }
    for peer, move in _peers(x.shape[1], False).items():
        rivals[peer] = Rival(move, jit=False)
    return Case(f"{name}, {len(x)} points", (x, y), rivals, quality=quality)
