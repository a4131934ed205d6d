"""Laws that every map keeps. A new map gets one line in `MAKERS`."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient, compiled, perturbed, tolerance
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax import maps as tm
from transportjax.mixtures import GaussianMixture

NUM_EVENTS = 8


def _knots(key, p, k):
    x_key, y_key = jr.split(key)
    x = jnp.sort(2 * jr.normal(x_key, (p, k)), axis=1)
    y = jnp.sort(jr.normal(y_key, (p, k)), axis=1)
    # far enough apart for a round trip in float32
    steps = 4 / k * jnp.arange(k, dtype=float)[None, :]
    return x + steps, y + steps


def _linear(key, p=1, k=7):
    return jax.vmap(tm.MonotoneLinear.from_knots)(*_knots(key, p, k))


def _spline(key, p=1, k=6):
    key, slope_key = jr.split(key)
    slopes = jnp.exp(0.3 * jr.normal(slope_key, (p, k)))
    x, y = _knots(key, p, k)
    return jax.vmap(tm.RationalQuadraticSpline.from_knots)(x, y, slopes)


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _grid(key, p=1, k=7):
    low, high = jnp.full(p, -3.0), jnp.full(p, 2.0)
    return jax.vmap(tm.MonotoneGrid.from_values)(low, high, _knots(key, p, k)[1])


def _many_knots(key, p):
    return _linear(key, p, k=24)


def _sliced(key, p=3, d=3, marginals=_many_knots):
    rows = jnp.linalg.qr(jr.normal(jr.fold_in(key, 1), (d, p)))[0].T
    return tm.SlicedMap(rows, marginals(key, p))


def _step(key, p=5, d=3, marginals=_many_knots):
    return tm.SlicedStep(jr.normal(jr.fold_in(key, 1), (p, d)), marginals(key, p))


def _affine(key, d=3):
    noise = 0.3 * jr.normal(key, (d, d))
    return tm.Affine(jnp.eye(d) + noise, jnp.arange(d) / d)


def _decision(key):
    slope, offset, power, amount = jnp.split(0.2 * jr.normal(key, (10,)), [3, 6, 9])
    return tm.ColourDecision(slope, offset, power, amount[0])


def _rigid(key, d=3):
    rotation = jr.normal(key, (4,)) if d == 3 else jr.normal(key, ())
    return tm.Rigid(rotation, jnp.arange(d) / d)


def _warp(key, d, kind=tm.ThinPlateSpline, size=0.03):
    controls = 2 * jr.normal(jr.fold_in(key, 1), (9, d))
    warp, affine = kind.identity(controls), _affine(key, d)
    bumps = size * jr.normal(jr.fold_in(key, 2), controls.shape)
    leaves = (affine.matrix, affine.offset, bumps)
    return eqx.tree_at(lambda w: (w.matrix, w.shift, w.coefficients), warp, leaves)


def _coupling(key, kind=tm.AffineCoupling, dim=3, num_conditions=0, **more):
    more = {"width": 8, "num_conditions": num_conditions, **more}
    return perturbed(kind.create(key, dim, **more), jr.fold_in(key, 1))


def _mixed(key):
    return tm.Chain((tm.Permutation(jnp.array([2, 0, 1])), _coupling(key, depth=1)))


def _continuous(key, probes=False):
    field = tm.VelocityField.create(key, 2, width=8, depth=1)
    field = perturbed(field, jr.fold_in(key, 1), 0.2)
    # the two signs of a Hadamard matrix: the estimate is exact
    signs = jnp.array([[1, 1], [1, -1]], "int8") if probes else None
    return tm.ContinuousMap(field, signs)


def _support(key):
    bounds = jnp.array([[-20.0, 30.0], [-25.0, jnp.inf], [-jnp.inf, 25.0]])
    return tm.SupportMap(bounds[:, 0], bounds[:, 1])


def _mixture(key, d=3, k=4):
    mean_key, root_key, weight_key = jr.split(key, 3)
    roots = jnp.eye(d)[None] + 0.5 * jr.normal(root_key, (k, d, d))
    return tm.GaussianMixtureMap.from_mixture(
        GaussianMixture(
            2 * jr.normal(mean_key, (k, d)),
            jnp.matmul(roots, roots.mT, precision="highest") + 0.1 * jnp.eye(d)[None],
            jr.uniform(weight_key, (k,), minval=0.2),
        )
    )


# name: (maker of a map of the default dtype from a key, shape of an event)
MAKERS = {
    "affine": (_affine, (3,)),
    "grid": (lambda key: _first(_grid(key)), ()),
    "linear": (lambda key: _first(_linear(key)), ()),
    "spline": (lambda key: _first(_spline(key)), ()),
    "sliced": (_sliced, (3,)),
    "sliced, p < d": (lambda key: _sliced(key, 5, 6, _spline), (6,)),
    "step": (_step, (3,)),
    "step, p < d": (lambda key: _step(key, 2, 3, _spline), (3,)),
    "decision": (_decision, (3,)),
    "rigid": (_rigid, (3,)),
    "rigid, plane": (lambda key: _rigid(key, 2), (2,)),
    "similarity": (lambda key: tm.Similarity(_rigid(key), 0.4), (3,)),
    "thin plate": (lambda key: _warp(key, 3), (3,)),
    "thin plate, plane": (lambda key: _warp(key, 2), (2,)),
    "Gaussian warp": (lambda key: _warp(key, 3, tm.GaussianWarp, 0.2), (3,)),
    "permutation": (lambda key: tm.Permutation(jnp.array([2, 0, 1])), (3,)),
    "Householder": (lambda key: tm.Householder.create(key, 3, num=2), (3,)),
    "Cayley": (lambda key: tm.Cayley(jnp.eye(3)[::-1], jr.normal(key, (3,))), (3,)),
    "support": (_support, (3,)),
    "tails": (lambda key: tm.LogTails(jnp.array([0.0, 1.0, 50.0])), (3,)),
    "mixture": (_mixture, (3,)),
    "affine coupling": (_coupling, (3,)),
    "conditional coupling": (
        lambda key: _coupling(key, num_conditions=2, split=0, depth=1),
        (3,),
    ),
    "spline coupling": (lambda key: _coupling(key, tm.SplineCoupling), (3,)),
    "scan of couplings": (
        lambda key: tm.Scan(jax.vmap(_mixed)(jr.split(key, 2))),
        (3,),
    ),
    "continuous": (_continuous, (2,)),
    "continuous, estimated": (lambda key: _continuous(key, probes=True), (2,)),
    "chain": (lambda key: tm.Chain((_affine(key), _sliced(key))), (3,)),
    "scan": (lambda key: tm.Scan(jax.vmap(_sliced)(jr.split(key, 4))), (3,)),
    "scan of numbers": (lambda key: tm.Scan(_linear(key, p=3)), ()),
    "invert": (lambda key: tm.Invert(_first(_linear(key))), ()),
}
each_map = pytest.mark.parametrize("name", MAKERS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@functools.cache
def make(name, dtype="float32"):
    """A map and events for it."""
    with jax.enable_x64(dtype == "float64"):
        maker, shape = MAKERS[name]
        index = list(MAKERS).index(name)
        x = 2 * jr.normal(jr.key(index + 100), (NUM_EVENTS, *shape))
        assert x.dtype == dtype
        return jax.jit(maker)(jr.key(index)), x


@jax.jit
def forward(map, x):
    return jax.vmap(map.transform_and_log_det)(x)


@jax.jit
def backward(map, y):
    return jax.vmap(map.inverse_and_log_det)(y)


@jax.jit
def jacobians(map, x):
    d = max(x[0].size, 1)
    return jax.vmap(jax.jacfwd(map))(x).reshape(-1, d, d)


@each_dtype
@each_map
def test_inverse_undoes_the_map_in_both_orders(name, dtype):
    map, x = make(name, dtype)
    with jax.enable_x64(dtype == "float64"):
        assert_close(backward(map, forward(map, x)[0])[0], x, 20 * tolerance(dtype))
        assert_close(forward(map, backward(map, x)[0])[0], x, 20 * tolerance(dtype))


@each_dtype
@each_map
def test_log_det_of_the_inverse_is_opposite(name, dtype):
    map, x = make(name, dtype)
    with jax.enable_x64(dtype == "float64"):
        y, log_det = forward(map, x)
        assert log_det.shape == (NUM_EVENTS,)
        assert_close(backward(map, y)[1], -log_det, 20 * tolerance(dtype))


@each_map
def test_log_det_is_that_of_the_jacobian(name, x64):
    map, x = make(name, "float64")
    expected = np.linalg.slogdet(jacobians(map, x)).logabsdet
    assert_close(forward(map, x)[1], expected)


@each_map
def test_eager_calls_agree_with_jit_and_vmap(name):
    map, x = make(name)
    other = x[2]
    y, log_det = map.transform_and_log_det(x[1])
    compiled.clear()
    map.transform_and_log_det(other)
    assert not compiled  # again
    assert_close(y, forward(map, x)[0][1])
    assert_close(log_det, forward(map, x)[1][1])
    assert_close(map(x[1]), y)
    assert_close(map.inverse(x[1]), backward(map, x)[0][1])


@each_map
def test_derivatives_in_input_and_leaves_are_right(name, x64):
    map, x = make(name, "float64")
    numbers, rest = eqx.partition(map, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(numbers)

    @jax.jit
    def loss(x, *leaves):
        map = eqx.combine(jax.tree.unflatten(tree, leaves), rest)
        y, log_det = forward(map, x)
        z, inverse_log_det = backward(map, x)
        total = jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(z))
        return total + jnp.sum(log_det) + 2 * jnp.sum(inverse_log_det)

    check_gradient(loss, x, *leaves, eps=1e-7, rtol=1e-5, atol=1e-6)


@each_map
def test_dtype_of_the_event_is_kept(name, x64):
    # what `evaluate` does is tried out on few maps; here, that it is what each of them
    # calls: narrower events, wider ones, and some that take the dtype of the map
    narrow, wide = ("float16", "float64", "int8"), ("bfloat16", "float32", "bool")
    if name in ("affine", "permutation", "chain", "scan of numbers"):
        narrow = wide = (*narrow, *wide, "int32")
    for dtype, kinds in (("float32", narrow), ("float64", wide)):
        map, x = make(name, dtype)
        has_floats = jax.tree.leaves(eqx.filter(map, eqx.is_inexact_array))
        own = dtype if has_floats else "float64"  # a permutation has no dtype
        for kind in kinds:
            event = jax.ShapeDtypeStruct(x.shape[1:], kind)
            expected = kind if "float" in kind else own
            for method in (map.transform_and_log_det, map.inverse_and_log_det):
                value, log_det = jax.eval_shape(method, event)
                assert value.dtype == log_det.dtype == expected
                assert value.shape == x.shape[1:]
                assert log_det.shape == ()


@pytest.mark.parametrize("name", ["affine", "scan"])
def test_half_precision_is_rounded_once(name):
    map, x = make(name)
    for dtype in ("float16", "bfloat16"):
        events = x.astype(dtype)
        exact = forward(map, events.astype("float32"))
        for actual, value in zip(forward(map, events), exact, strict=True):
            np.testing.assert_array_equal(actual, value.astype(dtype))


@pytest.mark.parametrize("name", ["linear", "scan"])
def test_integers_and_python_numbers_are_events(name, x64, user_errors):
    map, x = make(name)
    whole = jnp.round(x[0])
    expected = map(whole)
    assert_close(map(whole.astype("int8")), expected)
    assert map(whole.tolist()).dtype == "float32"
    assert_close(map(whole.tolist()), expected)


@pytest.mark.parametrize("name", ["affine", "scan"])
def test_mixed_dtypes_are_computed_wide(name, x64):
    map, x = make(name)
    wide_map, wide_x = map.astype("float64"), x.astype("float64")
    exact = forward(wide_map, wide_x)[0]
    assert_close(forward(map, wide_x)[0], exact, rtol=1e-12)
    assert_close(forward(wide_map, x)[0], exact, rtol=1e-6)


@each_map
def test_leaves_are_arrays_and_the_structure_is_static(name):
    map, _ = make(name)
    leaves, tree = jax.tree.flatten(map)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert hash(tree) == hash(jax.tree.structure(make.__wrapped__(name)[0]))


@each_dtype
@each_map
def test_save_and_load_bit_for_bit(name, dtype, tmp_path):
    map, _ = make(name, dtype)
    with jax.enable_x64(dtype == "float64"):
        tm.save(tmp_path / "map", map)
        loaded = tm.load(tmp_path / "map")
        chex.assert_trees_all_equal(loaded, map, strict=True)
        assert jax.tree.structure(loaded) == jax.tree.structure(map)


@each_map
def test_new_leaves_of_the_same_shape_do_not_trace_again(name):
    map, x = make(name)
    count = []

    @jax.jit
    def apply(map, x):
        count.append(1)
        return jax.vmap(map)(x)

    jax.eval_shape(apply, map, x)
    jax.eval_shape(apply, jax.tree.map(lambda leaf: 2 * leaf, map), x + 1)
    assert len(count) == 1


@each_map
def test_events_may_be_sharded(name):
    map, x = make(name)
    expected = forward(map, x)
    spec = P("data")
    both = jax.jit(lambda x: jax.vmap(map.transform_and_log_det)(x))
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    for actual, value in zip(both(sharded), expected, strict=True):
        assert_close(actual, value)
        assert not actual.sharding.is_fully_replicated

    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x: (*forward(map, x), *backward(map, x)),
        **{"mesh": mesh, "in_specs": spec, "out_specs": spec},
    )
    together = (*expected, *backward(map, x))
    for actual, value in zip(jax.jit(mapped)(x), together, strict=True):
        assert_close(actual, value)


@pytest.mark.parametrize("name", ["affine", "scan"])
def test_gradients_of_sharded_events(name):
    map, x = make(name)
    loss = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(jax.vmap(map)(x)))))
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        assert_close(loss(sharded), loss(x))


@each_map
def test_wrong_events_are_clear_errors(name, user_errors):
    map, x = make(name)
    for method in (map, map.inverse):
        with pytest.raises(ValueError, match=r"`x` must be one event of shape .*vmap"):
            method(x)
        with pytest.raises(ValueError, match="`x` must hold real numbers"):
            method(jnp.zeros(x.shape[1:], "complex64"))
