"""ASC colour decision lists: fitted to a palette, and their XML files."""

import functools
import os
import re
from typing import Any, cast
from xml.etree import ElementTree

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, PRNGKeyArray

from transportjax._checks import (
    check_choice,
    check_count,
    check_key,
    check_kind,
)
from transportjax._files import atomic_write
from transportjax.maps import AbstractBijection, ColourDecision
from transportjax.sliced import reservoir_init, reservoir_loss

from .colour_map import ColourMap
from .spaces import srgb_to_lab

# what stands around the correction, from the inside out
_WRAPPERS = {
    ".cdl": ("ColorDecision", "ColorDecisionList"),
    ".ccc": ("ColorCorrectionCollection",),
    ".cc": (),
}
SUFFIXES = tuple(_WRAPPERS)

_NAMESPACE = "urn:ASC:CDL:v1.01"
_LARGEST_FILE = 1 << 20
_NUM_KEPT, _NUM_NEW = 48, 16  # as published
_RATE = 0.05  # of Adam; at the published 0.01 the powers are not there in time


class CdlError(ValueError):
    """A file holds no colour decision that we can read; the message says why."""


def fit_cdl(
    source: ArrayLike,
    palette: ArrayLike,
    *,
    key: PRNGKeyArray,
    num_steps: int = 200,
) -> ColourDecision:
    """The colour decision that brings colours nearest to a palette, in CIELAB.

    Ten numbers, by Adam on the sliced W_1 along a reservoir of directions (ReSWD, with
    its authors' numbers of directions, and the unbiased estimator, which ends nearer),
    from matched means and spreads of the channels on. Ten numbers cannot turn hues, so
    they do not reach every palette; grading programs take them over (`write_cdl`).

    Args:
        source: encoded sRGB colours, (n, 3).
        palette: encoded sRGB colours, (m, 3).
        key: of the directions.
        num_steps: steps of Adam; its rate falls to zero along a cosine.

    Returns:
        The map.

    References:
        Boss et al. (2025), ReSWD: ReSTIR'd, not shaken.
    """
    check_key("key", key)
    check_count("num_steps", num_steps)
    return _fit(jnp.asarray(source), jnp.asarray(palette), key, num_steps)


@functools.partial(jax.jit, static_argnums=3)
def _fit(source: Array, palette: Array, key: PRNGKeyArray, num_steps: int) -> Any:
    import optax

    target = srgb_to_lab(palette) / 100
    optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, num_steps))

    def step(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, None]:
        grade, optimiser_state, reservoir = carry

        def loss(grade: ColourDecision) -> tuple[Array, Any]:
            moved = srgb_to_lab(jax.vmap(grade)(source)) / 100
            return reservoir_loss(
                moved,
                target,
                reservoir,
                key=key,
                num_new=_NUM_NEW,
                p=1,
            )

        slope, reservoir = jax.grad(loss, has_aux=True)(grade)
        with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
            update, optimiser_state = optimiser.update(slope, optimiser_state)
        return (eqx.apply_updates(grade, update), optimiser_state, reservoir), None

    grade = _matching_moments(source, palette)
    reservoir = reservoir_init(_NUM_KEPT, 3, dtype=source.dtype)
    start = (grade, optimiser.init(eqx.filter(grade, eqx.is_array)), reservoir)
    (grade, _, _), _ = lax.scan(step, start, jr.split(key, num_steps))
    return grade


def _matching_moments(source: Array, palette: Array) -> ColourDecision:
    """Slopes and offsets that match mean and spread of each channel."""
    floor = 1 / 255  # of a spread, for pictures of one colour
    spread = [jnp.maximum(jnp.std(x, axis=0), floor) for x in (source, palette)]
    slope = spread[1] / spread[0]
    offset = jnp.mean(palette, axis=0) - slope * jnp.mean(source, axis=0)
    zero = jnp.zeros_like(slope)
    return ColourDecision(jnp.log(slope), offset, zero, zero[0])


def write_cdl(
    path: str | os.PathLike[str],
    grade: AbstractBijection,
    *,
    name: str = "transportjax",
) -> None:
    """Writes a colour decision as XML: `.cdl`, `.ccc` or `.cc` by the file's ending.

    Args:
        path: the file.
        grade: the map.
        name: the identifier of the correction, letters, digits, `_`, `-` and `.`.

    Raises:
        ValueError: another ending, another kind of map, or a name that XML does not
            take.
        OSError: the file cannot be written.
    """
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    check_choice("path", suffix, SUFFIXES)
    check_kind("grade", grade, ColourDecision)
    if not re.fullmatch(r"[A-Za-z_][\w.-]{0,99}", name, re.ASCII):
        raise ValueError(f"`name` must be an XML identifier; got {name!r}.")
    root = correction = ElementTree.Element("ColorCorrection", id=name)
    numbers = cast(ColourDecision, grade).numbers
    for node, entries in (
        ("SOPNode", ("Slope", "Offset", "Power")),
        ("SatNode", ("Saturation",)),
    ):
        parent = ElementTree.SubElement(correction, node)
        for entry in entries:
            values = np.atleast_1d(np.asarray(numbers[entry.lower()]))
            text = " ".join(f"{value:.9g}" for value in values.tolist())
            ElementTree.SubElement(parent, entry).text = text
    for wrapper in _WRAPPERS[suffix]:
        outer = ElementTree.Element(wrapper)
        outer.append(root)
        root = outer
    if root is not correction:
        root.set("xmlns", _NAMESPACE)
    ElementTree.indent(root)
    with atomic_write(path) as file:
        ElementTree.ElementTree(root).write(file, "UTF-8", xml_declaration=True)
        file.write(b"\n")


def read_cdl(path: str | os.PathLike[str]) -> ColourDecision:
    """Reads the first colour correction of a `.cdl`, `.ccc` or `.cc` file.

    Raises:
        CdlError: not such a file, or a correction that cannot be one.
        OSError: the file cannot be read.
    """
    shown = os.fsdecode(path)
    with open(path, "rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE or b"<!" in data.replace(b"<!--", b""):
        raise CdlError(f"{shown}: larger than a colour decision, or not a plain one.")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise CdlError(f"{shown}: is not XML: {error}.") from None
    corrections = [node for node in root.iter() if _local(node) == "ColorCorrection"]
    if not corrections:
        raise CdlError(f"{shown}: holds no ColorCorrection.")
    given = {}
    for node in corrections[0].iter():
        entry = _local(node).lower()
        if entry in ("slope", "offset", "power", "saturation"):
            given[entry] = _numbers(shown, entry, node.text or "")
    try:
        return ColourDecision.from_numbers(**given)
    except ValueError as error:
        raise CdlError(f"{shown}: {error}") from None


def as_colour_map(grade: ColourDecision) -> ColourMap:
    """The colour decision as a map for `apply_colour_map`."""
    return ColourMap(grade, jnp.ones((), grade.offset.dtype), "rgb")


def _local(node: ElementTree.Element) -> str:
    """The name of an element without its namespace."""
    return node.tag.rpartition("}")[2]


def _numbers(shown: str, entry: str, text: str) -> np.ndarray:
    try:
        numbers = np.array([float(word) for word in text.split()], np.float32)
    except ValueError:
        raise CdlError(f"{shown}: {text[:40]!r} are not numbers.") from None
    is_one = entry == "saturation" and len(numbers) == 1
    return numbers.reshape(()) if is_one else numbers
