"""Maps and flows as objects of other libraries, which are imported on first use."""

from .bijections import (
    ForeignBijection as ForeignBijection,
    from_flowjax as from_flowjax,
    to_distrax as to_distrax,
    to_flowjax as to_flowjax,
)
from .distributions import (
    to_distrax_distribution as to_distrax_distribution,
    to_flowjax_distribution as to_flowjax_distribution,
    to_numpyro as to_numpyro,
)
from .estimator import FlowEstimator as FlowEstimator
