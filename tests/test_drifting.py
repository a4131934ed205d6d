import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax import flows, mixtures, sliced
from transportjax.flows import drifting

FIELDS = {
    "two sided": flows.two_sided_drift,
    "two sided, plain": functools.partial(flows.two_sided_drift, equalise=False),
    "score": functools.partial(flows.score_drift, bandwidth=0.7),
    "l2": functools.partial(flows.l2_drift, bandwidth=0.7),
    "sliced": functools.partial(flows.sliced_drift, key=jr.key(7)),
}
each_field = pytest.mark.parametrize("name", FIELDS)


def clouds(key, n=12, m=15, d=2, dtype="float64"):
    x = jr.normal(key, (n, d), dtype)
    return x, 1.5 + 0.5 * jr.normal(jr.fold_in(key, 1), (m, d), dtype)


def two_sided_by_loops(x, y, temperatures, extra, weight, equalise):
    """The six steps of the field, one number at a time."""
    n, d = x.shape
    targets = np.concatenate([x, extra, y])
    num, first = len(targets), len(x) + len(extra)
    w = [weight if n <= j < first else 1.0 for j in range(num)]
    distance = np.array([[np.linalg.norm(a - b) for b in targets] for a in x])
    mean_of_products = sum(distance[i, j] * w[j] for i in range(n) for j in range(num))
    scale = mean_of_products / (n * num) / np.mean(w)
    coordinates, places = targets / (scale / d**0.5), x / (scale / d**0.5)
    distance = distance / scale
    for i in range(n):
        distance[i, i] += 100
    total = np.zeros_like(x)
    for temperature in temperatures:
        e = np.exp(-distance / temperature)
        a = np.zeros_like(e)
        for i in range(n):
            for j in range(num):
                share = e[i, j] / e[i].sum() * e[i, j] / e[:, j].sum()
                a[i, j] = np.sqrt(max(share, 1e-6)) * w[j]
        field = np.zeros_like(places)
        for i in range(n):
            for j in range(first, num):
                for k in range(first):
                    pair = coordinates[j] - coordinates[k]
                    field[i] += a[i, j] * a[i, k] * pair
        if equalise:
            field /= np.sqrt(np.mean(field**2))
        total += field
    return total * scale / d**0.5


@pytest.mark.parametrize("equalise", [True, False])
@pytest.mark.parametrize("guided", [True, False])
def test_two_sided_is_what_the_paper_does(equalise, guided, x64):
    x, y = clouds(jr.key(0), 7, 9)
    extra = jr.normal(jr.key(1), (4, 2)) if guided else None
    found = flows.two_sided_drift(
        x, y, negatives=extra, negative_weight=0.6, equalise=equalise
    )
    others = np.zeros((0, 2)) if extra is None else np.asarray(extra)
    temperatures = (0.02, 0.05, 0.2)
    expected = two_sided_by_loops(
        *map(np.asarray, (x, y)), temperatures, others, 0.6, equalise
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_two_sided_in_many_dimensions(x64):
    x, y = clouds(jr.key(2), 6, 7, 20)
    expected = two_sided_by_loops(
        np.asarray(x), np.asarray(y), (0.1,), np.zeros((0, 20)), 1, True
    )
    found = flows.two_sided_drift(x, y, temperatures=[0.1])
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_parts_of_two_sided_have_equal_sizes(x64):
    x, y = clouds(jr.key(3))
    both = jnp.concatenate([x, y])
    unit = jnp.mean(jnp.linalg.norm(x[:, None] - both[None], axis=-1)) / 2**0.5
    for temperature in (0.01, 0.5):
        field = flows.two_sided_drift(x, y, temperatures=(temperature,))
        assert_close(jnp.sqrt(jnp.mean(field**2)), unit)


def test_score_is_the_difference_of_scores(x64):
    x, y = clouds(jr.key(4))
    h = 0.6
    p, q = mixtures.kernel_density(y, h), mixtures.kernel_density(x, h)
    difference = jax.vmap(jax.grad(lambda z: p.log_prob(z) - q.log_prob(z)))(x)
    found = flows.score_drift(x, y, bandwidth=h)
    np.testing.assert_allclose(found, h**2 * difference, rtol=1e-9)


def test_l2_is_the_gradient_of_the_mean_discrepancy(x64):
    x, y = clouds(jr.key(5))
    h = 0.6

    def kernel(a, b):
        squares = jnp.sum((a[:, None] - b[None]) ** 2, -1)
        return jnp.mean(jnp.exp(-squares / (4 * h**2))) / (4 * jnp.pi * h**2)

    def discrepancy(x):
        return kernel(x, x) - 2 * kernel(x, y) + kernel(y, y)

    expected = -len(x) / 2 * jax.grad(discrepancy)(x)
    found = flows.l2_drift(x, y, bandwidth=h)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    # and the difference of the gradients of wider densities
    p, q = (mixtures.kernel_density(z, 2**0.5 * h) for z in (y, x))
    rise = jax.vmap(
        jax.grad(lambda z: jnp.exp(p.log_prob(z)) - jnp.exp(q.log_prob(z)))
    )(x)
    np.testing.assert_allclose(found, rise, rtol=1e-8, atol=1e-12)


def test_sliced_is_the_gradient_of_the_sliced_distance(x64):
    x, y = clouds(jr.key(6))
    keys = jr.split(jr.key(7), 3)
    axes = jnp.concatenate([sliced.haar_rotation(k, 2, "float64") for k in keys])
    gradient = jax.grad(sliced.sliced_wasserstein)(x, y, axes)
    found = flows.sliced_drift(x, y, key=jr.key(7), num_rotations=3)
    np.testing.assert_allclose(found, -len(x) * 2 / 2 * gradient, rtol=1e-9)


def test_fields_change_sign_with_the_roles(x64):
    x, y = clouds(jr.key(8))
    places = jr.normal(jr.key(9), (5, 2))
    h = jnp.asarray(0.5)
    places, x, y = (points / h for points in (places, x, y))
    one = drifting._score_field(places, x, y)
    np.testing.assert_allclose(one, -drifting._score_field(places, y, x), rtol=1e-12)
    a, b = jr.uniform(jr.key(1), (5, 15)), jr.uniform(jr.key(2), (5, 12))
    one = drifting._exchange(a, y, b, x)
    np.testing.assert_allclose(one, -drifting._exchange(b, x, a, y), rtol=1e-9)


@pytest.mark.parametrize("name", ["score", "l2", "sliced"])
def test_fields_are_zero_where_samples_are_data(name):
    x, _ = clouds(jr.key(10), dtype="float32")
    order = jr.permutation(jr.key(11), len(x))
    np.testing.assert_allclose(FIELDS[name](x, x[order]), 0, atol=2e-6)


@pytest.mark.parametrize("name", ["two sided, plain", "two sided"])
def test_two_sided_is_zero_on_average_where_laws_are_equal(name):
    def field(key, shift):
        x, y = jr.normal(key, (2, 24, 2))
        x = x.at[0].set(jnp.array([0.6, -0.3]))
        return FIELDS[name](x, y + shift)[0]

    keys = jr.split(jr.key(12), 400)
    mean = {s: jax.vmap(lambda k, s=s: field(k, s))(keys).mean(0) for s in (0.0, 0.5)}
    size = {s: float(jnp.linalg.norm(m)) for s, m in mean.items()}
    assert size[0.0] < 0.2 * size[0.5]


@each_field
def test_fields_follow_translations_rotations_and_order(name, x64):
    x, y = clouds(jr.key(13))
    field = FIELDS[name](x, y)
    shift = jnp.array([[30.0, -5.0]])
    np.testing.assert_allclose(FIELDS[name](x + shift, y + shift), field, atol=1e-9)
    order = jr.permutation(jr.key(14), len(x))
    np.testing.assert_allclose(FIELDS[name](x[order], y[::-1]), field[order], atol=1e-9)
    if name != "sliced":  # on average only: its axes stay
        turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        turned = FIELDS[name](x @ turn.T, y @ turn.T)
        np.testing.assert_allclose(turned, field @ turn.T, atol=1e-9)


@pytest.mark.parametrize("name", ["two sided", "two sided, plain", "sliced"])
def test_fields_scale_with_the_points(name, x64):
    x, y = clouds(jr.key(15))
    scaled = FIELDS[name](3 * x, 3 * y)
    np.testing.assert_allclose(scaled, 3 * FIELDS[name](x, y), rtol=1e-9)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_any_unit_in_float32(scale):
    """Squares of these lengths are no numbers of the dtype."""
    x, y = clouds(jr.key(15), dtype="float32")
    extra = x + 1
    for field in (
        lambda s: flows.two_sided_drift(s * x, s * y, negatives=s * extra),
        lambda s: flows.score_drift(s * x, s * y, bandwidth=0.5 * s),
        lambda s: flows.sliced_drift(s * x, s * y, key=jr.key(0)),
    ):
        np.testing.assert_allclose(field(scale) / scale, field(1), rtol=1e-3, atol=1e-4)


@each_field
def test_fields_lead_to_the_data(name, x64):
    x, y = clouds(jr.key(16), 40, 40)
    field = FIELDS[name](x, y)
    assert jnp.vdot(jnp.mean(field, 0), jnp.mean(y, 0) - jnp.mean(x, 0)) > 0
    before, after = (
        sliced.sliced_wasserstein(z, y, jnp.eye(2)) for z in (x, x + 0.1 * field)
    )
    assert after < before


def test_negatives_repel(x64):
    x, y = clouds(jr.key(17), 30, 30)
    wall = jnp.array([[1.0, -3.0]])
    plain = flows.two_sided_drift(x, y, equalise=False)

    def push(weight):
        field = flows.two_sided_drift(
            x, y, negatives=wall, negative_weight=weight, equalise=False
        )
        away = x - wall
        return jnp.mean(jnp.sum((field - plain) * away, axis=1))

    assert push(5.0) > push(1.0) > 0


@pytest.mark.parametrize("name", ["two sided", "score", "l2", "sliced"])
def test_under_transformations(name):
    field = FIELDS[name]
    x, y = (jnp.stack([z, z + 1]) for z in clouds(jr.key(18), dtype="float32"))
    many = jax.jit(jax.vmap(field))(x, y)
    assert_close(many[0], field(x[0], y[0]), 1e-4)
    assert many.dtype == jnp.float32
    half = field(x[0].astype("float16"), y[0].astype("float16"))
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, many[0], atol=0.1)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharded = jax.device_put(x[0], NamedSharding(mesh, P("data")))
    assert_close(jax.jit(field)(sharded, y[0]), many[0], 1e-4)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    within = jax.shard_map(
        lambda x: field(x, y[0]), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    first = jax.jit(field)(x[0][:3], y[0])
    assert_close(jax.jit(within)(x[0])[:3], first, 1e-4)


@pytest.mark.parametrize("name", ["two sided", "score"])
def test_derivatives(name, x64):
    x, y = clouds(jr.key(19), 5, 6)
    value = jax.jit(lambda x, y: jnp.sum(jnp.sin(FIELDS[name](x, y))))
    check_gradient(value, x, y, rtol=1e-5)


def test_equal_points_give_finite_fields():
    x, y = jnp.zeros((3, 2)), jnp.zeros((2, 2))
    for found in jax.jit(lambda x, y: [f(x, y) for f in FIELDS.values()])(x, y):
        assert_close(found, jnp.zeros((3, 2)))
    one = flows.two_sided_drift(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    assert jnp.all(one > 0)


def test_the_loss_moves_samples_along_the_field(key, x64):
    x, field = jr.normal(key, (2, 6, 3))
    value, gradient = jax.value_and_grad(flows.drift_loss)(x, field)
    assert_close(value, jnp.mean(field**2))
    assert_close(gradient, -2 * field / x.size)


@each_field
def test_a_generator_learns_a_gaussian(name):
    data = jnp.array([[2.0, -1.0]]) + 0.5 * jr.normal(jr.key(20), (256, 2))
    # the fields that die out, or have no size, need steps of another length
    rate = {"l2": 1.0, "two sided": 0.05, "two sided, plain": 2.0}.get(name, 0.2)

    def make(parameters, key):
        return parameters[0] + parameters[1] * jr.normal(key, (64, 2))

    def step(parameters, key):
        keys = jr.split(key)
        y = data[jr.randint(keys[1], (64,), 0, 256)]

        def loss(parameters):
            x = make(parameters, keys[0])
            return x.size / 2 * flows.drift_loss(x, FIELDS[name](x, y)) / 64

        slopes = jax.grad(loss)(parameters)
        return jax.tree.map(lambda p, s: p - rate * s, parameters, slopes), None

    start = (jnp.zeros((1, 2)), jnp.ones((1, 2)))
    (middle, width), _ = jax.jit(
        lambda start: jax.lax.scan(step, start, jr.split(jr.key(21), 150))
    )(start)
    np.testing.assert_allclose(middle, [[2.0, -1.0]], atol=0.25)
    np.testing.assert_allclose(jnp.abs(width), 0.5, atol=0.2)


def test_bad_input(key, user_errors):
    x, y = jr.normal(key, (2, 5, 3))
    with pytest.raises(ValueError, match="`y` must have 3 columns"):
        flows.two_sided_drift(x, y[:, :2])
    with pytest.raises(ValueError, match="`temperatures` must be positive"):
        flows.two_sided_drift(x, y, temperatures=(0.1, 0.0))
    with pytest.raises(ValueError, match="`temperatures` must have shape"):
        flows.two_sided_drift(x, y, temperatures=())
    with pytest.raises(ValueError, match="`negatives` must have 3 columns"):
        flows.two_sided_drift(x, y, negatives=y[:, :2])
    with pytest.raises(ValueError, match="`negative_weight` must be in"):
        flows.two_sided_drift(x, y, negatives=y, negative_weight=-1)
    for field in (flows.score_drift, flows.l2_drift):
        with pytest.raises(ValueError, match="`bandwidth` must be in"):
            field(x, y, bandwidth=0.0)
    with pytest.raises(ValueError, match="`num_rotations` must be an integer"):
        flows.sliced_drift(x, y, key=key, num_rotations=0)
    with pytest.raises(ValueError, match="`x` and `field` must have equal shapes"):
        flows.drift_loss(x, y[1:])
