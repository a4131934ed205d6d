"""The command `transportjax`: colour transfer from file to file."""

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT, EXIT_INTERRUPTED = 2, 3, 4, 130

_COLOUR_EPILOG = """\
examples:
  transportjax colour photo.jpg sunset.jpg -o graded.jpg
  transportjax colour scan.tif ref.png -o out.tif --space lab --regrain --strength 0.8
  transportjax colour a.png b.png -o c.png --save-map grade.tjx --cube grade.cube
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    0 done, 2 wrong usage, 3 bad input, 4 a file cannot be read or written, 130
    interrupted. Errors are one line on the standard error stream; a file is written
    whole or not at all.
    """
    arguments = _parser().parse_args(argv)
    with contextlib.suppress(ValueError):  # not the main thread: no handler
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        _use_compilation_cache()
        arguments.run(arguments)
    except ValueError as error:
        return _fail(error, EXIT_INPUT)
    except OSError as error:
        return _fail(error, EXIT_OUTPUT)
    except MemoryError:
        return _fail("not enough memory for a picture of this size", EXIT_OUTPUT)
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


def _parser() -> argparse.ArgumentParser:
    from transportjax import __version__

    parser = argparse.ArgumentParser(
        prog="transportjax", description="Move one distribution onto another."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_colour(commands)
    _add_apply(commands)
    return parser


def _add_colour(commands: Any) -> None:
    parser = commands.add_parser(
        "colour",
        help="give a picture the colours of another",
        description="Give the picture SOURCE the colours of the picture PALETTE.",
        epilog=_COLOUR_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_colour)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    parser.add_argument("palette", metavar="PALETTE", type=pathlib.Path)
    _add_output(parser)
    add = parser.add_argument
    add(
        "--method",
        choices=("idt", "mkl"),
        default="idt",
        help="idt reaches the palette, mkl is a smooth linear grade (default: idt)",
    )
    add(
        "--space",
        choices=("rgb", "linear", "lab", "oklab", "luma", "chroma"),
        default="rgb",
        help="where the transfer takes place; luma: lightness alone, chroma: colour "
        "alone (default: rgb)",
    )
    add(
        "--strength",
        type=_number(0.0, 1.0),
        default=1.0,
        help="share of the change, 0 to 1 (default: 1)",
    )
    add("--steps", type=_integer(1), default=12, help="steps of idt (default: 12)")
    add("--mask", type=pathlib.Path, help="grey picture: where to change the source")
    add(
        "--palette-mask", type=pathlib.Path, help="grey picture: where to learn colours"
    )
    add(
        "--seed",
        type=_integer(0),
        default=0,
        help="the same seed gives the same picture (default: 0)",
    )
    add(
        "--save-map", metavar="FILE", type=pathlib.Path, help="keep the map for `apply`"
    )
    add("--cube", metavar="FILE", type=pathlib.Path, help="export a .cube 3-D table")
    add(
        "--cube-size",
        type=int,
        choices=(17, 33, 65),
        default=33,
        help="nodes a side of the table (default: 33)",
    )
    add("--figure", metavar="FILE", type=pathlib.Path, help="before and after, as PNG")


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="use a saved map, or a .cube table, on a picture",
        description="Use the map MAP, from --save-map or a .cube table, on a picture.",
    )
    parser.set_defaults(run=_apply)
    parser.add_argument("map", metavar="MAP", type=pathlib.Path)
    parser.add_argument("source", metavar="IN", type=pathlib.Path)
    _add_output(parser)
    parser.add_argument(
        "--mask", type=pathlib.Path, help="grey picture: where to change the source"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=pathlib.Path,
        required=True,
        help="picture to write; its ending says the format",
    )
    parser.add_argument(
        "--regrain",
        metavar="SMOOTHNESS",
        type=_number(0.0),
        nargs="?",
        const=1.0,
        help="restore the grain of the source; larger keeps more (1 if not given)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist already"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no report")


def _number(low: float, high: float = math.inf) -> Any:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low:g}, {high:g}]")
        return value

    return number


def _integer(low: int) -> Any:
    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{text} is less than {low}")
        return value

    return integer


def _colour(arguments: argparse.Namespace) -> None:
    from transportjax._files import atomic_write
    from transportjax.apps import colour, colour_map, plots

    outputs = (
        arguments.output,
        arguments.save_map,
        arguments.cube,
        arguments.figure,
    )
    inputs = (
        arguments.source,
        arguments.palette,
        arguments.mask,
        arguments.palette_mask,
    )
    _check_outputs(outputs, inputs, arguments.force)
    say = _Report(arguments.quiet)
    source, palette = _read(arguments.source, say), _read(arguments.palette, say)
    mask = _read_mask(arguments.mask, source)
    palette_mask = _read_mask(arguments.palette_mask, palette)
    with say.timed("transfer"):
        fitted = colour.fit_colour_map(
            source.pixels,
            palette.pixels,
            method=arguments.method,
            space=arguments.space,
            strength=arguments.strength,
            num_steps=arguments.steps,
            seed=arguments.seed,
            mask=mask,
            palette_mask=palette_mask,
        )
        result = _graded(fitted, source, mask, arguments.regrain)
    with say.timed("write"):
        _write(arguments, result, source, say)
    if arguments.save_map:
        colour_map.save_colour_map(arguments.save_map, fitted)
    if arguments.cube:
        error = colour_map.export_cube(
            arguments.cube, fitted, arguments.cube_size, source.pixels
        )
        say(
            f"{arguments.cube}: error of the table on this picture, in 8-bit steps: "
            f"{error.mean():.2f} on average, {error.max():.1f} at most"
        )
    if arguments.figure:
        with atomic_write(arguments.figure) as file:
            plots.comparison_figure(file, source.pixels, palette.pixels, result)
    before, after = (
        colour.palette_distance(
            pixels, palette.pixels, mask=mask, palette_mask=palette_mask
        )
        for pixels in (source.pixels, result)
    )
    say(
        f"distance to the palette (sliced W2, 8-bit steps): {before:.2f} before, "
        f"{after:.2f} after"
    )
    say.times()
    say(f"wrote {', '.join(str(path) for path in outputs if path)}")


def _apply(arguments: argparse.Namespace) -> None:
    from transportjax.apps import colour_map, lut

    inputs = (arguments.map, arguments.source, arguments.mask)
    _check_outputs((arguments.output,), inputs, arguments.force)
    say = _Report(arguments.quiet)
    if arguments.map.suffix.lower() == ".cube":
        fitted = lut.read_cube(arguments.map)
    else:
        fitted = colour_map.load_colour_map(arguments.map)
    source = _read(arguments.source, say)
    mask = _read_mask(arguments.mask, source)
    with say.timed("transfer"):
        result = _graded(fitted, source, mask, arguments.regrain)
    with say.timed("write"):
        _write(arguments, result, source, say)
    say.times()
    say(f"wrote {arguments.output}")


def _graded(fitted: Any, source: Any, mask: Any, smoothness: float | None) -> Any:
    from transportjax.apps import colour, colour_map

    graded = colour_map.apply_colour_map(fitted, source.pixels, mask=mask)
    if smoothness is None:
        return graded
    return colour.restore_grain(source.pixels, graded, smoothness=smoothness)


def _write(arguments: Any, result: Any, source: Any, say: "_Report") -> None:
    """The result with the transparency and the metadata of the source."""
    from transportjax.apps.images import write_picture

    picture = dataclasses.replace(source, pixels=result)
    for note in write_picture(arguments.output, picture, overwrite=arguments.force):
        say(f"{arguments.output}: {note}")


def _check_outputs(outputs: Sequence[Any], inputs: Sequence[Any], force: bool) -> None:
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


def _read(path: pathlib.Path, say: "_Report") -> Any:
    from transportjax.apps.images import read_picture

    with say.timed("read"):
        picture = read_picture(path)
    for note in picture.meta.notes:
        say(f"{path}: {note}")
    return picture


def _read_mask(path: pathlib.Path | None, picture: Any) -> Any:
    """A mask as the mean of its channels, in [0, 1]."""
    if path is None:
        return None
    from transportjax.apps.images import read_picture, to_unit

    mask = to_unit(read_picture(path).pixels).mean(axis=-1)
    if mask.shape != picture.pixels.shape[:2]:
        raise ValueError(
            f"{path}: must have the size of its picture, "
            f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}; got "
            f"{mask.shape[1]} x {mask.shape[0]}"
        )
    return mask


class _Report:
    """Lines for the person at the terminal, and how long things took."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._seconds: dict[str, float] = {}

    def __call__(self, line: str) -> None:
        if not self._quiet:
            print(line)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self._seconds[name] = self._seconds.get(name, 0) + taken

    def times(self) -> None:
        self(", ".join(f"{k} {v:.2f} s" for k, v in self._seconds.items()))
