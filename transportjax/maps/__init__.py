"""Maps of one event, as pytrees: bijections to fit, to train, to save, to apply."""

from .affine import (
    Affine as Affine,
    gaussian_map as gaussian_map,
    monge_kantorovich_linear as monge_kantorovich_linear,
)
from .bijection import AbstractBijection as AbstractBijection
from .cdl import ColourDecision as ColourDecision
from .compose import Chain as Chain, Invert as Invert, Scan as Scan
from .container import ModelFileError as ModelFileError, read_header as read_header
from .grid import MonotoneGrid as MonotoneGrid
from .io import load as load, save as save
from .monotone import MonotoneLinear as MonotoneLinear
from .normals import transport_normals as transport_normals
from .radial import GaussianWarp as GaussianWarp
from .rigid import Rigid as Rigid
from .sliced import SlicedMap as SlicedMap
from .sliced_step import SlicedStep as SlicedStep
from .spline import RationalQuadraticSpline as RationalQuadraticSpline
from .thin_plate import (
    ThinPlateSpline as ThinPlateSpline,
    thin_plate_fit as thin_plate_fit,
)
from .warp import AbstractWarp as AbstractWarp, control_grid as control_grid
