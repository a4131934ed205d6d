"""Palettes: the main colours of a picture, and a picture with some of them changed."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from transportjax._checks import (
    check_colour_picture,
    check_count,
    check_edits,
    check_num_components,
    check_number,
)
from transportjax.maps import Affine, Chain, ThinPlateSpline, thin_plate_fit
from transportjax.mixtures import kmeans

from .arrays import hard_mask, split_alpha
from .colour_map import ColourMap
from .picture import to_unit
from .reduction import sample_colours
from .spaces import lab_to_srgb, srgb_to_lab

# Shades of one object differ in lightness more than in colour: CIELAB with half of its
# lightness keeps them together, in the clusters and in what an edit takes along.
_SCALE = np.array([0.5, 1.0, 1.0])
_SAMPLE_SIZE = 1 << 13
_SOFTNESS = 100.0  # of what lies at 1.2 radii from an edit, in these units
_HEX = re.compile("#?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")


def picture_palette(
    pixels: Any, num_colours: int = 12, *, seed: int = 0, mask: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The main colours of a picture, and their shares of its pixels.

    The centres of clusters (k-means) in CIELAB, where lightness counts half.

    Args:
        pixels: picture, (h, w, 3), or with alpha (h, w, 4).
        num_colours: how many.
        seed: of the sample and of the clusters.
        mask: (h, w), True (or > 0.5) where the picture counts.

    Returns:
        Colours (k, 3), encoded sRGB as float32 in [0, 1], and their shares (k,), which
        sum to one, the largest first.

    Raises:
        ValueError: no colour picture, or an empty mask.

    Example:
        >>> import numpy as np
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> picture[0] = (255, 0, 0)
        >>> colours, shares = picture_palette(picture, 2)
        >>> shares.tolist()
        [0.75, 0.25]
    """
    check_count("num_colours", num_colours)
    centres, shares = _clusters(pixels, num_colours, seed, mask)
    colours = np.asarray(lab_to_srgb(jnp.asarray(centres / _SCALE, jnp.float32)))
    return np.clip(colours, 0, 1), shares


def _clusters(
    pixels: Any, num_colours: int, seed: int, mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Centres in scaled CIELAB, float64, and shares; the largest first."""
    check_num_components(num_colours, _SAMPLE_SIZE, "num_colours")
    picture, _ = split_alpha("pixels", pixels)
    check_colour_picture("pixels", picture)
    held = hard_mask("mask", mask, picture)
    sample = to_unit(sample_colours(picture, _SAMPLE_SIZE, seed=seed, mask=held))
    key = jr.key(seed, impl="threefry2x32")
    found = kmeans(_scaled_lab(sample), num_colours, key=key)
    centres, shares = np.asarray(found.centres), np.asarray(found.weights)
    order = np.argsort(-shares, kind="stable")
    order = order[shares[order] > 0]
    return centres[order], shares[order]


def _scaled_lab(colours: np.ndarray) -> np.ndarray:
    lab = srgb_to_lab(jnp.asarray(colours, jnp.float32))
    return np.asarray(lab) * _SCALE.astype(np.float32)


def edit_palette(
    pixels: Any,
    edits: Mapping[Any, Any] | tuple[Any, Any],
    *,
    radius: int | float = 15.0,
    num_colours: int = 20,
    strength: int | float = 1.0,
    seed: int = 0,
    mask: Any = None,
) -> ColourMap:
    """The map of colours that changes some colours of a picture and holds the others.

    The named colours go exactly where they are sent. The other colours of the palette
    of the picture (`picture_palette`) stay where they are, the firmer the farther they
    are from the named ones; all others follow smoothly, by a thin plate spline through
    these. So shades of a changed colour change with it.

    Args:
        pixels: picture, (h, w, 3), or with alpha (h, w, 4).
        edits: `{from: to}`, colours as "#rrggbb" or three numbers, integers from 0 to
            255 or floats from 0 to 1; or two arrays (k, 3) of such numbers. An edit to
            itself holds a colour.
        radius: how far an edit reaches, > 0: the distance in CIELAB, lightness counted
            half, up to which shades go along. 10 to 25 are usual.
        num_colours: colours of the palette that are held.
        strength: share of the change, 0 to 1.
        seed: of the palette.
        mask: (h, w), where the palette is learnt; to change a part of the picture only,
            give it to `apply_colour_map` too.

    Returns:
        A map for `apply_colour_map`, `save_colour_map` and `export_cube`.

    Raises:
        ValueError: no colour picture; edits that are no colours, none, or one colour
            sent to two.

    Example:
        >>> import numpy as np
        >>> from transportjax.apps import apply_colour_map
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> picture[0] = (200, 30, 30)
        >>> edit = edit_palette(picture, {"#c81e1e": "#1e1ec8"})
        >>> apply_colour_map(edit, picture)[:2, 0].tolist()
        [[30, 30, 200], [0, 0, 0]]

    References:
        Chang, Fried, Liu, DiVerdi and Finkelstein (2015), Palette-based photo recolor-
        ing. Grogan and Dahyot (2019), L2 divergence for robust colour transfer.
    """
    check_count("num_colours", num_colours)
    check_number("radius", radius, 0, open_low=True)
    check_number("strength", strength, 0, 1)
    before, after = _as_pairs(edits)
    x, y = _scaled_lab(before), _scaled_lab(after)
    check_edits(x, y)
    centres, _ = _clusters(pixels, num_colours, seed, mask)
    to, off = jnp.diag(jnp.asarray(_SCALE, jnp.float32)), jnp.zeros(3)
    spline = _spline(x, y, centres, float(radius))
    scaled = Chain((Affine(to, off), spline, Affine(jnp.linalg.inv(to), off)))
    return ColourMap(scaled, jnp.asarray(strength, jnp.float32), "lab")


def _spline(
    x: np.ndarray, y: np.ndarray, held: np.ndarray, radius: float
) -> ThinPlateSpline:
    """The spline that takes `x` to `y`, and holds `held` the firmer the farther off.

    Where the colours leave the affine part open (pictures of grey, or of few colours),
    the corners of the cube of colours are held too.
    """
    if _spread(np.concatenate([x, held])) < 1:
        held = np.concatenate([held, _scaled_lab(np.array(list(np.ndindex(2, 2, 2))))])
    distances = np.linalg.norm(held[:, None] - x[None], axis=-1).min(axis=1)
    held, distances = held[distances > 1], distances[distances > 1]
    near = np.exp(-(distances**2) / (2 * radius**2))
    softness = np.concatenate([np.zeros(len(x)), _SOFTNESS * near / (1 - near)])
    before, after = np.concatenate([x, held]), np.concatenate([y, held])
    with jax.enable_x64(True):
        spline = thin_plate_fit(
            *(np.float64(a) for a in (before, after)), smoothness=softness
        )
    return spline.astype("float32")


def _spread(points: np.ndarray) -> float:
    """The standard deviation along the direction in which they vary least."""
    centred = points - points.mean(axis=0)
    least = np.linalg.eigvalsh(centred.T @ centred / len(points))[0]
    return float(np.sqrt(np.maximum(least, 0)))


def _as_pairs(edits: Any) -> tuple[np.ndarray, np.ndarray]:
    """The colours before and after, (k, 3), in [0, 1]."""
    if isinstance(edits, Mapping):
        sides = list(edits.keys()), list(edits.values())
        return _as_colours(sides[0]), _as_colours(sides[1])
    before, after = edits
    return _as_colours(before), _as_colours(after)


def _as_colours(colours: Any) -> np.ndarray:
    if isinstance(colours, list):
        rows = [_as_colour(colour) for colour in colours]
        return np.array(rows, np.float32).reshape(-1, 3)
    array = np.asarray(colours)
    return np.stack([_as_colour(row) for row in array.reshape(-1, array.shape[-1])])


def _as_colour(colour: Any) -> np.ndarray:
    """One colour in [0, 1], from "#rrggbb", "#rgb", integers or floats."""
    if isinstance(colour, str):
        found = _HEX.fullmatch(colour.strip())
        if not found:
            raise ValueError(
                f"a colour must be written as #rrggbb; got {colour!r:.40}."
            )
        digits = found[1] if len(found[1]) == 6 else "".join(2 * c for c in found[1])
        return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    values = np.asarray(colour)
    top = 255 if values.dtype.kind in "iu" else 1
    is_colour = values.shape == (3,) and values.dtype.kind in "iuf"
    if not is_colour or not (values >= 0).all() or not (values <= top).all():
        raise ValueError(
            "a colour must be three numbers, integers from 0 to 255 or floats from 0 "
            f"to 1, or #rrggbb; got {colour!r:.60}."
        )
    return values / top
