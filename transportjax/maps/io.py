"""Maps in files: `save` and `load`, one self-describing file a map.

`container` has the format. Here a map becomes a tree of named classes and back; the
classes come from a fixed table, never from the file.
"""

import dataclasses
import typing
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from transportjax import _checks

from .affine import Affine
from .bijection import AbstractBijection
from .cdl import ColourDecision
from .compose import Chain, Invert, Scan
from .conditioner import Conditioner
from .container import DTYPES, ModelFileError, Path, read_file, write_file
from .continuous import ContinuousMap, VelocityField
from .coupling import AffineCoupling, SplineCoupling
from .grid import MonotoneGrid
from .mixture import GaussianMixtureMap
from .monotone import MonotoneLinear
from .radial import GaussianWarp
from .rigid import Rigid
from .rotations import Cayley, Householder, Permutation
from .similarity import Similarity
from .sliced import SlicedMap
from .sliced_step import SlicedStep
from .spline import RationalQuadraticSpline
from .supports import SupportMap
from .tails import LogTails
from .thin_plate import ThinPlateSpline

# The classes that a file may hold. A new map that can be saved gets its line here; a
# name that was released stays.
_CLASSES: dict[str, type[eqx.Module]] = {
    "Affine": Affine,
    "AffineCoupling": AffineCoupling,
    "Cayley": Cayley,
    "Chain": Chain,
    "ColourDecision": ColourDecision,
    "Conditioner": Conditioner,
    "ContinuousMap": ContinuousMap,
    "GaussianMixtureMap": GaussianMixtureMap,
    "GaussianWarp": GaussianWarp,
    "Householder": Householder,
    "Invert": Invert,
    "LogTails": LogTails,
    "MonotoneGrid": MonotoneGrid,
    "MonotoneLinear": MonotoneLinear,
    "Permutation": Permutation,
    "RationalQuadraticSpline": RationalQuadraticSpline,
    "Rigid": Rigid,
    "Scan": Scan,
    "Similarity": Similarity,
    "SlicedMap": SlicedMap,
    "SlicedStep": SlicedStep,
    "SplineCoupling": SplineCoupling,
    "SupportMap": SupportMap,
    "ThinPlateSpline": ThinPlateSpline,
    "VelocityField": VelocityField,
}
_MAX_DEPTH = 64


def save(
    path: Path, map: AbstractBijection, *, metadata: dict[str, Any] | None = None
) -> None:
    """Writes a map to one file, which `load` reads back bit for bit.

    The file appears under its name complete or not at all: it is written beside it,
    flushed to the disk, and renamed. A file that was there is replaced, a symbolic link
    is followed, and after a failure the old file is whole and nothing else is left.

    Args:
        path: where to write; any name.
        map: a map of the classes in `transportjax.maps`.
        metadata: what else the file shall tell: a dictionary of JSON values (strings,
            finite numbers, bools, None, lists and dictionaries of them).

    Raises:
        ValueError: something in `map` or `metadata` that the format cannot hold.
        OSError: the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Affine, load, read_header, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "double.tjmap"
        ...     map = Affine(2.0 * jnp.eye(2), jnp.zeros(2))
        ...     save(path, map, metadata={"colour space": "srgb"})
        ...     print(load(path)(jnp.ones(2)), read_header(path)["metadata"])
        [2. 2.] {'colour space': 'srgb'}
    """
    _checks.check_bijection("map", map, AbstractBijection)
    metadata = {} if metadata is None else metadata
    _checks.check_metadata("metadata", metadata)
    arrays: list[np.ndarray] = []
    tree = _describe(map, arrays)
    write_file(path, tree, metadata, arrays)


def load(path: Path, *, dtype: Any = None) -> AbstractBijection:
    """The map that `save` wrote to a file.

    Args:
        path: the file.
        dtype: a floating-point dtype for the floating-point leaves; None keeps theirs.

    Returns:
        The map.

    Raises:
        ModelFileError: not a file, not of this format, of a newer version, cut short,
            or altered; or it holds 64-bit numbers, 64-bit types are not enabled in JAX,
            and no `dtype` says what to round them to.
        OSError: the file is missing or cannot be read.
    """
    dtype = None if dtype is None else _checks.exact_float_dtype(dtype)
    header, stored = read_file(path)
    builder = _Builder(path, [_to_jax(path, array, dtype) for array in stored])
    map = builder.build(header["tree"])
    if builder.num_used != len(stored) or not isinstance(map, AbstractBijection):
        raise builder.malformed()
    return map


def _to_jax(path: Path, array: np.ndarray, dtype: Any) -> jax.Array:
    if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(dtype)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ModelFileError(
            path,
            f"it holds {array.dtype.name} arrays, and JAX has 64-bit types disabled; "
            "load it within jax.enable_x64(True), or round it with dtype='float32'",
        )
    return jnp.asarray(array)


def _describe(value: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    """The JSON of a module, array, tuple or static value; arrays go to the list."""
    if isinstance(value, jax.Array | np.ndarray):
        _checks.check_storable("map", value, DTYPES)
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, arrays) for item in value]}
    if value is None or type(value) in (bool, int, float, str):
        _checks.check_json("map", value)
        return {"static": value}
    name = type(value).__name__
    _checks.check_saveable("map", name, _CLASSES.get(name) is type(value), _CLASSES)
    fields = dataclasses.fields(value)
    inner = {f.name: _describe(getattr(value, f.name), arrays) for f in fields}
    return {"class": name, "fields": inner}


class _Builder:
    """Builds what the tree of a header describes, and trusts none of it."""

    def __init__(self, path: Path, arrays: list[jax.Array]):
        self.path, self.arrays, self.num_used = path, arrays, 0

    def build(self, node: Any, depth: int = 0) -> Any:
        """The value that `_describe` made `node` of."""
        keys = node.keys() if isinstance(node, dict) and depth <= _MAX_DEPTH else None
        if keys == {"array"}:
            return self._next_array(node["array"])
        if keys == {"tuple"} and isinstance(node["tuple"], list):
            return tuple(self.build(item, depth + 1) for item in node["tuple"])
        if keys == {"static"} and not isinstance(node["static"], dict | list):
            return node["static"]
        if keys == {"class", "fields"}:
            return self._module(node["class"], node["fields"], depth)
        raise self.malformed()

    def _next_array(self, index: Any) -> jax.Array:
        """The arrays come in order, each once."""
        is_next = type(index) is int and index == self.num_used
        if not is_next or index >= len(self.arrays):
            raise self.malformed()
        self.num_used += 1
        return self.arrays[index]

    def _module(self, name: Any, inner: Any, depth: int) -> eqx.Module:
        if not isinstance(name, str) or not isinstance(inner, dict):
            raise self.malformed()
        if name not in _CLASSES:
            reason = f"it holds a map of the unknown class {name[:80]!r}"
            raise ModelFileError(self.path, reason)
        fields = dataclasses.fields(_CLASSES[name])
        if [field.name for field in fields] != list(inner):
            raise self.malformed()
        # not through __init__, whose checks are for one map, not for a stack of them
        module = object.__new__(_CLASSES[name])
        for field in fields:
            value = self.build(inner[field.name], depth + 1)
            if not _may_hold(field, value):
                raise self.malformed()
            object.__setattr__(module, field.name, value)
        return module

    def malformed(self) -> ModelFileError:
        """The error for a tree that `save` cannot have made."""
        return ModelFileError(self.path, "its header does not describe a map")


def _may_hold(field: dataclasses.Field, value: Any) -> bool:
    """Whether `value` is of the field's kind: static, module, tuple of maps, array."""
    if field.metadata.get("static", False):
        return not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
    if value is None:  # an array that may be left out
        return type(None) in typing.get_args(field.type)
    if typing.get_origin(field.type) is tuple:
        return isinstance(value, tuple) and all(
            isinstance(item, AbstractBijection) for item in value
        )
    if isinstance(field.type, type) and issubclass(field.type, eqx.Module):
        return isinstance(value, field.type)
    return isinstance(value, jax.Array)
