import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.maps import Affine
from transportjax.solvers import minimise

TRACES = []


def loss(map, x, key):
    """Least for a map that takes x to its negative."""
    TRACES.append(1)
    return jnp.mean((jax.vmap(map)(x) + x) ** 2)


def leaves_of(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(a, b):
    for left, right in zip(leaves_of(a), leaves_of(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def x():
    return jr.normal(jr.key(0), (100, 2))


@pytest.fixture(scope="module")
def start():
    return Affine(jnp.eye(2), jnp.ones(2))


SGD = optax.sgd(0.2)
ADAM = optax.adam(0.05)


def run(start, x, **options):
    more = {"key": jr.key(1), "batch_size": 32, "block": 10, "optimiser": ADAM}
    return minimise(loss, start, x, **{**more, **options})


def test_full_batches_are_plain_gradient_descent(start, x, x64):
    start, x = start.astype("float64"), x.astype("float64")
    result = run(start, x, batch_size=100, num_steps=12, optimiser=SGD)
    matrix, offset = np.eye(2), np.ones(2)
    points, losses = np.asarray(x), []
    for _ in range(12):
        error = points @ matrix.T + offset + points
        losses.append(np.mean(error**2))
        matrix = matrix - 0.2 * error.T @ points / 100
        offset = offset - 0.2 * error.mean(0)
    assert_close(result.stats["loss"], losses)
    assert_close(result.model.matrix, matrix)
    assert_close(result.model.offset, offset)
    assert int(result.state.step) == 12
    assert set(result.stats) == {"loss"}


def test_the_default_optimiser_learns_a_toy(start, x):
    result = minimise(loss, start, x, key=jr.key(0), num_steps=400)
    assert result.stats["loss"].shape == (400,)
    assert float(result.stats["loss"][-1]) < 0.8 * float(result.stats["loss"][0])


def test_every_row_is_used_once_in_an_epoch():
    rows = jnp.arange(12.0)

    def by_rows(model, batch, key):
        # the gradient of row i counts how often it was used
        return jnp.sum(model[batch.astype("int32")])

    result = minimise(
        by_rows, jnp.zeros(12), rows, key=jr.key(3), batch_size=4, num_steps=6,
        block=4, optimiser=optax.sgd(1.0),
    )  # fmt: skip
    np.testing.assert_array_equal(result.model, np.full(12, -2.0))
    part = minimise(
        by_rows, jnp.zeros(12), rows, key=jr.key(3), batch_size=5, num_steps=2,
        block=4, optimiser=optax.sgd(1.0),
    )  # fmt: skip
    assert sorted(np.asarray(part.model)) == [-1.0] * 10 + [0.0] * 2


@pytest.mark.parametrize("stop", [20, 25])
def test_going_on_is_one_run_bit_for_bit(start, x, stop, tmp_path):
    held = x[:20]
    whole = run(start, x, held_out=held, num_steps=40)
    first = run(start, x, held_out=held, num_steps=stop)
    path = tmp_path / "state"
    # a key is not an array of numbers: its bits are
    bits = eqx.tree_at(lambda s: s.key, first.state, jr.key_data(first.state.key))
    eqx.tree_serialise_leaves(path, bits)
    read = eqx.tree_deserialise_leaves(path, bits)
    state = eqx.tree_at(lambda s: s.key, read, jr.wrap_key_data(read.key))
    second = run(start, x, held_out=held, num_steps=40, state=state, key=jr.key(9))
    assert_same(second.state.parameters, whole.state.parameters)
    assert_same(second.state.optimiser, whole.state.optimiser)
    together = jnp.concatenate([first.stats["loss"], second.stats["loss"]])
    np.testing.assert_array_equal(together, whole.stats["loss"])
    if stop == 20:  # the held-out data were looked at after the same steps
        assert_same(second.model, whole.model)
        together = [*first.stats["held_out"], *second.stats["held_out"]]
        np.testing.assert_array_equal(together, whole.stats["held_out"])


def test_progress_and_its_states(start, x):
    seen = []
    result = run(
        start, x, num_steps=25, held_out=x[:9], progress=lambda *a: seen.append(a)
    )
    assert [int(state.step) for state, _, _ in seen] == [10, 20, 25]
    losses = result.stats["loss"]
    assert_close(seen[1][1], float(jnp.mean(losses[10:20])), 1e-6)
    assert_close([s[2] for s in seen], result.stats["held_out"][1:])
    from_middle = run(start, x, num_steps=25, held_out=x[:9], state=seen[0][0])
    assert_same(from_middle.model, result.model)
    alone = []
    run(start, x, num_steps=5, progress=lambda *a: alone.append(a[2]))
    assert np.isnan(alone).all()


def test_the_best_on_held_out_data_comes_back_and_patience_stops(start, x):
    # what is held out asks for the opposite: every step is worse than the start
    target = jax.vmap(start)(x)

    def fitted(map, batch, key):
        x, y = batch
        return jnp.mean((jax.vmap(map)(x) - y) ** 2)

    data, held_out = (x, -x), (x, target)
    more = {"key": jr.key(0), "block": 5, "optimiser": ADAM, "num_steps": 1000}
    result = minimise(fitted, start, data, held_out=held_out, patience=2, **more)
    assert_same(result.model, start)
    assert int(result.state.step) == 10
    held = result.stats["held_out"]
    assert held.shape == (3,)
    assert float(held[0]) == float(result.state.best_loss) == float(held.min())
    again = minimise(
        fitted, start, data, held_out=held_out, patience=2, state=result.state, **more
    )
    assert int(again.state.step) == 10


def exploding(model, batch, key):
    """Not a number in the batch with a negative row."""
    return jnp.sum(model**2) + jnp.mean(jnp.sqrt(batch))


def test_a_loss_that_is_not_finite_stops_with_the_state_before():
    rows = jnp.ones(40).at[7].set(-1.0)
    more = {"key": jr.key(5), "batch_size": 2, "block": 8, "optimiser": SGD}
    with pytest.warns(RuntimeWarning, match="not finite at step") as caught:
        result = minimise(exploding, jnp.ones(3), rows, num_steps=20, **more)
    at = int(result.state.failed_at)
    assert f"step {at}," in str(caught[0].message)
    assert 0 < at < 20
    assert int(result.state.step) == at == len(result.stats["loss"])
    assert bool(jnp.all(jnp.isfinite(result.stats["loss"])))
    before = minimise(exploding, jnp.ones(3), rows, num_steps=at, **more)
    assert_same(result.model, before.model)
    assert_same(result.state.optimiser, before.state.optimiser)
    # with another optimiser of the same kind and mended data it goes on
    mended = minimise(
        exploding, jnp.ones(3), jnp.ones(40), num_steps=20, state=result.state, **more
    )
    assert int(mended.state.step) == 20


def test_a_gradient_that_is_not_finite_stops_too():
    def sharp(model, batch, key):
        return jnp.sum(jnp.sqrt(model))  # finite at zero, with an infinite slope

    with pytest.warns(RuntimeWarning, match="not finite at step 0"):
        result = minimise(sharp, jnp.zeros(2), None, key=jr.key(0), num_steps=3)
    np.testing.assert_array_equal(result.model, np.zeros(2))
    assert result.stats["loss"].shape == (0,)


def test_losses_that_draw_their_own_data_and_models_with_functions():
    def own(model, batch, key):
        assert batch is None
        return jnp.mean((model["f"](jr.normal(key, (64,))) - model["w"]) ** 2)

    model = {"f": jnp.exp, "w": jnp.zeros(()), "count": jnp.arange(3)}
    result = minimise(own, model, None, key=jr.key(0), num_steps=150, optimiser=ADAM)
    assert abs(float(result.model["w"]) - np.exp(0.5)) < 0.5
    assert result.model["f"] is jnp.exp
    np.testing.assert_array_equal(result.model["count"], np.arange(3))
    assert len(set(np.asarray(result.stats["loss"]).tolist())) > 100  # new keys


def test_one_program_for_blocks_and_calls(start, x):
    run(start, x, num_steps=25)
    TRACES.clear()
    run(start, x, num_steps=13)
    run(start, x + 1, num_steps=25, key=jr.key(2))
    assert len(TRACES) <= 2  # of the shapes alone, once a call
    TRACES.clear()
    run(start, x, num_steps=23, held_out=x[:50])
    assert len(TRACES) <= 3  # and to judge, before and after blocks


def test_an_ensemble_is_one_model(x):
    """Each member is trained as it would be by itself."""

    def total(maps, x, key):
        return jnp.sum(
            eqx.filter_vmap(loss, in_axes=(eqx.if_array(0), None, None))(maps, x, key)
        )

    starts = [Affine((1 + i) * jnp.eye(2), jnp.ones(2)) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    plan = {"key": jr.key(1), "batch_size": 32, "num_steps": 9, "optimiser": SGD}
    found = minimise(total, stacked, x, **plan).model
    for i, one in enumerate(starts):
        alone = minimise(loss, one, x, **plan).model
        assert_close(found.matrix[i], alone.matrix, rtol=1e-5)


def test_dtypes(x, x64):
    for dtype in ("float32", "float64"):
        start = Affine(jnp.eye(2, dtype=dtype), jnp.ones(2, dtype))
        data = x.astype(dtype)
        result = run(start, data, num_steps=3, held_out=data, optimiser=None)
        assert result.model.matrix.dtype == dtype


def test_data_on_a_mesh(start, x):
    expected = run(start, x, num_steps=12).model
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), (kind,))
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        result = run(start, sharded, num_steps=12, held_out=sharded)
        assert_close(result.state.parameters.matrix, expected.matrix)


def test_bad_input_is_named(user_errors, start, x):
    cases = [
        ("`num_steps`", x, {"num_steps": 0}),
        ("`block`", x, {"block": 0}),
        ("`batch_size` must be an integer", x, {"batch_size": 0}),
        ("`batch_size` must not exceed .* 100; got 101", x, {"batch_size": 101}),
        ("`patience`", x, {"patience": 0, "held_out": x}),
        ("`held_out` must be given", x, {"patience": 1}),
        ("`held_out` must not be empty", x, {"held_out": x[:0]}),
        ("`data` must not be empty", x[:0], {}),
        ("`data` must be finite; got NaN", x.at[0, 0].set(jnp.nan), {}),
        ("`data` must hold arrays with the same", (x, x[:3]), {}),
        ("`data` must hold arrays with the same", jnp.zeros(()), {}),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for match, data, more in cases:
            with pytest.raises(ValueError, match=match):
                run(start, data, **more)
        with pytest.raises(ValueError, match="`loss` must return one real number"):
            minimise(lambda m, x, k: jax.vmap(m)(x), start, x, key=jr.key(0))
        with pytest.raises(ValueError, match="`model` has nothing to train"):
            minimise(lambda m, x, k: jnp.sum(x), jnp.arange(3), x, key=jr.key(0))
        with pytest.raises(ValueError, match="`optimiser` must be an optimiser of opt"):
            run(start, x, optimiser="adam")
        with pytest.raises(
            ValueError, match="`state` must be a MinimiseState; got a M"
        ):
            run(start, x, state=run(start, x, num_steps=1))
        for transformed in (jax.jit, jax.vmap):
            with pytest.raises(ValueError, match="`minimise` cannot be called within"):
                transformed(lambda key: minimise(loss, start, x, key=key).model)(
                    jr.split(jr.key(0), 3)
                )
        state = run(start, x, num_steps=1).state
        for other in (jnp.ones((7, 2)), x):
            more = {"optimiser": SGD} if other is x else {"batch_size": 2}
            with pytest.raises(ValueError, match="`state` must come from a run"):
                run(start, other, state=state, **more)
