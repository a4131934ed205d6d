import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from scipy.optimize import linear_sum_assignment

from transportjax.flows import sinkhorn_coupling, sliced_coupling

N = 128


def clouds(key, d=2, n=N):
    """Noise, and points around eight centres."""
    keys = jr.split(key, 4)
    centres = 4 * jr.normal(keys[1], (8, d)) / d**0.5
    places = centres[jr.randint(keys[2], (n,), 0, 8)]
    return jr.normal(keys[0], (n, d)), places + 0.3 * jr.normal(keys[3], (n, d))


def costs(x, y):
    return np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=-1)


def ratio(x, y, partners):
    """The cost of a coupling over the least one."""
    matrix = costs(x, y).astype(np.float64)
    best = matrix[linear_sum_assignment(matrix)].mean()
    return matrix[np.arange(len(matrix)), np.asarray(partners)].mean() / best


@pytest.mark.parametrize("num_steps", [0, 5])
def test_sliced_is_sorting_in_one_dimension(key, num_steps):
    x, y = jr.normal(key, (N, 1)), jr.exponential(jr.fold_in(key, 1), (N, 1))
    partners = sliced_coupling(key, x, y, num_steps=num_steps)
    order = jnp.argsort(x[:, 0])
    np.testing.assert_array_equal(y[partners][order, 0], jnp.sort(y[:, 0]))


def test_sliced_is_a_permutation_that_nears_the_optimal_one():
    x, y = clouds(jr.key(0))
    ratios = []
    for num_steps in (0, 4, 16, 64, 256):
        partners = sliced_coupling(jr.key(1), x, y, num_steps=num_steps)
        np.testing.assert_array_equal(jnp.sort(partners), jnp.arange(N))
        ratios.append(ratio(x, y, partners))
    assert ratios == sorted(ratios, reverse=True)  # exchanges never raise the cost
    assert ratios[-2] < 1.05
    assert ratios[-1] < 1.02
    assert ratio(x, y, np.arange(N)) > 1.5  # where they are independent


def test_rows_meet_far_enough_apart_where_there_are_many():
    x, y = clouds(jr.key(5), n=1024)
    found = [ratio(x, y, sliced_coupling(jr.key(k), x, y)) for k in (6, 7, 8)]
    assert np.mean(found) < 1.035  # 1.041 where they meet 2 sqrt(n) places apart
    assert ratio(x, y, sliced_coupling(jr.key(6), x, y, num_steps=0)) > 1.2


@pytest.mark.parametrize("n", [2, 33, 257])
@pytest.mark.parametrize("num_steps", [3, 4, 18])
def test_sliced_pairs_what_it_has_exchanged(key, n, num_steps):
    x, y = clouds(key, 3, n)
    partners = np.asarray(sliced_coupling(key, x, y, num_steps=num_steps))
    np.testing.assert_array_equal(np.sort(partners), np.arange(n))
    first = np.asarray(sliced_coupling(key, x, y, num_steps=0))
    cost, before = (costs(x, y)[np.arange(n), p].mean() for p in (partners, first))
    # after three rounds numbers that went astray would cost more than the line did
    assert cost < (0.95 * before if n > 2 else before + 1e-6)


def test_sliced_in_double_precision_and_under_a_gradient(key, x64):
    x, y = (v.astype(float) for v in clouds(key))
    partners = sliced_coupling(key, x, y)
    assert partners.dtype == jnp.int32
    assert ratio(x, y, partners) < 1.1
    slope = jax.grad(lambda x: jnp.sum(x * y[sliced_coupling(key, x, y)]))(x)
    np.testing.assert_array_equal(slope, y[partners])


def test_sliced_helps_in_many_dimensions():
    x, y = clouds(jr.key(2), 16)
    matched = ratio(x, y, sliced_coupling(jr.key(3), x, y, num_steps=100))
    assert matched < 1.1
    assert ratio(x, y, np.arange(N)) > 1.4


def test_a_cloud_is_its_own_partner_in_the_end(key):
    x, _ = clouds(key, 2, 32)
    y = x[::-1]
    partners = sliced_coupling(key, x, y, num_steps=400)
    assert jnp.mean(jnp.sum((x - y[partners]) ** 2, axis=1)) < 0.05


def test_translation_and_scale_change_nothing(key):
    x, y = clouds(key)
    partners = sliced_coupling(key, x, y)
    moved = sliced_coupling(key, 2 * x, 2 * y + jnp.array([[8.0, -4.0]]))
    # decisions between nearly equal costs may be rounded differently
    assert abs(ratio(x, y, partners) - ratio(x, y, moved)) < 0.02


def test_exchanges_in_blocks_of_many_dimensions(key):
    x, y = clouds(key, 40, 150)  # two blocks and a part of one
    ratios = []
    for num_steps in (0, 20, 200):
        partners = sliced_coupling(key, x, y, num_steps=num_steps)
        np.testing.assert_array_equal(jnp.sort(partners), jnp.arange(150))
        ratios.append(ratio(x, y, partners))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] - 1 < 0.4 * (ratios[0] - 1)
    labels = jr.randint(key, (150,), 0, 4)
    partners = sliced_coupling(key, x, y, labels=labels)
    np.testing.assert_array_equal(jnp.sort(partners), jnp.arange(150))
    np.testing.assert_array_equal(labels[partners], labels)
    assert ratio(x, y, partners) < ratios[0]


def test_blocks_see_all_of_data_in_an_order(key):
    x = jr.normal(key, (512, 40))
    centres = 2 * jr.normal(jr.fold_in(key, 1), (8, 40))
    y = jnp.repeat(centres, 64, axis=0) + 0.1 * jr.normal(jr.fold_in(key, 2), x.shape)
    shuffled = jr.permutation(jr.fold_in(key, 3), y)
    in_order = ratio(x, y, sliced_coupling(key, x, y))
    assert in_order - 1 < 0.3 * (ratio(x, y, np.arange(512)) - 1)
    assert_close(in_order, ratio(x, shuffled, sliced_coupling(key, x, shuffled)), 0.02)


@pytest.mark.parametrize("couple", [sliced_coupling, sinkhorn_coupling])
def test_labels_are_kept(key, couple):
    x, y = clouds(key)
    labels = jr.randint(jr.fold_in(key, 1), (N,), -1, 3)
    partners = couple(key, x, y, labels=labels, num_steps=100)
    np.testing.assert_array_equal(labels[partners], labels)
    matrix = costs(x, y) + 1e4 * (np.asarray(labels)[:, None] != np.asarray(labels))
    best = matrix[linear_sum_assignment(matrix)].mean()
    found = costs(x, y)[np.arange(N), partners].mean()
    assert found / best < (1.06 if couple is sliced_coupling else 1.2)
    if couple is sliced_coupling:
        np.testing.assert_array_equal(jnp.sort(partners), jnp.arange(N))
        # a label of its own fixes the partner
        alone = couple(key, x, y, labels=jnp.arange(N)[::-1])
        np.testing.assert_array_equal(alone, jnp.arange(N))


def test_one_label_is_none(key):
    x, y = clouds(key)
    one = sliced_coupling(key, x, y, labels=jnp.full(N, 7))
    np.testing.assert_array_equal(one, sliced_coupling(key, x, y))


def test_sinkhorn_nears_the_optimal_cost():
    x, y = clouds(jr.key(0))
    ratios = [
        ratio(x, y, sinkhorn_coupling(jr.key(1), x, y, epsilon=e, num_steps=300))
        for e in (1.0, 0.1, 0.01)
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1.05


def test_sinkhorn_draws_from_the_plan(x64):
    x, y = clouds(jr.key(4), 2, 4)
    x, y = x.astype(float), y.astype(float)
    matrix = costs(x, y)
    plan = np.exp(-matrix / (0.5 * matrix.mean()))
    for _ in range(2000):
        plan /= plan.sum(1, keepdims=True)
        plan /= plan.sum(0, keepdims=True)
    num = 4000
    draw = jax.vmap(lambda k: sinkhorn_coupling(k, x, y, epsilon=0.5, num_steps=500))
    partners = draw(jr.split(jr.key(5), num))
    found = jnp.mean(jax.nn.one_hot(partners, 4), axis=0)
    np.testing.assert_allclose(found, plan, atol=5 * 0.5 / num**0.5)


def test_sinkhorn_of_unequal_sizes_and_equal_points(key):
    x, y = clouds(key)
    partners = sinkhorn_coupling(key, x[:5], y)
    assert partners.shape == (5,)
    assert int(partners.min()) >= 0
    same = sinkhorn_coupling(key, jnp.ones((3, 2)), jnp.ones((3, 2)))
    assert int(same.max()) < 3


@pytest.mark.parametrize("couple", [sliced_coupling, sinkhorn_coupling])
def test_under_transformations(key, couple):
    x, y = jax.vmap(lambda k: clouds(k, n=16))(jr.split(key, 2))
    keys = jr.split(key, 2)
    labels = jnp.tile(jnp.arange(2), 8)

    def one(key, x, y):
        return couple(key, x, y, num_steps=20, labels=labels)

    single = one(keys[0], x[0], y[0])
    assert single.dtype == jnp.int32
    many = jax.jit(jax.vmap(one))(keys, x, y)
    np.testing.assert_array_equal(many[0], single)


@pytest.mark.parametrize("couple", [sliced_coupling, sinkhorn_coupling])
def test_sharded_batches(key, couple):
    x, y = clouds(key)
    expected = couple(key, x, y, num_steps=10)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharding = NamedSharding(mesh, P("data"))
    found = couple(
        key, jax.device_put(x, sharding), jax.device_put(y, sharding), num_steps=10
    )
    assert_close(ratio(x, y, found), ratio(x, y, expected), 0.05)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    within = jax.shard_map(
        lambda x, y: couple(key, x, y, num_steps=10),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )(x, y)
    np.testing.assert_array_equal(
        within[: N // 4], couple(key, x[: N // 4], y[: N // 4], num_steps=10)
    )


def test_any_number_is_taken(key, x64, user_errors):
    x, y = np.arange(6, dtype="uint8").reshape(3, 2), [[0, 1], [4, 5], [2, 3]]
    np.testing.assert_array_equal(sliced_coupling(key, x, y), [0, 2, 1])
    half = jnp.asarray(x, "float16")
    np.testing.assert_array_equal(sliced_coupling(key, half, y), [0, 2, 1])
    assert sliced_coupling(key, x[:1], y[:1]).shape == (1,)
    exact = sinkhorn_coupling(key, half, y, epsilon=jnp.float32(1e-3))
    np.testing.assert_array_equal(exact, [0, 2, 1])


def test_bad_input(key, user_errors):
    x, y = clouds(key)
    with pytest.raises(ValueError, match="`x` and `y` must have equal shapes"):
        sliced_coupling(key, x, y[1:])
    with pytest.raises(ValueError, match="`labels` must be integers of shape"):
        sliced_coupling(key, x, y, labels=jnp.zeros(3, int))
    with pytest.raises(ValueError, match="`labels` must be integers"):
        sinkhorn_coupling(key, x, y, labels=jnp.zeros(N))
    with pytest.raises(ValueError, match="`y` must have 2 columns"):
        sinkhorn_coupling(key, x, y[:, :1])
    with pytest.raises(ValueError, match="`epsilon` must be in"):
        sinkhorn_coupling(key, x, y, epsilon=0)
    with pytest.raises(ValueError, match="NaN"):
        sliced_coupling(key, x.at[0, 0].set(jnp.nan), y)
