"""Packages that are not required: imported when something of theirs is asked for."""

import importlib
from typing import Any


def imported(module: str, package: str | None = None) -> Any:
    """The module, or an ImportError that says what to install."""
    package = module.split(".")[0] if package is None else package
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {package}: pip install {package} ({error})"
        ) from error
