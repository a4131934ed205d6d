"""Writing files: all or nothing, whatever happens."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from transportjax._files import atomic_write, in_threads


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, data, **options):
    with atomic_write(path, **options) as file:
        file.write(data)


def write_and_raise(path, error):
    with atomic_write(path) as file:
        file.write(b"new")
        raise error


def test_the_name_appears_at_the_end_only(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"half")
        assert names(tmp_path) == [f".a.bin.part-{os.getpid()}"]
        file.seek(0)
        file.write(b"HA")
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"HAlf"


def test_an_error_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)):
            write_and_raise(path, error)
        assert names(tmp_path) == ["a.bin"]
        assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"


def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("move"), replace(*a)))
    write(tmp_path / "a", b"data")
    assert calls == ["sync", "move", "sync"]  # the file, its name, the folder


def test_existing_files_may_be_protected(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match=r"exists already.*a\.bin"):
        write(path, b"new", overwrite=False)
    late = tmp_path / "late.bin"
    guard = atomic_write(late, overwrite=False)
    guard.__enter__().write(b"new")
    late.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        guard.__exit__(None, None, None)
    assert late.read_bytes() == b"somebody else's"
    write(tmp_path / "new.bin", b"new", overwrite=False)
    assert names(tmp_path) == ["a.bin", "late.bin", "new.bin"]


def test_wrong_places_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write(tmp_path, b"")
    with pytest.raises(IsADirectoryError, match="name of a folder"):
        write(f"{tmp_path}/new/", b"")
    missing = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="folder does not exist.*nowhere"):
        write(missing / "a.bin", b"")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        write(tmp_path / "pipe", b"")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.bin") as caught:
        write(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


LIMITED = """
    import resource, signal, sys
    from transportjax._files import atomic_write
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        with atomic_write(sys.argv[1]) as file:
            for _ in range(100):
                file.write(bytes(10_000))
    except OSError as error:
        print(error)
        sys.exit(4)
"""
INTERRUPTED = """
    import sys, time
    from transportjax._files import atomic_write
    with atomic_write(sys.argv[1]) as file:
        file.write(bytes(10_000))
        file.flush()
        print("half", flush=True)
        time.sleep(60)
"""


def child(code, path):
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_real_limit_of_the_file_system(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    process = child(LIMITED, path)
    output, errors = process.communicate()
    assert process.returncode == 4, errors
    assert b"File too large" in output
    assert b"a.bin" in output
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_interruption_from_the_keyboard(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    process = child(INTERRUPTED, path)
    assert process.stdout.readline() == b"half\n"
    assert len(names(tmp_path)) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_and_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match=r"a\.bin"):
        write(path, b"new")
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=r"b\.bin"):
        write(tmp_path / "b.bin", b"new")
    tmp_path.chmod(0o755)


def test_refused_by_the_system(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(PermissionError, match=r"not writable: .*a\.bin"):
        write(path, b"new")

    def deny(name, mode):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(PermissionError) as caught:
        write(tmp_path / "b.bin", b"new")
    assert caught.value.filename == str(tmp_path / "b.bin")  # not the temporary one


def test_permissions_are_kept_and_new_ones_usual(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    before = path.stat().st_mtime
    time.sleep(0.01)
    write(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime > before
    old = os.umask(0o027)
    try:
        write(tmp_path / "b.bin", b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.bin").stat().st_mode) == 0o640


def test_links_stay_links(tmp_path):
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "a.bin"
    real.write_bytes(b"old")
    link, second, dangling = (tmp_path / name for name in ("l", "m", "d"))
    link.symlink_to(real)
    second.symlink_to(link)
    dangling.symlink_to(tmp_path / "real" / "new.bin")
    for path, target in ((second, real), (dangling, tmp_path / "real" / "new.bin")):
        write(path, b"new")
        assert path.is_symlink()
        assert target.read_bytes() == b"new"
        assert not target.is_symlink()
    assert names(tmp_path / "real") == ["a.bin", "new.bin"]


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "é" * 127, "-o", " ", "a\nb", "春.png", ".hidden", "a" * 140, "%s{}"],
)
def test_strange_names(tmp_path, name):
    path = tmp_path / name
    with atomic_write(path) as file:
        (temporary,) = names(tmp_path)
        assert len(os.fsencode(temporary)) <= 255
        assert temporary.startswith(".")
        file.write(b"data")
    assert names(tmp_path) == [name]
    write(path, b"more")
    assert path.read_bytes() == b"more"


def test_leftovers_and_twins_do_not_matter(tmp_path):
    path = tmp_path / "a.bin"
    stale = tmp_path / f".a.bin.part-{os.getpid()}"
    stale.write_bytes(b"of a crash, with our process number")
    with atomic_write(path) as one, atomic_write(path) as two:
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one"  # the last to finish
    assert names(tmp_path) == [stale.name, "a.bin"]
    assert stale.read_bytes().startswith(b"of a crash")


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", b"data")
    assert names(tmp_path) == ["a.bin"]


def test_threads_keep_order_and_stop_early():
    with in_threads(lambda x: x * x, range(100)) as results:
        assert list(results) == [x * x for x in range(100)]
    begun = []

    def slow(x):
        begun.append(x)
        time.sleep(0.01)
        if x == 3:
            raise RuntimeError("three")

    with pytest.raises(RuntimeError, match="three"), in_threads(slow, range(500)) as r:
        list(r)
    assert len(begun) < 100
