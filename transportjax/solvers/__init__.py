"""Solvers: functions that return maps."""

from .gaussianise import gaussianise as gaussianise
from .grey_levels import level_map as level_map
from .idt import idt as idt
from .minimise import (
    Minimisation as Minimisation,
    MinimiseState as MinimiseState,
    minimise as minimise,
)
from .register import register as register
from .sliced_flow import sliced_flow as sliced_flow
from .solution import Solution as Solution
