"""Numbers and shapes of pictures in memory."""

import numpy as np
import pytest
from pictures import RNG

from transportjax.apps.images import Picture, from_unit, to_unit


def test_unit_values_are_correctly_rounded_and_come_back():
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        stored = np.arange(top + 1, dtype=dtype)
        unit = to_unit(stored)
        assert unit.dtype == np.float32
        np.testing.assert_array_equal(unit, (stored / np.float64(top)).astype("f4"))
        np.testing.assert_array_equal(from_unit(unit, dtype), stored)


def test_from_unit_rounds_halves_to_even_and_all_else_to_nearest():
    # the values beside (k + 1/2) / 255 in float32, with products exact in float64
    halves = ((np.arange(255) + 0.5) / 255).astype(np.float32)
    for x in (halves, np.nextafter(halves, 0), np.nextafter(halves, np.float32(1))):
        expected = [round(float(v) * 255) for v in x]  # Python rounds half to even
        np.testing.assert_array_equal(from_unit(x, np.uint8), expected)
    # a float32 product would be rounded to these halves, and then to the even neighbour
    single = np.rint(halves * np.float32(255)).astype(int)
    assert (single != from_unit(halves, np.uint8)).any()
    np.testing.assert_array_equal(
        from_unit(np.array([0.5, 1.5, 2.5, 253.5]) / 255, np.uint8), [0, 2, 2, 254]
    )


def test_from_unit_clips_and_keeps_floats():
    odd = np.array([-3, -0.0, 1.0, 7, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(
        from_unit(odd, np.uint16), [0, 0, 65535, 65535, 65535, 0, 0]
    )
    np.testing.assert_array_equal(from_unit(odd, np.float32), odd.astype("f4"))
    np.testing.assert_array_equal(to_unit(odd), odd.astype("f4"))
    large = RNG.uniform(size=(700, 701)).astype("f4")  # more than one block
    np.testing.assert_array_equal(
        from_unit(large, np.uint8), np.rint(large.astype("f8") * 255)
    )


def test_other_dtypes_and_shapes_are_refused():
    for wrong in (np.int32, np.int8, np.bool_, np.uint32):
        with pytest.raises(ValueError, match="uint8, uint16 or float"):
            to_unit(np.zeros(3, wrong))
        with pytest.raises(ValueError, match="uint8, uint16 or float"):
            from_unit(np.zeros(3), wrong)
    good = np.zeros((2, 3, 3), np.uint8)
    for pixels, alpha, words in (
        (good[..., 0], None, r"got \(2, 3\)"),
        (np.zeros((2, 3, 4), np.uint8), None, "`alpha` apart"),
        (good[:0], None, "not empty"),
        (good.astype(np.int32), None, "int32"),
        (good, np.zeros((2, 3), np.uint16), "of uint8 like"),
        (good, np.zeros((3, 2), np.uint8), r"shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            Picture(pixels, alpha)
