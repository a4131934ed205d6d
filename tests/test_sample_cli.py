"""The command `sample`, and the laws of tables behind it."""

import jax
import numpy as np
import pytest
from helpers import run

from transportjax.apps import (
    Table,
    fit_table_law,
    load_table_law,
    read_picture,
    read_table,
    sample_table,
    save_table_law,
    table_log_likelihood,
    write_table,
)
from transportjax.maps import Affine, Chain, GaussianMixtureMap, ModelFileError, save

NUM = 600
NAMES = ("length", "count", "unit", "cost")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set: the command leaves it alone")


def rows(num=NUM, seed=0):
    """A skewed column far from zero, a whole one, a constant, and one that follows."""
    rng = np.random.default_rng(seed)
    length = 4.5e6 + rng.exponential(size=num)
    count = rng.poisson(3, num)
    cost = 100 * (length - 4.5e6) + 40 * rng.normal(size=num)
    return np.stack([length, count, np.full(num, 7.5), cost], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder / "data.csv", Table(rows(), NAMES))
    write_table(folder / "other.npy", Table(rows(50, seed=1)))
    law = fit_table_law(Table(rows(), NAMES), num_steps=10)
    save_table_law(folder / "flow.tjx", law)
    return folder


def test_the_main_job(folder, tmp_path, capsys):
    code = run(
        folder,
        *("sample", "data.csv", "-o", tmp_path / "out.csv", "--steps", 10),
        *("--save-flow", tmp_path / "flow.tjx", "--figure", tmp_path / "figure.png"),
    )
    text, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "600 rows, 4 columns" in text
    assert "whole numbers, samples are rounded: count" in text
    assert "constant, left as they are: unit" in text
    normal, flow = (
        float(text.split(f" under {name}")[0].split()[-1])
        for name in ("a normal law", "the flow")
    )
    assert flow > normal + 0.05  # an exponential law is no normal one
    assert (tmp_path / "out.csv").read_text().startswith("length,count,unit,cost\n")
    assert read_picture(tmp_path / "figure.png").pixels.shape[1] > 600
    data, out = rows(), read_table(tmp_path / "out.csv").values
    assert out.shape == data.shape
    assert (out[:, 1] == out[:, 1].round()).all()
    assert out[:, 1].min() >= 0
    assert (out[:, 2] == 7.5).all()
    assert len(np.unique(out[:, 0])) > 590
    for column in (0, 1, 3):
        error = data[:, column].std() / np.sqrt(NUM)
        assert abs(out[:, column].mean() - data[:, column].mean()) < 5 * error
        assert 0.8 < out[:, column].std() / data[:, column].std() < 1.2
    correlation = np.corrcoef(out[:, [0, 3]].T)[0, 1]
    assert abs(correlation - np.corrcoef(data[:, [0, 3]].T)[0, 1]) < 0.08
    # the saved flow draws the same rows, and others with another seed
    base = ("sample", "--flow", tmp_path / "flow.tjx", "-q", "--num", NUM)
    assert run(folder, *base, "-o", tmp_path / "again.csv") == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert run(folder, *base, "-o", tmp_path / "new.csv", "--seed", 1) == 0
    assert (tmp_path / "new.csv").read_bytes() != (tmp_path / "out.csv").read_bytes()


def test_columns_of_years(tmp_path, capsys):
    """Names that are numbers are found, and told of; the options say otherwise."""
    x = 1000 * np.random.default_rng(0).exponential(size=(60, 3))
    x[::3, 0], x[:, 2] = 0, np.round(x[:, 2], 1)
    write_table(tmp_path / "years.csv", Table(x, ("2019", "2020", "2021")))
    text = (tmp_path / "years.csv").read_text().replace('"', "")
    (tmp_path / "years.csv").write_text(text)
    base = ("sample", "years.csv", "--steps", 2, "-o", "out.csv", "--force")
    for options, told, rows, names in (
        ((), "years.csv: names of columns are 2019, 2020, 2021; --no-header if", 60, 1),
        (("--header",), "60 rows", 60, 1),
        (("--no-header",), "61 rows", 61, 0),
    ):
        assert run(tmp_path, *base, *options) == 0
        text, err = capsys.readouterr()
        assert told in text
        assert ("--no-header" in text) == (not options)
        out = read_table(tmp_path / "out.csv")
        assert (len(out.values), len(out.columns)) == (rows, 3 * names)
        assert ("multiples of 0.1, samples too: 2021" in text) == bool(names)
        assert ("often exactly 0, samples as often: 2019" in text) == bool(names)
    write_table(tmp_path / "few.csv", Table(np.tile(x[:9] ** 2, (5, 1))))
    assert run(tmp_path, "sample", "few.csv", "-o", "o.csv", "--steps", 1) == 0
    text = capsys.readouterr().out
    assert "often one of a few numbers, samples as often: column 1, column 2" in text
    assert "multiples" not in text  # of the last digit
    assert np.isin(read_table(tmp_path / "o.csv").values, x[:9] ** 2).mean() > 0.8
    (tmp_path / "o.csv").unlink()
    (tmp_path / "none.csv").write_text("1.5,7\n2,2.5\n9.25,3\n4,6.5\n5,5.5\n")
    assert run(tmp_path, "sample", "none.csv", "-o", "o.csv", "--steps", 1) == 0
    assert "none.csv: no names of columns; --header if" in capsys.readouterr().out


def test_scores(folder, tmp_path, capsys):
    base = ("sample", "--flow", "flow.tjx", "-q", "--score")
    scores = tmp_path / "scores.csv"
    assert run(folder, *base, "other.npy", "--save-scores", scores) == 0
    text, err = capsys.readouterr()
    assert err == ""
    values = read_table(scores).values[:, 0]
    assert values.shape == (50,)
    assert f"{values.mean():.6g} on average" in text
    assert f"{values.min():.6g} at least" in text
    changed = rows(50, seed=1)
    changed[3, 2] = 0
    write_table(tmp_path / "changed.npy", Table(changed))
    assert run(folder, *base, tmp_path / "changed.npy") == 0
    assert "-inf at least" in capsys.readouterr().out


def test_the_density_has_mass_one(folder):
    """Over the constant, the whole numbers, and a grid of the other two columns."""
    law = load_table_law(folder / "flow.tjx")
    length = np.linspace(-1.5, 12, 109)
    cost = np.linspace(-250, 1250, 101)
    axes = (4.5e6 + length, np.arange(-2, 14), [7.5], cost)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 4)
    density = np.exp(table_log_likelihood(law, Table(grid)))
    total = density.sum() * (length[1] - length[0]) * (cost[1] - cost[0])
    assert abs(total - 1) < 0.03


def test_within_the_range(folder):
    law = load_table_law(folder / "flow.tjx")
    data = rows()
    free = sample_table(law, 3000).values
    held = sample_table(law, 3000, within_range=True).values
    assert (free < data.min(axis=0)).any()
    assert held.shape == (3000, 4)
    assert (held >= data.min(axis=0)).all()
    assert (held <= data.max(axis=0)).all()


def test_training_goes_on(folder, tmp_path, capsys):
    code = run(
        folder,
        *("sample", "data.csv", "-o", tmp_path / "out.npz", "--steps", 10),
        *("--train", 20, "--num", 5),
    )
    text, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "under the trained flow" in text
    assert read_table(tmp_path / "out.npz").values.shape == (5, 4)


def test_no_randomness_but_the_seed(folder):
    """The global state of numpy has no part, and the law is the same again."""
    np.random.seed(1)  # noqa: NPY002
    first = fit_table_law(Table(rows(), NAMES), num_steps=10)
    again = load_table_law(folder / "flow.tjx")
    for one, two in zip(
        jax.tree.leaves(first.map), jax.tree.leaves(again.map), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("seed", range(3))
def test_one_stray_does_not_stop_the_fit(seed):
    """Whether it is among the rows held out, or not."""
    x = np.random.default_rng(1).normal(size=(40, 2))
    x[0, 0] = 1e5
    law = fit_table_law(Table(x), num_steps=2, seed=seed)
    drawn = sample_table(law, 1000).values
    assert np.isfinite(drawn).all()
    assert abs(np.median(drawn[:, 1])) < 0.6


def test_clusters_stay_apart_and_no_stray_is_impossible(tmp_path):
    """They are a mixture, and a normal law of the mass of one row."""
    x = np.random.default_rng(0).normal(size=(1200, 2))
    x[::3] += 20
    law = fit_table_law(Table(x), num_steps=2)
    assert isinstance(law.flow.map, Chain)
    assert isinstance(law.flow.map.maps[-1], GaussianMixtureMap)
    save_table_law(tmp_path / "law.tjx", law)
    law = load_table_law(tmp_path / "law.tjx")
    drawn = sample_table(law, 2000).values
    between = np.linalg.norm(drawn - 10, axis=1) < 7
    assert between.sum() < 8  # the normal law has two of the 2000 in all
    rows = np.array([[0.0, 0.0], [10.0, 10.0]])
    scores = table_log_likelihood(law, Table(rows))
    truth = np.log(2 / 3) - np.log(2 * np.pi)
    assert abs(scores[0] - truth) < 0.2
    assert scores[1] > -13  # under the clusters alone it is -16.7


def test_foreign_flows(folder, tmp_path, capsys):
    save(tmp_path / "map.tjx", Affine(np.eye(2, dtype="float32"), np.zeros(2, "f4")))
    with pytest.raises(ModelFileError, match="no|not a law"):
        load_table_law(tmp_path / "map.tjx")
    (tmp_path / "cut.tjx").write_bytes((folder / "flow.tjx").read_bytes()[:-100])
    for name in ("map.tjx", "cut.tjx"):
        arguments = ("sample", "--flow", tmp_path / name, "-o", tmp_path / "o.csv")
        assert run(folder, *arguments) == 3
        assert name in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


@pytest.fixture(scope="module")
def bad(folder):
    """The folder, with files that cannot be fitted."""
    data = rows()
    write_table(folder / "few.csv", Table(data[:3]))
    write_table(folder / "constant.csv", Table(np.ones((9, 1))))
    double = np.concatenate([data, 2 * data[:, :1] - data[:, 3:]], axis=1)
    write_table(folder / "double.csv", Table(double, (*NAMES, "sum")))
    parts = np.random.default_rng(0).integers(1000, 90_000, (60, 2))
    total = np.concatenate([parts, parts.sum(1, keepdims=True)], axis=1)
    write_table(folder / "total.csv", Table(total, ("a", "b", "total")))
    shares = np.round(45 * np.random.default_rng(0).uniform(size=(60, 2)), 1)
    rest = np.round(100 - shares.sum(1, keepdims=True), 1)
    write_table(folder / "shares.csv", Table(np.concatenate([shares, rest], axis=1)))
    write_table(folder / "narrow.csv", Table(data[:, :2]))
    write_table(folder / "renamed.csv", Table(data, ("length", "number", "u", "c")))
    (folder / "nan.csv").write_text("a,b\n1,2\n3,nan\n")
    (folder / "names.csv").write_text("a,b\n")
    write_table(folder / "huge.csv", Table(data * [1, 1, 1, 1e200], NAMES))
    return folder


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "name data to fit", "-o o.csv"),
        (2, "nothing to do", "data.csv"),
        (2, "--figure needs DATA", "--flow flow.tjx --figure f.png"),
        (2, "it is for --figure alone", "data.csv --flow flow.tjx -o o.csv"),
        (2, "a flow that is fitted", "--flow flow.tjx --train 5 -o o.csv"),
        (2, "--save-scores needs --score", "data.csv --save-scores s.csv"),
        (3, "must end in one of .csv", "data.csv -o o.xlsx"),
        (4, "absent.csv", "absent.csv -o o.csv"),
        (4, "is an input", "data.csv -o data.csv --force"),
        (4, "exists already", "data.csv -o other.npy"),
        (3, "nan.csv, line 3, column 2 (b): nan stands", "nan.csv -o o.csv"),
        (3, "names.csv: has a line of names", "names.csv -o o.csv"),
        (3, "few.csv: a fit needs more rows than columns", "few.csv -o o.csv"),
        (3, "constant.csv: the only column is constant", "constant.csv -o o.csv"),
        (3, "column 4 (cost) has no standard deviation", "huge.csv -o o.csv"),
        (3, "column 5 (sum) is a linear function", "double.csv -o o.csv"),
        (3, "column 3 (total) is almost a linear function", "total.csv -o o.csv"),
        (3, "column 3 is a linear function", "shares.csv -o o.csv"),
        (3, "must have the 4 columns", "--flow flow.tjx --score narrow.csv"),
        (3, "column 2 is 'number', not 'count'", "--flow flow.tjx --score renamed.csv"),
        (3, "must have the 4", "narrow.csv --flow flow.tjx --figure f.png"),
    ],
)
def test_errors(bad, capsys, code, words, arguments):
    assert run(bad, "sample", *arguments.split()) == code
    out, err = capsys.readouterr()
    assert words in err
    assert err.count("\n") == 1
    assert not (bad / "o.csv").exists()
    assert not (bad / "f.png").exists()
