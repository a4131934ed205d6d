"""Rigid registration of range scans: how many pairs of the dragon are turned rightly.

    python -m benchmarks dragon --data FOLDER

takes the scans of FOLDER/dragon_stand.npz and the true poses of
FOLDER/dragon_stand_poses.conf (Stanford 3D scanning repository), in cells of 5 mm. The
quality is the number of pairs of scans, out of thirty, whose rotation is found
(|q . q_true| > 0.99, the criterion of gmmreg); the angle is between the views, of which
the start knows nothing. Times are of all pairs, once, with compilation.

Normals are those of planes through the twenty nearest points, turned to the scanner;
the viewpoint is far off along the z-axis of each scan.

References:
    Jian and Vemuri (2011), "Robust point set registration using Gaussian mixture
    models", for the experiment.
"""

import functools
import pathlib
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from scipy.spatial import KDTree

from transportjax.maps import Rigid
from transportjax.solvers import register

from .harness import Case, Rival

_CELL = 0.005  # metres
_NEIGHBOURS = 20  # to fit a plane to
_SURFACES = "1000 starts, normals and viewpoints"


def cases(options: Namespace) -> Iterator[Case]:
    """The angles between the views."""
    if options.data is None:
        raise SystemExit("the topic dragon needs --data")
    for angle in (24,) if options.quick else (24, 48, 72, 96):
        yield _pairs(options.data, angle, options.dtype)


def plot(report: dict, path: pathlib.Path) -> None:
    """How many pairs are found, against the angle."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = report["results"]
    rivals = list(dict.fromkeys(record["rival"] for record in records))
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name in rivals:
        mine = [record for record in records if record["rival"] == name]
        angles = [int(record["case"].split()[0]) for record in mine]
        axes.plot(angles, [record["quality"] for record in mine], "o-", label=name)
    axes.set_xticks(angles)
    axes.set_ylim(0, 31)
    axes.set_xlabel("angle between the views (degrees)")
    axes.set_ylabel("pairs turned rightly, of 30")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pairs(folder: pathlib.Path, angle: int, dtype: str) -> Case:
    files = np.load(folder / "dragon_stand.npz")
    angles = range(0, 360, 24)
    scans = [_thinned(files[f"angle_{a}"].astype(float), dtype) for a in angles]
    turns = _turns(folder / "dragon_stand_poses.conf", angles)
    num, step = len(scans), angle // 24
    pairs = [(i, (i + s) % num) for i in range(num) for s in (step, -step)]

    def run(options: dict, *, surfaces: bool = False) -> list:
        found = []
        for i, j in pairs:
            (x, a, n), (y, b, m) = scans[i], scans[j]
            known = {"source_weights": a, "target_weights": b}
            if surfaces:
                eye = np.asarray([0, 0, 10], dtype)  # metres: the scans are 0.2 wide
                known |= {"source_normals": n, "target_normals": m}
                known |= {"source_viewpoint": eye, "target_viewpoint": eye}
            found.append(register(x, y, Rigid.identity(3), **known, **options).map)
        return found

    def quality(maps: list) -> float:
        cosines = [
            abs(np.trace(np.asarray(map.matrix).T @ turns[j].T @ turns[i]) + 1) / 4
            for map, (i, j) in zip(maps, pairs, strict=True)
        ]
        return float(np.sum(np.sqrt(cosines) > 0.99))  # the cosine of half the angle

    radius = 0.062
    schedule = {"bandwidths": np.asarray([0.25, 0.1], dtype) * radius}
    rivals = {
        "one start, as gmmreg": schedule,
        "one start": {},
        "24 starts": {"num_starts": 24},
        _SURFACES: {"num_starts": 1000},
    }
    return Case(
        f"{angle} degrees",
        (),
        {
            name: Rival(
                functools.partial(run, given, surfaces=name == _SURFACES), jit=False
            )
            for name, given in rivals.items()
        },
        quality=quality,
        once=True,
    )


def _thinned(points: np.ndarray, dtype: str) -> tuple[np.ndarray, ...]:
    """Means of points in each cell, masses, and normals: padded to one size for all."""
    cells = np.floor((points - points.min(axis=0)) / _CELL).astype(int)
    _, place = np.unique(cells, axis=0, return_inverse=True)
    counts = np.bincount(place.ravel())

    def padded(vectors: np.ndarray) -> np.ndarray:
        sums = [np.bincount(place.ravel(), weights=vectors[:, k]) for k in range(3)]
        means = np.stack(sums, axis=1) / counts[:, None]
        out = np.repeat(means[:1], 2048, axis=0)
        out[: len(means)] = means
        return out.astype(dtype)

    masses = (np.arange(2048) < len(counts)).astype(dtype)
    return padded(points), masses, padded(_normals(points))


def _normals(points: np.ndarray) -> np.ndarray:
    """Of the planes through each point and its neighbours, towards z > 0."""
    _, near = KDTree(points).query(points, k=_NEIGHBOURS)
    gaps = points[near] - points[near].mean(axis=1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", gaps, gaps))[1][:, :, 0]
    return np.where(normals[:, 2:] < 0, -normals, normals)


def _turns(path: pathlib.Path, angles: range) -> list[np.ndarray]:
    """Rotation matrices from each scan to the world."""
    lines = [line.split() for line in path.read_text().splitlines()]
    poses = {line[1]: line[2:] for line in lines if line and line[0] == "bmesh"}
    numbers = [poses[f"dragonStandRight_{angle}.ply"] for angle in angles]
    # the file's quaternions turn the other way
    back = np.array([-1.0, -1.0, -1.0, 1.0])
    return [
        np.asarray(Rigid(np.array(n[3:], float) * back, np.zeros(3)).matrix)
        for n in numbers
    ]
