"""Equalisation of pictures of 1 and 12 megapixels, 8 bits, for all and in tiles.

Quality is how far the luma of the result is from the uniform law, as the 2-Wasserstein
distance in grey levels; a limit of the slope keeps it away from there on purpose. The
peers make other choices in colour: scikit-image moves the V of HSV, OpenCV is given the
Y of YCrCb.
"""

import importlib.util
import pathlib
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from PIL import Image

import transportjax as tj

from .harness import Case, Rival

PICTURE = pathlib.Path(__file__).parents[1] / "examples/pictures/scotland_house.png"
SIZES = {"1 megapixel": (1154, 866), "12 megapixels": (4000, 3000)}
_LIMIT = 3.0  # of the slope, the same for all


def cases(options: Namespace) -> Iterator[Case]:
    """Grey and colour, the whole picture by one map and by tiles."""
    for name, size in SIZES.items():
        if options.quick and size[0] > 2000:
            continue
        with Image.open(PICTURE) as image:
            image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            colour, grey = np.asarray(image), np.asarray(image.convert("L"))
        yield _case(f"grey, {name}", grey, _global_rivals())
        yield _case(f"grey in tiles, {name}", grey, _local_rivals(grey.shape))
        yield _case(f"colour, {name}", colour, {"transportjax": _ours()})
        yield _case(f"colour in tiles, {name}", colour, _local_rivals(colour.shape))


def _case(name: str, picture: np.ndarray, rivals: dict[str, Rival]) -> Case:
    return Case(name, (picture,), rivals, quality=_to_uniform)


def _to_uniform(result: np.ndarray) -> float:
    tones = np.asarray(result)
    tones = tones if tones.dtype != np.uint8 else tones / 255
    if tones.ndim == 3:
        tones = tones @ np.array([0.2126, 0.7152, 0.0722])
    tones = np.sort(tones[::2, ::2].reshape(-1))
    levels = (np.arange(len(tones)) + 0.5) / len(tones)
    return 255 * float(np.sqrt(np.mean((tones - levels) ** 2)))


def _ours(**options) -> Rival:
    return Rival(lambda picture: tj.equalise(picture, **options), jit=False)


def _global_rivals() -> dict[str, Rival]:
    rivals = {
        "transportjax, no limit": _ours(limit=np.inf),
        "transportjax": _ours(),
    }
    if importlib.util.find_spec("skimage") is not None:
        from skimage.exposure import equalize_hist

        rivals["scikit-image"] = Rival(equalize_hist, jit=False)
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        rivals["OpenCV"] = Rival(cv2.equalizeHist, jit=False)
    return rivals


def _local_rivals(shape: tuple[int, ...]) -> dict[str, Rival]:
    rivals = {"transportjax": _ours(tiles=8)}
    side = max(shape[:2]) // 8
    if importlib.util.find_spec("skimage") is not None:
        from skimage.exposure import equalize_adapthist

        def adapt(picture):
            clip = _LIMIT / 256
            return equalize_adapthist(picture, kernel_size=side, clip_limit=clip)

        rivals["scikit-image"] = Rival(adapt, jit=False)
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        tiles = (round(shape[1] / side), round(shape[0] / side))
        clahe = cv2.createCLAHE(clipLimit=_LIMIT, tileGridSize=tiles)

        def contrast_limited(picture):
            if picture.ndim == 2:
                return clahe.apply(picture)
            ycrcb = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
            ycrcb[..., 0] = clahe.apply(np.ascontiguousarray(ycrcb[..., 0]))
            return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)

        rivals["OpenCV"] = Rival(contrast_limited, jit=False)
    return rivals
