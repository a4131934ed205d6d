"""Columns of rounded numbers, and of some that repeat, made continuous and back.

A flow has a density. A rounded number is spread over what would be rounded to it. One
that many rows share, as the zeros of rainfall or of expenses, is spread over an
interval so long that the density in it is that of the others; they make room for it.
What is drawn in the interval is that number again.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

_MOST_DECIMALS, _MOST_ZEROS = 12, 6  # of the step of rounded numbers
_LEAST_SHARE, _LEAST_COUNT = 0.05, 5  # of the rows, of a value that repeats
_RATIO = 5  # by which it is more frequent than all others that are none of these
_MARGIN = 10  # mean distances of the others, by which one may be nearer to it


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnForm:
    """How the numbers of a column are made continuous; `column_form` finds it.

    Attributes:
        low: the least number.
        high: the greatest number.
        step: the greatest power of ten whose multiples all numbers are; 0: none is.
        repeated: values that have an interval to themselves, (k,), ascending.
        starts: from where on there is no other number, (k,): with a margin, the gap in
            the column around such a value.
        stops: up to where, (k,).
        lengths: of the intervals that take the place of these, (k,).
    """

    low: float
    high: float
    step: float
    repeated: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    lengths: np.ndarray

    @property
    def shifts(self) -> np.ndarray:
        """By how much numbers are moved that have so many intervals below, (k + 1,)."""
        return np.append(0, np.cumsum(self.lengths - (self.stops - self.starts)))


def column_form(x: Float[np.ndarray, " n"]) -> ColumnForm:
    """What the numbers of a column have in common."""
    with np.errstate(all="ignore"):  # of numbers too large for a difference
        return _form(*np.unique(x, return_counts=True))


def _form(values: np.ndarray, counts: np.ndarray) -> ColumnForm:
    num_rows = counts.sum()
    step, low, high = _step(values), float(values[0]), float(values[-1])
    order = np.argsort(-counts, kind="stable")
    ordered = np.append(counts[order], 0)
    least = max(_LEAST_SHARE * num_rows, _LEAST_COUNT)
    stands_out = ordered[:-1] >= np.maximum(least, _RATIO * ordered[1:])
    num = 1 + np.max(np.flatnonzero(stands_out), initial=-1)
    is_chosen = np.isin(np.arange(len(values)), order[:num])
    rest = np.repeat(values[~is_chosen], counts[~is_chosen])
    half = len(rest) // 2  # they are dense where half of them are
    room = np.min(rest[half:] - rest[: len(rest) - half]) / half if half else 0
    room = room or (high - low) / num_rows
    chosen = np.flatnonzero(is_chosen & (counts * room > step))
    gaps = np.diff(values) - step
    kept = np.where(is_chosen[1:] & is_chosen[:-1], gaps / 2, _MARGIN * room)
    free = np.pad(np.maximum(gaps - kept, 0), 1)
    repeated = values[chosen]
    return ColumnForm(
        low=low,
        high=high,
        step=step,
        repeated=repeated,
        starts=repeated - step / 2 - free[chosen],
        stops=repeated + step / 2 + free[chosen + 1],
        lengths=counts[chosen] * room,
    )


def _step(values: np.ndarray) -> float:
    largest = np.max(np.abs(values))
    for decimals in range(-_MOST_ZEROS, _MOST_DECIMALS + 1):
        step = 10.0**-decimals
        is_exact = largest < 2**53 * step  # beyond, every number is whole
        if is_exact and np.array_equal(np.round(values, decimals), values):
            return step
    return 0.0


def spread(
    form: ColumnForm, x: Float[np.ndarray, " n"], places: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The numbers as continuous ones, and the logarithms of what to multiply by.

    Args:
        form: of the column.
        x: the numbers.
        places: in [0, 1), where in their intervals they are put: random, to fit; one
            half, to find the density there.

    Returns:
        The continuous numbers, (n,), and for each the logarithm of the length of its
        interval, where its density times that is a probability: for whole numbers and
        for those that repeat; 0 for others; minus infinity in a gap.
    """
    number = np.searchsorted(form.starts, x, side="right")
    last = np.maximum(number - 1, 0)
    repeated, starts, stops, lengths = (
        np.append(each, 0)[last]
        for each in (form.repeated, form.starts, form.stops, form.lengths)
    )
    within = (number > 0) & (x <= stops)
    y = x + form.step * (places - 0.5) + form.shifts[number]
    y = np.where(within, starts + form.shifts[last] + lengths * places, y)
    volumes = np.where(within, np.where(x == repeated, lengths, 0), max(form.step, 1))
    with np.errstate(divide="ignore"):
        return y, np.log(volumes)


def gather(
    form: ColumnForm, y: Float[np.ndarray, " n"], decimals: int
) -> Float[np.ndarray, " n"]:
    """The numbers that continuous ones stand for, rounded to so many decimals.

    None has a sign that the column has nowhere: where the flow goes on a little beyond
    zero, it is reflected, as kernel estimates are at a boundary. Whole numbers stay
    between the least and the greatest.
    """
    starts = form.starts + form.shifts[:-1]
    number = np.searchsorted(starts, y, side="right")
    x = y - form.shifts[number]
    x = np.abs(x) if form.low >= 0 else x
    x = -np.abs(x) if form.high <= 0 else x
    x = np.round(x, decimals) + 0.0  # no minus zero
    # beyond one that repeats there is nothing, if it is the least or the greatest
    at_low, at_high = (end in form.repeated for end in (form.low, form.high))
    least = form.low if at_low or form.step >= 1 else -np.inf
    most = form.high if at_high or form.step >= 1 else np.inf
    x = np.clip(x, least, most)
    last = np.maximum(number - 1, 0)
    stops = np.append(starts + form.lengths, 0)[last]
    within = np.where(number > 0, y < stops, at_low)
    return np.where(within, np.append(form.repeated, 0)[last], x)
