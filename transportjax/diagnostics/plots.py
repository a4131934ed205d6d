"""Figures of the diagnostics. Each function draws on the axes given, or on new ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from transportjax import _checks

from .calibration import Calibration
from .ricci import RicciCoefficients
from .straightness import step_costs, straightness
from .two_sample import TwoSampleTest

_DATA, _MODEL, _OTHER = "#d1495b", "#00798c", "#edae49"


def plot_two_sample_test(test: TwoSampleTest, ax: Any = None) -> Any:
    """The value of a statistic next to what it is for clouds of one law.

    Args:
        test: from `two_sample_test`.
        ax: axes of matplotlib; None: new ones.

    Returns:
        The axes; `axes.figure.savefig(path)` writes a figure. What is not finite is not
        shown.

    Raises:
        ValueError: something else than a test.
    """
    _checks.check_kind("test", test, TwoSampleTest)
    ax = _new_axes() if ax is None else ax
    null, value = np.asarray(test.null, np.float64), float(test.value)
    null = null[np.isfinite(null)]
    ax.hist(null, bins=min(30, 1 + len(null) // 8), color="0.75", label="one law")
    ax.axvline(value, color=_DATA, linewidth=2, label="these clouds")
    ax.set(xlabel="statistic", ylabel="permutations")
    ax.locator_params(axis="x", nbins=5)
    ax.set_title(_p(test.p_value))
    ax.legend(frameon=False)
    return ax


def plot_calibration(found: Calibration, ax: Any = None) -> Any:
    """The share of events in each region of highest density, and its band of noise.

    Args:
        found: from `calibration`.
        ax: axes of matplotlib; None: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: something else than a calibration.
    """
    _checks.check_kind("found", found, Calibration)
    ax = _new_axes() if ax is None else ax
    levels = np.asarray(found.levels)
    shares = np.arange(1, len(levels) + 1) / len(levels)
    ends = np.array([0.0, 1.0])
    band = {"color": "0.88", "linewidth": 0, "label": "95 % if the model is right"}
    ax.fill_between(ends, ends - found.band, ends + found.band, **band)
    ax.plot(ends, ends, color="0.5", linewidth=0.8)
    ax.step(
        np.concatenate([[0], levels, [1]]),
        np.concatenate([[0], shares, [1]]),
        where="post",
        color=_MODEL,
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="mass of the region in the model", ylabel="share of the data in it")
    ax.set_title(f"distance {float(found.distance):.3f}, {_p(found.p_value)}")
    ax.legend(frameon=False, loc="lower right")
    return ax


def plot_negentropy(values: ArrayLike, ax: Any = None) -> Any:
    """The marginal negentropies by layer.

    Args:
        values: (l + 1, d), those of the d coordinates before the first layer and after
            each: `negentropy(layer_outputs(map, x).swapaxes(1, 2))`.
        ax: axes of matplotlib; None: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    values = _checks.as_float("values", values)
    _checks.check_matrix("values", values, "(l + 1, d)")
    ax = _new_axes() if ax is None else ax
    array = np.asarray(values, np.float64)
    ax.plot(array, ".-", color=_OTHER, linewidth=0.8, alpha=0.6)
    ax.plot(array.mean(axis=1), "o-", color=_MODEL, markersize=4, label="mean")
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.set(xlabel="layer", ylabel="marginal negentropy, nats")
    ax.locator_params(axis="x", integer=True)
    ax.legend(frameon=False)
    return ax


def plot_layers(clouds: ArrayLike, ax: Any = None) -> Any:
    """The root mean square displacement by each layer, and how straight the ways are.

    Args:
        clouds: (l + 1, n, d), from `layer_outputs`.
        ax: axes of matplotlib; None: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: another shape, fewer than two clouds, NaN or infinity.
    """
    clouds = _checks.as_float("clouds", clouds)
    # in a unit whose square is a number of the dtype
    unit = float(np.max(np.abs(clouds), initial=0)) or 1.0
    sizes = unit * np.sqrt(np.asarray(step_costs(clouds / unit), np.float64))
    share = float(np.mean(np.asarray(straightness(clouds))))
    ax = _new_axes() if ax is None else ax
    ax.bar(np.arange(1, len(sizes) + 1), sizes, color=_MODEL)
    ax.set(xlabel="layer", ylabel="root mean square displacement")
    ax.set(xlim=(0.4, len(sizes) + 0.6))
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", integer=True, min_n_ticks=1)
    ax.set_title(f"straightness {share:.2f}")
    return ax


def plot_ricci(
    coefficients: RicciCoefficients, axes: Sequence[Any] | np.ndarray | None = None
) -> Any:
    """Curvature and length by layer, how they go together, and that over the points.

    Args:
        coefficients: from `ricci_coefficients`.
        axes: three axes of matplotlib; None: new ones.

    Returns:
        The three axes.

    Raises:
        ValueError: something else than coefficients, another number of axes.
    """
    _checks.check_kind("coefficients", coefficients, RicciCoefficients)
    panels = list(_new_axes(3) if axes is None else axes)
    _checks.check_listed("axes", panels, 3)
    by_layer, together, local = panels
    places = np.arange(len(coefficients.curvature))
    by_layer.plot(places, coefficients.curvature, "o-", color=_DATA)
    by_layer.set_xlabel("layer")
    by_layer.set_ylabel("total curvature", color=_DATA)
    lengths = by_layer.twinx()
    lengths.plot(places, coefficients.length, "s--", color=_MODEL)
    lengths.set_ylabel("sum of hop distances", color=_MODEL)
    changes = np.diff(coefficients.length)
    together.plot(coefficients.curvature[:-1], changes, "o", color="0.5")
    for layer, place in enumerate(zip(coefficients.curvature, changes, strict=False)):
        place = tuple(map(float, place))
        shift = {"xytext": (3, 3), "textcoords": "offset points", "fontsize": 8}
        together.annotate(f"{layer + 1}", place, **shift)
    together.locator_params(axis="x", nbins=4)  # numbers of many digits
    together.set(xlabel="curvature before a layer", ylabel="change of distances by it")
    is_known = np.isfinite(coefficients.overall)
    told = f"{coefficients.overall:.2f}" if is_known else "unknown: nothing changes"
    together.set_title(f"correlation {told}")
    local.bar(places[1:], coefficients.layers, color=_OTHER)
    local.axhline(0, color="0.5", linewidth=0.8)
    local.set(xlabel="layer", ylim=(-1, 1), xlim=(0.4, len(places) - 0.4))
    local.set_title("correlation over points")
    for panel in (by_layer, local):
        panel.locator_params(axis="x", integer=True, min_n_ticks=1)
    return panels


def _p(value: Any) -> str:
    return f"p = {float(value):.3f}" if value >= 0.001 else "p < 0.001"


def _new_axes(columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4 * columns, 4), layout="constrained")
    return figure.subplots(1, columns)
