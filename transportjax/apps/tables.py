"""Tables of numbers in files."""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from transportjax import _checks
from transportjax._files import atomic_write

from .table_text import TableError as TableError, is_number, read_text

SUFFIXES = (".csv", ".tsv", ".txt", ".npy", ".npz")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": " "}


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
        _checks.check_unmasked("values", self.values)
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        _checks.check_table(self.values, self.columns)


def read_table(
    path: str | os.PathLike[str],
    *,
    array: str | None = None,
    header: bool | None = None,
) -> Table:
    r"""Reads a table from a file; its ending says the format.

    `.csv`, `.tsv` and `.txt` are text: commas, semicolons, tabs or spaces between the
    numbers, perhaps a line of names above; lines that begin with # are left out.
    Between semicolons or tabs numbers may have decimal commas. `.npy` holds an array
    (n, d) or (n,); `.npz` one such array, or several of which `array` names one.

    Args:
        path: the file.
        array: the name of an array in a `.npz` file.
        header: whether the first line of a text holds names. None: if none of its cells
            is a number; or if all are in quotes, and none below; or if those that are
            numbers count up by one, as years do, and no other line does; two numbers
            only if one of them lies beyond those below it.

    Raises:
        TableError: an unknown ending; a file that is damaged, is empty or has names
            alone; cells that are missing, no numbers or not finite. The message names
            the file, the line and the column, and says what to do.
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
    is_array = suffix in (".npy", ".npz")
    if array is not None and suffix != ".npz":
        raise TableError(f"{shown}: only .npz files hold arrays with names.")
    if header and is_array:
        raise TableError(f"{shown}: only .csv, .tsv and .txt have a line of names.")
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise TableError(f"{shown}: is empty.")
    if is_array:
        return Table(_read_array(shown, data, array))
    try:
        return Table(*read_text(shown, data, suffix, header))
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
        # or for a line of data
        is_plain = all(
            re.fullmatch('[^\\s;,#"]+', name) and not is_number(name)
            for name in columns
        )
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
