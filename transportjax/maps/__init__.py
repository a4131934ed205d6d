"""Maps of one event, as pytrees: bijections to fit, to train, to save, to apply."""

from .affine import (
    Affine as Affine,
    gaussian_map as gaussian_map,
    monge_kantorovich_linear as monge_kantorovich_linear,
)
from .bijection import AbstractBijection as AbstractBijection
from .cdl import ColourDecision as ColourDecision
from .compose import Chain as Chain, Invert as Invert, Scan as Scan
from .conditioner import Conditioner as Conditioner
from .container import ModelFileError as ModelFileError, read_header as read_header
from .continuous import (
    ContinuousMap as ContinuousMap,
    VelocityField as VelocityField,
)
from .coupling import (
    AffineCoupling as AffineCoupling,
    SplineCoupling as SplineCoupling,
)
from .grid import MonotoneGrid as MonotoneGrid
from .io import load as load, save as save
from .mixture import GaussianMixtureMap as GaussianMixtureMap
from .monotone import MonotoneLinear as MonotoneLinear
from .normals import transport_normals as transport_normals
from .radial import GaussianWarp as GaussianWarp
from .rigid import Rigid as Rigid
from .roles import given as given, trainable_leaves as trainable_leaves
from .rotations import (
    Cayley as Cayley,
    Householder as Householder,
    Permutation as Permutation,
)
from .similarity import Similarity as Similarity
from .sliced import SlicedMap as SlicedMap
from .sliced_step import SlicedStep as SlicedStep
from .spline import RationalQuadraticSpline as RationalQuadraticSpline
from .supports import SupportMap as SupportMap
from .tails import LogTails as LogTails
from .thin_plate import (
    ThinPlateSpline as ThinPlateSpline,
    thin_plate_fit as thin_plate_fit,
)
from .warp import AbstractWarp as AbstractWarp, control_grid as control_grid
