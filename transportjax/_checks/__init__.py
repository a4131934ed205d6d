"""Every error that a user can meet is worded in this room.

Shapes, dtypes and options are checked always; values (NaN, negative weights) whenever
the array is concrete, because a traced array has no values to look at.
"""

from .clouds import (
    check_ascending as check_ascending,
    check_batch as check_batch,
    check_batches as check_batches,
    check_clouds as check_clouds,
    check_counts as check_counts,
    check_dimension as check_dimension,
    check_directions as check_directions,
    check_levels as check_levels,
    check_points as check_points,
    check_profiles as check_profiles,
    check_ranks as check_ranks,
    check_samples as check_samples,
    check_sortable as check_sortable,
    check_spread as check_spread,
    check_weights as check_weights,
)
from .maps import (
    check_affine as check_affine,
    check_bijection as check_bijection,
    check_event as check_event,
    check_grid as check_grid,
    check_json as check_json,
    check_knots as check_knots,
    check_metadata as check_metadata,
    check_moments as check_moments,
    check_orthonormal as check_orthonormal,
    check_saveable as check_saveable,
    check_slopes as check_slopes,
    check_stacked as check_stacked,
    check_storable as check_storable,
)
from .pictures import (
    as_unit_colours as as_unit_colours,
    check_colour_table as check_colour_table,
    check_function_of_colours as check_function_of_colours,
    check_mask as check_mask,
    check_picture as check_picture,
    check_pixels as check_pixels,
    check_stored_dtype as check_stored_dtype,
    check_stored_picture as check_stored_picture,
    check_three_channels as check_three_channels,
    check_title as check_title,
)
from .values import (
    as_float as as_float,
    as_float_dtype as as_float_dtype,
    check_at_most as check_at_most,
    check_choice as check_choice,
    check_count as check_count,
    check_finite as check_finite,
    check_interval as check_interval,
    check_number as check_number,
    check_range as check_range,
    check_same_length as check_same_length,
    common_float as common_float,
    exact_float_dtype as exact_float_dtype,
    is_concrete as is_concrete,
)
