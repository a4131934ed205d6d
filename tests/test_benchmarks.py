import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command_line, harness, sorting

X = np.arange(6.0, dtype="float32")


def test_a_report_is_written_with_a_plot(tmp_path, capsys):
    rivals = {
        "ours": harness.Rival(jnp.square),
        "numpy": harness.Rival(np.square, jit=False),
        "lists": harness.Rival(
            lambda x: [v * v for v in x], jit=False, prepare=lambda x: (x.tolist(),)
        ),
    }
    case = harness.Case("square", (X,), rivals, outcome=np.asarray)
    report = harness.run("toy", [case], rounds=2, dtype="float32")
    path = harness.write(report, tmp_path / "toy.json")
    read = json.loads(path.read_text())
    assert path.with_suffix(".png").stat().st_size > 0
    assert [record["rival"] for record in read["results"]] == list(rivals)
    ours, numpy, _ = read["results"]
    assert ours["ratio"] == ours["cpu_ratio"] == 1
    assert ours["compile_s"] > 0
    assert ours["memory_bytes"] == 2 * X.nbytes
    assert ours["shapes"] == [[6]]
    assert numpy["compile_s"] is None
    assert numpy["ratio"] == numpy["median_s"] / ours["median_s"]
    assert read["environment"]["platform"] == "cpu"
    assert "square" in capsys.readouterr().out


def test_long_work_is_done_once():
    calls = []
    rivals = {"ours": harness.Rival(lambda x: calls.append(1) or x, jit=False)}
    case = harness.Case("long", (X,), rivals, quality=np.sum, once=True)
    (record,) = harness.run_case(case, rounds=5)
    assert len(calls) == record["rounds"] == 1
    assert record["median_s"] == record["first_s"]
    (record,) = harness.run_case(harness.Case("short", (X,), rivals), rounds=5)
    assert len(calls) == 1 + 6
    assert record["rounds"] == 5


def test_the_topic_dragon_asks_for_data(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "dragon"])
    with pytest.raises(SystemExit, match="needs --data"):
        command_line.main()


def test_a_rival_that_does_other_work_is_refused():
    rivals = {"ours": harness.Rival(jnp.square), "other": harness.Rival(jnp.abs)}
    with pytest.raises(AssertionError, match="other does other work"):
        harness.run_case(harness.Case("square", (X,), rivals), rounds=1)


def test_topics_are_found():
    topics = command_line._topics()
    assert "sorting" in topics
    assert "harness" not in topics


def test_rivals_in_sorting_do_the_same_work():
    options = argparse.Namespace(quick=True, dtype="float32")
    cases = list(sorting.cases(options))
    assert len(cases) == 3
    for case in cases:
        records = harness.run_case(case, rounds=1)
        assert records[0]["rival"] == "transportjax"
        assert len(records) >= 2
