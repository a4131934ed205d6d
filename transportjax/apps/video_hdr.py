"""What HDR frames say of their light: kept, or told that it is not."""

import struct
from fractions import Fraction
from typing import Any

_CURVES = {16: "PQ", 18: "HLG"}  # ITU-T H.273, transfer characteristics
_TOLD = {
    "DYNAMIC_HDR_PLUS": "its dynamic HDR metadata (HDR10+) were dropped",
    "DYNAMIC_HDR_VIVID": "its dynamic HDR metadata (HDR Vivid) were dropped",
    "DOVI_METADATA": "its Dolby Vision metadata were dropped",
    "DOVI_RPU_BUFFER": "its Dolby Vision metadata were dropped",
    "A53_CC": "the closed captions in its frames were dropped",
}


def mastering_options(frame: Any) -> list[str]:
    """Options of x265 for the mastering display and the content light level.

    Args:
        frame: of PyAV, the first of a video.

    Returns:
        One text an option; none where the frame tells nothing, or half of it.
    """
    options = []
    display = _struct(frame, "MASTERING_DISPLAY_METADATA", "=20i2i")
    if display and all(display[20:]) and all(display[1:20:2]):
        pairs = zip(display[:20:2], display[1:20:2], strict=True)
        units = [50000] * 8 + [10000] * 2  # of H.265, D.3.28
        numbers = [
            round(Fraction(*pair) * unit)
            for pair, unit in zip(pairs, units, strict=True)
        ]
        rx, ry, gx, gy, bx, by, wx, wy, least, most = numbers
        options.append(
            f"master-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})"
            f"L({most},{least})"
        )
    light = _struct(frame, "CONTENT_LIGHT_LEVEL", "=2I")
    if light:
        options.append("max-cll={},{}".format(*light))
    return [*options, "hdr10=1", "repeat-headers=1"] if options else []


def _struct(frame: Any, kind: str, layout: str) -> tuple[int, ...]:
    """The side data of a kind as FFmpeg lays it out; empty if there is none."""
    data = frame.side_data.get(kind)
    return struct.unpack_from(layout, bytes(data)) if data is not None else ()


def hdr_notes(frame: Any, kept: list[str], *, graded: bool) -> list[str]:
    """What a user should know of the light of a video, in sentences.

    Args:
        frame: of PyAV, the first of a video.
        kept: from `mastering_options`; empty if the encoder takes none.
        graded: whether colours are changed by what was learnt elsewhere.
    """
    told = {what for kind, what in _TOLD.items() if frame.side_data.get(kind)}
    notes = sorted(told)
    display, light = (
        frame.side_data.get(kind) is not None
        for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    )
    names = " ".join(kept)
    if (display and "master-display" not in names) or (
        light and "max-cll" not in names
    ):
        notes.append("the brightness of its HDR mastering display was dropped")
    curve = _CURVES.get(int(frame.color_trc))
    if graded and curve:
        notes.append(
            f"it is HDR ({curve}) and was changed as it is stored: maps, tables and "
            "palettes that are not of such video make it far too bright"
        )
    return notes
