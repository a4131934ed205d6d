"""Laws of small pictures of one size: fitted, drawn from, scored, kept in a file."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from transportjax._checks import (
    as_pictures,
    check_count,
    check_num_steps,
    check_pictures_of_law,
    check_pictures_to_fit,
)
from transportjax.maps import Affine, Chain, ModelFileError, load, save
from transportjax.solvers import level_map

from .model_files import read_about
from .picture_flow import (
    blocks,
    fit_flow_of_pictures,
    joined,
    moved,
    scores as flow_scores,
    trained_flow,
)
from .picture_generator import fit_generator, generated
from .picture_noise import no_neighbours, normal_law, with_noise

_HELD_OUT = 0.1  # share of the pictures that the fit is judged by
_TURNS = 2  # of drawing the noise and fitting the law that it follows
_ROWS = 3  # for each value of a picture; fewer pictures are drawn several times


@dataclasses.dataclass(frozen=True, eq=False)
class PictureLaw:
    """A law of small pictures; `fit_picture_law` makes it.

    Attributes:
        map: of the density, a `Chain`: `level_map`, the law that the noise within the
            levels follows, and what makes pictures with such noise standard normal.
        generator: of what is drawn, a `Chain`: from standard normal points to pictures,
            values in 0 to 1. It is a fit of its own.
        shape: of a picture, (h, w) or (h, w, c).
        dtype: "uint8" or "uint16".
        low: the least values of the pixels, of that shape.
        high: their greatest values.
        scores: mean log-likelihood of the pictures that were held out of the fit, in
            nats a picture, under "a normal law", "the flow", and "the trained flow".
    """

    map: Chain
    generator: Chain
    shape: tuple[int, ...]
    dtype: str
    low: np.ndarray
    high: np.ndarray
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many values a picture has."""
        return math.prod(self.shape)

    def bits(self, nats: Any) -> Any:
        """Bits per dimension of pictures of that log-likelihood."""
        return -nats / (self.size * math.log(2))


def fit_picture_law(
    pictures: Any, *, num_steps: int = 10, train: int = 0, seed: int = 0
) -> PictureLaw:
    """The law that small pictures of one size are samples of.

    Each value goes through the distribution function of its pixel, `level_map`, with
    noise within its level that follows the neighbours. `gaussianise` finds out how the
    values depend on each other, along independent components of patches of nine tenths
    of the pictures; it keeps the steps that make the others likely.

    That is the density. It knows small patches only; what `sample_pictures` draws comes
    from a map of noise onto all pictures, fitted apart by iterated transfer, of whole
    pictures first. With fewer pictures than values it draws pictures much like those
    that it knows.

    Where there are few pictures, each counts several times in the density, with other
    noise. Sides that are divisible by four serve best; of sides that are prime, whole
    rows and columns are the patches.

    Args:
        pictures: whole numbers from 0 to 255, or to 65535, (n, h, w) or (n, h, w, c),
            c = 1 or 3, of at most 1024 values; ten pictures at least.
        num_steps: of `gaussianise`, at most. Each adds 4 (h w c)^2 bytes to the law;
            what draws takes as many as ten to fifteen steps.
        train: steps of `maximum_likelihood` that follow, at most; what is best on the
            pictures held out is kept.
        seed: the same gives the same law.

    Raises:
        ValueError: pictures of another shape or with other values, too few or too
            large, all equal; numbers of steps out of range.

    Example:
        >>> import numpy as np
        >>> from transportjax.apps import fit_picture_law, sample_pictures
        >>> rng = np.random.default_rng(0)
        >>> stripes = np.repeat(rng.integers(0, 99, (60, 4, 1)), 4, axis=2)
        >>> law = fit_picture_law(stripes, num_steps=2)
        >>> sample_pictures(law, 5).shape
        (5, 4, 4)
    """
    check_count("num_steps", num_steps)
    check_num_steps("train", train)
    pictures = as_pictures("pictures", pictures)
    check_pictures_to_fit("pictures", pictures)
    num, *shape = pictures.shape
    rows = pictures.reshape(num, -1)
    order = np.random.default_rng(seed).permutation(num)
    count = max(1, round(_HELD_OUT * num))
    kept, rest = rows[order[:count]], rows[order[count:]]
    levels = level_map(_coarse(rest))
    rest = np.tile(rest, (-(-_ROWS * rest.shape[1] // len(rest)), 1))
    keys = jr.split(jr.key(seed), 5)
    noise_key, held_key, fit_key, train_key, generator_key = keys
    law = _law_of_noise(levels, rest, noise_key)
    z, _ = _on_line(levels, law, rest, noise_key)
    held, log_q = _on_line(levels, law, kept, held_key)
    z, _ = moved(law, z)
    held, log_dets = moved(law, held)
    fitted, scores = fit_flow_of_pictures(z, held, tuple(shape), num_steps, fit_key)
    if train:
        fitted, scores["the trained flow"] = trained_flow(
            fitted, z, held, num_steps=train, key=train_key
        )
    other = np.mean(log_dets - log_q) - _coarseness(pictures.dtype, rows.shape[1])
    scores = {name: score + float(other) for name, score in scores.items()}
    return PictureLaw(
        Chain((levels, law, fitted)),
        fit_generator(rows, tuple(shape), generator_key),
        tuple(shape),
        pictures.dtype.name,
        pictures.min(axis=0),
        pictures.max(axis=0),
        scores,
    )


def sample_pictures(law: PictureLaw, num: int, *, seed: int = 0) -> np.ndarray:
    """Pictures drawn from a law, (num, h, w) or (num, h, w, c), of its dtype.

    No pixel goes below its least or above its greatest value in the data.

    Args:
        law: what `fit_picture_law` or `load_picture_law` returned.
        num: how many pictures.
        seed: the same gives the same pictures.

    Raises:
        ValueError: `num` < 1.
    """
    check_count("num", num)
    values = generated(law.generator, num, law.dtype, seed)
    return np.clip(values.reshape(num, *law.shape), law.low, law.high)


def picture_log_likelihood(
    law: PictureLaw, pictures: Any, *, seed: int = 0
) -> np.ndarray:
    """The log-probability of each picture, (n,), in nats, from below.

    It is measured with noise within the levels, drawn once: its expectation is a bound
    from below.

    Args:
        law: what `fit_picture_law` or `load_picture_law` returned.
        pictures: as those that the law was fitted to.
        seed: of the noise.

    Raises:
        ValueError: pictures of another shape, or deeper ones.
    """
    pictures = check_pictures(law, pictures)
    maps: Any = law.map.maps
    levels, normal, fitted = maps
    rows = pictures.astype(law.dtype).reshape(len(pictures), -1)
    z, log_q = _on_line(levels, normal, rows, jr.key(seed))
    standard, log_dets = moved(normal, z)
    scores = flow_scores(fitted, standard) + log_dets - log_q
    return scores - _coarseness(np.dtype(law.dtype), law.size)


def check_pictures(law: PictureLaw, pictures: Any) -> np.ndarray:
    """The array of pictures; raises unless they are such as the law was fitted to."""
    pictures = as_pictures("pictures", pictures)
    check_pictures_of_law("pictures", pictures.shape, pictures.dtype.name, law)
    return pictures


def save_picture_law(path: Any, law: PictureLaw) -> None:
    """Writes a law to one file; `load_picture_law` reads it."""
    about = {
        "kind": "pictures",
        "shape": list(law.shape),
        "dtype": law.dtype,
        "low": law.low.tolist(),
        "high": law.high.tolist(),
    }
    save(path, Chain((law.generator, law.map)), metadata=about)


def load_picture_law(path: Any) -> PictureLaw:
    """Reads what `save_picture_law` wrote.

    Raises:
        ModelFileError: the file is damaged, or holds no law of pictures.
        OSError: the file cannot be read.
    """
    names = ("shape", "dtype", "low", "high")
    about = read_about(path, "pictures", names, "a law of pictures")
    low, high = (np.array(about[name], about["dtype"]) for name in names[2:])
    both: Any = load(path)
    if len(both.maps) != 2:
        raise ModelFileError(path, "holds a law of pictures of an earlier version")
    generator, map = both.maps
    shape = tuple(about["shape"])
    return PictureLaw(map, generator, shape, about["dtype"], low, high)


def _law_of_noise(levels: Chain, rows: np.ndarray, key: Any) -> Affine:
    """The normal law of pictures on the line that the noise is to follow."""
    law = no_neighbours(rows.shape[1])
    for turn in range(_TURNS):
        z, _ = _on_line(levels, law, rows, jr.fold_in(key, turn))
        law = normal_law(z)
    return law


def _levels_in_one(dtype: Any) -> int:
    """How many stored values share a level of `level_map`."""
    return np.iinfo(dtype).max // 256 + 1


def _coarse(rows: np.ndarray) -> np.ndarray:
    return (rows // _levels_in_one(rows.dtype)).astype(np.int32)


def _coarseness(dtype: Any, dim: int) -> float:
    """The log-volume of pictures in stored values, in units of levels."""
    return dim * math.log(_levels_in_one(dtype))


def _on_line(
    levels: Chain, law: Affine, rows: np.ndarray, key: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with noise, on the line, and the log-densities of the noise."""
    parts = [
        with_noise(levels, law, jnp.asarray(part), jr.fold_in(key, number))
        for number, part in enumerate(blocks(_coarse(rows).astype(np.float32)))
    ]
    return joined(parts, len(rows))
