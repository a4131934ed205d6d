"""Imports point one way, and heavy libraries stay where they are used."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "transportjax"
# a room may import from rooms of a lower rank, and from itself
RANK = {
    "_checks": 0,
    "_files": 0,
    "_sharding": 0,
    "onedim": 1,
    "sliced": 2,
    "mixtures": 2,
    "maps": 3,
    "solvers": 4,
    "flows": 5,
    "diagnostics": 5,
    "apps": 6,
    "cli": 7,
    "interop": 7,
    "__main__": 8,
}
HEAVY = {"matplotlib", "PIL", "av", "tifffile", "imagecodecs", "optax", "chex", "scipy"}
HEAVY |= {"trimesh", "diffrax", "flowjax", "paramax", "numpyro", "distrax", "sklearn"}
FORBIDDEN = {"pickle", "jax._src", "pure_callback", "io_callback"}


def _files():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def _room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, node
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = _room(path)
    assert room in RANK, f"{room} has no place in the order of rooms"
    for name, _ in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "transportjax" or len(parts) == 1:
            continue
        other = parts[1]
        if other == "__version__":
            continue
        assert other == room or RANK[other] < RANK[room], f"{path.name}: {name}"


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_inside_functions(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, _ in _imports(ast.Module([node], [])):
                assert name.split(".")[0] not in HEAVY, f"{path.name}: {name}"


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_forbidden_is_used(path):
    text = path.read_text()
    for word in FORBIDDEN:
        assert word not in text, f"{path.name}: {word}"
    assert "from __future__" not in text


def test_import_is_light():
    code = (
        "import sys, transportjax; "
        f"print([m for m in {sorted(HEAVY)!r} if m in sys.modules])"
    )
    jax_alone = "import sys, jax, equinox; " + code.split("; ")[1].replace(
        "transportjax", "jax"
    )
    loaded = [
        subprocess.run(
            [sys.executable, "-c", c], capture_output=True, text=True, check=True
        ).stdout
        for c in (code, jax_alone)
    ]
    assert loaded[0] == loaded[1]
