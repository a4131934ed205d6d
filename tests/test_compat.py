"""The adapter to POT's tests, as far as that needs neither POT nor its tests."""

import io
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import arrays, line, sliced_distances, sources
from compat.__main__ import summarise
from helpers import assert_close

U, V = np.array([[0.0, 1.0], [3.0, 5.0]]), np.array([[2.0, 4.0]])


def test_a_number_gives_one_key_and_a_random_state_moves_on():
    data = jax.random.key_data
    assert np.array_equal(data(arrays.key_of(3)), data(arrays.key_of(3)))
    state = np.random.RandomState(0)
    first, second = arrays.key_of(state), arrays.key_of(state)
    again = arrays.key_of(np.random.RandomState(0))
    assert np.array_equal(data(first), data(again))
    assert not np.array_equal(data(first), data(second))


def test_samples_on_the_first_axis_and_the_kind_of_array_are_kept(x64):
    expected = [(2**2 + 1) / 2, (3**2 + 1) / 2]
    value = line.wasserstein_1d(U, V, p=2)
    assert isinstance(value, np.ndarray)
    assert_close(value, expected)
    value, plans = line.wasserstein_1d(
        jnp.asarray(U), jnp.asarray(V), p=2, return_plans="coo_tuple"
    )
    assert isinstance(value, jax.Array)
    assert_close(value, expected)
    assert [plan.data.tolist() for plan in plans] == [[0.5, 0.5]] * 2
    assert line.wasserstein_1d(U[:, 0], V[:, 0]) == 1.5  # POT's exponent is one


def test_an_empty_list_is_no_weights(x64):
    assert line.emd2_1d(U[:, :1], V[:, :1], [], [], "euclidean") == 1.5
    with pytest.raises(AssertionError):
        line.emd_1d(U, V)
    with pytest.raises(ValueError, match="cosine"):
        line.emd_1d(U[:, 0], V[:, 0], metric="cosine")


def test_directions_are_columns_and_distances_roots(x64):
    directions = sliced_distances.get_random_projections(2, 5, seed=1)
    assert isinstance(directions, np.ndarray)
    assert directions.shape == (2, 5)
    assert_close(np.linalg.norm(directions, axis=0), np.ones(5))
    given, record = sliced_distances.sliced_wasserstein_distance(
        U, V, projections=directions, log=True
    )
    assert given == sliced_distances.sliced_wasserstein_distance(
        U, V, seed=1, n_projections=5
    )
    assert_close(given**2, record["projected_emds"].mean())
    greatest = sliced_distances.max_sliced_wasserstein_distance(
        U, V, projections=directions
    )
    assert_close(greatest**2, record["projected_emds"].max())


def test_only_what_reaches_us_counts(capsys):
    def run(**tests):
        return {
            "tests": {
                f"file.py::{name}": {"outcome": o, "reason": "why", "reached": r}
                for name, (o, r) in tests.items()
            },
            "calls": {"ot.name": 1},
            "behind": {},
        }

    passed, failed = ("passed", ["onedim.sort"]), ("failed", [])
    pot = run(a=passed, b=passed, c=passed, d=failed, e=passed)
    ours = run(a=passed, b=("passed", []), c=failed, d=passed)
    assert summarise(pot, ours) == 1
    printed = capsys.readouterr().out
    assert "file.py::c\n    why" in printed
    assert "file.py::e\n    not run" in printed
    assert "1 of 4 tests" in printed


def test_tests_are_taken_from_an_archive_and_from_a_checkout(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("POT-1/test/sliced/test_sliced_plans.py", "POT-1/ot/test/no.py"):
            tar.addfile(tarfile.TarInfo(name))
    sources._keep(file.getvalue(), tmp_path / "kept")
    tests, source = sources.obtain(tmp_path / "kept", "1", tmp_path)
    assert sources.present(tests) == ["sliced/test_sliced_plans.py"]
    assert source == str(tmp_path / "kept")
    assert not list(tmp_path.rglob("no.py"))
    with pytest.raises(SystemExit, match="no checkout"):
        sources.obtain(tmp_path, "1", tmp_path)
