"""Tables of numbers in files."""

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from transportjax import _checks
from transportjax._files import atomic_write

SUFFIXES = (".csv", ".tsv", ".txt", ".npy", ".npz")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": " "}


class TableError(ValueError):
    """A file that is not a table, or that cannot hold one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers.

    Attributes:
        values: (n, d), float64, finite.
        columns: d names, or () if there are none.

    Raises:
        ValueError: if these do not go together.

    Example:
        >>> import numpy as np
        >>> Table(np.zeros((5, 2)), ("x", "y")).columns
        ('x', 'y')
    """

    values: np.ndarray
    columns: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        _checks.check_table(self.values, self.columns)


def read_table(path: str | os.PathLike[str], *, array: str | None = None) -> Table:
    r"""Reads a table from a file; its ending says the format.

    `.csv`, `.tsv` and `.txt` are text: commas, semicolons, tabs or spaces between the
    numbers, perhaps a line of names above; lines that begin with # are left out. `.npy`
    holds an array (n, d) or (n,); `.npz` one such array, or several of which `array`
    names one.

    Args:
        path: the file.
        array: the name of an array in a `.npz` file.

    Raises:
        TableError: an unknown ending; a file that is damaged, is empty or has names
            alone; cells that are missing, no numbers or not finite. The message names
            the file, the line and the column.
        OSError: the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "points.csv")
        >>> _ = path.write_text("x,y\n0,1\n2,3.5\n")
        >>> read_table(path).values
        array([[0. , 1. ],
               [2. , 3.5]])
    """
    shown, suffix = os.fsdecode(path), table_suffix(path)
    if array is not None and suffix != ".npz":
        raise TableError(f"{shown}: only .npz files hold arrays with names.")
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise TableError(f"{shown}: is empty.")
    if suffix in (".npy", ".npz"):
        return Table(_read_array(shown, data, array))
    try:
        return _read_text(shown, data, suffix)
    except csv.Error as error:  # a cell without end
        raise TableError(f"{shown}: cannot be read: {error}.") from None


def table_suffix(path: str | os.PathLike[str]) -> str:
    """The ending; raises TableError unless it is that of a table."""
    shown = os.fsdecode(path)
    suffix = os.path.splitext(shown)[1].lower()
    if suffix not in SUFFIXES:
        raise TableError(f"{shown}: a table must end in one of {', '.join(SUFFIXES)}.")
    return suffix


def write_table(
    path: str | os.PathLike[str], table: Table, *, overwrite: bool = True
) -> None:
    """Writes a table to a file; its ending says the format.

    Text has the names above, if there are any, and as many digits as it needs to be
    read back to the same numbers. A `.npz` file holds the array "samples".

    Args:
        path: the file, ending in .csv, .tsv, .txt, .npy or .npz.
        table: what to write.
        overwrite: whether an existing file may be replaced.

    Raises:
        TableError: an unknown ending.
        OSError: the file cannot be written.
    """
    _write_values(path, table.values, table.columns, overwrite)


def write_scores(
    path: str | os.PathLike[str], scores: np.ndarray, *, overwrite: bool = True
) -> None:
    """Writes the log-likelihoods of rows, (n,), as a table of one column.

    Raises:
        TableError: an unknown ending.
        OSError: the file cannot be written.
    """
    _write_values(path, scores[:, None], ("log_likelihood",), overwrite)


def _write_values(
    path: Any, values: np.ndarray, columns: Sequence[str], overwrite: bool
) -> None:
    suffix = table_suffix(path)
    with atomic_write(path, overwrite=overwrite) as file:
        if suffix == ".npy":
            np.save(file, values)
        elif suffix == ".npz":
            np.savez_compressed(file, samples=values)
        else:
            file.write(_text(values, columns, _DELIMITERS[suffix]).encode())


def _text(values: np.ndarray, columns: Sequence[str], delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    if columns:
        # so that no mark in a name, or no name, is taken for what lies between cells
        is_plain = all(re.fullmatch('[^\\s;,#"]+', name) for name in columns)
        quoting = csv.QUOTE_MINIMAL if is_plain else csv.QUOTE_ALL
        csv.writer(
            out, delimiter=delimiter, lineterminator="\n", quoting=quoting
        ).writerow(columns)
    whole = np.all((values == np.round(values)) & (np.abs(values) < 2**53), axis=0)
    entries = [
        column.astype(np.int64).tolist() if as_integers else column.tolist()
        for column, as_integers in zip(values.T, whole, strict=True)
    ]
    writer.writerows(zip(*entries, strict=True))
    return out.getvalue()


def _read_array(shown: str, data: bytes, name: str | None) -> np.ndarray:
    try:
        loaded = np.load(io.BytesIO(data))  # arrays of numbers only
        if not isinstance(loaded, np.ndarray):
            loaded = _named_array(loaded, name)
    except TableError as error:
        raise TableError(f"{shown}: {error}") from None
    except Exception as error:  # of zip, zlib, struct, tokenize: whatever was damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TableError(f"{shown}: cannot be read: {reason}.") from None
    if loaded.dtype.kind not in "fiub":
        raise TableError(f"{shown}: must hold real numbers; got {loaded.dtype}.")
    table = loaded[:, None] if loaded.ndim == 1 else loaded
    if table.ndim != 2 or 0 in table.shape:
        raise TableError(f"{shown}: must hold an array (n, d); got {loaded.shape}.")
    table = table.astype(np.float64)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = bad[0]
        raise TableError(
            f"{shown}: row {row + 1}, column {column + 1}: {table[row, column]} is not "
            f"a finite number; {len(bad)} such values in all."
        )
    return table


def _named_array(archive: Any, name: str | None) -> np.ndarray:
    names = archive.files
    if name is None and len(names) == 1:
        return archive[names[0]]
    if name not in names:
        what = f"holds no array {name!r}" if name else "holds several arrays"
        raise TableError(f"{what}; name one of: {', '.join(names)}.")
    return archive[name]


def _read_text(shown: str, data: bytes, suffix: str) -> Table:
    try:
        text = data.decode("utf-8-sig")
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
    if not lines:
        raise TableError(f"{shown}: holds no numbers.")
    delimiter = _delimiter(lines[0][1], lines[-1][1], suffix)
    first = _cells(lines[0][1], delimiter)
    columns = tuple(first) if not any(map(_is_number, first)) else ()
    if columns:
        del lines[0]
    if not lines:
        raise TableError(f"{shown}: has a line of names, and no numbers under it.")
    body = "\n".join(line for _, line in lines)
    try:
        values = np.loadtxt(
            io.StringIO(body),
            delimiter=delimiter,
            ndmin=2,
            quotechar='"',
            comments=None,
        )
    except ValueError:
        values = None  # told apart below, where the place is known
    is_whole = values is not None and values.shape[1] == len(first)
    if values is None or not is_whole or not np.isfinite(values).all():
        raise _first_error(shown, lines, delimiter, columns, len(first))
    return Table(values, columns)


def _delimiter(first: str, last: str, suffix: str) -> str | None:
    """What lies between the cells; None: any white space.

    In a line of names there may be other marks too.
    """
    marks = "\t" if suffix == ".tsv" else "\t;,"
    bare = re.sub('"[^"]*"', "", first)
    found = [mark for mark in marks if mark in bare]
    return next((mark for mark in found if mark in last), found[0] if found else None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return next(csv.reader([" ".join(line.split())], delimiter=" "))
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_number(text: str) -> bool:
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
    lines: list[tuple[int, str]],
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
            where = f"{place}, {_checks.column_name(columns, index)}"
            if not cell:
                return TableError(f"{where}: the cell is empty.")
            try:
                value = _number(cell)
            except ValueError:
                return TableError(f"{where}: {cell[:40]!r} is not a number.")
            if not math.isfinite(value):
                return TableError(f"{where}: {cell} is not a finite number.")
    return TableError(f"{shown}: cannot be read as a table.")
