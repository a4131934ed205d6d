import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import quantile_transfer, soft, soft_transfer

T = np.array([-60.0, -3.0, -0.4, 0.1, 1.7, 80.0])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return dict(
        x=rng.normal(size=20),
        y=2 * rng.normal(size=14) + 1,
        a=rng.random(20) + 0.1,
        b=rng.random(14) + 0.1,
    )


def move(x, y, t, h=0.3, a=None, b=None):
    return soft_transfer(x, y, t, bandwidth=h, x_weights=a, y_weights=b)


def distribution_by_hand(t, x, a, h):
    z = (t[:, None] - x) / h
    return (a / a.sum() / (1 + np.exp(-z))).sum(-1)


def test_levels_of_the_image_are_those_of_the_source(x64, data):
    inner = T[1:-1]
    image = np.asarray(move(data["x"], data["y"], inner, 0.3, data["a"], data["b"]))
    assert_close(
        distribution_by_hand(image, data["y"], data["b"], 0.3),
        distribution_by_hand(inner, data["x"], data["a"], 0.3),
        rtol=1e-12,
    )


def test_one_sample_is_a_translation():
    assert_close(move(jnp.array([2.0]), jnp.array([5.0]), jnp.float32(T)), T + 3)


def test_onto_itself_is_the_identity(x64, data):
    assert_close(move(data["x"], data["x"], T), T, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exchanged_it_is_the_inverse(x64, data, dtype):
    x, y, t = (jnp.asarray(z, dtype) for z in (data["x"], data["y"], T))
    image = move(x, y, t)
    assert image.dtype == dtype
    assert_close(move(y, x, image), t)
    slope, back = (
        jax.vmap(jax.grad(lambda s, x=x, y=y: move(x, y, s)))(z)
        for x, y, z in ((x, y, t), (y, x, image))
    )
    assert_close(
        slope * back, jnp.ones_like(t), rtol=1e-4 if dtype == "float32" else 1e-9
    )
    assert slope.min() > 0


def test_tails_are_translations(data):
    x, y = jnp.float32(data["x"]), jnp.float32(data["y"])
    far = jnp.array([-1e4, -500.0, 500.0, 1e4])
    image = move(x, y, far)
    assert_close(image[1] - far[1], image[0] - far[0], atol=2e-3)
    assert_close(image[2] - far[2], image[3] - far[3], atol=2e-3)
    slope = jax.vmap(jax.grad(lambda t: move(x, y, t)))(far)
    assert_close(slope, np.ones(4))


def test_without_bandwidth_it_is_the_exact_transfer(x64, data):
    x, y = data["x"], np.sort(data["x"])[::-1] ** 3
    exact = quantile_transfer(x, y)
    errors = [np.abs(move(x, y, x, h) - exact).max() for h in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_laws(x64, data):
    x, y, t = data["x"], data["y"], np.sort(np.linspace(-4, 4, 6))
    image = np.asarray(move(x, y, t))
    assert np.diff(image).min() > 0
    assert_close(move(x + 5, y, t + 5), image)
    assert_close(move(x, y - 7, t), image - 7)
    assert_close(move(3 * x, 3 * y, 3 * t, 0.9), 3 * image)
    assert_close(move(-x, -y, -t), -image)
    once = move(x, y, t, 0.3, data["a"])
    twice = np.tile(x, 2), np.tile(data["a"] / 2, 2)
    assert_close(move(twice[0], y, t, 0.3, twice[1]), once)
    zero = np.append(x, [1e9, -1e9]), np.append(data["a"], [0, 0])
    assert_close(move(zero[0], y, t, 0.3, zero[1]), once)


def test_far_from_zero_and_far_apart_in_float32():
    x = np.float32(1e6) + np.arange(16, dtype=np.float32)
    assert_close(move(x, x - np.float32(1e6), x, 2.0), x - 1e6, rtol=0, atol=0.07)
    apart = np.float32([0, 0.1, 1000, 1000.1])
    image = move(apart, apart, np.float32([0.05, 1000.05, 500.0]))
    assert_close(image[:2], [0.05, 1000.05])
    assert 0 < image[2] < 1000.1
    slope = jax.jit(jax.jacobian(lambda t: move(apart, apart, t)))
    slopes = slope(jnp.float32([0.05, 500.0]))
    assert np.isfinite(slopes).all()


def test_first_derivatives(x64, data):
    t = T[1:-1]

    @jax.jit
    def value(x, y, t, h, a, b):
        return jnp.sum(jnp.sin(move(x, y, t, h, a, b)))

    args = data["x"], data["y"], t, 0.3, data["a"], data["b"]
    check_gradient(value, *args)
    gradients = jax.jit(jax.grad(value, range(6)))(*args)
    for gradient in gradients:
        assert np.abs(gradient).min() > 0


def test_second_derivatives(x64, data):
    x, y, mark = data["x"][:6], data["y"][:5], jnp.asarray(data["a"][:6])

    @jax.jit
    def slope(x, y, h):  # with t = x, where each sample meets itself
        def value(x):
            return jnp.sum(jnp.sin(move(x, y, x, h)))

        return jnp.sum(mark * jax.grad(value)(x))

    check_gradient(slope, x, y, 0.5, rtol=1e-5)


def test_derivative_in_the_tails(x64, data):
    def value(x, y, t):
        return jnp.sum(jnp.sin(move(x, y, t, 0.1)))

    check_gradient(jax.jit(value), data["x"], data["y"], np.array([-40.0, 30.0]))


def test_chunks_change_nothing_and_are_differentiated(x64, data, monkeypatch):
    x, y = data["x"], data["y"]

    def value(x, y):
        return jnp.sum(jnp.sin(move(x, y, T[1:-1])))

    whole = value(x, y), jax.grad(value, (0, 1))(x, y)
    monkeypatch.setattr(soft, "_PAIRS", 12)
    jax.clear_caches()
    chunked = value(x, y), jax.grad(value, (0, 1))(x, y)
    jax.clear_caches()
    assert "scan" in str(jax.make_jaxpr(value)(x, y))
    assert_close(chunked[0], whole[0])
    for actual, expected in zip(chunked[1], whole[1], strict=True):
        assert_close(actual, expected)
    jax.clear_caches()


def test_pairs_of_many_samples_are_never_stored():
    x = jax.ShapeDtypeStruct((100_000,), "float32")
    gradient = jax.grad(lambda x, y: jnp.sum(move(x, y, x)), (0, 1))
    memory = jax.jit(gradient).lower(x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200e6  # all pairs are 40e9


def test_shapes_and_types(data):
    x, y, t = (jnp.asarray(z, "bfloat16") for z in (data["x"], data["y"], T))
    assert move(x, y, t).dtype == "bfloat16"
    x, y = jnp.float32(data["x"]).reshape(2, 10), jnp.float32(data["y"])[None]
    rows = move(x, y, jnp.float32(T))
    assert rows.shape == (2, 6)
    assert_close(rows[1], move(x[1], y[0], jnp.float32(T)))
    assert move(x, y, 0.5).shape == (2,)
    whole = move(np.array([0, 200], np.uint8), np.array([200, 0], np.uint8), 3, 1.0)
    assert_close(whole, 3.0)


def test_compiled_mapped_and_on_meshes(data):
    x, y = jnp.float32(data["x"]).reshape(4, 5), jnp.float32(data["y"][:12])
    y, t = y.reshape(4, 3), jnp.float32(T[1:-1])
    expected = move(x, y, t)
    assert_close(jax.jit(move)(x, y, t), expected)
    assert_close(jax.vmap(move, (0, 0, None))(x, y, t), expected)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    rows = jax.shard_map(
        jax.grad(lambda x, y: jnp.sum(move(x, y, t) ** 2)),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    gradient = jax.grad(lambda x: jnp.sum(move(x, y, t) ** 2))(x)
    assert_close(jax.jit(rows)(x, y), gradient, rtol=1e-4)
    explicit = jax.make_mesh((4,), ("data",))
    sharded = jax.device_put(x, NamedSharding(explicit, P("data")))
    assert_close(move(sharded, y, t), expected)


@pytest.mark.parametrize(
    ("x", "t", "h", "message"),
    [
        ([], 0.0, 1.0, "`x` must hold at least one sample"),
        ([1.0], jnp.nan, 1.0, "`t` must hold positions"),
        ([1.0], 0.0, 0.0, "`bandwidth` must be in"),
        ([1.0], 0.0, -1.0, "`bandwidth` must be in"),
        ([1.0], [[0.0]], 1.0, "`t` must have shape"),
    ],
)
def test_errors(user_errors, x, t, h, message):
    with pytest.raises(ValueError, match=message):
        soft_transfer(jnp.array(x), jnp.ones(2), jnp.array(t), bandwidth=h)
