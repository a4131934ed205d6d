"""What the commands share: options, checks of paths, the report."""

import argparse
import contextlib
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any


class UsageError(ValueError):
    """Options that do not go together."""


def add_output(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options of every command that writes a picture."""
    what = "picture to write; its ending says the format"
    add_files(parser, what, required=required)
    parser.add_argument(
        "--regrain",
        metavar="SMOOTHNESS",
        type=number_type(0.0),
        nargs="?",
        const=1.0,
        help="restore the grain of the source; larger keeps more (1 if not given)",
    )


def add_video(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that write videos."""
    parser.add_argument(
        "--lossless",
        action="store_true",
        help="a video without any loss: FFV1, OUT must end in .mkv",
    )
    parser.add_argument(
        "--rate",
        metavar="FPS",
        type=_rate,
        help="frames a second of a folder of frames, to make a video of it: 24, 29.97, "
        "30000/1001",
    )
    parser.add_argument(
        "--crf",
        type=number_type(0.0, 51.0),
        help="quality of a video, less is better (default: 16 for H.264, 18 for HEVC)",
    )


def _rate(text: str) -> Fraction:
    """A number above 0, or a fraction."""
    try:
        value = Fraction(text)
    except ZeroDivisionError:
        value = Fraction(0)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not above 0, up to 1000")
    return value


def add_strength(parser: argparse.ArgumentParser) -> None:
    """Adds the share of a change."""
    parser.add_argument(
        "--strength",
        type=number_type(0.0, 1.0),
        default=1.0,
        help="share of the change, 0 to 1 (default: 1)",
    )


def add_files(
    parser: argparse.ArgumentParser, what: str, *, required: bool = True
) -> None:
    """The options of every command that writes files."""
    parser.add_argument(
        *("-o", "--output"),
        metavar="OUT",
        type=pathlib.Path,
        required=required,
        help=what,
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist already"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no report")


def number_type(low: float, high: float = math.inf) -> Any:
    """A type of arguments: numbers in [low, high]."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low:g}, {high:g}]")
        return value

    return number


def integer_type(low: int) -> Any:
    """A type of arguments: integers >= low."""

    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{text} is less than {low}")
        return value

    return integer


def check_outputs(outputs: Sequence[Any], inputs: Sequence[Any], force: bool) -> None:
    """Refuses before the work what could not be written after it."""
    read = {path.resolve() for path in inputs if path is not None}
    seen = set()
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in read:
            raise FileExistsError(f"{path}: is an input; write to another file")
        if path.resolve() in seen:
            raise FileExistsError(f"{path}: is named twice as an output")
        seen.add(path.resolve())
        if path.is_dir():
            raise IsADirectoryError(f"{path}: is a folder; name a file in it")
        if path.exists() and not force:
            raise FileExistsError(f"{path}: exists already; --force replaces it")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"{path}: the folder {path.parent} is read-only")


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Errors on what a file holds begin with its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class Report:
    """Lines for the person at the terminal, and how long things took."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._seconds: dict[str, float] = {}

    def __call__(self, line: str) -> None:
        """Prints a line, unless it is to be quiet."""
        if not self._quiet:
            print(line)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to that of `name`."""
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self._seconds[name] = self._seconds.get(name, 0) + taken

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Tells on a terminal, on one line that is written over, how far it is."""
        if self._quiet or not sys.stderr.isatty():
            return
        of = f" of {total}" if total else ""
        end = "\n" if done == total else ""
        print(f"\r{what}: frame {done}{of} ", end=end, file=sys.stderr, flush=True)

    def times(self) -> None:
        """Prints all times, on one line."""
        self(", ".join(f"{k} {v:.2f} s" for k, v in self._seconds.items()))
