"""The `.cube` file of a three-dimensional lookup table, from and to arrays."""

import array
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from transportjax._files import atomic_write

MOST_NODES = 256
_LONGEST_LINE = 512
_LARGEST = 3e38  # what 32 bits hold


class LutError(ValueError):
    """A file holds no table that we can read; the message names file and line."""


def write(
    path: str | os.PathLike[str],
    table: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    title: str,
) -> None:
    """Writes a table [red, green, blue] and its domain."""
    num_nodes = len(table)
    header = [f'TITLE "{title}"'] if title else []
    header += [f"LUT_3D_SIZE {num_nodes}"]
    for keyword, end in (("DOMAIN_MIN", low), ("DOMAIN_MAX", high)):
        header += [" ".join([keyword, *(f"{x:.9g}" for x in end.tolist())])]
    rows = "%.9f %.9f %.9f\n" * num_nodes**2
    with atomic_write(path) as file:
        file.write(("\n".join(header) + "\n").encode())
        for blue in range(num_nodes):
            layer = table[:, :, blue].swapaxes(0, 1)  # red varies fastest
            file.write((rows % tuple(layer.ravel().tolist())).encode())


def read(
    path: str | os.PathLike[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads a table [red, green, blue] and its domain, or raises `LutError`."""
    name = os.fsdecode(path)
    with open(path, "rb") as file:
        lines = _lines(file, name)
        size, low, high, first = _read_header(lines, name)
        values = array.array("d", first)
        for where, words in lines:
            if len(values) == 3 * size**3:
                raise LutError(f"{where}: more than {size}^3 rows.")
            values.extend(_numbers(where, words, 3))
    if len(values) != 3 * size**3:
        raise LutError(
            f"{name}: {len(values) // 3} rows instead of {size}^3 = {size**3}. Is the "
            "file cut short?"
        )
    table = np.frombuffer(values).reshape(size, size, size, 3)
    return table.swapaxes(0, 2), low, high


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[str, list[bytes]]]:
    """Where it is and the words of every line that is neither empty nor a comment."""
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        where = f"{name}, line {number}"
        if len(line) > _LONGEST_LINE:
            raise LutError(f"{where}: longer than {_LONGEST_LINE} bytes.")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        words = line.split()
        if words and not words[0].startswith(b"#"):
            yield where, words


def _read_header(
    lines: Iterator[tuple[str, list[bytes]]], name: str
) -> tuple[int, np.ndarray, np.ndarray, list[float]]:
    """Size, domain, and the first row of values, which ends the header."""
    size, low, high = None, None, None
    for where, (keyword, *words) in lines:
        if keyword == b"TITLE":
            continue
        if keyword == b"LUT_3D_SIZE" and size is None:
            (count,) = _numbers(where, words, 1)
            if count not in range(2, MOST_NODES + 1):
                raise LutError(f"{where}: a size of {count:g} is not 2 to 256.")
            size = int(count)
        elif keyword == b"DOMAIN_MIN" and low is None:
            low = _numbers(where, words, 3)
        elif keyword == b"DOMAIN_MAX" and high is None:
            high = _numbers(where, words, 3)
        elif keyword == b"LUT_3D_INPUT_RANGE" and low is None and high is None:
            low, high = ([end] * 3 for end in _numbers(where, words, 2))
        elif keyword[:1].isalpha():
            raise LutError(f"{where}: {_refusal(keyword)}")
        elif size is None:
            raise LutError(f"{where}: values before LUT_3D_SIZE.")
        else:
            low, high = np.array(low or [0.0] * 3), np.array(high or [1.0] * 3)
            if not np.all(low < high):
                raise LutError(f"{where}: the domain that ends above is empty.")
            return size, low, high, _numbers(where, [keyword, *words], 3)
    raise LutError(f"{name}: no values. Is it a .cube file?")


def _refusal(keyword: bytes) -> str:
    """Why a line with this keyword is not read."""
    shown = keyword[:40].decode("ascii", "replace")
    if keyword.startswith(b"LUT_1D"):
        return f"{shown} is of a 1-D table or shaper; only 3-D tables are read."
    if keyword.startswith((b"LUT_3D", b"DOMAIN")):
        return f"{shown} is unknown, or stands here for the second time."
    return f"{shown!r} is neither a known keyword nor a number."


def _numbers(where: str, words: list[bytes], count: int) -> list[float]:
    """`words` as `count` finite numbers."""
    if len(words) != count:
        raise LutError(f"{where}: {len(words)} values instead of {count}.")
    try:
        numbers = [float(word) for word in words if b"_" not in word]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        shown = b" ".join(words)[:40].decode("ascii", "replace")
        raise LutError(f"{where}: {shown!r} is not {count} numbers.")
    if not all(abs(number) <= _LARGEST for number in numbers):
        raise LutError(f"{where}: not a finite value of 32 bits.")
    return numbers
