import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, PartitionSpec as P

from transportjax.onedim import (
    potentials_1d,
    unbalanced_wasserstein_1d,
    wasserstein_1d,
)
from transportjax.sliced import (
    sliced_unbalanced_wasserstein,
    sliced_wasserstein,
    unbalanced_sliced_wasserstein,
)

REFERENCE = np.load(DATA / "plans_unbalanced.npz")
PENALTIES = {
    "r1": 1.0,
    "r01": 0.1,
    "pair": (0.5, 2.0),
    "semi": (np.inf, 1.0),
}
CASES = ["r1_p1", "r1_p2", "r01_p1", "pair_p1", "pair_p2", "semi_p1", "semi_p2"]


def problem(n=6, m=5, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), 0.7 * rng.normal(size=m) + 0.5
    return x, y, rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)


def clouds(n=6, m=5, num=4):
    rng = np.random.default_rng(0)
    x, y, directions = (rng.normal(size=(k, 3)) for k in (n, m, num))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return x, y + 0.5, directions, rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)


def solve(x, y, a, b, penalty, **options):
    return unbalanced_wasserstein_1d(
        x, y, penalty=penalty, x_weights=a, y_weights=b, **options
    )


@pytest.fixture(scope="module")
def by_steps():
    """Many steps, compiled once for each exponent and shape; penalties are arrays."""

    def many(x, y, a, b, penalty, p):
        return solve(x, y, a, b, penalty, p=p, num_steps=1000)

    return jax.jit(many, static_argnums=5)


# --- against reference data --------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    @functools.partial(jax.jit, static_argnums=1)
    def run(penalty, p):
        arrays = {f: REFERENCE[f"unbalanced/{f}"] for f in "XYPabuv"}
        options = {
            "penalty": penalty,
            "p": p,
            "x_weights": arrays["a"],
            "y_weights": arrays["b"],
            "line_search": False,
        }
        points = arrays["X"], arrays["Y"], arrays["P"].T
        return (
            unbalanced_wasserstein_1d(arrays["u"].T, arrays["v"].T, **options),
            sliced_unbalanced_wasserstein(*points, chunk=2, **options),
            unbalanced_sliced_wasserstein(*points, **options),
        )

    return run


@pytest.mark.parametrize("name", CASES)
def test_reference(name, x64, reference):
    # After ten steps of fixed sizes, far from the optimum. Where the penalty is small
    # and p = 2, masses vanish on the way, and rounding decides what follows.
    penalty, p = name.split("_p")
    pair = jnp.broadcast_to(jnp.asarray(PENALTIES[penalty], float), 2)
    line, mean, points = reference(pair, int(p))
    expected = {
        field.split("/")[-1]: REFERENCE[field]
        for field in REFERENCE.files
        if field.startswith(f"unbalanced/{name}/")
    }
    # small masses follow from differences of potentials over the penalty
    close = functools.partial(assert_close, rtol=1e-8)
    close(points.cost, expected["usot"])
    close(points.x_masses, expected["usot_a"])
    close(points.y_masses, expected["usot_b"])
    if "suot" in expected:
        close(mean, expected["suot"])
        close(line.cost, expected["uot1d_total"])
        close(line.x_masses, expected["uot1d_a"].T)
        close(line.y_masses, expected["uot1d_b"].T)


# --- known answers -----------------------------------------------------------------


@pytest.mark.parametrize("penalty", [(1.0, 1.0), (0.5, 3.0), (np.inf, 2.0)])
def test_two_points(penalty, x64):
    # min over the mass k of k c + rho_1 KL(k | a) + rho_2 KL(k | b)
    a, b, c = 1.5, 0.7, 1.3**2
    rho, sigma = penalty
    if np.isinf(rho):
        mass = a
        expected = a * c + sigma * (a * np.log(a / b) - a + b)
    else:
        logs = rho * np.log(a) + sigma * np.log(b)
        mass = np.exp((logs - c) / (rho + sigma))
        expected = rho * a + sigma * b - (rho + sigma) * mass
    x, y = np.zeros(1), np.array([1.3])
    result = solve(x, y, np.array([a]), np.array([b]), penalty, num_steps=1)
    assert_close(result.cost, expected, rtol=1e-12)
    assert_close(result.x_masses, [mass], rtol=1e-12)
    assert_close(result.y_masses, [mass], rtol=1e-12)
    assert_close(result.gap, 0.0, atol=1e-12)


def primal_cost(a, b, x, y, penalties, masses, p):
    """The cost that is paid for some new masses; the distance by a linear program."""
    cost = np.abs(x[:, None] - y[None]) ** p
    rows = np.kron(np.eye(len(x)), np.ones(len(y)))
    columns = np.kron(np.ones(len(x)), np.eye(len(y)))
    total = scipy.optimize.linprog(
        cost.ravel(),
        A_eq=np.concatenate([rows, columns])[:-1],
        b_eq=np.concatenate(masses)[:-1],
    ).fun
    for old, new, rho in zip((a, b), masses, penalties, strict=True):
        if np.isinf(rho):
            assert_close(new, old)
        else:
            total += rho * np.sum(new * np.log(new / old) - new + old)
    return total


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("penalty", [(0.5, 0.5), (0.3, 2.0), (np.inf, 0.5)])
def test_the_dual_certifies_the_cost(penalty, p, x64, by_steps):
    x, y, a, b = problem()
    result = by_steps(x, y, a, b, penalty, p)
    masses = np.array(result.x_masses), np.array(result.y_masses)
    assert_close(masses[0].sum(), masses[1].sum())
    primal = primal_cost(a, b, x, y, penalty, masses, p)
    assert_close(result.cost, primal, rtol=1e-8)
    # feasible potentials bound the least cost from below, and are close
    f, g = np.array(result.x_potential), np.array(result.y_potential)
    slack = np.abs(x[:, None] - y[None]) ** p - f[:, None] - g[None]
    assert slack.min() > -1e-10
    dual = sum(
        np.sum(w * h) if np.isinf(r) else np.sum(r * w * -np.expm1(-h / r))
        for w, h, r in zip((a, b), (f, g), penalty, strict=True)
    )
    assert_close(result.gap, result.cost - dual, atol=1e-10)
    assert -1e-10 < result.gap < 2e-3 * result.cost


def test_without_a_choice_it_is_balanced(x64):
    x, y, a, b = problem()
    b = b * a.sum() / b.sum()
    weights = {"x_weights": a, "y_weights": b}
    result = solve(x, y, a, b, jnp.inf)
    expected = a.sum() * wasserstein_1d(x, y, **weights)
    assert_close(result.cost, expected, rtol=1e-12)
    assert_close(result.x_masses, a, rtol=1e-12)
    f, g = potentials_1d(x, y, **weights)
    assert_close(result.x_potential, f, rtol=1e-12)
    assert_close(result.y_potential, g, rtol=1e-12)
    # nearly so where it is dear, and impossible where the masses differ
    close = solve(x, y, a, b, 1e7)
    assert_close(close.cost, expected, rtol=1e-5)
    assert solve(x, y, a, 2 * b, jnp.inf).cost == np.inf


def test_equal_and_distant_clouds(x64):
    x, _, a, _ = problem()
    same = solve(x, x, a, a, 0.7)
    assert_close(same.cost, 0.0, atol=1e-10)
    assert_close(same.x_masses, a, rtol=1e-8)
    # nothing is carried: all is unmade, at the price of the penalty
    far = solve(x, x + 100, a, 2 * a, (0.7, 0.2))
    assert_close(far.cost, 0.7 * a.sum() + 0.2 * 2 * a.sum(), rtol=1e-12)
    assert far.x_masses.sum() < 1e-12


def test_laws(x64, by_steps):
    x, y, a, b = problem()
    cost = by_steps(x, y, a, b, (0.5, 2.0), 2).cost
    gap = 2e-3 * cost
    assert_close(by_steps(x, y, 3 * a, 3 * b, (0.5, 2.0), 2).cost, 3 * cost, atol=gap)
    assert_close(by_steps(2 * x + 1, 2 * y + 1, a, b, (2.0, 8.0), 2).cost, 4 * cost)
    order = np.random.default_rng(0).permutation(6)
    moved = by_steps(x[order], y, a[order], b, (0.5, 2.0), 2)
    assert_close(moved.cost, cost)
    # exchange; a point without mass does not matter, wherever it is
    x, a = np.append(y, 50.0), np.append(b, 0.0)
    y, b = problem()[0][:5], problem()[2][:5]
    found = by_steps(x, y, a, b, (0.5, 2.0), 2)
    assert found.x_masses[-1] == 0
    swapped = solve(y, x[:-1], b, a[:-1], (2.0, 0.5), num_steps=1000)
    assert_close(found.cost, swapped.cost, rtol=1e-4)


def test_line_search_saves_steps(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=100), 0.7 * rng.normal(size=120) + 1.5
    searched = unbalanced_wasserstein_1d(x, y, penalty=1)
    fixed = unbalanced_wasserstein_1d(x, y, penalty=1, line_search=False)
    assert searched.gap < 1e-3 * searched.cost
    assert fixed.gap > 30 * searched.gap
    assert searched.cost < fixed.cost


# --- derivatives -------------------------------------------------------------------


@pytest.fixture(scope="module")
def converged():
    def value(x, y, a, b, penalty):
        result = solve(x, y, a, b, penalty, num_steps=60)
        return result.cost, result.gap

    return jax.jit(value)


@pytest.mark.parametrize("penalty", [(2.0, 3.0), (np.inf, 2.0)])
def test_derivatives_by_finite_differences(penalty, x64, converged):
    arguments = *problem(n=4, m=3), np.array(penalty)
    assert converged(*arguments)[1] < 1e-8
    check_gradient(lambda *z: converged(*z)[0], *arguments, eps=1e-4, rtol=1e-4)


def test_derivatives_of_the_sliced_costs(x64):
    x, y, directions, a, b = clouds()

    @jax.jit
    def value(x, y, directions, a, b, rho):
        options = {"penalty": rho, "x_weights": a, "y_weights": b, "num_steps": 60}
        points = x, y, directions
        mean = sliced_unbalanced_wasserstein(*points, **options)
        return mean + 3 * unbalanced_sliced_wasserstein(*points, **options).cost

    check_gradient(value, x, y, directions, a, b, np.array(5.0), eps=1e-4, rtol=2e-3)


# --- sliced ------------------------------------------------------------------------


def test_one_dimension_is_the_line(x64):
    x, y, a, b = problem()
    line = solve(x, y, a, b, 0.5)
    points = x[:, None], y[:, None], np.ones((1, 1))
    options = {"penalty": 0.5, "x_weights": a, "y_weights": b}
    mean = sliced_unbalanced_wasserstein(*points, **options)
    one = unbalanced_sliced_wasserstein(*points, **options)
    assert_close(mean, line.cost, rtol=1e-8)
    assert_close(one.cost, line.cost, rtol=1e-8)
    assert_close(one.x_masses, line.x_masses, rtol=1e-8)


def test_sliced_laws(x64):
    x, y, directions, *_ = clouds()
    usot = functools.partial(unbalanced_sliced_wasserstein, x, y, directions)
    suot = functools.partial(sliced_unbalanced_wasserstein, x, y, directions)
    one, balanced = usot(penalty=2.0), usot(penalty=jnp.inf)
    assert_close(usot(penalty=2.0, chunk=2).cost, one.cost, rtol=1e-8)
    # it may choose the masses along each direction
    assert suot(penalty=2.0) < one.cost - one.gap
    expected = sliced_wasserstein(x, y, directions)
    assert one.cost < expected
    assert_close(balanced.cost, expected, rtol=1e-10)
    assert_close(suot(penalty=jnp.inf), expected, rtol=1e-10)


def test_an_outlier_loses_its_mass():
    x, _, directions, _, _ = (np.float32(z) for z in clouds(n=8, num=9))
    y = x.copy()
    y[0] += 50
    result = unbalanced_sliced_wasserstein(x, y, directions, penalty=1.0, p=1)
    assert result.y_masses.dtype == "float32"
    assert result.y_masses[0] < 1e-6
    assert_close(result.y_masses[1:], np.full(7, 1 / 8), rtol=0.1)


# --- transformations ---------------------------------------------------------------


def test_batches_and_transformations():
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(2, 3, 6))), np.float32(rng.normal(size=5))
    a = np.float32(rng.uniform(0.5, 1.5, 6))
    eager = unbalanced_wasserstein_1d(x, y, penalty=1.0, x_weights=a)
    assert eager.cost.shape == (2, 3)
    assert eager.y_masses.shape == (2, 3, 5)
    assert {z.dtype.name for z in eager} == {"float32"}

    def row(x, penalty):
        return unbalanced_wasserstein_1d(x, y, penalty=penalty, x_weights=a)

    mapped = jax.jit(jax.vmap(jax.vmap(row, (0, None)), (0, None)))(x, jnp.ones(2))
    for one, other in zip(eager, mapped, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
    half = unbalanced_wasserstein_1d(
        x[0].astype("float16"), y.astype("float16"), penalty=1, x_weights=a
    )
    assert {z.dtype.name for z in half} == {"float16"}
    assert_close(half.cost, eager.cost[0], rtol=0.02)


def test_devices():
    x, y, directions, *_ = (np.float32(z) for z in clouds())

    def everything(x, y, directions):
        line = unbalanced_wasserstein_1d(
            directions @ x.T, (directions @ y.T)[:1], **few
        )
        points = unbalanced_sliced_wasserstein(x, y, directions, **few)
        return line.cost, points.cost[None]

    few = {"penalty": 1.0, "num_steps": 2}
    expected = [everything(x, y, d[None]) for d in directions]
    expected = [np.concatenate(z) for z in zip(*expected, strict=True)]
    mesh = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        everything,
        mesh=mesh,
        in_specs=(P(), P(), P("p")),
        out_specs=P("p"),
        check_vma=True,
    )
    for one, other in zip(jax.jit(mapped)(x, y, directions), expected, strict=True):
        assert_close(one, other, rtol=1e-4)


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    x, y, a, _ = problem()
    cloud, other, directions, *_ = clouds()
    for penalty in (0, -1, (1, 2, 3), np.nan, (1.0, 0.0)):
        with pytest.raises(ValueError, match="penalty"):
            unbalanced_wasserstein_1d(x, y, penalty=penalty)
        for function in (sliced_unbalanced_wasserstein, unbalanced_sliced_wasserstein):
            with pytest.raises(ValueError, match="penalty"):
                function(cloud, other, directions, penalty=penalty)
    for options, message in [
        ({"num_steps": 0}, "num_steps"),
        ({"p": 0.5}, "`p`"),
        ({"x_weights": -a}, "x_weights"),
        ({"x_weights": a[:2]}, "x_weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            unbalanced_wasserstein_1d(x, y, penalty=1, **options)
        for function in (sliced_unbalanced_wasserstein, unbalanced_sliced_wasserstein):
            with pytest.raises(ValueError, match=message):
                function(cloud, other, directions, penalty=1, **options)
    # traced, what is wrong gives NaN
    bad = jax.jit(lambda r: unbalanced_wasserstein_1d(x, y, penalty=r).cost)(-1.0)
    assert np.isnan(bad)
