"""Writing a file so that nobody ever meets half of it, and with all cores."""

import contextlib
import errno
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# the longest file name that every file system takes, encrypted ones included
_LONGEST_NAME = 143


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, overwrite: bool = True
) -> Iterator[io.BufferedIOBase]:
    """A new binary file that takes the name `path` once all of it is on the disk.

    What is written goes to `.<name>.part-<pid>` in the same folder; at the end of the
    block that file is flushed to the disk and renamed. Until then, and for ever if the
    block raises (a full disk, Ctrl-C), `path` is what it was before, and nothing else
    is left behind.

    A symbolic link stays a link: the file that it points to is replaced. The
    permissions of an existing file are kept and a new one gets those of any new file;
    the time of modification is now. Hard links to the old file keep the old contents.

    Args:
        path: where the file shall be.
        overwrite: whether an existing file may be replaced.

    Yields:
        The file, open for writing and seeking.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False.
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if `path` is a folder.
        OSError: whatever else the operating system refuses, with `path` in the message.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "numbers.txt")
        >>> with atomic_write(path) as file:
        ...     _ = file.write(b"1 2 3")
        >>> path.read_text()
        '1 2 3'
    """
    shown = os.fsdecode(path)
    target = os.path.realpath(shown)
    mode = _check_target(shown, target, overwrite)
    temporary, file = _create_beside(shown, target)
    try:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finally:
            file.close()
        if mode is not None:
            os.chmod(temporary, mode)
        _check_target(shown, target, overwrite)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = shown  # a failed write does not know its file
        raise
    _sync_folder(os.path.dirname(target))


def _check_target(shown: str, target: str, overwrite: bool) -> int | None:
    """The permissions of the file at `target`, None if there is none to replace."""
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "the folder does not exist", folder)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        if shown.endswith(("/", os.sep)):
            raise IsADirectoryError(
                errno.EISDIR, "is the name of a folder, not of a file", shown
            ) from None
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", shown)
    if not overwrite:
        raise FileExistsError(errno.EEXIST, "exists already", shown)
    if not stat.S_ISREG(mode):  # to rename over /dev/null would delete the device
        raise OSError(errno.EINVAL, "is not a regular file", shown)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "is not writable", shown)
    return stat.S_IMODE(mode)


def _create_beside(shown: str, target: str) -> tuple[str, io.BufferedIOBase]:
    """A new file in the folder of `target`, and its path."""
    folder, name = os.path.split(target)
    for attempt in itertools.count():  # after a crash a process may have our number
        ending = f".part-{os.getpid()}" + (f"-{attempt}" if attempt else "")
        while len(os.fsencode(f".{name}{ending}")) > _LONGEST_NAME:
            name = name[:-1]
        temporary = os.path.join(folder, f".{name}{ending}")
        try:
            return temporary, open(temporary, "xb")
        except FileExistsError:
            continue
        except OSError as error:
            error.filename = shown
            raise
    raise AssertionError  # itertools.count() has no end


def _sync_folder(folder: str) -> None:
    """Writes the new name to the disk too, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def in_threads(
    function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Iterator[Any]]:
    """The results of `function` on each item, in order, computed by several threads.

    For work that lets go of Python's lock, as compression and numpy do. When the block
    is left early, by an error or Ctrl-C, what has not begun is not begun any more.

    Example:
        >>> with in_threads(abs, [1, -2, 3]) as results:
        ...     list(results)
        [1, 2, 3]
    """
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
