"""Made-up clips, as arrays and as files; PyAV is imported on use."""

from fractions import Fraction

import numpy as np


def scene(number=0, shape=(48, 64)):
    """A smooth picture, uint8, that slides as `number` grows."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 10 + 0.05 * number
    waves = [np.sin(x + c) * np.cos(y - c) for c in range(3)]
    return np.rint(120 + 80 * np.stack(waves, -1)).astype(np.uint8)


def flickering(num, shape=(48, 64), seed=0):
    gains = np.random.default_rng(seed).uniform(0.75, 1.2, num)
    frames = [scene(i, shape) * gain for i, gain in enumerate(gains)]
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def write_clip(
    path,
    frames,
    *,
    codec="ffv1",
    pixel_format="yuv420p",
    times=None,
    time_base=Fraction(1, 25),
    audio=False,
    rotation=0,
    options=None,
    **context,
):
    """Writes frames, RGB or grey; `context` are attributes of the encoder."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = stream.time_base = time_base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = out.add_stream("aac", rate=44100, layout="mono") if audio else None
        for number, pixels in enumerate(frames):
            name = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), name)
            frame = frame.reformat(format=pixel_format)
            frame.pts = number if times is None else times[number]
            frame.time_base = time_base
            for tag in ("color_range", "colorspace", "color_trc", "color_primaries"):
                if tag in context:
                    setattr(frame, tag, context[tag])
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            _write_tone(out, sound, len(frames) / 25)
    return path


def _write_tone(out, stream, seconds):
    import av

    place = np.arange(int(44100 * seconds))
    tone = 0.3 * np.sin(2 * np.pi * 440 * place / 44100).astype(np.float32)
    for start in range(0, len(tone), 1024):
        part = np.ascontiguousarray(tone[None, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, start
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def packets(path, kind):
    """The times, in seconds, and contents of the packets of a kind of stream."""
    import av

    with av.open(str(path)) as container:
        found = [p for p in container.demux() if p.size and p.stream.type == kind]
        times = sorted(float(p.pts * p.time_base) for p in found)
        return times, [bytes(p) for p in found]
