"""Colour transfer: the colours of one picture given to another."""

import concurrent.futures
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    check_choice,
    check_count,
    check_method_in_space,
    check_number,
    check_paired_pictures,
    check_pixels_left,
)
from transportjax.maps import AbstractBijection, gaussian_map
from transportjax.sliced import (
    sliced_wasserstein,
    spiral_directions,
)
from transportjax.solvers import idt, sliced_flow

from .arrays import hard_mask, join_alpha, split_alpha
from .cdl import fit_cdl
from .colour_map import (
    COLOUR_SPACES,
    ColourMap,
    apply_found,
    channels,
    in_blocks,
)
from .l2_colour import NUM_PAIRS, fit_l2, fit_l2_pairs, fit_l2_published
from .picture import from_unit, to_unit
from .reduction import find_distinct, sample_colours, valid_colours
from .regrain import regrain

METHODS = ("idt", "flow", "mkl", "cdl", "l2", "l2-published")

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, encoded values
_SAMPLE_SIZES = {"idt": 1 << 14, "flow": 1 << 13, "cdl": 1 << 11}
_SAMPLE_SIZES |= {"l2": 1 << 13, "l2-published": 1 << 13}
_NUM_STEPS = {"idt": 12, "flow": 24, "mkl": 1, "cdl": 200, "l2": 200}
_NUM_STEPS |= {"l2-published": 1000}


def fit_colour_map(
    source: Any,
    palette: Any,
    *,
    method: str = "idt",
    space: str = "rgb",
    strength: float = 1.0,
    num_steps: int | None = None,
    seed: int = 0,
    mask: Any = None,
    palette_mask: Any = None,
    pairs: bool = False,
) -> ColourMap:
    """The map of colours that gives `source` the colours of `palette`.

    Fitted on a stratified sample of the colours of both pictures, so that the time and
    the compiled program are the same for all sizes.

    Args:
        source: picture, (h, w) or (h, w, c) with c = 1, 3, or with alpha 2, 4; uint8,
            uint16, or float with encoded sRGB values, [0, 1] being black to white.
        palette: picture of any size and of the same kinds.
        method: "idt", iterative distribution transfer: reaches the palette; "flow",
            the gradient flow of the sliced distance: reaches it too, in more and
            smaller moves, and changes colours less; "mkl", the linear optimal map
            between Gaussians: smooth, keeps the look of the source; "cdl", the ten
            numbers of an ASC colour decision, which grading programs read; "l2", a
            thin plate spline that moves main colours onto main colours: smooth, and
            what one of the pictures has alone hardly counts; "l2-published", the
            same with the settings of Grogan and Dahyot (2019), to compare with.
        space: where the transfer takes place: "rgb", "linear" (light), "lab", "oklab";
            "luma" moves the lightness alone, "chroma" the colour alone (of CIELAB).
        strength: share of the displacement, 0 (no change) to 1.
        num_steps: steps of "idt" (None: 12), "flow" (24), "cdl" (200) or, at each of
            its levels, "l2" (200) or "l2-published" (1000).
        seed: of the sampling and of the directions.
        mask: (h, w), True (or > 0.5) where the source counts for the fit.
        palette_mask: the same for the palette.
        pairs: with "l2": `palette` shows what `source` does, pixel by pixel, in other
            colours. The map is fitted to these pairs, most of which must agree.

    Returns:
        The map. A grey source (c = 1) takes the luma of the palette.

    Raises:
        ValueError: arrays that are no pictures, unknown names, empty masks; "cdl" of a
            grey picture, or in another space than "rgb"; "l2" of one, or of "luma";
            "l2-published" in another space than "rgb" or "lab";
            pairs of pictures of different sizes.
    """
    check_choice("method", method, METHODS)
    check_choice("space", space, COLOUR_SPACES)
    check_number("strength", strength, 0, 1)
    num_steps = _NUM_STEPS[method] if num_steps is None else num_steps
    check_count("num_steps", num_steps)
    check_count("seed", seed, 0)
    source, _ = split_alpha("source", source)
    palette, _ = split_alpha("palette", palette)
    masks = (
        hard_mask("mask", mask, source),
        hard_mask("palette_mask", palette_mask, palette),
    )
    if source.shape[-1] == 1:
        space, palette = "grey", _luma(palette)
    elif palette.shape[-1] == 1:
        palette = np.repeat(palette, 3, axis=-1)
    check_method_in_space(method, space)
    if pairs:
        check_paired_pictures(method, source.shape, palette.shape)
    pictures = tuple(zip((source, palette), masks, strict=True))
    if pairs:
        fitted = _fit_pairs(method, pictures, space, num_steps, seed)
    elif method == "mkl":
        fitted = _fit_mkl(pictures, space)
    else:
        fitted = _fit_samples(method, pictures, space, num_steps, seed)
    return ColourMap(fitted, jnp.asarray(strength, jnp.float32), space)


_Masked = tuple[np.ndarray, np.ndarray | None]


def _luma(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.shape[-1] == 1 else (to_unit(pixels) @ _LUMA)[..., None]


def _fit_samples(
    method: str, pictures: tuple[_Masked, ...], space: str, num_steps: int, seed: int
) -> AbstractBijection:
    """From a stratified sample of each picture."""
    size = _SAMPLE_SIZES[method]

    def sample(picture: _Masked) -> np.ndarray:
        pixels, mask = picture
        return to_unit(sample_colours(pixels, size, seed=seed, mask=mask))

    with concurrent.futures.ThreadPoolExecutor() as pool:  # numpy lets go of the lock
        x, y = (_to_space(colours, space) for colours in pool.map(sample, pictures))
    key = jr.key(seed, impl="threefry2x32")
    if method == "cdl":
        return fit_cdl(x, y, key=key, num_steps=num_steps)
    if method == "l2":
        return fit_l2(x, y, key=key, num_steps=num_steps)
    if method == "l2-published":
        return fit_l2_published(x, y, key=key, space=space, num_steps=num_steps)
    if method == "flow":
        return sliced_flow(x, y, key=key, num_steps=num_steps).map
    # bins as fine as shadows need in linear light, or next to values far above white
    fine = space == "linear" or max(x.max(), y.max()) > 1
    num_bins = 4096 if fine and space in ("rgb", "grey", "linear") else 512
    return idt(x, y, key=key, num_steps=num_steps, num_bins=num_bins).map


def _fit_pairs(
    method: str, pictures: tuple[_Masked, ...], space: str, num_steps: int, seed: int
) -> AbstractBijection:
    """From random pixels of two pictures of one size, where both count."""
    counts = np.ones(pictures[0][0].shape[:2], bool)
    for pixels, mask in pictures:
        counts &= np.isfinite(pixels).all(axis=-1)
        counts &= True if mask is None else mask
    places = np.flatnonzero(counts)
    check_pixels_left(len(places))
    # with repetition where there are few, so that one program serves all pictures
    rng = np.random.default_rng(seed)
    chosen = rng.choice(places, NUM_PAIRS, replace=len(places) < NUM_PAIRS)
    x, y = (
        _to_space(to_unit(pixels.reshape(-1, pixels.shape[-1])[chosen]), space)
        for pixels, _ in pictures
    )
    if method == "l2":
        return fit_l2_pairs(x, y, num_steps=num_steps)
    key = jr.key(seed, impl="threefry2x32")
    return fit_l2_published(x, y, key=key, space=space, pairs=True, num_steps=num_steps)


def _fit_mkl(pictures: tuple[_Masked, ...], space: str) -> AbstractBijection:
    """From the mean and the covariance of the pixels."""
    moments = []
    for pixels, mask in pictures:
        flat = valid_colours(pixels, mask)
        flat = flat[:: max(1, len(flat) >> 20)]  # a million pixels are enough
        x = _to_space(to_unit(flat), space)
        mean = x.mean(axis=0, dtype=np.float64)
        moments += [mean, np.atleast_2d(np.cov((x - mean).T, ddof=min(1, len(x) - 1)))]
    return gaussian_map(*(jnp.asarray(m, jnp.float32) for m in moments))


def _to_space(colours: np.ndarray, space: str) -> np.ndarray:
    if space in ("rgb", "grey"):
        return colours.astype(np.float32)
    return in_blocks(lambda block: _channels(block, space), colours)


@eqx.filter_jit
def _channels(block: ArrayLike, space: str) -> Float[Array, "n k"]:
    return channels(jnp.asarray(block), space)


def colour_transfer(
    source: Any,
    palette: Any,
    *,
    method: str = "idt",
    space: str = "rgb",
    strength: float = 1.0,
    smoothness: float | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    mask: Any = None,
    palette_mask: Any = None,
    pairs: bool = False,
) -> Any:
    """The picture `source` with the colours of `palette`.

    `fit_colour_map`, `apply_colour_map` and, if asked for, `regrain` in one call; their
    docstrings say more.

    Args:
        source: picture: (h, w) or (h, w, c), uint8, uint16 or float in [0, 1].
        palette: picture of any size and kind.
        method: "idt", "flow", "mkl", "cdl", "l2" or "l2-published".
        space: "rgb", "linear", "lab", "oklab", "luma" or "chroma".
        strength: share of the change, 0 to 1.
        smoothness: if given, the grain and the gradients of the source are restored
            (1 is usual, larger keeps more of them).
        num_steps: steps of the method; None: as many as it needs.
        seed: makes the result reproducible; the same seed gives the same picture.
        mask: (h, w), where to learn and apply the transfer; soft if float.
        palette_mask: (h, w), where to learn the palette.
        pairs: with "l2", whether pixels correspond.

    Returns:
        A picture like `source`: the same shape and dtype.

    Raises:
        ValueError: arrays that are no pictures, unknown names, bad numbers.

    Example:
        >>> import numpy as np
        >>> import transportjax as tj
        >>> rng = np.random.default_rng(0)
        >>> source = rng.integers(0, 128, (40, 60, 3), dtype=np.uint8)
        >>> palette = rng.integers(100, 256, (30, 30, 3), dtype=np.uint8)
        >>> graded = tj.colour_transfer(source, palette)
        >>> graded.dtype, graded.shape, bool(abs(graded.mean() - palette.mean()) < 2)
        (dtype('uint8'), (40, 60, 3), True)
    """
    if smoothness is not None:
        check_number("smoothness", smoothness, 0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        picture, _ = split_alpha("source", source)
        found = pool.submit(find_distinct, picture)  # while the map is fitted
        fitted = fit_colour_map(
            source,
            palette,
            method=method,
            space=space,
            strength=strength,
            num_steps=num_steps,
            seed=seed,
            mask=mask,
            palette_mask=palette_mask,
            pairs=pairs,
        )
        graded = apply_found(fitted, source, mask, found.result())
    if smoothness is None:
        return graded
    return restore_grain(source, graded, smoothness=smoothness)


def restore_grain(source: Any, graded: Any, *, smoothness: float = 1.0) -> Any:
    """`graded` with the grain and the gradients of `source`; dtype and alpha are kept.

    Args:
        source: the picture before the transfer.
        graded: the picture after it, of the same shape and dtype.
        smoothness: weight of the gradients of `source`, >= 0.

    Returns:
        An array like `graded`.
    """
    original, _ = split_alpha("source", source)
    moved, alpha = split_alpha("graded", graded)
    kept = regrain(to_unit(original), to_unit(moved), smoothness=smoothness)
    return join_alpha(from_unit(np.asarray(kept), moved.dtype), alpha, graded)


def palette_distance(
    pixels: Any,
    palette: Any,
    *,
    mask: Any = None,
    palette_mask: Any = None,
) -> float:
    """How far the colours of a picture are from a palette, in 8-bit steps.

    The sliced 2-Wasserstein distance (the root) of two stratified samples of 16384
    colours along 64 directions, clipped to black and white; the luma for grey pictures.

    Args:
        pixels: picture, as for `colour_transfer`.
        palette: picture.
        mask: where `pixels` counts.
        palette_mask: where `palette` counts.

    Returns:
        The distance: 0 for equal palettes, 255 from black to white.
    """
    clouds = []
    for name, given, held in (
        ("mask", pixels, mask),
        ("palette_mask", palette, palette_mask),
    ):
        picture, _ = split_alpha(name.replace("mask", "pixels"), given)
        held = hard_mask(name, held, picture)
        sample = to_unit(sample_colours(picture, 1 << 14, mask=held))
        clouds.append(np.clip(sample.astype(np.float32), 0, 1))
    x, y = clouds
    if x.shape[1] != y.shape[1]:
        x, y = _luma(x), _luma(y)
    directions = jnp.ones((1, 1)) if x.shape[1] == 1 else spiral_directions(64)
    cost = _cost(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), directions)
    return 255 * float(cost) ** 0.5


@eqx.filter_jit
def _cost(
    x: Float[Array, "n c"], y: Float[Array, "m c"], directions: Float[Array, "p c"]
) -> Float[Array, ""]:
    return sliced_wasserstein(x, y, directions, p=2)
