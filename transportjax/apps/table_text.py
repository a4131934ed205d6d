"""Tables of numbers in text, as many programs write them."""

import codecs
import csv
import io
import math
import re

import numpy as np

from transportjax._checks import column_name

_MISSING = ("", "na", "n/a", "nan", "nat", "null", "none", "?", "-", ".", "#n/a")
_Lines = list[tuple[int, str]]  # with their numbers in the file


class TableError(ValueError):
    """A file that is not a table, or that cannot hold one."""


def read_text(
    shown: str, data: bytes, suffix: str, header: bool | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers (n, d) of a text, and the names of their columns, () without.

    Args:
        shown: what errors call the file.
        data: the text.
        suffix: the ending of its name.
        header: whether the first line holds names; None: to be found out.

    Raises:
        TableError: whatever is no table.
    """
    lines = _lines(shown, data)
    delimiter = _delimiter(lines[0][1], lines[-1][1], suffix)
    if delimiter is not None and all(line.endswith(delimiter) for _, line in lines):
        lines = [(number, line[:-1]) for number, line in lines]
    lines = _with_points(lines, delimiter)
    first = _cells(lines[0][1], delimiter)
    is_numeric = all(map(is_number, first))
    values = _numbers(lines if is_numeric else lines[1:], delimiter)
    if header is None:
        is_quoted = lines[0][1].count('"') >= 2 * len(first)
        quotes_below = any('"' in line for _, line in lines[1:])
        header = (is_quoted and not quotes_below) or _holds_names(first, values)
    columns = tuple(first) if header else ()
    if header:
        del lines[0]
        values = values[1:] if is_numeric and values is not None else values
    if not lines:
        raise TableError(f"{shown}: has a line of names, and no numbers under it.")
    is_whole = values is not None and values.shape == (len(lines), len(first))
    if values is None or not is_whole or not np.isfinite(values).all():
        raise _first_error(shown, lines, delimiter, columns, len(first))
    return values, columns


def _lines(shown: str, data: bytes) -> _Lines:
    """The lines that are neither blank nor remarks."""
    try:
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise TableError(f"{shown}: is not a text file.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [
        (number, line.strip(" "))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if lines and re.fullmatch('"?sep=.?"?', lines[0][1]):  # a hint of spreadsheets
        del lines[0]
    if not lines:
        raise TableError(f"{shown}: holds no numbers.")
    return lines


def _delimiter(first: str, last: str, suffix: str) -> str | None:
    """What lies between the cells; None: any white space.

    In a line of names there may be other marks too.
    """
    marks = "\t" if suffix == ".tsv" else "\t;,"
    bare = re.sub('"[^"]*"', "", first)
    found = [mark for mark in marks if mark in bare]
    if found:
        return next((mark for mark in found if mark in last), found[0])
    # without white space in the last line, a single column, whose name may have some
    return None if " " in last or "\t" in last else ","


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return next(csv.reader([" ".join(line.split())], delimiter=" "))
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _with_points(lines: _Lines, delimiter: str | None) -> _Lines:
    """The lines with decimal points, where they have decimal commas.

    But not if all commas may part thousands, as in 1,234.
    """
    bodies = [line for _, line in lines[1:] or lines]
    text = "\n".join(bodies)
    if delimiter not in (";", "\t") or "," not in text or "." in text:
        return lines
    cells = re.findall(r"[^;\t\n\" ]*,[^;\t\n\" ]*", text)
    if all(re.fullmatch("[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+", cell) for cell in cells):
        return lines
    changed = [(number, line.replace(",", ".")) for number, line in lines]
    is_numeric = all(map(is_number, _cells(changed[0][1], delimiter)))
    return changed if is_numeric else lines[:1] + changed[1:]  # names stay


def _numbers(lines: _Lines, delimiter: str | None) -> np.ndarray | None:
    """All cells as numbers, (n, d); None if there are none, or some are no numbers."""
    if not lines:
        return None
    try:
        return np.loadtxt(
            io.StringIO("\n".join(line for _, line in lines)),
            delimiter=delimiter,
            ndmin=2,
            quotechar='"',
            comments=None,
        )
    except ValueError:
        return None


def _holds_names(first: list[str], values: np.ndarray | None) -> bool:
    """Whether the cells of the first line are names of the columns below them.

    If they are numbers, that line is the first of `values`.
    """
    numeric = [i for i, cell in enumerate(first) if is_number(cell)]
    if not numeric:
        return True
    # what stands for a missing value is no name, but row numbers are often without one
    named = first if first[0] else first[1:]
    if any(cell.lower() in _MISSING for cell in named):
        return False
    top = np.array([[_number(first[i]) for i in numeric]])
    if len(numeric) < 2 or not _counts_up(top).all():
        return False
    if len(numeric) < len(first):  # it cannot be one of the data
        return True
    if values is None or len(values) < 2 or _counts_up(values[1:]).any():
        return False
    # two numbers may do so by chance; names are rarely among the data
    below = values[1:]
    within = (below.min(axis=0) <= top[0]) & (top[0] <= below.max(axis=0))
    return len(first) > 2 or not within.all()


def _counts_up(rows: np.ndarray) -> np.ndarray:
    """Which rows are n, n + 1, n + 2, ..."""
    steps = np.all(rows[:, 1:] == rows[:, :-1] + 1, axis=1)
    return steps & (rows[:, 0] == np.floor(rows[:, 0]))


def is_number(text: str) -> bool:
    """Whether a cell is a number, perhaps infinite or NaN."""
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    if "_" in text:  # Python's own
        raise ValueError
    return float(text)


def _first_error(
    shown: str,
    lines: _Lines,
    delimiter: str | None,
    columns: tuple[str, ...],
    width: int,
) -> TableError:
    """The error for the first bad line or cell."""
    for number, line in lines:
        cells = _cells(line, delimiter)
        place = f"{shown}, line {number}"
        if len(cells) != width:
            return TableError(
                f"{place}: {len(cells)} cells, where the first line has {width}."
            )
        for index, cell in enumerate(cells):
            what = _what_is_bad(cell)
            if what:
                where = f"{place}, {column_name(columns, index)}"
                if number == lines[0][0] and not columns:
                    what += " If the line holds names, set `header`."
                return TableError(f"{where}: {what}")
    return TableError(f"{shown}: cannot be read as a table.")


def _what_is_bad(cell: str) -> str:
    """Why a cell cannot be fitted, and what to do; nothing if it can."""
    if cell.lower() in _MISSING:
        what = f"{cell} stands for no number" if cell else "the cell is empty"
        return f"{what}. Fill it in, or leave out its row or column."
    if not is_number(cell):
        return (
            f"{cell[:40]!r} is not a number. Leave its column out, or write text and "
            "dates as numbers, and numbers as 1234.5."
        )
    if not math.isfinite(_number(cell)):
        return f"{cell} is not a finite number. Leave out its row or column."
    return ""
