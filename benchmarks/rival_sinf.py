"""SINF, in PyTorch: fitted next to us, from a clone of its repository."""

import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from .tables import Data

_BLOCK = 5  # layers between two looks


def sinf_module() -> Any:
    """Its module `sinf.GIS`, from the folder that the environment variable SINF names.

    That imports everything; what reads its own data sets is left out, with the packages
    that it needs.

    Raises:
        ImportError: SINF is not set, or PyTorch or the module is not there.
    """
    folder = os.environ.get("SINF")
    if not folder:
        raise ImportError("SINF, a clone of its repository, is not set")
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules.setdefault("sinf.load_data", types.ModuleType("sinf.load_data"))
    return importlib.import_module("sinf.GIS")


def train_sinf(
    data: Data, look: Callable[[Callable[[Any], Any]], None], module: Any
) -> None:
    """Fits its Gaussianising flow (GIS) with its defaults, until it stops by itself.

    One thread, as the other peer in PyTorch.

    Args:
        data: what to fit to and to stop by.
        look: called after every few layers with the log-density of the flow as of its
            best number of layers; what it raises ends the run.
        module: from `sinf_module`.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    watched = _Watched(torch.from_numpy(data.held), look)
    plain = module.SINF

    class Model(plain):
        def add_layer(self, layer: Any, position: Any = None) -> Any:
            super().add_layer(layer, position)
            watched.follow(layer)
            return self

    module.SINF = Model  # of which it makes one
    try:
        rows, held = (torch.from_numpy(x.copy()) for x in (data.train, data.held))
        module.GIS(rows, held, verbose=False, nocuda=True)
    finally:
        module.SINF = plain


class _Watched:
    """Carries the held-out and the test samples through the layers as they come."""

    def __init__(self, held: Any, look: Callable[[Callable[[Any], Any]], None]):
        self.sets = {"held": _Carried(held)}
        self.look = look
        self.layers: list[Any] = []
        self.best = -float("inf")

    def follow(self, layer: Any) -> None:
        self.layers.append(layer)
        if len(self.layers) == _BLOCK:
            self.look(self._judge)  # which counts no time
            self.layers = []

    def _judge(self, test: np.ndarray) -> np.ndarray:
        import torch

        if "test" not in self.sets:
            self.sets["test"] = _Carried(torch.from_numpy(test))
        for layer in self.layers:
            for carried in self.sets.values():
                carried.through(layer)
            value = float(self.sets["held"].log_prob().mean())
            if value > self.best:
                self.best, self.kept = value, self.sets["test"].log_prob().numpy()
        return self.kept


class _Carried:
    """Points on their way through the layers, and the log-determinants."""

    def __init__(self, points: Any):
        self.points, self.log_dets = points, 0.0

    def through(self, layer: Any) -> None:
        import torch

        with torch.no_grad():
            self.points, log_dets = layer.forward(self.points)
        self.log_dets = self.log_dets + log_dets

    def log_prob(self) -> Any:
        norms = (self.points**2).sum(dim=1)
        dim = self.points.shape[1]
        return self.log_dets - norms / 2 - dim * np.log(2 * np.pi) / 2
