import gc
import os
import signal
import zlib
from importlib.metadata import version

# The tests compile more than they compute: with little effort, which takes a third of
# the time. With XLA_FLAGS set, to nothing too, they run the programs that users run.
# From 0.11 on jaxlib refuses the last option.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jax.random as jr
import jaxtyping
import pytest

# a shell starts its background jobs with the signal ignored, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
    """Garbage is looked for less often, and not in what is there before any test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture
def key(request):
    """A PRNG key that depends on the name of the test alone."""
    return jr.key(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def x64():
    """Runs the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def user_errors():
    """Turns jaxtyping's own errors off, so that the test meets our ValueError."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def _clear_compiled():
    """Compiled programs of one test file are of little use to the next.

    Only one program in nine was met again in the next files. And what was traced while
    a constant was replaced stays in its file.
    """
    yield
    jax.clear_caches()
