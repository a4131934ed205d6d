"""What the README and the examples show, runs."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "x_to_y.map").exists()
    assert scope["gradient"].shape == scope["x"].shape
    assert abs(scope["z"].mean()) < 0.1


def test_names_of_the_readme_exist():
    import transportjax as tj

    names = set(re.findall(r"\btj\.(\w+)", README))
    assert names
    for name in names:
        assert hasattr(tj, name), name


def test_commands_of_the_readme_are_understood(tmp_path):
    from transportjax.cli.command import make_parser

    commands = re.findall(r"^transportjax (.*)$", README, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        make_parser().parse_args(command.split())


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WITH_DATA = {"drifting_digits", "gaussianise_digits"}  # of its user


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if p.stem not in WITH_DATA], ids=lambda p: p.stem
)
def test_examples_run_and_write_a_figure(path):
    figure = ROOT / "examples" / "output" / f"{path.stem}.png"
    figure.unlink(missing_ok=True)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    environment["XLA_FLAGS"] = ""  # they run longer than they compile
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(figure) in done.stdout
    assert figure.stat().st_size > 10_000
