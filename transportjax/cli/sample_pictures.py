"""What `sample` does with folders and arrays of pictures."""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from .options import Report, UsageError, naming

STEPS = 10
_FILES = (
    *(".csv", ".tsv", ".txt", ".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    *(".webp", ".avif", ".bmp", ".gif"),
)


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses what does not go with pictures."""
    from transportjax.apps import tables

    if arguments.within_range:
        raise UsageError("--within-range is for tables: samples of pixels never leave")
    if arguments.header is not None:
        raise UsageError("--header and --no-header are for tables")
    if arguments.output and arguments.output.suffix.lower() in _FILES:
        raise UsageError(
            f"pictures are written to a folder, or to .npy or .npz; got "
            f"{arguments.output}"
        )
    if arguments.save_scores:
        tables.table_suffix(arguments.save_scores)


def is_array(path: pathlib.Path) -> bool:
    """Whether the pictures go to one file with an array."""
    return path.suffix.lower() in (".npy", ".npz")


def check_folder(path: pathlib.Path, inputs: Sequence[Any], force: bool) -> None:
    """Refuses a folder that holds something, or that cannot be made."""
    if path.resolve() in {each.resolve() for each in inputs if each is not None}:
        raise FileExistsError(f"{path}: is an input; write to another folder")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path}: is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise FileExistsError(
            f"{path}: the folder is not empty; --force writes into it, and leaves "
            "files of other names"
        )
    place = path if path.is_dir() else path.parent
    if not place.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {place}")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{path}: the folder {place} is read-only")


def is_pictures(path: pathlib.Path, array: str | None) -> bool:
    """Whether a path holds pictures: a folder, or an array of three axes or four."""
    from transportjax.apps import picture_sets

    if path.is_dir():
        return True
    if not is_array(path):
        return False
    array = array if path.suffix.lower() == ".npz" else None
    return picture_sets.read_array(path, array).ndim >= 3


def read(path: pathlib.Path, arguments: argparse.Namespace, say: Report) -> Any:
    """The pictures of a folder or a file."""
    from transportjax.apps import picture_sets

    array = arguments.array if path.suffix.lower() == ".npz" else None
    if not path.is_dir() and not is_array(path):
        raise ValueError(f"{path}: must be a folder of pictures, .npy or .npz")
    pictures = picture_sets.read_pictures(path, array=array)
    for note in pictures.notes:
        say(f"{path}: {note}")
    return pictures


def size(pictures: Any) -> int:
    """The number of pictures."""
    return len(pictures.pixels)


def load(path: pathlib.Path) -> Any:
    """The law in a file."""
    from transportjax.apps import picture_law

    return picture_law.load_picture_law(path)


def check(law: Any, pictures: Any) -> None:
    """Raises unless the pictures are like those of the law."""
    from transportjax.apps import picture_law

    picture_law.check_pictures(law, pictures.pixels)


def fit(pictures: Any, arguments: argparse.Namespace) -> Any:
    """The law of pictures."""
    from transportjax.apps import picture_law

    return picture_law.fit_picture_law(
        pictures.pixels,
        num_steps=arguments.steps or STEPS,
        train=arguments.train,
        seed=arguments.seed,
    )


def save(path: pathlib.Path, law: Any) -> None:
    """Keeps the law."""
    from transportjax.apps import picture_law

    picture_law.save_picture_law(path, law)


def describe(pictures: Any, say: Report) -> None:
    """What was read, and what may surprise."""
    pixels = pictures.pixels
    num, height, width = pixels.shape[:3]
    bits, values = 8 * pixels.dtype.itemsize, pixels[0].size
    say(f"{num} pictures, {width} x {height} pixels, {values} values of {bits} bits")
    constant = int((pixels.min(axis=0) == pixels.max(axis=0)).sum())
    if constant:
        say(f"{constant} values are the same in all pictures, and stay so")
    if num < 10 * values:
        say(
            f"few pictures for their size: {num} of {values} values; with ten times "
            "more than values samples are much better"
        )


def judge(law: Any, say: Report) -> None:
    """How likely the pictures are that were held out."""
    scores = [
        f"{law.bits(score):.4g} under {name}" for name, score in law.scores.items()
    ]
    say("bits per dimension of the pictures held out: " + ", ".join(scores))


def score(arguments: argparse.Namespace, law: Any, pictures: Any) -> None:
    """Tells how likely pictures are."""
    import numpy as np

    from transportjax.apps import picture_law, picture_sets

    with naming(arguments.score):
        scores = picture_law.picture_log_likelihood(law, pictures.pixels)
    print(
        f"{arguments.score}: log-likelihood in nats a picture: {scores.mean():.6g} on "
        f"average, {np.median(scores):.6g} in the middle, {scores.min():.6g} at least; "
        f"{law.bits(scores.mean()):.4g} bits per dimension"
    )
    if arguments.save_scores:
        picture_sets.write_picture_scores(
            arguments.save_scores, scores, pictures.names, overwrite=arguments.force
        )


def draw(law: Any, num: int, arguments: argparse.Namespace) -> Any:
    """New pictures."""
    from transportjax.apps import picture_law

    return picture_law.sample_pictures(law, num, seed=arguments.seed)


def write(path: pathlib.Path, samples: Any, force: bool) -> None:
    """The pictures, as files of a folder or one array."""
    from transportjax.apps import picture_sets

    picture_sets.write_pictures(path, samples, overwrite=force)


def figure(file: Any, pictures: Any, samples: Any) -> None:
    """Data and samples, side by side."""
    from transportjax.apps import picture_sheets

    picture_sheets.contact_sheet(file, pictures.pixels, samples)
