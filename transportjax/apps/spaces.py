"""Colour spaces: encoded and linear sRGB, XYZ, CIELAB, OKLab, Y'CbCr.

All functions act on the last axis, which holds three channels, and are differentiable
bijections of all of R^3: negative and super-white colours go there and back.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_unit_colours, check_three_channels

# x and y of the primaries and of the white point D65, IEC 61966-2-1
_PRIMARIES = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
_WHITE = np.array([0.3127, 0.3290])

# the two pieces of the sRGB curve cross here; at the 0.04045 of the standard, where its
# constants are rounded, the curve jumps by 2e-9 and has no inverse
_JOINT = 0.04044823627710819
_LINEAR_JOINT = _JOINT / 12.92

_LAB_JOINT = 6 / 29

# Ottosson (2020), rows sum to one (LMS of white) and to (1, 0, 0)
_LMS_FROM_LINEAR = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB_FROM_LMS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

_RED_LUMA, _BLUE_LUMA = 0.2126, 0.0722  # Rec. 709
_YCBCR_FROM_SRGB = np.array(
    [
        [_RED_LUMA, 1 - _RED_LUMA - _BLUE_LUMA, _BLUE_LUMA],
        [-_RED_LUMA, _RED_LUMA + _BLUE_LUMA - 1, 1 - _BLUE_LUMA],
        [1 - _RED_LUMA, _RED_LUMA + _BLUE_LUMA - 1, -_BLUE_LUMA],
    ]
) / np.array([[1], [2 * (1 - _BLUE_LUMA)], [2 * (1 - _RED_LUMA)]])


def _xyz(chromaticities: np.ndarray) -> np.ndarray:
    """XYZ of luminance one from x and y, on the last axis."""
    x, y = chromaticities[..., 0], chromaticities[..., 1]
    return np.stack([x / y, np.ones_like(x), (1 - x - y) / y], axis=-1)


_WHITE_XYZ = _xyz(_WHITE)
_XYZ_FROM_LINEAR = _xyz(_PRIMARIES).T * np.linalg.solve(_xyz(_PRIMARIES).T, _WHITE_XYZ)


def _conversion(function: Callable[[Array], Array]) -> Callable[[ArrayLike], Array]:
    """`function` with checks and compiled; half precision works in float32."""
    compiled = jax.jit(function)

    @functools.wraps(function)
    def checked(colours: ArrayLike) -> Array:
        colours = as_unit_colours("colours", colours)
        check_three_channels("colours", colours.shape)
        if colours.dtype.itemsize < 4:
            return compiled(colours.astype(jnp.float32)).astype(colours.dtype)
        return compiled(colours)

    return checked


def _times(matrix: np.ndarray, colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """`matrix` times every colour, in full precision on every device.

    Written out, it fuses with what stands around it; a product of matrices does not.
    """
    columns = jnp.asarray(matrix.T, colours.dtype)
    first, second, third = (
        _like(columns[j], colours) * colours[..., j, None] for j in range(3)
    )
    return first + second + third


def _like(
    vector: np.ndarray | Array, colours: Float[Array, "*n 3"]
) -> Float[Array, "*n 3"]:
    """One value for each channel, in the shape of `colours`."""
    return jnp.broadcast_to(jnp.asarray(vector, colours.dtype), colours.shape)


@_conversion
def srgb_to_linear(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Linear sRGB from encoded sRGB, white at 1; odd: f(-c) = -f(c).

    The curve of the standard, with its two pieces joined where they meet, which is
    1.8e-6 below the rounded joint of the standard.

    Examples:
        >>> srgb_to_linear(jnp.array([0.0, 0.5, 1.0])).round(4).tolist()
        [0.0, 0.21..., 1.0]

    References:
        IEC 61966-2-1:1999, Default RGB colour space - sRGB.
    """
    size = jnp.abs(colours)
    small = size <= _JOINT
    curve = ((jnp.where(small, 1, size) + 0.055) / 1.055) ** 2.4
    return jnp.where(small, colours / 12.92, jnp.sign(colours) * curve)


@_conversion
def linear_to_srgb(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Encoded sRGB from linear sRGB; the inverse of `srgb_to_linear`."""
    size = jnp.abs(colours)
    small = size <= _LINEAR_JOINT
    curve = 1.055 * jnp.where(small, 1, size) ** (1 / 2.4) - 0.055
    return jnp.where(small, colours * 12.92, jnp.sign(colours) * curve)


@_conversion
def linear_to_xyz(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """CIE XYZ, Y of white at 1, from linear sRGB."""
    return _times(_XYZ_FROM_LINEAR, colours)


@_conversion
def xyz_to_linear(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Linear sRGB from CIE XYZ, Y of white at 1."""
    return _times(np.linalg.inv(_XYZ_FROM_LINEAR), colours)


@_conversion
def xyz_to_lab(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """CIELAB from CIE XYZ: L in [0, 100], white D65.

    The straight piece of the cube root near zero goes on below zero, which makes the
    map a bijection, with a derivative everywhere.

    References:
        CIE 15:2004, Colorimetry, section 8.2.1.
    """
    ratio = colours / _like(_WHITE_XYZ, colours)
    small = ratio <= _LAB_JOINT**3
    root = jnp.cbrt(jnp.where(small, 1, ratio))
    x, y, z = jnp.moveaxis(
        jnp.where(small, ratio / (3 * _LAB_JOINT**2) + 4 / 29, root), -1, 0
    )
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@_conversion
def lab_to_xyz(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """CIE XYZ from CIELAB; the inverse of `xyz_to_lab`."""
    lightness, a, b = jnp.moveaxis(colours, -1, 0)
    y = (lightness + 16) / 116
    f = jnp.stack([y + a / 500, y, y - b / 200], axis=-1)
    ratio = jnp.where(f <= _LAB_JOINT, 3 * _LAB_JOINT**2 * (f - 4 / 29), f**3)
    return ratio * _like(_WHITE_XYZ, colours)


@_conversion
def linear_to_oklab(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """OKLab, L of white at 1, from linear sRGB.

    The derivative of the cube root at zero, that is at black, is set to zero.

    References:
        Ottosson (2020), A perceptual color space for image processing.
    """
    lms = _times(_LMS_FROM_LINEAR, colours)
    zero = lms == 0
    root = jnp.where(zero, 0, jnp.cbrt(jnp.where(zero, 1, lms)))
    return _times(_OKLAB_FROM_LMS, root)


@_conversion
def oklab_to_linear(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Linear sRGB from OKLab; the inverse of `linear_to_oklab`."""
    lms = _times(np.linalg.inv(_OKLAB_FROM_LMS), colours) ** 3
    return _times(np.linalg.inv(_LMS_FROM_LINEAR), lms)


@_conversion
def srgb_to_lab(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """CIELAB (D65) from encoded sRGB.

    Examples:
        >>> [round(c, 1) for c in srgb_to_lab(jnp.array([1.0, 0.0, 0.0])).tolist()]
        [53.2, 80.1, 67.2]
    """
    return xyz_to_lab(linear_to_xyz(srgb_to_linear(colours)))


@_conversion
def lab_to_srgb(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Encoded sRGB from CIELAB (D65), not clipped."""
    return linear_to_srgb(xyz_to_linear(lab_to_xyz(colours)))


@_conversion
def srgb_to_oklab(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """OKLab from encoded sRGB."""
    return linear_to_oklab(srgb_to_linear(colours))


@_conversion
def oklab_to_srgb(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Encoded sRGB from OKLab, not clipped."""
    return linear_to_srgb(oklab_to_linear(colours))


@_conversion
def srgb_to_ycbcr(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Y'CbCr of Rec. 709 from encoded sRGB: Y' in [0, 1], Cb and Cr in [-1/2, 1/2].

    References:
        ITU-R BT.709-6 (2015), section 3.
    """
    return _times(_YCBCR_FROM_SRGB, colours)


@_conversion
def ycbcr_to_srgb(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Encoded sRGB from Y'CbCr of Rec. 709, not clipped."""
    return _times(np.linalg.inv(_YCBCR_FROM_SRGB), colours)


@_conversion
def _unchanged(colours: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    return colours


# name: (from encoded sRGB, back to encoded sRGB)
SPACES: dict[str, tuple[Callable[[ArrayLike], Array], Callable[[ArrayLike], Array]]] = {
    "rgb": (_unchanged, _unchanged),
    "linear": (srgb_to_linear, linear_to_srgb),
    "lab": (srgb_to_lab, lab_to_srgb),
    "oklab": (srgb_to_oklab, oklab_to_srgb),
    "ycbcr": (srgb_to_ycbcr, ycbcr_to_srgb),
}
