"""Flicker removal next to FFmpeg's filter `deflicker`, on made-up flicker.

A camera zooms into and moves over the shipped picture; light changes from frame to
frame by random gains, gammas, gains in linear light, or gains that vary over the
picture. Written down, in 8-bit steps: the flicker of the mean luma and that of the
means of 8 x 8 parts (the deviation from lines through the neighbouring frames), W_1
between the luma of consecutive frames; and the PSNR to the clip without flicker, in dB.
A slow drift of the light is no flicker, and counts in the PSNR alone.
"""

import fractions
import json
import pathlib
import statistics
import time
from argparse import Namespace
from collections.abc import Callable

import numpy as np
from PIL import Image

import transportjax as tj
from transportjax.apps.flicker import CELLS, frame_curve, stack_laws, steady_law
from transportjax.apps.video_planes import Planes, planes_law, steady_planes

from . import harness

PICTURE = pathlib.Path(__file__).parents[1] / "examples/pictures/scotland_house.png"
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
Frames = np.ndarray


def report(options: Namespace) -> dict:
    """Quality of each rival on each kind of flicker, and the time of a 1080p frame."""
    num, size = (24, (240, 136)) if options.quick else (100, (640, 360))
    clean = moving(num, size)
    found = {"topic": "flicker", "environment": harness.environment("uint8")}
    found["results"], found["curves"] = [], {}
    print(f"{'case':16}{'rival':34}{'flicker':>9}{'local':>9}{'W1':>9}{'PSNR':>9}")
    for case, flicker in FLICKER.items():
        clips = {"without flicker": clean, "with flicker": flicker(clean)}
        for name, rival in _rivals().items():
            clips[name] = rival(clips["with flicker"])
        for name, clip in clips.items():
            record = {"case": case, "rival": name, **measures(clip, clean)}
            found["results"].append(record)
            numbers = (record[k] for k in ("flicker", "local", "w1", "psnr"))
            shown = (f"{'' if x is None else format(x, '.2f'):>9}" for x in numbers)
            print(f"{case:16}{name:34}{''.join(shown)}", flush=True)
        means = {
            name: _luma(clip).mean((1, 2)).tolist() for name, clip in clips.items()
        }
        found["curves"][case] = means
    found["times"] = times(4 if options.quick else 24)
    print(json.dumps(found["times"], indent=1))
    return found


def moving(num: int, size: tuple[int, int]) -> Frames:
    """A zoom and a pan over the picture, (t, h, w, 3), uint8."""
    width, height = size
    with Image.open(PICTURE) as file:
        picture = file.convert("RGB")
    frames = []
    for share in np.linspace(0, 1, num):
        across = picture.width * (0.85 - 0.3 * share)
        down = across * height / width
        left = (picture.width - across) * (0.1 + 0.8 * share)
        top = (picture.height - down) * (0.6 - 0.3 * share)
        box = (left, top, left + across, top + down)
        frames.append(picture.resize(size, Image.Resampling.BICUBIC, box=box))
    return np.stack([np.asarray(frame) for frame in frames])


def _random(frames: Frames, size: float) -> np.ndarray:
    numbers = np.random.default_rng(0).normal(size=(len(frames), 1, 1, 1))
    return np.exp(size * numbers)


def _bytes(frames: np.ndarray) -> Frames:
    return np.clip(np.rint(255 * frames), 0, 255).astype(np.uint8)


def _linear_gain(frames: Frames) -> Frames:
    x = frames / 255
    light = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    light = np.clip(light * _random(frames, 0.25), 0, 1)
    root = 1.055 * light ** (1 / 2.4) - 0.055
    return _bytes(np.where(light > 0.0031308, root, 12.92 * light))


def _local_gain(frames: Frames) -> Frames:
    """Gains at 3 x 4 places of the picture, and smooth ones in between."""
    num, height, width = frames.shape[:3]
    places = np.random.default_rng(0).normal(0, 0.1, (num, 3, 4)).astype(np.float32)
    size = (width, height)
    fields = [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in places]
    gains = np.exp(np.stack([np.asarray(field) for field in fields]))
    return _bytes(frames / 255 * gains[..., None])


FLICKER: dict[str, Callable[[Frames], Frames]] = {
    "gain": lambda x: _bytes(x / 255 * _random(x, 0.1)),
    "exposure": _linear_gain,
    "gamma": lambda x: _bytes((x / 255) ** _random(x, 0.2)),
    "local gain": _local_gain,
}


def _rivals() -> dict[str, Callable[[Frames], Frames]]:
    return {
        "transportjax": tj.deflicker,
        "transportjax, local": lambda frames: tj.deflicker(frames, local=True),
        "ffmpeg deflicker": lambda frames: ffmpeg(frames, "deflicker"),
        "ffmpeg deflicker, 17 frames, am": lambda frames: ffmpeg(
            frames, "deflicker", "size=17:mode=am"
        ),
    }


def ffmpeg(frames: Frames, name: str, options: str = "") -> Frames:
    """RGB frames through a filter of luma and chroma."""
    import av

    graph = _Graph(name, options, frames.shape[2], frames.shape[1], "yuv444p")
    converted = (
        av.VideoFrame.from_ndarray(frame).reformat(format="yuv444p") for frame in frames
    )
    return np.stack([out.to_ndarray(format="rgb24") for out in graph.run(converted)])


class _Graph:
    """A single filter between a source and a sink."""

    def __init__(self, name: str, options: str, width: int, height: int, form: str):
        import av

        self._again = (av.error.BlockingIOError, av.error.EOFError)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat(form),
            time_base=fractions.Fraction(1, 25),
        )
        nodes = [source, self._graph.add(name, options), self._graph.add("buffersink")]
        self._graph.link_nodes(*nodes).configure()

    def run(self, frames):
        """All frames, each as soon as the filter gives it."""
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
            self._graph.push(frame)
            yield from self._ready()
        self._graph.push(None)
        yield from self._ready()

    def _ready(self):
        while True:
            try:
                yield self._graph.pull()
            except self._again:
                return


def _luma(frames: Frames) -> np.ndarray:
    return frames @ _LUMA


def _roughness(x: np.ndarray) -> float:
    """Of white noise, the second difference has six times the variance."""
    return float(np.sqrt(np.mean(np.diff(x, 2, axis=0) ** 2) / 6))


def measures(frames: Frames, clean: Frames) -> dict:
    """What is written down, see the docstring of the module."""
    luma = _luma(frames)
    num, height, width = luma.shape
    cut = luma[:, : height // 8 * 8, : width // 8 * 8]
    parts = cut.reshape(num, 8, height // 8, 8, width // 8).mean((2, 4))
    quantiles = np.quantile(luma.reshape(num, -1), np.linspace(0.01, 0.99, 99), axis=1)
    error = np.mean((frames.astype(np.float32) - clean) ** 2)
    return {
        "flicker": _roughness(luma.mean((1, 2))),
        "local": _roughness(parts),
        "w1": float(np.abs(np.diff(quantiles, axis=1)).mean()),
        "psnr": float(10 * np.log10(255**2 / error)) if error else None,
    }


def times(num: int) -> dict:
    """Milliseconds of wall and CPU a frame of 1920 x 1080, yuv420p, the rivals in turn.

    Both passes of ours; no decoding, encoding or conversion of anybody.
    """
    import av

    frames = []
    for pixels in FLICKER["gain"](moving(num, (1920, 1080))):
        frames.append(av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p"))
    planes = [_planes(frame) for frame in frames]

    def ours(cells):
        law = stack_laws(planes_law(frame, cells=cells) for frame in planes)
        steady = steady_law(law)
        for number, frame in enumerate(planes):
            steady_planes(frame, frame_curve(steady, number))

    def theirs():
        graph = _Graph("deflicker", "", 1920, 1080, "yuv420p")
        for _ in graph.run(iter(frames)):
            pass

    rivals = {
        "transportjax": lambda: ours(None),
        "transportjax, local": lambda: ours(CELLS),
        "ffmpeg deflicker": theirs,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for _ in range(6):  # the first is not counted
        for name, run in rivals.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            taken[name].append(spent)
    return {
        name: {
            kind: 1e3 * statistics.median(spent[i] for spent in all_[1:]) / num
            for i, kind in enumerate(("wall_ms", "cpu_ms"))
        }
        for name, all_ in taken.items()
    }


def _planes(frame) -> Planes:
    def array(plane):
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return lines[:, : plane.width].copy()

    luma, *chroma = map(array, frame.planes)
    return Planes(luma, tuple(chroma), 16, 235, 8)


def plot(found: dict, path: pathlib.Path) -> None:
    """Mean luma over time, and the flicker that is left."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = found["curves"]
    names = list(next(iter(curves.values())))
    looks = dict(zip(names, _LOOKS, strict=True))
    figure, axes = plt.subplots(
        len(curves),
        2,
        figsize=(12, 2.1 * len(curves)),
        layout="constrained",
        width_ratios=(2.2, 1),
    )
    for (case, means), (left, right) in zip(curves.items(), axes, strict=True):
        for name, values in means.items():
            left.plot(values, label=name, **looks[name])
        left.set_ylabel(f"{case}\nmean luma")
        left.spines[["top", "right"]].set_visible(False)
        records = [r for r in found["results"] if r["case"] == case]
        key = "local" if case == "local gain" else "flicker"
        lengths = [record[key] for record in records]
        right.barh(names, lengths, color=[looks[n]["color"] for n in names])
        right.invert_yaxis()
        right.set_xscale("log")
        right.bar_label(right.containers[0], fmt="%.2f", padding=3, fontsize=8)
        right.set_xlim(min(lengths) / 2, max(lengths) * 4)
        right.tick_params(axis="y", labelsize=8)
        right.spines[["top", "right"]].set_visible(False)
        what = "flicker of 8 x 8 parts" if key == "local" else "flicker"
        right.set_xlabel(f"{what}, 8-bit steps", fontsize=8)
    axes[-1, 0].set_xlabel("frame")
    figure.savefig(path, dpi=110)
    plt.close(figure)


_LOOKS = (
    {"color": "#888888", "linestyle": "--", "linewidth": 1},
    {"color": "#e0a8a0", "linewidth": 1},
    {"color": "#2456a6", "linewidth": 1.8},
    {"color": "#49a3c7", "linewidth": 1.2},
    {"color": "#c8372d", "linewidth": 1},
    {"color": "#c98a1b", "linewidth": 1},
)
