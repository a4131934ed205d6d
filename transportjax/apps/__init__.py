"""Pictures, video, shapes and samples: arrays or files in, arrays or files out."""

from transportjax._files import atomic_write as atomic_write

from .cdl import (
    CdlError as CdlError,
    as_colour_map as as_colour_map,
    fit_cdl as fit_cdl,
    read_cdl as read_cdl,
    write_cdl as write_cdl,
)
from .clips import (
    DeflickerReport as DeflickerReport,
    clip_frames as clip_frames,
    deflicker_clip as deflicker_clip,
    grade_clip as grade_clip,
    is_clip as is_clip,
    sample_clip as sample_clip,
)
from .colour import (
    colour_transfer as colour_transfer,
    fit_colour_map as fit_colour_map,
    palette_distance as palette_distance,
    restore_grain as restore_grain,
)
from .colour_map import (
    ColourMap as ColourMap,
    apply_colour_map as apply_colour_map,
    export_cube as export_cube,
    load_colour_map as load_colour_map,
    save_colour_map as save_colour_map,
)
from .equalise import (
    equalise as equalise,
    fit_equaliser as fit_equaliser,
)
from .flicker import (
    SteadyLaw as SteadyLaw,
    deflicker as deflicker,
    frame_curve as frame_curve,
    frame_law as frame_law,
    stack_laws as stack_laws,
    steady_frame as steady_frame,
    steady_law as steady_law,
)
from .flicker_averages import steady_quantiles as steady_quantiles
from .flicker_curves import (
    FrameLaw as FrameLaw,
    find_cuts as find_cuts,
    flicker_curve as flicker_curve,
)
from .images import (
    Metadata as Metadata,
    Picture as Picture,
    PictureError as PictureError,
    from_unit as from_unit,
    read_picture as read_picture,
    to_unit as to_unit,
    write_picture as write_picture,
)
from .lut import (
    Lut as Lut,
    LutError as LutError,
    apply_lut as apply_lut,
    bake as bake,
    read_cube as read_cube,
    table_error as table_error,
    write_cube as write_cube,
)
from .palette import (
    edit_palette as edit_palette,
    picture_palette as picture_palette,
)
from .picture_law import (
    PictureLaw as PictureLaw,
    fit_picture_law as fit_picture_law,
    load_picture_law as load_picture_law,
    picture_log_likelihood as picture_log_likelihood,
    sample_pictures as sample_pictures,
    save_picture_law as save_picture_law,
)
from .picture_sets import (
    PictureSet as PictureSet,
    read_pictures as read_pictures,
    write_pictures as write_pictures,
)
from .registration import (
    ShapeMap as ShapeMap,
    apply_shape_map as apply_shape_map,
    fit_shape_map as fit_shape_map,
    load_shape_map as load_shape_map,
    save_shape_map as save_shape_map,
    shape_distance as shape_distance,
)
from .regrain import regrain as regrain
from .sampling import (
    TableLaw as TableLaw,
    fit_table_law as fit_table_law,
    load_table_law as load_table_law,
    sample_table as sample_table,
    save_table_law as save_table_law,
    table_log_likelihood as table_log_likelihood,
)
from .shape import Shape as Shape, ShapeError as ShapeError
from .shapes import (
    read_shape as read_shape,
    write_shape as write_shape,
)
from .spaces import (
    SPACES as SPACES,
    lab_to_srgb as lab_to_srgb,
    lab_to_xyz as lab_to_xyz,
    linear_to_oklab as linear_to_oklab,
    linear_to_srgb as linear_to_srgb,
    linear_to_xyz as linear_to_xyz,
    oklab_to_linear as oklab_to_linear,
    oklab_to_srgb as oklab_to_srgb,
    srgb_to_lab as srgb_to_lab,
    srgb_to_linear as srgb_to_linear,
    srgb_to_oklab as srgb_to_oklab,
    srgb_to_ycbcr as srgb_to_ycbcr,
    xyz_to_lab as xyz_to_lab,
    xyz_to_linear as xyz_to_linear,
    ycbcr_to_srgb as ycbcr_to_srgb,
)
from .tables import (
    Table as Table,
    TableError as TableError,
    read_table as read_table,
    write_table as write_table,
)
from .video import (
    VideoError as VideoError,
    video_frames as video_frames,
    video_rate as video_rate,
)
from .video_write import rewrite_video as rewrite_video
