"""Solvers: functions that return maps."""

from .gaussianise import gaussianise as gaussianise
from .idt import idt as idt
from .solution import Solution as Solution
