import jax.numpy as jnp
import jax.random as jr
import pytest

import transportjax as tj
from transportjax import diagnostics, flows, maps, sliced

X = jnp.zeros((4, 2))
CALLS = {
    "idt": lambda key: tj.idt(X, X, key=key),
    "gaussianise": lambda key: tj.gaussianise(X, key=key),
    "mixture": lambda key: tj.fit_gaussian_mixture(X, 2, key=key),
    "barycentre": lambda key: tj.sliced_barycentre([X, X], jnp.ones(2), key=key),
    "directions": lambda key: sliced.half_circle_directions(4, key=key),
    "network": lambda key: maps.Conditioner.create(key, 2, 2),
    "flow": lambda key: flows.spline_flow(key, 2),
    "fit": lambda key: flows.fit_flow(X, key=key),
    "test": lambda key: diagnostics.two_sample_test(X, X, key=key),
}


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize("key", [0, "seed", jr.split(jr.key(0)), jnp.zeros(2)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_key_is_named(name, key):
    with pytest.raises(ValueError, match="`key` must be one random key"):
        CALLS[name](key)


def test_keys_of_both_kinds_are_taken():
    for key in (jr.key(0), jr.PRNGKey(0), jr.key(0, impl="rbg")):
        assert sliced.random_directions(key, 4, 3).shape == (4, 3)
