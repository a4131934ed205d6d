import jax.numpy as jnp
import numpy as np
import pytest
from helpers import check_gradient

from transportjax import diagnostics
from transportjax.diagnostics import ricci

# a path 0 - 1 - 2 - 3 with a leaf 4 at 1
EDGES = [(0, 1), (1, 2), (2, 3), (1, 4)]


def graph_of(edges, n):
    graph = np.zeros((n, n), bool)
    for i, j in edges:
        graph[i, j] = graph[j, i] = True
    return graph


def test_forman_curvature_of_a_tree():
    curvature = ricci.forman_curvature(graph_of(EDGES, 5))
    # degrees 1, 3, 2, 1, 1
    expected = {(0, 1): 0, (1, 2): -1, (2, 3): 1, (1, 4): 0}
    for (i, j), value in expected.items():
        assert curvature[i, j] == curvature[j, i] == value
    assert np.count_nonzero(curvature) == 4


def test_hops_of_a_tree():
    hops = ricci.hop_distances(graph_of(EDGES, 5))
    expected = [
        [0, 1, 2, 3, 2],
        [1, 0, 1, 2, 1],
        [2, 1, 0, 1, 2],
        [3, 2, 1, 0, 3],
        [2, 1, 2, 3, 0],
    ]
    np.testing.assert_array_equal(hops, expected)
    assert np.isinf(ricci.hop_distances(graph_of(EDGES[:3], 5))[0, 4])


def test_neighbours_are_joined_one_way_or_the_other():
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    expected = graph_of([(0, 1), (1, 2), (2, 3)], 4)
    np.testing.assert_array_equal(ricci.neighbour_graph(points, 1), expected)
    full = ricci.neighbour_graph(points, 3)
    np.testing.assert_array_equal(full, ~np.eye(4, dtype=bool))
    same = ricci.neighbour_graph(np.zeros((3, 1)), 1)  # nobody is his own neighbour
    assert not np.any(np.diag(same))


def by_loops(clouds, k):
    """All coefficients, one point at a time."""
    graphs, hops = [], []
    for x in clouds:
        n = len(x)
        edges = set()
        for i in range(n):
            gaps = [(np.linalg.norm(x[i] - x[j]), j) for j in range(n) if j != i]
            edges |= {frozenset((i, j)) for _, j in sorted(gaps)[:k]}
        near = [{j for j in range(n) if frozenset((i, j)) in edges} for i in range(n)]
        distances = np.full((n, n), np.inf)
        for i in range(n):
            front, hop = {i}, 0
            while front:
                for j in front:
                    distances[i, j] = hop
                ahead = {m for j in front for m in near[j]}
                front = {m for m in ahead if np.isinf(distances[i, m])}
                hop += 1
        graphs.append(near)
        hops.append(distances)
    total = [
        sum(4 - len(g[i]) - len(g[j]) for i in range(n) for j in g[i] if i < j)
        for g in graphs
    ]
    length = [sum(h[i, j] for i in range(n) for j in range(i)) for h in hops]
    overall = np.corrcoef(total[:-1], np.diff(length))[0, 1]
    bends, changes = (
        np.array(
            [
                [np.mean([value(layer, i, j) for j in g[i]]) for i in range(n)]
                for layer, g in enumerate(graphs[:-1])
            ]
        )
        for value in (
            lambda layer, i, j: 4 - len(graphs[layer][i]) - len(graphs[layer][j]),
            lambda layer, i, j: hops[layer + 1][i, j] - hops[layer][i, j],
        )
    )
    points = [np.corrcoef(bends[:, i], changes[:, i])[0, 1] for i in range(n)]
    layers = [np.corrcoef(a, b)[0, 1] for a, b in zip(bends, changes, strict=True)]
    return total, length, overall, points, layers


def some_clouds(num=5, n=30):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    clouds = [x]
    for _ in range(num - 1):
        x = x + 0.4 * np.tanh(x @ rng.normal(size=(2, 2)))
        x = x + 0.1 * rng.normal(size=x.shape)
        clouds.append(x)
    return clouds


def test_coefficients_are_those_of_a_direct_computation():
    clouds = some_clouds()
    found = diagnostics.ricci_coefficients(clouds, 6)
    for actual, expected in zip(found, by_loops(clouds, 6), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_rotations_and_scales_change_nothing():
    clouds = some_clouds()
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    plain = diagnostics.ricci_coefficients(clouds, 6)
    moved = diagnostics.ricci_coefficients([3 * x @ turn + 1 for x in clouds], 6)
    for actual, expected in zip(moved, plain, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_layers_that_do_nothing_have_no_correlation():
    x = some_clouds()[0]
    found = diagnostics.ricci_coefficients([x, x, x], 6)
    assert np.isnan(found.overall)
    assert np.all(np.isnan(found.layers))
    assert len(set(found.length)) == 1


def test_clouds_may_be_arrays_of_different_widths():
    clouds = [jnp.asarray(x, "float32") for x in some_clouds(3)]
    clouds[1] = jnp.concatenate([clouds[1], clouds[1]], axis=1)
    found = diagnostics.ricci_coefficients(clouds, 6)
    assert found.points.shape == (30,)
    assert found.layers.shape == (2,)


def test_bad_input(user_errors):
    clouds = some_clouds(3)
    apart = np.concatenate([clouds[1][:15], clouds[1][15:] + 100])
    with pytest.raises(ValueError, match=r"`clouds\[1\]` falls into 2 parts .* Give"):
        diagnostics.ricci_coefficients([clouds[0], apart, clouds[2]], 6)
    with pytest.raises(ValueError, match="must hold at least 3 clouds; got 2"):
        diagnostics.ricci_coefficients(clouds[:2], 6)
    with pytest.raises(ValueError, match="`num_neighbours` must be below"):
        diagnostics.ricci_coefficients(clouds, 30)
    with pytest.raises(ValueError, match=r"`clouds\[2\]` must have shape"):
        diagnostics.ricci_coefficients([*clouds[:2], clouds[2][1:]], 6)
    with pytest.raises(ValueError, match=r"`clouds\[0\]` must be finite"):
        diagnostics.ricci_coefficients([clouds[0] * np.nan, *clouds[1:]], 6)


def test_curvature_of_paths(x64):
    x = np.random.default_rng(1).normal(size=(6, 2))
    t = np.linspace(0, 1, 65)[:, None, None]
    shift = np.array([3.0, -1.0])
    straight = x + t * shift
    np.testing.assert_allclose(diagnostics.path_curvature(straight), 0, atol=1e-12)
    np.testing.assert_allclose(
        diagnostics.step_costs(straight), np.full(64, 10.0 / 64**2), rtol=1e-9
    )
    # x + t^2 shift: the integral of |2 t s - s|^2 is |s|^2 / 3
    bent = diagnostics.path_curvature(x + t**2 * shift)
    np.testing.assert_allclose(bent, 10 / 3, rtol=1e-3)
    # what all steps cost is what one straight step costs, and the curvature
    steps = diagnostics.step_costs(x + t**2 * shift)
    np.testing.assert_allclose(64 * steps.sum(), 10 + bent, rtol=1e-9)
    check_gradient(diagnostics.path_curvature, x + t[::16] ** 2 * shift)


def test_straightness(x64):
    x = np.random.default_rng(1).normal(size=(6, 2))
    t = np.linspace(0, 1, 1025)[:, None, None]
    np.testing.assert_allclose(
        diagnostics.straightness(x + t**3 * np.array([3.0, -1.0])), 1, rtol=1e-9
    )
    # half a circle: 2 r of pi r, whatever the radius
    angle = np.pi * t
    arc = np.concatenate([np.cos(angle), np.sin(angle)], axis=2)
    ways = arc * np.arange(1, 5)[None, :, None]
    np.testing.assert_allclose(diagnostics.straightness(ways), 2 / np.pi, rtol=1e-5)
    there_and_back = np.stack([x, x + 1, x])
    np.testing.assert_allclose(diagnostics.straightness(there_and_back), 0, atol=1e-9)
    np.testing.assert_array_equal(diagnostics.straightness(np.stack([x, x])), 1)
    for scale in (1e25, 1e-25):  # whose squares are no numbers of float32
        scaled = np.asarray(scale * ways, "float32")
        np.testing.assert_allclose(
            diagnostics.straightness(scaled), 2 / np.pi, rtol=1e-4
        )
    check_gradient(lambda c: diagnostics.straightness(c).sum(), ways[::256])


def test_bad_paths(user_errors):
    with pytest.raises(ValueError, match="`clouds` must have shape"):
        diagnostics.path_curvature(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="at least 2 clouds"):
        diagnostics.step_costs(jnp.ones((1, 3, 2)))
