"""Equalisation: the tones of a picture spread evenly from black to white.

The tones are moved onto the uniform law, by one map for the whole picture or by a map
for each of its tiles. All kinds of numbers go through the same few steps: a tone is
shared out between two of equally spaced places, the masses there make the map, and the
map is interpolated between the places. So the tones of 8-bit pictures keep their exact
mid-ranks, and everything has a derivative.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    check_choice,
    check_count,
    check_finite_pixels,
    check_number,
    check_pixels,
    check_pixels_left,
    is_concrete,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import MonotoneLinear, SlicedMap
from transportjax.onedim import uniform_transfer

from .arrays import join_alpha, soft_mask, split_alpha
from .colour_map import ColourMap
from .tone_curves import (
    BLOCK,
    count_masses,
    each_block,
    through_curves,
    tile_grid,
    tones_of,
    with_tones,
)

EQUALISED_SPACES = ("tone", "rgb")

_MOST_TILES = 32
# Places: those of 8 bits, and between them too where no limit smooths the map. A limit
# has to see the same picture in 8 bits and in floats alike, so it sees those of 8 bits.
_COARSE, _FINE = 256, 255 * 16 + 1


def equalise(
    picture: Any,
    *,
    limit: ArrayLike = 3.0,
    tiles: int | None = None,
    space: str = "tone",
    strength: ArrayLike = 1.0,
    mask: Any = None,
) -> Any:
    """The picture with its tones spread evenly from black to white.

    Each tone goes to the share of pixels that are darker, half of its equals counted:
    the optimal transport onto the uniform law. With a limit the map is less steep than
    that where many pixels have nearly one tone, such as in skies, where else noise and
    steps of 8 bits would show; black then stays black, and white white.

    With `tiles`, the map is another one in each part of the picture, blended in between
    (contrast limited adaptive equalisation): shadows and lights show their details each
    by themselves.

    A picture of one tone becomes middle grey without a limit, since the mean of a
    uniform law is 1/2; with one it is moved by less than `limit` 8-bit levels.

    Differentiable where the picture is traced (`jax.grad`, `jax.jit`, `jax.vmap`): in
    the picture, through the map and through its fit, and in `limit` and `strength`. It
    is not so where a tone passes a place (a multiple of 1/255 with a limit, of 1/4080
    without) or a slope reaches the limit. To hold the map, use `fit_equaliser`.

    Args:
        picture: (h, w) or (h, w, c) with c = 1, 3, or with alpha 2, 4; uint8, uint16,
            or float with encoded values, [0, 1] being black to white. Tones outside
            count as black and white, and stay as far outside. Alpha is left alone;
            what is transparent does not count.
        limit: the largest slope of the maps, at least 1, where nothing changes; 2 is
            mild, and `jnp.inf` is none. The 3 restores what covers a third of the
            range of tones.
        tiles: number of square tiles along the longer side, at most 32, 8 being
            usual; None: one map for all.
        space: "tone" moves the luma, and colours with it as if the light were another;
            "rgb" moves each channel by itself, which takes away a cast, and colours
            that are meant too.
        strength: share of the change, 0 (none, bit for bit) to 1.
        mask: (h, w), where to learn and apply the map; soft if float.

    Returns:
        A picture like `picture`: the same shape and dtype, integers rounded to nearest.

    Raises:
        ValueError: arrays that are no pictures, NaN or infinity, unknown names, bad
            numbers, an empty mask.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import transportjax as tj
        >>> foggy = np.linspace(120, 180, 61).astype(np.uint8).reshape(1, 61)
        >>> clear = tj.equalise(foggy, limit=jnp.inf)
        >>> print(clear[0, :3], clear[0, -3:])
        [ 2  6 10] [245 249 253]

    References:
        Pizer et al. (1987), "Adaptive histogram equalization and its variations",
        Computer Vision, Graphics, and Image Processing 39. Zuiderveld (1994), "Contrast
        limited adaptive histogram equalization", Graphics Gems IV.
    """
    _check_options(limit, space, strength)
    if tiles is not None:
        check_count("tiles", tiles)
        check_number("tiles", tiles, 1, _MOST_TILES)
    if not all(map(is_concrete, (picture, limit, strength))):
        picture = jnp.asarray(picture)
        return _equalise_traced(picture, limit, tiles, space, strength, mask)
    pixels, alpha, share, space = _prepared(picture, space, mask)
    if strength == 0:
        return join_alpha(pixels.copy(), alpha, picture)
    grid, num_tables = tile_grid(pixels.shape, tiles)
    counts = _counting(share, alpha)
    curves = _fit(pixels, counts, grid, limit, space, num_tables)
    flat = pixels.reshape(-1, pixels.shape[-1])

    def move(start: np.ndarray, block: np.ndarray, share: Any) -> Array:
        tones = tones_of(block, space)
        moved = through_curves(tones, start, grid, curves, num_tables)
        return with_tones(block, moved, share, strength, space)

    out = np.empty_like(flat)
    for start, moved in each_block(move, flat, share, pixels.shape[1]):
        part = out[start : start + BLOCK]
        part[...] = moved[: len(part)]
        if share is not None:  # doubles have come back as singles
            same = share[start : start + BLOCK] == 0
            part[same] = flat[start : start + BLOCK][same]
    return join_alpha(out.reshape(pixels.shape), alpha, picture)


def fit_equaliser(
    picture: Any,
    *,
    limit: ArrayLike = 3.0,
    space: str = "tone",
    strength: ArrayLike = 1.0,
    mask: Any = None,
) -> ColourMap:
    """The map of `equalise` without tiles, to be kept, inverted, exported, or held.

    Args:
        picture: the picture to learn from, as for `equalise`, not traced.
        limit: the largest slope.
        space: "tone" or "rgb".
        strength: share of the change.
        mask: (h, w), True (or > 0.5) where the picture counts.

    Returns:
        The map, for `apply_colour_map`, `save_colour_map` and `export_cube`; called
        with colours (n, c) it is differentiable in them.

    Raises:
        ValueError: as for `equalise`.

    Example:
        >>> import numpy as np
        >>> from transportjax.apps import apply_colour_map, fit_equaliser
        >>> dark = np.arange(100, dtype=np.uint8).reshape(10, 10)
        >>> apply_colour_map(fit_equaliser(dark), dark).max()
        np.uint8(253)
    """
    _check_options(limit, space, strength)
    pixels, alpha, share, space = _prepared(picture, space, mask)
    grid, num_tables = tile_grid(pixels.shape, None)
    counts = _counting(share, alpha)
    (curves,) = _fit(pixels, counts, grid, limit, space, num_tables)
    places = jnp.linspace(0, 1, curves.shape[-1], dtype=curves.dtype)
    rows = jax.vmap(MonotoneLinear.from_knots, in_axes=(None, 0))(places, curves)
    axes = jnp.eye(len(curves), dtype=curves.dtype)
    return ColourMap(SlicedMap(axes, rows), jnp.asarray(strength, jnp.float32), space)


def _check_options(limit: ArrayLike, space: str, strength: ArrayLike) -> None:
    check_choice("space", space, EQUALISED_SPACES)
    check_number("limit", limit, 1)
    check_number("strength", strength, 0, 1)


def _prepared(
    picture: Any, space: str, mask: Any
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]:
    """The colours, the alpha, the mask (n,), and the space that suits the channels."""
    pixels, alpha = split_alpha("picture", picture)
    check_finite_pixels("picture", pixels)
    share = None if mask is None else soft_mask("mask", mask, pixels).reshape(-1)
    return pixels, alpha, share, "grey" if pixels.shape[-1] == 1 else space


def _counting(share: Any, alpha: Any) -> Any:
    """The pixels of which the tones count, (n,): of the mask, and not transparent.

    If all are transparent, all count. None for all.
    """
    counts = None if share is None else share > 0.5
    if alpha is None:
        return counts
    seen = alpha.reshape(-1) > 0
    seen = seen | ~seen.any()
    return seen if counts is None else counts & seen


def _fit(
    pixels: np.ndarray,
    counts: np.ndarray | None,
    grid: np.ndarray,
    limit: ArrayLike,
    space: str,
    num_tables: int,
) -> Float[Array, "tables k places"]:
    """The curves of all tiles, from all pixels that count."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    num_places = _FINE if is_concrete(limit) and np.isinf(limit) else _COARSE

    def count(start: np.ndarray, block: np.ndarray, counts: Any) -> Array:
        tones = tones_of(block, space)
        return count_masses(tones, counts, start, grid, num_tables, num_places)

    total, dtype = np.zeros(()), np.dtype(np.float32)
    for _, masses in each_block(count, flat, counts, pixels.shape[1]):
        total, dtype = total + masses.astype(np.float64), masses.dtype
    check_pixels_left(int(np.sum(total) > 0))
    return _curves(jnp.asarray(total, dtype), limit)


def _curves(
    masses: Float[Array, "tables k places"], limit: ArrayLike
) -> Float[Array, "tables k places"]:
    """The maps of all tiles. One more pixel, of the whole picture's law, in each."""
    everywhere = jnp.sum(masses, axis=0, keepdims=True)
    everywhere = everywhere / jnp.sum(everywhere, axis=-1, keepdims=True)
    return uniform_transfer(masses + everywhere, limit=limit)


@explicit_mesh_guard
def _equalise_traced(
    picture: Array,
    limit: ArrayLike,
    tiles: int | None,
    space: str,
    strength: ArrayLike,
    mask: Any,
) -> Array:
    """The same on a traced picture: in one piece."""
    check_pixels("picture", picture)
    if picture.dtype == jnp.bool_:
        picture = picture.astype(jnp.uint8) * jnp.uint8(255)
    pixels = picture if picture.ndim == 3 else picture[:, :, None]
    num = {2: 1, 4: 3}.get(pixels.shape[-1], pixels.shape[-1])
    share = None
    if mask is not None:
        share = jnp.asarray(soft_mask("mask", mask, pixels).reshape(-1))
    space = "grey" if num == 1 else space
    grid, num_tables = tile_grid(pixels.shape, tiles)
    flat, start = pixels[..., :num].reshape(-1, num), np.zeros(2, np.int32)
    num_places = _FINE if is_concrete(limit) and np.isinf(limit) else _COARSE
    tones = tones_of(flat, space)
    alpha = pixels[..., num:] if pixels.shape[-1] > num else None
    counts = _counting(share, alpha)
    masses = count_masses(tones, counts, start, grid, num_tables, num_places)
    tones = through_curves(tones, start, grid, _curves(masses, limit), num_tables)
    moved = with_tones(flat, tones, share, strength, space)
    moved = moved.reshape(*pixels.shape[:2], num)
    return jnp.concatenate([moved, pixels[..., num:]], axis=-1).reshape(picture.shape)
