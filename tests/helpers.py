"""What several test files share: tolerances, finite differences, data, commands."""

import os
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from transportjax.cli import main

DATA = pathlib.Path(__file__).parent / "data"


compiled = []  # a name for each program that was compiled


def _note(event, _, **details):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(details.get("fun_name"))


jax.monitoring.register_event_duration_secs_listener(_note)


def tolerance(dtype) -> float:
    """The relative tolerance of a computation of a few steps in `dtype`."""
    return {"float16": 5e-3, "bfloat16": 4e-2, "float32": 2e-5, "float64": 1e-9}[
        jnp.dtype(dtype).name
    ]


def assert_close(actual, expected, rtol=None, atol=None):
    """Asserts closeness at the tolerance of the actual dtype."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    tol = tolerance(actual.dtype) if rtol is None else rtol
    np.testing.assert_allclose(
        actual, expected, rtol=tol, atol=tol if atol is None else atol
    )


def check_gradient(function, *args, eps=1e-6, rtol=1e-6, atol=1e-8):
    """Checks forward and reverse derivatives of a scalar function in float64.

    Each argument is moved along one fixed random direction; central differences of the
    value are compared with the Jacobian-vector product and with the gradient.
    """
    rng = np.random.default_rng(0)
    args = tuple(jnp.asarray(a, dtype="float64") for a in args)
    tangents = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in args)

    @jax.jit  # one program for all: most of the time goes into compiling
    def derivatives(args, tangents):
        def moved(step):
            pairs = zip(args, tangents, strict=True)
            return function(*(a + step * t for a, t in pairs))

        after, before = jax.lax.map(moved, jnp.asarray([eps, -eps]))
        _, forward = jax.jvp(function, args, tangents)
        grads = jax.grad(function, argnums=tuple(range(len(args))))(*args)
        reverse = sum(jnp.vdot(g, t) for g, t in zip(grads, tangents, strict=True))
        return (after - before) / (2 * eps), forward, reverse

    numeric, forward, reverse = derivatives(args, tangents)
    np.testing.assert_allclose(forward, numeric, rtol=rtol, atol=atol)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-10)


@jax.jit
def images(map, x):
    """T(x) for each event of `x`: one program, where single calls compile many."""
    return jax.vmap(map)(x)


@jax.jit
def preimages(map, y):
    """The events that a map takes to those of `y`."""
    return jax.vmap(map.inverse)(y)


@jax.jit
def images_and_log_dets(map, x):
    """T(x) and log |det dT/dx| for each event of `x`."""
    return jax.vmap(map.transform_and_log_det)(x)


@jax.jit
def jacobians(map, x):
    """dT/dx at each event of `x`."""
    return jax.vmap(jax.jacfwd(map))(x)


def perturbed(tree, key, size=0.1):
    """The tree with noise of the given size on every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jr.split(key, len(leaves))
    moved = [
        x + size * jr.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def run(folder, *arguments):
    """The exit code of a command whose file names are relative to `folder`."""
    there = os.getcwd()
    os.chdir(folder)
    try:
        return main(list(map(str, arguments)))
    finally:
        os.chdir(there)
