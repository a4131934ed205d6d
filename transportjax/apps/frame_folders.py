"""Clips as folders of pictures, one a frame, without any library for video."""

import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .images import Picture, PictureError, read_picture, write_picture

_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")


def frame_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The pictures of a folder in the order of the numbers in their names.

    Hidden files, folders within and files that are no pictures by their names are left
    out; "frame2.png" comes before "frame10.png".

    Raises:
        PictureError: there are none.
        OSError: the folder cannot be read.
    """
    entries = pathlib.Path(folder).iterdir()
    files = [
        e
        for e in entries
        if e.is_file() and e.suffix.lower() in _SUFFIXES and not e.name.startswith(".")
    ]
    if not files:
        raise PictureError(
            f"{os.fsdecode(folder)}: holds no frames ({', '.join(_SUFFIXES)})"
        )
    return sorted(files, key=_natural)


def _natural(path: pathlib.Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in a name compare as numbers."""
    parts = re.findall(r"\d+|\D+", path.name)
    key = [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in parts]
    return key, path.name


def folder_frames(folder: str | os.PathLike[str]) -> Iterator[Picture]:
    """The pictures of a folder, one after another, all of one size and kind.

    Raises:
        PictureError: there are none, one is damaged, or differs from the first.
        OSError: one cannot be read.
    """
    first = None
    for path in frame_files(folder):
        picture = read_picture(path)
        first = first or (path, _kind(picture))
        if _kind(picture) != first[1]:
            raise PictureError(
                f"{path}: is {_kind(picture)}, but {first[0].name} is {first[1]}; all "
                "must be alike"
            )
        yield picture


def _kind(picture: Picture) -> str:
    height, width, channels = picture.pixels.shape
    colours = "grey" if channels == 1 else "colour"
    return f"{width} x {height} pixels of {picture.pixels.dtype} {colours}"


def rewrite_folder(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    change: Callable[[int, np.ndarray], Any],
    *,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes the frames of a folder to another one, changed, under the same names.

    Format, depth, transparency and metadata are those of each source. The frames are
    made in a folder beside, and moved when all of them are there.

    Args:
        source: a folder of pictures.
        path: a folder, which may exist if it is empty.
        change: called with the number of each frame and its pixels, gives new pixels.
        overwrite: whether files of the same names may be replaced; others are left
            alone.

    Returns:
        What could not be kept, in sentences, each once.

    Raises:
        PictureError: a frame cannot be read or written.
        OSError: `path` is not empty and `overwrite` is False, or cannot be written.
    """
    target = pathlib.Path(path)
    check_folder(target, overwrite)
    notes: dict[str, None] = {}
    files = frame_files(source)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.part-", dir=target.resolve().parent
    ) as made:
        for number, (file, picture) in enumerate(
            zip(files, folder_frames(source), strict=True)
        ):
            new = dataclasses.replace(picture, pixels=change(number, picture.pixels))
            lost = write_picture(pathlib.Path(made, file.name), new)
            notes |= dict.fromkeys((*picture.meta.notes, *lost))
        target.mkdir(exist_ok=True)
        for file in files:
            os.replace(pathlib.Path(made, file.name), target / file.name)
    return tuple(notes)


def check_folder(path: pathlib.Path, overwrite: bool) -> None:
    """Raises unless frames can be written into a folder of that name."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path}: is a file; frames go into a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"{path}: the folder is not empty; --force replaces")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.resolve().parent, os.W_OK):
        raise PermissionError(f"{path}: the folder {path.parent} is read-only")
