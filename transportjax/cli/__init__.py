"""The command line."""

from .command import main as main
