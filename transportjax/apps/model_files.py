"""Files of fitted maps: what a file tells of the use of its map."""

from typing import Any

from transportjax.maps import ModelFileError, read_header


def read_about(path: Any, kind: str, names: tuple[str, ...], what: str) -> dict:
    """The metadata of a file that an application wrote.

    Args:
        path: the file.
        kind: of map, as its metadata tell.
        names: entries that there must be.
        what: the kind in words, for the error.

    Raises:
        ModelFileError: the file is damaged, or holds something else.
    """
    about = read_header(path).get("metadata") or {}
    if about.get("kind") != kind or not all(name in about for name in names):
        raise ModelFileError(path, f"holds a map, but not {what}")
    return about
