"""Where POT's tests come from: a checkout, the repository, or the source archive."""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

REPOSITORY = "https://github.com/PythonOT/POT"
# for versions without a tag: where the tests of plans on slices were complete
COMMIT = "aed0120242e86ab29e630fee59593ee99f416d97"
FILES = (
    "test_1d_solver.py",
    "test_circle_solver.py",
    "sliced/test_sliced_distances.py",
    "sliced/test_spherical_sliced.py",
    "sliced/test_sliced_plans.py",
    "unbalanced/test_1d_solver.py",
    "unbalanced/test_sliced.py",
    "test_partial.py::test_partial_wasserstein_1d",
)


def obtain(given: pathlib.Path | None, version: str, cache: pathlib.Path) -> tuple:
    """A folder with POT's tests, and a line that says where it is from.

    Args:
        given: a checkout of POT, or a git directory of it without files.
        version: the version of POT that is installed.
        cache: where to keep what was obtained.
    """
    if given is not None and (given / "test").is_dir():
        return given / "test", str(given)
    folder = cache / f"POT-{version}"
    if given is not None:
        _keep(_archive(given, "HEAD"), folder / "given")
        return folder / "given" / "test", str(given)
    for source in (_from_repository, _from_package):
        kept = folder / source.__name__.lstrip("_")
        label = kept / "source.txt"
        if not label.exists():
            found = source(version)
            if found is None:
                continue
            _keep(found[0], kept)
            label.write_text(found[1])
        return kept / "test", label.read_text()
    raise SystemExit(
        f"POT's tests can be had neither from {REPOSITORY} nor as the source archive "
        f"of POT {version}. Give a checkout: --pot FOLDER"
    )


def present(tests: pathlib.Path) -> list[str]:
    """Those of `FILES` that there are."""
    return [name for name in FILES if (tests / name.split("::")[0]).exists()]


def _from_repository(version: str) -> tuple[bytes, str] | None:
    with tempfile.TemporaryDirectory() as folder:
        _run("git", "init", "-q", folder)
        for reference in (version, COMMIT):
            arguments = ("fetch", "-q", "--depth", "1", REPOSITORY, reference)
            if _run("git", "-C", folder, *arguments) is not None:
                archive = _archive(pathlib.Path(folder), "FETCH_HEAD")
                return archive, f"{REPOSITORY} at {reference}"
    return None


def _from_package(version: str) -> tuple[bytes, str] | None:
    """The archive of the release has the tests of the top folder only."""
    options = ("--no-binary", "POT", "--no-deps", "--quiet", "--dest")
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "pip", "download", f"POT=={version}")
        if _run(*command, *options, folder) is None:
            return None
        (archive,) = pathlib.Path(folder).iterdir()
        return archive.read_bytes(), f"the source archive of POT {version}"


def _archive(repository: pathlib.Path, reference: str) -> bytes:
    found = _run("git", "-C", str(repository), "archive", reference, "test")
    if found is None:
        raise SystemExit(f"{repository} is no checkout of POT, and no git directory")
    return found


def _run(*command: str) -> bytes | None:
    """What a command prints; None if it fails."""
    silent = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, capture_output=True, env=silent, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _keep(archive: bytes, folder: pathlib.Path) -> None:
    """Writes what lies under a folder `test` of an archive to `folder`/test."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            for member in tar:
                parts = pathlib.PurePosixPath(member.name).parts
                if "test" not in parts[:2] or not member.isfile():
                    continue
                path = folder.joinpath(*parts[parts.index("test") :])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
