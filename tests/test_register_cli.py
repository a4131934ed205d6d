"""The command `register`, and `apply` on shapes: from file to file."""

import numpy as np
import pytest
from helpers import run

from transportjax.apps import (
    Shape,
    ShapeMap,
    apply_shape_map,
    fit_shape_map,
    load_shape_map,
    read_picture,
    read_shape,
    save_shape_map,
    shape_distance,
    write_shape,
)
from transportjax.apps.shape_plots import registration_figure
from transportjax.maps import Affine, ModelFileError, save


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


def turned(points, angle, axis=2):
    c, s = np.cos(angle), np.sin(angle)
    if points.shape[1] == 2:
        return points @ np.array([[c, s], [-s, c]])
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, s, -s, c
    return points @ matrix


def leaf(count=90):
    """A closed curve that is like no turned copy of itself."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 1 + 0.3 * np.cos(t) + 0.25 * np.cos(2 * t + 1) + 0.15 * np.sin(3 * t)
    return np.stack([1.6 * radius * np.cos(t), radius * np.sin(t)], axis=1)


def egg(count=12):
    """A surface of space of triangles, normals, and no symmetry but one."""
    u, v = np.meshgrid(
        (np.arange(count) + 0.5) * np.pi / count,
        np.arange(2 * count) * np.pi / count,
        indexing="ij",
    )
    width = 1 + 0.35 * np.cos(u) + 0.2 * np.sin(u) * np.cos(v)
    points = np.stack(
        [2 * np.cos(u), width * np.sin(u) * np.cos(v), 0.7 * np.sin(u) * np.sin(v)], -1
    ).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(count - 1), np.arange(2 * count), indexing="ij")
    k = (j + 1) % (2 * count)
    here, below = i * 2 * count, (i + 1) * 2 * count
    halves = [(here + j, below + j, below + k), (here + j, below + k, here + k)]
    faces = np.concatenate([np.stack(half, -1).reshape(-1, 3) for half in halves])
    return points, faces, surface_normals(points, faces)


def surface_normals(points, faces):
    """Sums of the area vectors of the faces around each point, of length one."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    total = np.zeros_like(points)
    for k in range(3):
        np.add.at(total, faces[:, k], np.cross(b - a, c - a))
    return total / np.linalg.norm(total, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Files: a curve and it turned, cut and bent; a surface and it turned."""
    folder = tmp_path_factory.mktemp("shapes")
    curve = leaf()
    offset = np.array([4.5e6, -2e6])  # as far from the origin as maps of countries
    np.savetxt(folder / "curve.csv", curve, delimiter=",", header="x,y", comments="")
    np.save(folder / "turned.npy", turned(curve, 0.6)[::-1] + offset)
    bent = curve + 0.12 * np.sin(2 * curve[:, ::-1])
    np.savetxt(folder / "bent.txt", bent)
    points, faces, normals = egg()
    write_shape(folder / "egg.obj", Shape(points, normals, faces))
    there = Shape(
        turned(turned(points, 2.2), -1.9, 0) + 3, turned(turned(normals, 2.2), -1.9, 0)
    )
    write_shape(folder / "there.ply", there)
    return folder


def test_a_turned_curve_far_away(shapes, tmp_path, capsys):
    out = tmp_path / "out.csv"
    code = run(
        shapes,
        *("register", "curve.csv", "turned.npy", "-o", out, "--warp", "rigid"),
        *("--save-map", tmp_path / "map.tjx", "--figure", tmp_path / "figure.png"),
        *("--between", 3),
    )
    text, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "nearest point of the target" in text
    assert "out_000.csv to out_002.csv" in text
    expected = turned(leaf(), 0.6) + np.array([4.5e6, -2e6])
    result = read_shape(out)
    np.testing.assert_allclose(result.points, expected, atol=2e-3)
    assert out.read_text().startswith("x,y\n")
    assert read_picture(tmp_path / "figure.png").pixels.shape[1] > 600
    first, middle, last = (
        read_shape(tmp_path / f"out_{number:03d}.csv").points for number in range(3)
    )
    np.testing.assert_allclose(first, leaf(), atol=1e-6)
    np.testing.assert_allclose(last, result.points, atol=1e-6)
    # half way: turned by half of the angle, not shrunk
    centre = leaf().mean(axis=0)
    half = turned(leaf() - centre, 0.3)
    np.testing.assert_allclose(middle - middle.mean(axis=0), half, atol=2e-3)
    assert (
        run(
            shapes,
            "apply",
            tmp_path / "map.tjx",
            "curve.csv",
            "-o",
            tmp_path / "again.csv",
        )
        == 0
    )
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()


def test_a_bent_curve(shapes, tmp_path):
    distances = {}
    target = read_shape(shapes / "bent.txt")
    base = ("register", "curve.csv", "bent.txt", "-q", "--steps", 60)
    for warp in ("similarity", "affine", "tps", "rbf"):
        out = tmp_path / f"{warp}.csv"
        assert run(shapes, *base, "-o", out, "--warp", warp) == 0
        distances[warp] = shape_distance(read_shape(out), target)
    assert distances["affine"] < shape_distance(Shape(leaf()), target)
    assert distances["tps"] < 0.5 * distances["affine"]
    assert distances["rbf"] < 0.5 * distances["affine"]


def test_a_surface_upside_down(shapes, tmp_path):
    out = tmp_path / "out.ply"
    base = ("register", "egg.obj", "there.ply", "-o", out, "-q", "--warp", "rigid")
    assert run(shapes, *base, "--starts", 16, "--normals") == 0
    _, faces, _ = egg()
    result = read_shape(out)
    target = read_shape(shapes / "there.ply")
    np.testing.assert_array_equal(result.faces, faces)
    np.testing.assert_allclose(result.points, target.points, atol=5e-3)
    np.testing.assert_allclose(result.normals, target.normals, atol=5e-3)


def test_normals_are_those_of_the_moved_surface():
    points, faces, normals = egg(40)
    source = Shape(points, normals, faces)
    bent = Shape(points + 0.1 * np.sin(1.5 * points[:, [1, 2, 0]]))
    fitted = fit_shape_map(source, bent, warp="tps", num_points=300, num_steps=50)
    moved = apply_shape_map(fitted, source)
    expected = surface_normals(moved.points, faces)
    # where the grid of points is not a fold of slivers
    inner = np.abs(points[:, 0]) < 1.8
    cosines = np.sum(moved.normals * expected, axis=1)[inner]
    before = np.sum(normals * expected, axis=1)[inner]
    assert np.quantile(before, 0.05) < 0.995
    assert np.quantile(cosines, 0.05) > 0.999


def test_maps_are_kept_and_precise(tmp_path):
    matrix = np.array([[2.0, 0.5], [0.0, 1.0]], np.float32)
    warp = Affine(matrix, np.zeros(2, np.float32))
    shape_map = ShapeMap(warp, np.array([4.5e6, 1.0]), 3.0, np.array([-1e6, 2.0]), 3.0)
    save_shape_map(tmp_path / "map", shape_map)
    again = load_shape_map(tmp_path / "map")
    points = np.array([[4.5e6, 1.0], [4.5e6 + 0.001, 1.25]])
    expected = (points - shape_map.centre) @ matrix.T + shape_map.target_centre
    np.testing.assert_allclose(again(points), expected, rtol=0, atol=1e-8)
    single = Shape(points.astype(np.float32))
    assert apply_shape_map(again, single).points.dtype == np.float32
    for about in (None, {"kind": "shape", "size": 3.0}):  # of no kind; incomplete
        save(tmp_path / "other", warp, metadata=about)
        with pytest.raises(ModelFileError, match="shapes"):
            load_shape_map(tmp_path / "other")


def test_a_figure_of_shapes_far_apart(tmp_path):
    """The panel on the right is filled, though the one on the left cannot be."""
    turn = np.linspace(0.0, 6.28, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    source, target = Shape(circle), Shape(circle + 1e6)
    registration_figure(tmp_path / "figure.png", source, target, target)
    pixels = read_picture(tmp_path / "figure.png").pixels
    height, width = pixels.shape[:2]
    inked = (pixels[: height * 9 // 10, width // 2 :] < 250).any(axis=-1)
    assert np.ptp(np.nonzero(inked)[0]) > height / 2


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e30])
def test_the_distance_in_any_unit(unit):
    near, far = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.5], [1.0, 1.0]])
    found = shape_distance(Shape(unit * near), Shape(unit * far))
    assert found == pytest.approx(0.75 * unit, rel=1e-6)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (4, "absent.csv", "absent.csv bent.txt -o o.csv"),
        (3, "empty.csv: is empty", "empty.csv bent.txt -o o.csv"),
        (3, "text.ply: cannot be read", "curve.csv text.ply -o o.csv"),
        (3, "must both be of the plane", "curve.csv there.ply -o o.csv"),
        (3, "o.xyz: a shape must end", "curve.csv bent.txt -o o.xyz"),
        (3, "points of space", "curve.csv bent.txt -o o.ply"),
        (3, "needs normals", "curve.csv bent.txt -o o.csv --normals"),
        (3, "two different points", "one.csv bent.txt -o o.csv"),
        (3, "in row 1.", "zero.csv zero.csv -o o.csv --normals --points 4"),
        (3, "--warp rigid", "line.csv bent.txt -o o.csv --warp affine"),
        (4, "--force", "curve.csv bent.txt -o text.ply"),
        (4, "input", "curve.csv bent.txt -o bent.txt"),
        (2, "--bending", "curve.csv bent.txt -o o.csv --warp rigid --bending 1"),
        (3, "must be positive", "curve.csv bent.txt -o o.csv --bandwidths 0"),
        (3, "text.ply", "apply: text.ply curve.csv -o o.csv"),
        (2, "is for pictures", "apply: text.ply curve.csv -o o.csv --regrain"),
    ],
)
def test_an_error_is_one_line_and_loses_nothing(shapes, capsys, code, words, arguments):
    (shapes / "empty.csv").touch()
    (shapes / "one.csv").write_text("1,2\n1,2\n")
    (shapes / "line.csv").write_text("1,2\n2,4\n3,6\n")
    (shapes / "zero.csv").write_text("1,2,1,0\n2,4,0,0\n" + "3,7,0,1\n" * 9)
    (shapes / "text.ply").write_text("precious")
    before = {p.name: p.read_bytes() for p in shapes.iterdir()}
    command, _, rest = arguments.rpartition(": ")
    assert run(shapes, command or "register", *rest.split()) == code
    _, err = capsys.readouterr()
    assert err.startswith("transportjax: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert before == {p.name: p.read_bytes() for p in shapes.iterdir()}


@pytest.mark.parametrize(
    "more",
    [
        ("--warp", "magic"),
        ("--starts", "0"),
        ("--between", "1"),
        ("--bandwidths", "-1"),
        ("--bending", "-1"),
        ("--steps", "0"),
    ],
)
def test_wrong_usage_is_exit_code_two(shapes, tmp_path, capsys, more):
    base = ("register", "curve.csv", "bent.txt", "-o", tmp_path / "o.csv")
    with pytest.raises(SystemExit) as stop:
        run(shapes, *base, *more)
    assert stop.value.code == 2
    assert more[0] in capsys.readouterr().err
