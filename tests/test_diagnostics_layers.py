import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, images

import transportjax as tj
from transportjax import diagnostics, maps
from transportjax.diagnostics import layer_outputs

X = jr.normal(jr.key(0), (6, 2))


def affine(key):
    return tj.Affine(jnp.eye(2) + 0.3 * jr.normal(key, (2, 2)), jr.normal(key, (2,)))


def stack(num):
    return tj.Scan(jax.vmap(affine)(jr.split(jr.key(1), num)))


def one_by_one(layers):
    clouds = [X]
    for layer in layers:
        clouds.append(images(layer, clouds[-1]))
    return jnp.stack(clouds)


def test_layers_one_by_one():
    first, scan = affine(jr.key(2)), stack(3)
    nested = tj.Chain((first, tj.Chain((scan, first)), tj.Chain(())))
    layers = [first, scan[0], scan[1], scan[2], first]
    clouds = layer_outputs(nested, X)
    assert_close(clouds, one_by_one(layers))
    assert_close(clouds[-1], images(nested, X))
    back = layer_outputs(tj.Invert(nested), X)
    assert_close(back, one_by_one([tj.Invert(layer) for layer in layers[::-1]]))
    # the way back from the end is the way there
    there = layer_outputs(tj.Invert(nested), clouds[-1])
    assert_close(there, clouds[::-1], rtol=1e-4, atol=1e-4)
    assert_close(layer_outputs(tj.Invert(tj.Invert(nested)), X), clouds)


def test_no_layers_and_one():
    assert layer_outputs(tj.Chain(()), X).shape == (1, 6, 2)
    assert layer_outputs(stack(2)[:0], X).shape == (1, 6, 2)
    inverse = tj.Invert(affine(jr.key(2)))
    assert_close(layer_outputs(inverse, X)[1], images(inverse, X))


def test_steps_in_time(x64):
    x = np.asarray(X, "float64")
    grow = maps.ContinuousMap(lambda t, x: x, num_steps=4)
    back = layer_outputs(grow, x)  # from data at time 1 to noise at time 0
    expected = np.exp(-np.arange(5) / 4)[:, None, None] * x
    assert_close(back, expected, rtol=1e-5)
    assert_close(back[0], x)
    there = layer_outputs(tj.Invert(grow), x)
    assert_close(there, np.exp(np.arange(5) / 4)[:, None, None] * x, rtol=1e-5)


def test_dtype_jit_and_gradient():
    scan = stack(3)
    assert layer_outputs(scan, X.astype("float16")).dtype == jnp.float16
    assert_close(jax.jit(layer_outputs)(scan, X), layer_outputs(scan, X))

    def cost(x):
        return diagnostics.step_costs(layer_outputs(scan, x)).sum()

    assert np.all(np.isfinite(jax.grad(cost)(X)))


def test_bad_input(user_errors):
    with pytest.raises(ValueError, match="`map` must be"):
        layer_outputs(jnp.sin, X)
    with pytest.raises(ValueError, match="`x` must have shape"):
        layer_outputs(stack(2), X[0])


def shown(axes, path):
    axes.figure.savefig(path)
    assert path.stat().st_size > 5000


def test_figures(tmp_path, user_errors):
    x = jr.normal(jr.key(1), (60, 2))
    clouds = layer_outputs(stack(4), x)
    test = diagnostics.two_sample_test(x, x + 1, key=jr.key(0), num_permutations=40)
    ax = diagnostics.plot_two_sample_test(test)
    assert "p = 0.024" in ax.get_title()
    shown(ax, tmp_path / "test.png")
    law = tj.Flow(tj.Affine(jnp.eye(2), jnp.zeros(2)), 2)
    ax = diagnostics.plot_calibration(diagnostics.calibration(law, x, key=jr.key(0)))
    shown(ax, tmp_path / "calibration.png")
    ax = diagnostics.plot_layers(clouds)
    heights = [bar.get_height() for bar in ax.patches]
    assert_close(np.square(heights), diagnostics.step_costs(clouds), rtol=1e-4)
    shown(ax, tmp_path / "layers.png")
    ax = diagnostics.plot_layers(1e25 * clouds[:2])
    assert_close(ax.patches[0].get_height(), 1e25 * heights[0], rtol=1e-4)
    values = diagnostics.negentropy(clouds.swapaxes(1, 2))
    shown(diagnostics.plot_negentropy(values), tmp_path / "negentropy.png")
    with pytest.raises(ValueError, match="`values` must have shape"):
        diagnostics.plot_negentropy(values[0])
    found = diagnostics.ricci_coefficients(clouds, 20)
    panels = diagnostics.plot_ricci(found)
    assert len(panels[0].figure.axes) == 4  # one is shared by two curves
    shown(panels[0], tmp_path / "ricci.png")
    with pytest.raises(ValueError, match="`axes` must have 3 entries"):
        diagnostics.plot_ricci(found, panels[:2])
    same = diagnostics.ricci_coefficients([x, x, x], 20)
    assert "unknown" in diagnostics.plot_ricci(same)[1].get_title()
    # what is not finite is left out; and what is no result is refused
    strange = test._replace(null=test.null.at[0].set(jnp.nan))
    assert "p = 0.024" in diagnostics.plot_two_sample_test(strange).get_title()
    for plot, name in (
        (diagnostics.plot_two_sample_test, "test"),
        (diagnostics.plot_calibration, "found"),
        (diagnostics.plot_ricci, "coefficients"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a"):
            plot(clouds)
    # the axes of the caller are drawn on
    assert diagnostics.plot_layers(clouds, panels[0]) is panels[0]
