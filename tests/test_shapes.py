"""Shapes in files: what is written is read back, what is damaged is named."""

import os

import numpy as np
import pytest

from transportjax.apps import Shape, ShapeError, read_shape, write_shape
from transportjax.apps.shapes import SUFFIXES

RNG = np.random.default_rng(0)


def mesh(dtype=np.float64, **more):
    """Seven points of space at the corners of three triangles."""
    points = RNG.normal(size=(7, 3)).astype(dtype) * np.float32(1e5)
    normals = RNG.normal(size=(7, 3)).astype(dtype) * np.float32(1e-3)
    faces = np.array([[0, 1, 2], [3, 4, 5], [6, 0, 2]])
    return Shape(points, normals, faces, **more)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PLY"])
def test_numbers_come_back_exactly(suffix, dtype, tmp_path):
    shape = mesh(dtype)
    path = tmp_path / f"shape{suffix}"
    notes = write_shape(path, shape)
    again = read_shape(path)
    np.testing.assert_array_equal(again.points.astype(dtype), shape.points)
    np.testing.assert_array_equal(again.normals.astype(dtype), shape.normals)
    is_text = suffix in (".csv", ".txt", ".obj")
    assert again.points.dtype == (np.float64 if is_text else dtype)
    if suffix.lower() in (".ply", ".obj"):
        np.testing.assert_array_equal(again.faces, shape.faces)
        assert notes == ()
    else:
        assert again.faces is None
        assert notes == ("the faces are not in this format.",)


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".npy"])
@pytest.mark.parametrize("has_normals", [False, True])
def test_points_of_the_plane(suffix, has_normals, tmp_path):
    normals = RNG.normal(size=(5, 2)) if has_normals else None
    shape = Shape(RNG.normal(size=(5, 2)), normals)
    write_shape(tmp_path / f"plane{suffix}", shape)
    again = read_shape(tmp_path / f"plane{suffix}")
    assert again.dimension == 2
    np.testing.assert_array_equal(again.points, shape.points)
    assert (again.normals is None) == (not has_normals)


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1,2\n3,4.5\n",
        "# a comment\n1 2\n\n3 4.5",
        "\ufeffx;y\r\n1;2\r\n3;4.5\r\n",
        "1\t2\n3\t4.5 # the second\n",
        "  1.0e0   2\n  3, 4.5\n".replace(",", ""),
    ],
)
def test_tables_of_other_programs(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    shape = read_shape(tmp_path / "a.txt")
    np.testing.assert_array_equal(shape.points, [[1, 2], [3, 4.5]])
    write_shape(tmp_path / "b.csv", shape)
    assert (tmp_path / "b.csv").read_text().startswith("x,y\n") == ("x" in text)


def _ply(kind="ascii", faces="3 0 1 2\n3 2 1 3\n", body=None, vertex=4):
    head = (
        f"ply\nformat {kind} 1.0\ncomment made by hand\nelement vertex {vertex}\n"
        "property double x\nproperty float y\nproperty int z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 2\nproperty list uchar int vertex_index\nend_header\n"
    )
    rows = "0.1 0 5 255 1 2\n1 0.5 0 7 1 2\n1 1 0 0 1 2\n0 1 0 9 1 2\n"
    return (head + (rows + faces if body is None else body)).encode()


def test_ply_as_text_and_as_bytes_of_either_end(tmp_path):
    expected = [[0.1, 0, 5], [1, 0.5, 0], [1, 1, 0], [0, 1, 0]]
    ink = [[255, 1, 2], [7, 1, 2], [0, 1, 2], [9, 1, 2]]
    files = {"text": _ply()}
    for kind, end in (("binary_little_endian", "<"), ("binary_big_endian", ">")):
        kinds = [("x", end + "f8"), ("y", end + "f4"), ("z", end + "i4")]
        rows = np.zeros(4, [*kinds, ("ink", "u1", 3)])
        for name, column in zip("xyz", np.transpose(expected), strict=True):
            rows[name] = column
        rows["ink"] = ink
        polygons = b""
        for polygon in ([0, 1, 2], [2, 1, 3]):
            polygons += bytes([3]) + np.array(polygon, end + "i4").tobytes()
        files[kind] = _ply(kind, body="") + rows.tobytes() + polygons
    for name, data in files.items():
        (tmp_path / "a.ply").write_bytes(data)
        shape = read_shape(tmp_path / "a.ply")
        np.testing.assert_array_equal(shape.points, expected, name)
        np.testing.assert_array_equal(shape.faces, [[0, 1, 2], [2, 1, 3]])
        np.testing.assert_array_equal(shape.colours[:, :3], ink)
        write_shape(tmp_path / "b.ply", shape)
        np.testing.assert_array_equal(
            read_shape(tmp_path / "b.ply").colours[:, :3], ink
        )


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        ("4 0 1 2 3\n4 1 0 3 2\n", [[0, 1, 2], [0, 2, 3], [1, 0, 3], [1, 3, 2]]),
        ("4 0 1 2 3\n3 0 1 2\n", [[0, 1, 2], [0, 2, 3], [0, 1, 2]]),
    ],
)
def test_polygons_become_triangles(faces, expected, tmp_path):
    (tmp_path / "a.ply").write_bytes(_ply(faces=faces))
    np.testing.assert_array_equal(read_shape(tmp_path / "a.ply").faces, expected)
    text = "v 0.1 0 5\nv 1 0.5 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\n"
    for polygon in faces.splitlines():
        corners = [f"{int(k) + 1}//1" for k in polygon.split()[1:]]
        text += f"f {' '.join(corners)}\n"
    (tmp_path / "a.obj").write_text(text)
    shape = read_shape(tmp_path / "a.obj")
    np.testing.assert_array_equal(shape.faces, expected)
    np.testing.assert_allclose(shape.points[0], [0.1, 0, 5])


def test_the_points_of_an_obj_keep_their_order(tmp_path):
    """Groups, materials, textures and normals of faces do not split it."""
    path = tmp_path / "a.obj"
    points = "v 9 9 9\nv 0 0 0\nv 1 0 0\nv 1 1 0\n\\\nv 0 1 0\n"
    expected = [[9, 9, 9], [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    for corners in (
        "o a\nusemtl red\nf 2 3 4\no b\nusemtl blue\nf 2 4 5\n",
        "vt 0 0\nvt 1 0\nvt 1 1\nf 2/1 3/2 4/3\nf 2/2 4/1 5/1\n",
        "vn 0 0 1\nvn 1 0 0\nf 2//1 3//1 4//1\nf 2//2 4//1 5//1\n",
        "vt 0 0\nvn 0 0 1\nf 2/1/1 3/1/1 4/1/1\r\nf  2/1/1 4/1/1 5/1/1 \r\n",
        "f -4 -3 -2\nf -4 -2 -1\n",
    ):
        path.write_text("mtllib a.mtl\n" + points + corners)
        shape = read_shape(path)
        np.testing.assert_array_equal(shape.points, expected, corners)
        np.testing.assert_array_equal(
            shape.points[shape.faces[:, 1]], [[1, 0, 0], [1, 1, 0]]
        )


def test_normals_of_an_obj(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text(
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nvn 0 0 1\nvn 1 0 0\nvn 0 1 0\nf 1//3 2//2 3//1\n"
    )
    shape = read_shape(path)
    np.testing.assert_array_equal(shape.normals, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_colours_go_from_format_to_format(tmp_path):
    ink = np.arange(21, dtype=np.uint8).reshape(7, 3) * 12
    shape = mesh(colours=ink)
    assert write_shape(tmp_path / "a.ply", shape) == ()
    first = read_shape(tmp_path / "a.ply")
    assert write_shape(tmp_path / "b.obj", first) == ()
    second = read_shape(tmp_path / "b.obj")
    np.testing.assert_array_equal(second.colours[:, :3], ink)
    assert "colours" in write_shape(tmp_path / "c.csv", second)[1]


def test_points_without_faces(tmp_path):
    shape = Shape(RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)))
    assert write_shape(tmp_path / "a.ply", shape) == ()
    again = read_shape(tmp_path / "a.ply")
    assert again.faces is None
    np.testing.assert_array_equal(again.normals, shape.normals)
    assert "normals" in write_shape(tmp_path / "a.obj", shape)[0]
    np.testing.assert_array_equal(read_shape(tmp_path / "a.obj").points, shape.points)


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_another_program_reads_our_meshes(suffix, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(2)
    path, ours = tmp_path / f"theirs{suffix}", tmp_path / f"ours{suffix}"
    ball.export(path, include_normals=True) if suffix == ".obj" else ball.export(path)
    shape = read_shape(path)
    np.testing.assert_allclose(shape.points, ball.vertices, atol=1e-7)
    np.testing.assert_array_equal(shape.faces, ball.faces)
    write_shape(ours, shape)
    again = trimesh.load(ours, process=False)
    assert again.is_watertight
    assert again.volume == pytest.approx(ball.volume)


GOOD = b"0 0\n1 0\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"x,y\n", "holds no numbers"),
        ("a.csv", b"# nothing\n", "holds no numbers"),
        ("a.csv", b"1,2\n3,4,5\n", r"columns changed from 2 to 3 at row 2\.$"),
        ("a.csv", b"1,2\n3,b\n", "could not convert"),
        ("a.csv", b"1,5;2,5\n1;2\n", "could not convert"),
        ("a.csv", b"1\n2\n", "2 or 3 columns"),
        ("a.csv", b"1,2,3,4,5\n", "2 or 3 columns"),
        ("a.txt", b"1 2\n3 nan\n", "must be finite.*row 2"),
        ("a.txt", b"1 2 0 inf\n", "`normals` must be finite"),
        ("a.xyz", GOOD, "must end in one of .csv, .txt, .npy, .ply, .obj"),
        ("a.npy", GOOD, "is not an array written by numpy.save"),
        ("a.ply", GOOD, "cannot be read"),
        ("a.ply", _ply()[:-12], "faces cannot be read"),
        ("a.ply", _ply(faces="3 0 1 2\n2 0 1"), "a face of 2 corners"),
        ("a.ply", _ply()[:-40], "a.ply"),
        ("a.ply", _ply("binary_little_endian"), "cannot be read"),
        ("a.ply", _ply(vertex=10**15), "a.ply"),
        ("a.ply", _ply(vertex="many"), "cannot be read"),
        ("a.ply", _ply().replace(b"double x", b"double w"), "cannot be read"),
        ("a.ply", _ply(faces="3 0 1 2\n3 0 1 4"), "`faces` must hold numbers of the"),
        ("a.obj", b"# no vertices\n", "has no points"),
        ("a.obj", b"v 0 0\n", "three coordinates"),
        ("a.obj", b"v 0 0 0\nv 1 1 x\n", "a.obj"),
        ("a.obj", b"v 0 0 nan\nv 1 1 1\n", "must be finite"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n", "a.obj"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2\n", "a face of 2 corners"),
    ],
)
def test_bad_files_are_named(name, data, message, tmp_path, user_errors):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ShapeError, match=message) as caught:
        read_shape(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_that_are_no_shape(tmp_path, user_errors):
    good = np.zeros((4, 3))
    for arguments, message in (
        ((good.astype(int),), "`points` must be a numpy array of float"),
        ((np.zeros((4, 4)),), "`points` must have shape"),
        ((np.zeros((0, 3)),), "`points` must not be empty"),
        ((good + np.nan,), "`points` must be finite"),
        ((good, np.zeros((3, 3))), r"`normals` must have shape \(4, 3\)"),
        ((good, None, good), "`faces` must be a numpy array of integers"),
        ((good, None, np.zeros((1, 4), int)), r"`faces` must have shape \(f, 3\)"),
        ((good, None, None, np.zeros((4, 3))), "`colours` must be bytes"),
        ((good, None, np.full((1, 3), 4)), "numbers of the 4 points"),
    ):
        with pytest.raises(ValueError, match=message):
            Shape(*arguments)
    plane = Shape(np.zeros((4, 2)))
    with pytest.raises(ShapeError, match="points of space"):
        write_shape(tmp_path / "a.ply", plane)
    np.savez(tmp_path / "a.npz", plane.points)
    os.rename(tmp_path / "a.npz", tmp_path / "a.npy")
    with pytest.raises(ShapeError, match="holds several arrays"):
        read_shape(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([["a", "b"]]))
    with pytest.raises(ShapeError, match="real numbers"):
        read_shape(tmp_path / "b.npy")
    with pytest.raises(FileNotFoundError):
        read_shape(tmp_path / "absent.csv")
