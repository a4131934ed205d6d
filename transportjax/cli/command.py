"""The command `transportjax`: its parts, its exit codes."""

import argparse
import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from . import colour, deflicker, equalise, palette, register, sample
from .options import UsageError

EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT, EXIT_INTERRUPTED = 2, 3, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    0 done, 2 wrong usage, 3 bad input, 4 a file cannot be read or written, 130
    interrupted. Errors are one line on the standard error stream; a file is written
    whole or not at all.
    """
    arguments = make_parser().parse_args(argv)
    with contextlib.suppress(ValueError):  # not the main thread: no handler
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        _use_compilation_cache()
        arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except ValueError as error:
        return _fail(error, EXIT_INPUT)
    except BrokenPipeError:  # as in `transportjax palette photo.jpg | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(error, EXIT_OUTPUT)
    except MemoryError:
        return _fail(
            "not enough memory for a picture or shape of this size", EXIT_OUTPUT
        )
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", EXIT_INTERRUPTED)
    return 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _fail(error: object, code: int) -> int:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        error = f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split())
    print(f"transportjax: error: {message}", file=sys.stderr)
    return code


def _use_compilation_cache() -> None:
    """Compiled programs are kept between runs, in the user's cache folder."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(base) / "transportjax" / f"jax-{jax.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from transportjax import __version__

    parser = argparse.ArgumentParser(
        prog="transportjax", description="Move one distribution onto another."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    colour.add_commands(commands)
    palette.add_commands(commands)
    equalise.add_commands(commands)
    deflicker.add_commands(commands)
    register.add_commands(commands)
    sample.add_commands(commands)
    return parser
