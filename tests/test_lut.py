import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import NamedSharding, PartitionSpec

from transportjax.apps import lut as lut_module
from transportjax.apps.lut import (
    Lut,
    LutError,
    apply_lut,
    bake,
    read_cube,
    table_error,
    write_cube,
)

METHODS = ("tetrahedral", "trilinear")
MATRIX = np.array([[0.8, 0.3, -0.1], [0.1, 0.7, 0.2], [-0.2, 0.4, 0.9]])


def affine(colours):
    return colours @ MATRIX.astype(colours.dtype).T + colours.dtype.type(0.1)


def grade(colours):
    first = jnp.sin(2 * colours[:, :1]) * colours[:, 1:2]
    return jnp.concatenate([first, colours[:, 1:] ** 2 + 0.2 * colours[:, :2]], axis=1)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).normal(size=(5, 5, 5, 3)).astype(np.float32)


@pytest.fixture
def points(key):
    return jr.uniform(key, (400, 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_nodes", [2, 5])
def test_exact_for_affine_functions(method, num_nodes, key, x64):
    points = jr.uniform(key, (200, 3))
    table = bake(affine, num_nodes)
    assert_close(table(points, method=method), affine(points), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_exact_at_the_nodes(method, table):
    nodes = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, 5)] * 3, indexing="ij"), -1)
    assert_close(Lut(table)(nodes, method=method), table, rtol=0, atol=0)


def test_trilinear_is_that_of_scipy(table, key, x64):
    from scipy.interpolate import RegularGridInterpolator

    low, high = np.array([-1, 0, 0.5]), np.array([1, 2, 3])
    axes = [np.linspace(a, b, 5) for a, b in zip(low, high, strict=True)]
    points = low + (high - low) * np.asarray(jr.uniform(key, (300, 3)))
    expected = RegularGridInterpolator(axes, table.astype(float))(points)
    result = Lut(table.astype(float), low, high)(points, method="trilinear")
    assert_close(result, expected, rtol=0, atol=1e-13)


def test_tetrahedra_by_barycentric_coordinates(table, points, x64):
    """Each colour between the corners of its tetrahedron, found by sorting."""
    table, points = table.astype(float), np.asarray(points, float)
    result = Lut(table)(points)
    for point, value in zip(points[:50], np.asarray(result), strict=False):
        cell = np.minimum((point * 4).astype(int), 3)
        fraction = point * 4 - cell
        order = np.argsort(-fraction)
        corner, expected, before = cell.copy(), 0.0, 1.0
        for axis in (*order, None):
            after = fraction[axis] if axis is not None else 0.0
            expected = expected + (before - after) * table[tuple(corner)]
            before = after
            if axis is not None:
                corner[axis] += 1
        assert_close(value, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_second_order(method, key, x64):
    points = jr.uniform(key, (2000, 3))
    errors = [
        float(jnp.max(jnp.abs(bake(grade, k)(points, method=method) - grade(points))))
        for k in (9, 17, 33)
    ]
    assert 3 < errors[0] / errors[1] < 5
    assert 3 < errors[1] / errors[2] < 5


def test_greys_stay_grey_in_tetrahedra(key):
    """A table that keeps greys mixes nothing else into them."""
    table = jr.uniform(key, (4, 4, 4, 3))
    diagonal = jnp.arange(4)
    grey = jnp.array([0.0, 0.5, 0.6, 1.0])[:, None] * jnp.ones((1, 3))
    table = table.at[diagonal, diagonal, diagonal].set(grey)
    result = Lut(table)(jnp.linspace(0, 1, 50)[:, None] * jnp.ones((1, 3)))
    assert_close(result[:, 0], result[:, 1], atol=1e-6)
    assert_close(result[:, 0], result[:, 2], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_outside_is_the_nearest_point(method, table):
    inside = jnp.array([[0.0, 0.3, 1.0], [1.0, 1.0, 0.0]])
    outside = jnp.array([[-2.0, 0.3, 1e30], [jnp.inf, 1.5, -jnp.inf]])
    lut = Lut(table)
    expected = lut(inside, method=method)
    assert_close(lut(outside, method=method), expected)
    slopes = jax.vmap(jax.jacobian(lambda x: lut(x, method=method)))(outside)
    assert_close(slopes[1], np.zeros((3, 3)))
    assert bool(jnp.all(jnp.isnan(lut(jnp.full((2, 3), jnp.nan), method=method))))


def test_identity_and_high_dynamic_range(key):
    for low, high in (
        (0.0, 1.0),
        (-1.0, 50.0),
        (np.array([0, 1, 2]), np.array([1, 3, 9])),
    ):
        identity = bake(lambda colours: colours, 7, low=low, high=high)
        ends = np.broadcast_to(low, 3), np.broadcast_to(high, 3)
        x = jr.uniform(key, (100, 3)) * jnp.asarray(
            (ends[1] - ends[0])[None], "float32"
        )
        x = x + jnp.asarray(ends[0][None], "float32")
        assert_close(identity(x), x, rtol=1e-6, atol=1e-6 * float(np.max(high)))
        assert_close(identity.table[0, 0, 0], ends[0])
        assert_close(identity.table[-1, -1, -1], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method, table, key, x64):
    points = jr.uniform(key, (6, 3))

    def value(table, low, high, points):
        return jnp.sum(jnp.sin(Lut(table, low, high)(points, method=method)))

    check_gradient(value, table, np.zeros(3), np.ones(3), points, rtol=1e-5, eps=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_slopes_of_an_affine_table_at_ties_and_ends(method):
    """On the grey axis, at nodes and at both ends, where many pixels are."""
    lut = bake(affine, 5)
    grey = jnp.linspace(0, 1, 9)[:, None] * jnp.ones((1, 3))
    slopes = jax.vmap(jax.jacobian(lambda x: lut(x, method=method)))(grey)
    assert_close(slopes, np.broadcast_to(MATRIX, slopes.shape), rtol=0, atol=2e-6)


def test_baking_is_differentiable():
    x = jnp.array([[0.2, 0.5, 0.7]])

    def total(gain):
        return jnp.sum(bake(lambda colours: gain * colours, 3)(x))

    assert_close(jax.jit(jax.grad(total))(jnp.float32(2)), 1.4)


def test_baking_in_blocks(monkeypatch):
    sizes = []

    def function(colours):
        sizes.append(len(colours))
        return np.asarray(colours) ** 2  # numpy may come back

    whole = bake(function, 9)
    assert sizes == [729]
    monkeypatch.setattr(lut_module, "_BAKED_AT_ONCE", 200)
    assert_close(bake(function, 9).table, whole.table, rtol=0, atol=0)
    assert sizes[1:] == [200] * 4
    assert_close(whole.table[8, 4, 0], [1.0, 0.25, 0.0])


@pytest.mark.parametrize("method", METHODS)
def test_apply_in_blocks(method, table, key, monkeypatch):
    monkeypatch.setattr(lut_module, "_CHUNK", 64)
    lut = Lut(table)
    for shape in ((8, 8, 3), (3,), (0, 4, 3), (2, 2, 50, 3)):
        x = jr.uniform(key, shape)
        result = apply_lut(lut, x, method=method)
        assert result.shape == shape
        assert_close(result, lut(x, method=method))


def test_apply_compiles_once_for_pictures_of_all_sizes(table, monkeypatch):
    traces = []
    inner = lut_module._interpolate
    monkeypatch.setattr(
        lut_module, "_interpolate", lambda *args: (traces.append(1), inner(*args))[1]
    )
    monkeypatch.setattr(lut_module, "_CHUNK", 96)
    for scale in (1, 2):
        for shape in ((7, 9, 3), (20, 30, 3), (5, 3)):
            apply_lut(Lut(scale * table), jnp.ones(shape))
    assert len(traces) == 1


def test_apply_under_transformations(table):
    x = jnp.linspace(0, 1, 12).reshape(4, 3)
    lut = Lut(table)
    assert_close(jax.jit(apply_lut)(lut, x), lut(x))
    apply = jax.grad(lambda x: jnp.sum(apply_lut(lut, x)))
    assert_close(apply(x), jax.grad(lambda x: jnp.sum(lut(x)))(x))


def test_dtypes(table, points, x64):
    points = points.astype("float64")
    exact = Lut(table.astype(float))(points)
    for dtype, bound in (("float64", 1e-6), ("float32", 1e-5), ("bfloat16", 0.3)):
        result = Lut(table)(points.astype(dtype))
        assert result.dtype == dtype
        assert_close(result.astype("float64"), exact, rtol=0, atol=bound)
        assert apply_lut(Lut(table), points.astype(dtype)).dtype == dtype


def test_many_tables_at_once(table, points):
    stacked = eqx.filter_vmap(Lut)(jnp.stack([table, 2 * table]))
    result = eqx.filter_vmap(lambda lut: lut(points))(stacked)
    assert_close(result[1], 2 * Lut(table)(points), rtol=1e-6, atol=1e-6)


def test_explicit_mesh(table, points):
    mesh = jax.make_mesh((4,), ("pixels",))
    sharded = jax.device_put(points, NamedSharding(mesh, PartitionSpec("pixels")))
    assert_close(Lut(table)(sharded), Lut(table)(points))


def test_table_error(x64):
    points = np.array([[0.25, 0.5, 1.0], [0.25, 0.75, 0.1], [0.5, 0.5, 0.5]])
    # between the nodes 0, 1/2 and 1 the chord of a square is above it by (x-a)(b-x)
    expected = [0.0625, 0.0625, 0]
    assert_close(
        table_error(jnp.square, bake(jnp.square, 3), points), expected, atol=1e-12
    )


# --- files


def test_cube_there_and_back(tmp_path, key):
    table = jr.normal(key, (6, 6, 6, 3)) * 10
    lut = Lut(table, jnp.array([-0.5, 0, 0.25]), jnp.array([1.0, 2.5, 16.0]))
    path = tmp_path / "grade.cube"
    write_cube(path, lut, title="Zürich 1")
    back = read_cube(str(path))
    assert_close(back.table, table, rtol=0, atol=1e-9 + 1e-6)
    assert_close(back.low, lut.low, rtol=0, atol=0)
    assert_close(back.high, lut.high, rtol=0, atol=0)
    write_cube(path, back, title="Zürich 1")
    assert_close(read_cube(path).table, back.table, rtol=0, atol=0)


def test_the_text_of_a_cube_file(tmp_path):
    path = tmp_path / "swap.cube"
    write_cube(path, bake(lambda c: c[:, jnp.array([1, 0, 2])], 2), title="swap")
    lines = path.read_text().split("\n")
    assert lines[:4] == [
        'TITLE "swap"',
        "LUT_3D_SIZE 2",
        "DOMAIN_MIN 0 0 0",
        "DOMAIN_MAX 1 1 1",
    ]
    # the second row is red = 1, which the function has made green
    assert lines[4:6] == [
        "0.000000000 0.000000000 0.000000000",
        "0.000000000 1.000000000 0.000000000",
    ]
    assert len(lines) == 4 + 8 + 1
    write_cube(path, bake(lambda c: c, 2))
    assert path.read_text().startswith("LUT_3D_SIZE 2\n")


ROWS = "".join(f"{r} {g} {b}\n" for b in (0, 1) for g in (0, 1) for r in (0, 1))


@pytest.mark.parametrize(
    "text",
    [
        "LUT_3D_SIZE 2\n" + ROWS,
        "\ufeff# made by hand\r\n\r\nTITLE two words\r\nLUT_3D_SIZE 2\r\n"
        + ROWS.replace("\n", "\r\n"),
        "LUT_3D_SIZE 2\nLUT_3D_INPUT_RANGE 0.0 1.0\n\n" + ROWS.rstrip(),
        "DOMAIN_MAX 1 1 1\nDOMAIN_MIN 0 0 0\nLUT_3D_SIZE\t2\n"
        + ROWS.replace("1 1 1", " +1.0e0\t1. 1 \n# between\n"),
    ],
)
def test_dialects(tmp_path, text):
    path = tmp_path / "identity.cube"
    path.write_bytes(text.encode())
    x = jnp.array([[0.1, 0.7, 0.4], [1.0, 0.0, 0.5]])
    assert_close(read_cube(path)(x), x)


def test_input_range(tmp_path):
    path = tmp_path / "wide.cube"
    path.write_text("LUT_3D_SIZE 2\nLUT_3D_INPUT_RANGE -1 3\n" + ROWS)
    lut = read_cube(path)
    assert_close(lut(jnp.array([1.0, -1.0, 3.0])), [0.5, 0, 1])


SIZE = "LUT_3D_SIZE 2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no values"),
        ("# nothing\n", "no values"),
        (ROWS, "line 1: values before LUT_3D_SIZE"),
        (SIZE + ROWS[:-6], "7 rows instead of 2.3 = 8"),
        (SIZE + ROWS + "0 0 0\n", r"line 10: more than 2\^3 rows"),
        (SIZE + ROWS.replace("1 1 1", "1 1"), "line 9: 2 values instead of 3"),
        (SIZE + ROWS.replace("1 1 1", "1 1 nan"), "line 9: not a finite"),
        (SIZE + ROWS.replace("1 1 1", "1 1 inf"), "line 9: not a finite"),
        (SIZE + ROWS.replace("1 1 1", "1 1 1e39"), "line 9: not a finite"),
        (SIZE + ROWS.replace("1 1 1", "1 1 0,5"), "line 9: .*0,5"),
        (SIZE + ROWS.replace("1 1 1", "1 1 1_0"), "line 9: .*1_0"),
        (SIZE + SIZE + ROWS, "line 2: LUT_3D_SIZE"),
        (SIZE + ROWS[:6] + SIZE + ROWS[6:], "line 3"),
        ("LUT_3D_SIZE 1\n" + ROWS, "line 1: a size of 1"),
        ("LUT_3D_SIZE 2.5\n" + ROWS, "line 1: a size of 2.5"),
        ("LUT_3D_SIZE -3\n" + ROWS, "line 1: a size of -3"),
        ("LUT_3D_SIZE 257\n" + ROWS, "line 1: a size of 257"),
        ("LUT_3D_SIZE 1e300\n" + ROWS, "line 1"),
        ("LUT_3D_SIZE 256\n" + ROWS, "8 rows instead of"),
        ("LUT_3D_SIZE\n" + ROWS, "line 1: 0 values instead of 1"),
        ("LUT_1D_SIZE 4\n" + ROWS, "line 1: LUT_1D_SIZE is of a 1-D table"),
        (SIZE + "LUT_1D_INPUT_RANGE 0 1\n" + ROWS, "line 2: LUT_1D_INPUT_RANGE"),
        (SIZE + "LUT_IN_VIDEO_RANGE\n" + ROWS, "line 2: 'LUT_IN_VIDEO_RANGE'"),
        (SIZE + "DOMAIN_MIN 1 1 1\n" + ROWS, "domain .* is empty"),
        (SIZE + "DOMAIN_MIN 0 0\n" + ROWS, "line 2: 2 values"),
        (SIZE + "LUT_3D_INPUT_RANGE 0 1\nDOMAIN_MIN 0 0 0\n" + ROWS, "line 3"),
        ("\x89PNG\r\n\x1a\n\x00\x00", "line 1"),
        (SIZE + "0 " * 1000 + "\n", "line 2: longer than 512 bytes"),
        ("x" * 100000, "line 1: longer than 512 bytes"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    path = tmp_path / "broken.cube"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LutError, match=message) as error:
        read_cube(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < len(str(path)) + 200


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.cube"
    path.write_text("old")
    with pytest.raises(ValueError, match="`title`"):
        write_cube(path, bake(lambda c: c, 2), title='a "b"')
    with pytest.raises(ValueError, match="`title`"):
        write_cube(path, bake(lambda c: c, 2), title="two\nlines")
    with pytest.raises(ValueError, match="`title`"):
        write_cube(path, bake(lambda c: c, 2), title="ü" * 200)
    assert path.read_text() == "old"
    with pytest.raises(FileNotFoundError):
        read_cube(tmp_path / "absent.cube")


def test_other_programs_read_our_files(tmp_path, key):
    ocio = pytest.importorskip("PyOpenColorIO")
    lut = bake(grade, 17)
    path = tmp_path / "grade.cube"
    write_cube(path, lut, title="grade")
    for interpolation, method in (
        (ocio.INTERP_TETRAHEDRAL, "tetrahedral"),
        (ocio.INTERP_LINEAR, "trilinear"),
    ):
        transform = ocio.FileTransform(str(path), interpolation=interpolation)
        processor = ocio.Config.CreateRaw().getProcessor(transform)
        x = np.array(jr.uniform(key, (500, 3), minval=-0.1, maxval=1.1))
        expected = x.copy()
        processor.getDefaultCPUProcessor().applyRGB(expected)
        assert_close(lut(x, method=method), expected, rtol=0, atol=2e-6)


def test_what_is_refused(user_errors, table):
    lut = Lut(table)
    ones = np.ones((4, 3), np.float32)
    for call, message in [
        (lambda: lut(np.zeros((4, 3), np.uint8)), "Divide it by 255"),
        (lambda: lut(np.zeros((3, 4))), "three channels"),
        (lambda: lut(ones, method="cubic"), "`method`"),
        (lambda: apply_lut(lut, np.zeros((3, 4))), "three channels"),
        (lambda: apply_lut(lut, ones, method="cubic"), "`method`"),
        (lambda: Lut(table[:4]), r"\(k, k, k, 3\)"),
        (lambda: Lut(table[:1, :1, :1]), "k >= 2"),
        (lambda: Lut(table * np.nan), "`table` must be finite"),
        (lambda: Lut(table, 1, 1), "`low` must be less"),
        (lambda: Lut(table, [0, 0], 1), "`low` must be a number or one a channel"),
        (lambda: bake(lambda c: c, 1), "`num_nodes`"),
        (lambda: bake(lambda c: c, 257), "`num_nodes`"),
        (lambda: bake(lambda c: c[:, :2], 3), "`function` must return"),
        (lambda: bake(lambda c: c / 0, 3), "must be finite"),
        (lambda: table_error(lambda c: c[:2], lut, ones), "`function`"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
