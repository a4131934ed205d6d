"""What runs on GPUs and TPUs can at least be lowered for them, on any machine."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import export

import transportjax as tj
from transportjax import diagnostics, flows

_KEY = jr.key(0)
_X = jax.ShapeDtypeStruct((96, 3), jnp.float32)
_Y = jax.ShapeDtypeStruct((64, 3), jnp.float32)


def _sliced(x, y):
    return tj.sliced_wasserstein(x, y, tj.spiral_directions(8))


def _kernels(x, y):
    return tj.l2_divergence(tj.kernel_density(x, 0.3), tj.kernel_density(y, 0.3))


def _spherical(x, y):
    return tj.spherical_sliced_wasserstein(x, y, tj.random_planes(_KEY, 8, 3))


def _registered(x, y):
    warp = tj.ThinPlateSpline.identity(tj.control_grid(jnp.eye(3), 2))
    return tj.register(x, y, warp).points


def _likelihood(x, y):
    flow = flows.coupling_flow(_KEY, 3, num_layers=2)
    return jnp.mean(jax.vmap(flow.log_prob)(x)), flow.sample(_KEY, 8)


def _pairs(x, y):
    return flows.sliced_coupling(_KEY, x[: len(y)], y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: tj.idt(x, y, key=_KEY, num_steps=2).points,
        lambda x, y: tj.gaussianise(x, key=_KEY, num_steps=2).points,
        lambda x, y: tj.sliced_barycentre([x, y], jnp.ones(2) / 2, key=_KEY).points,
        lambda x, y: tj.fit_gaussian_mixture(x, 3, key=_KEY),
        lambda x, y: tj.wasserstein_circle(x[:, 0], y[:, 0]),
        lambda x, y: tj.min_sliced_plan(x[:64], y, jnp.eye(3)),
        lambda x, y: tj.unbalanced_wasserstein_1d(x[:, 0], y[:, 0], penalty=1.0),
        lambda x, y: diagnostics.two_sample_test(x, y, key=_KEY),
        jax.grad(_sliced),
        jax.grad(_kernels),
        jax.grad(_spherical),
        _registered,
        _likelihood,
        _pairs,
    ],
)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for(platform, function, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)

    def arrays(x, y):
        return eqx.filter(function(x, y), eqx.is_array)

    lowered = export.export(jax.jit(arrays), platforms=[platform])(_X, _Y)
    assert lowered.platforms == (platform,)
