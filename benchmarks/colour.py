"""Colour transfer of a picture of one megapixel, and of 24 from file to file.

Quality is the sliced 2-Wasserstein distance of the result to the palette, in grey
levels: 50,000 pixels of each, clipped, 200 random directions. Two samples of the same
palette are at about 0.6.
"""

import importlib.util
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

import transportjax as tj

from .harness import Case, Rival

PICTURES = pathlib.Path(__file__).parents[1] / "examples" / "pictures"
SIZE = (1154, 866)


def cases(options: Namespace) -> Iterator[Case]:
    """The shipped pair; one with many black pixels, if scikit-image is there; files."""
    house, plain = (_shipped(name, SIZE) for name in ("house", "plain"))
    yield _case("scotland", house, plain)
    if options.quick:
        return
    if importlib.util.find_spec("skimage") is not None:
        import skimage.data

        astronaut = Image.fromarray(skimage.data.astronaut()).resize((1000, 1000))
        coffee = Image.fromarray(skimage.data.coffee()).resize((1224, 816))
        yield _case("coffee", np.asarray(astronaut), np.asarray(coffee))
    yield from _files()


def _shipped(name: str, size: tuple[int, int]) -> np.ndarray:
    picture = Image.open(PICTURES / f"scotland_{name}.png").convert("RGB")
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def _case(name: str, source: np.ndarray, palette: np.ndarray) -> Case:
    rotations = np.asarray(tj.greedy_rotations(12, 3), np.float64)

    def unit(*pictures):
        return tuple(p.astype(np.float64) / 255 for p in pictures)

    def unit32(*pictures):
        return tuple(p.astype(np.float32) / 255 for p in pictures)

    rivals = {
        "transportjax IDT": Rival(tj.colour_transfer, jit=False),
        "transportjax IDT, float32": Rival(
            tj.colour_transfer, jit=False, prepare=unit32
        ),
        "transportjax MKL": Rival(
            lambda s, p: tj.colour_transfer(s, p, method="mkl"), jit=False
        ),
        "transportjax IDT, regrain": Rival(
            lambda s, p: tj.colour_transfer(s, p, smoothness=1.0), jit=False
        ),
        "numpy IDT, sorting": Rival(
            lambda s, p: _numpy_idt(s, p, rotations), jit=False, prepare=unit
        ),
        **_scikit_image(unit),
        **_color_matcher(),
    }
    return Case(f"{name}, 1 megapixel", (source, palette), rivals, quality=_to(palette))


def _to(palette: np.ndarray) -> Callable[[np.ndarray], float]:
    """The distance of a result to `palette`, in grey levels."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 200))
    directions /= np.linalg.norm(directions, axis=0)

    def projected(picture):
        scale = 1 if picture.dtype == np.uint8 else 255
        flat = picture.reshape(-1, 3)
        chosen = np.random.default_rng(1).choice(len(flat), 50_000, replace=False)
        points = np.clip(flat[chosen].astype(np.float64) * scale, 0, 255)
        return np.sort(points @ directions, axis=0)

    target = projected(palette)

    def distance(result):
        return float(np.sqrt(np.mean((projected(np.asarray(result)) - target) ** 2)))

    return distance


def _numpy_idt(source, palette, rotations):
    """IDT of all pixels by exact sorting: three axes a step."""
    x, y = source.reshape(-1, 3), palette.reshape(-1, 3)
    x_levels = (np.arange(len(x)) + 0.5) / len(x)
    y_levels = (np.arange(len(y)) + 0.5) / len(y)
    for axes in rotations:
        projected, target = x @ axes.T, np.sort(y @ axes.T, axis=0)
        moved = np.empty_like(projected)
        for axis in range(3):
            order = np.argsort(projected[:, axis])
            values = target[:, axis]
            if len(x) != len(y):
                values = np.interp(x_levels, y_levels, values)
            moved[order, axis] = values
        x = x + (moved - projected) @ axes
    return x.reshape(source.shape)


def _scikit_image(unit: Callable) -> dict[str, Rival]:
    if importlib.util.find_spec("skimage") is None:
        return {}
    from skimage.exposure import match_histograms

    def match(source, palette):
        return match_histograms(source, palette, channel_axis=-1)

    return {
        "scikit-image, float64": Rival(match, jit=False, prepare=unit),
        "scikit-image, uint8": Rival(match, jit=False),
    }


def _color_matcher() -> dict[str, Rival]:
    if importlib.util.find_spec("color_matcher") is None:
        return {}
    from color_matcher import ColorMatcher

    def best(source, palette):
        matcher = ColorMatcher(src=source, ref=palette, method="hm-mkl-hm")
        return np.clip(matcher.main(), 0, 255) / 255

    return {"color-matcher hm-mkl-hm": Rival(best, jit=False)}


def _files() -> Iterator[Case]:
    """The command on files of 24 megapixels: a new process, programs from its cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for which in ("house", "plain"):
            picture = Image.fromarray(_shipped(which, (6000, 4000)))
            picture.save(folder / f"{which}.jpg", quality=95)
            picture.save(folder / f"{which}.png", compress_level=1)
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}

        def command(ending):
            arguments = ["colour", f"house.{ending}", f"plain.{ending}", "--force"]
            arguments += ["-o", f"out.{ending}", "-q"]
            subprocess.run(
                [sys.executable, "-m", "transportjax", *arguments],
                cwd=folder,
                env=environment,
                check=True,
            )

        def largest(_):
            """Largest resident memory of any of the runs until now, in GiB."""
            return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20

        yield Case(
            "24 megapixels, file to file (GiB)",
            (),
            {
                "JPEG": Rival(lambda: command("jpg"), jit=False),
                "PNG": Rival(lambda: command("png"), jit=False),
            },
            quality=largest,
        )
