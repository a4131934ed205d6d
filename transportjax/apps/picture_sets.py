"""Sets of small pictures of one size: folders of files, or arrays."""

import collections
import csv
import dataclasses
import io
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from transportjax._checks import as_pictures
from transportjax._files import atomic_write, in_threads

from .images import Picture, PictureError, read_picture, write_picture
from .picture import white
from .tables import table_suffix, write_scores

_BESIDE = (  # endings of files that lie beside pictures and are none
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".xmp", ".yaml", ".yml"),
    *(".md", ".html", ".htm", ".log", ".ini", ".db", ".npy", ".npz", ".tjx"),
)
_MOST_PIXELS = 2**20  # of a picture that is decoded at all


@dataclasses.dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one size, and what reading them told.

    Attributes:
        pixels: uint8 or uint16, (n, h, w) or (n, h, w, c).
        names: of their files, () for arrays.
        notes: sentences on what was left out or changed.
    """

    pixels: np.ndarray
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_pictures(
    path: str | os.PathLike[str], *, array: str | None = None
) -> PictureSet:
    """Reads the pictures of a folder, or an array of them from .npy or .npz.

    Folders within it, hidden files and texts are left out, and noted. All files must
    be of one size, one depth, grey or colour.

    Args:
        path: a folder, or a file with an array (n, h, w) or (n, h, w, c).
        array: the name of an array in a `.npz` file.

    Raises:
        PictureError: no pictures; a file that is no picture, or differs from the first;
            an array of no pictures. The message names the file.
        OSError: something cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "grey")
        >>> write_pictures(folder, np.zeros((3, 4, 5), np.uint8))
        >>> read_pictures(folder).names
        ('0001.png', '0002.png', '0003.png')
    """
    if not os.path.isdir(path):
        return _read_array(path, array)
    paths, notes = _files(pathlib.Path(path))
    with in_threads(_read, paths) as results:
        pictures = list(results)
    first = pictures[0]
    for file, picture in zip(paths, pictures, strict=True):
        if _kind(picture) != _kind(first):
            raise PictureError(
                f"{file}: is {_kind(picture)}, but {paths[0].name} is {_kind(first)}; "
                "all must be alike."
            )
    found = collections.Counter(n for p in pictures for n in p.meta.notes)
    notes += [f"of {count} pictures: {note}" for note, count in found.items()]
    pixels = np.stack([p.pixels for p in pictures])
    if pixels.shape[3] == 1:
        pixels = pixels[..., 0]
    return PictureSet(pixels, tuple(file.name for file in paths), tuple(notes))


def write_pictures(
    path: str | os.PathLike[str], pictures: np.ndarray, *, overwrite: bool = False
) -> None:
    """Writes pictures as PNG files 0001.png, ... of a folder, or as one array.

    A path that ends in .npy or .npz is that of an array; in .npz its name is "samples".
    Other files of a folder are left alone. The files are made elsewhere first.

    Raises:
        OSError: something is there already and `overwrite` is False, or nothing can be
            written.
    """
    pictures, path = as_pictures("pictures", pictures), pathlib.Path(path)
    if is_array_file(path):
        with atomic_write(path, overwrite=overwrite) as file:
            if path.suffix.lower() == ".npy":
                np.save(file, pictures)
            else:
                np.savez_compressed(file, samples=pictures)
        return
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path}: the folder is not empty")
    images = pictures[..., None] if pictures.ndim == 3 else pictures
    digits = max(4, len(str(len(images))))
    with tempfile.TemporaryDirectory(dir=path.resolve().parent) as made:
        names = [f"{number:0{digits}}.png" for number in range(1, len(images) + 1)]
        with in_threads(
            lambda pair: write_picture(pathlib.Path(made, pair[0]), Picture(pair[1])),
            list(zip(names, images, strict=True)),
        ) as results:
            collections.deque(results, maxlen=0)
        path.mkdir(exist_ok=True)
        for name in names:
            os.replace(pathlib.Path(made, name), path / name)


def write_picture_scores(
    path: str | os.PathLike[str],
    scores: np.ndarray,
    names: tuple[str, ...],
    *,
    overwrite: bool = True,
) -> None:
    """Writes log-likelihoods, (n,), as a table; text has the names of files too."""
    suffix = table_suffix(path)
    if not names or suffix in (".npy", ".npz"):
        write_scores(path, scores, overwrite=overwrite)
        return
    text = io.StringIO(newline="")
    delimiter = {".csv": ",", ".tsv": "\t", ".txt": " "}[suffix]
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(("file", "log_likelihood"))
    writer.writerows(zip(names, scores.tolist(), strict=True))
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(text.getvalue().encode())


def is_array_file(path: pathlib.Path) -> bool:
    """Whether a name is one of a file with arrays."""
    return path.suffix.lower() in (".npy", ".npz")


def _files(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
    """The files that should be pictures, by name, and notes on the others."""
    entries = sorted(folder.iterdir())
    hidden = [e for e in entries if e.name.startswith(".")]
    folders = [e for e in entries if e.is_dir() and e not in hidden]
    texts = [e for e in entries if e.is_file() and e.suffix.lower() in _BESIDE]
    texts = [e for e in texts if e not in hidden]
    left = {*hidden, *folders, *texts}
    files = [e for e in entries if e not in left]
    if not files:
        within = (
            f", but folders, {folders[0].name} first: name one of them"
            if folders
            else ""
        )
        raise PictureError(f"{folder}: holds no pictures{within}.")
    kinds = (("hidden", hidden), ("folders", folders), ("no pictures", texts))
    notes = [
        f"left out, {what}: "
        + ", ".join(e.name for e in each[:4])
        + (f" and {len(each) - 4} more" if each[4:] else "")
        for what, each in kinds
        if each
    ]
    return files, notes


def _read(path: pathlib.Path) -> Picture:
    picture = read_picture(path, max_pixels=_MOST_PIXELS)
    if picture.pixels.dtype.kind == "f":
        raise PictureError(f"{path}: holds floats; save it with 8 or 16 bits.")
    if (
        picture.alpha is not None
        and (picture.alpha != white(picture.alpha.dtype)).any()
    ):
        raise PictureError(f"{path}: is transparent in parts; put it on a background.")
    return picture


def _kind(picture: Picture) -> str:
    """What all pictures must share, in words."""
    height, width, channels = picture.pixels.shape
    colours = "grey" if channels == 1 else "colour"
    bits = 8 * picture.pixels.dtype.itemsize
    return f"{width} x {height} pixels, {bits}-bit {colours}"


def read_array(path: str | os.PathLike[str], array: str | None = None) -> np.ndarray:
    """The array in a .npy or .npz file, of any shape.

    Raises:
        PictureError: the file is damaged, or holds several arrays and none is named.
        OSError: the file cannot be read.
    """
    shown = os.fsdecode(path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        loaded: Any = np.load(io.BytesIO(data))
        if isinstance(loaded, np.ndarray):
            return loaded
        names = loaded.files
        if array is None and len(names) != 1:
            listed = ", ".join(names)
            raise PictureError(f"{shown}: holds several arrays; name one of: {listed}.")
        return loaded[array or names[0]]
    except PictureError:
        raise
    except Exception as error:  # of zip, zlib, struct, tokenize: whatever was damaged
        reason = str(error.args[0] if error.args else type(error).__name__)
        raise PictureError(f"{shown}: cannot be read: {reason}.") from None


def _read_array(path: Any, array: str | None) -> PictureSet:
    try:
        return PictureSet(as_pictures("pictures", read_array(path, array)))
    except PictureError:
        raise
    except ValueError as error:
        raise PictureError(f"{os.fsdecode(path)}: {error}") from None
