"""Columns of rounded numbers, and of some that repeat, made continuous and back.

A flow has a density. A rounded number is spread over what would be rounded to it. One
that many rows share, as the zeros of rainfall or of expenses, is spread over an
interval so long that the density in it is that of the others; they make room for it.
What is drawn in the interval is that number again.

Where the others are few, a flow would see them as one end of that interval. Then the
column is made normal instead, z = Phi^-1(F(x)): the number that repeats is spread over
as much of the normal law as it has of the rows. F is linear in z between few quantiles
of the others, which keep their law so, however rare they are.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

_MOST_DECIMALS, _MOST_ZEROS = 12, 6  # of the step of rounded numbers
_LEAST_SHARE, _LEAST_COUNT = 0.05, 5  # of the rows, of a value that repeats
_RATIO = 5  # by which it is more frequent than all others that are none of these
_MARGIN = 10  # others next to it, which cover as much as one may be nearer to it
_RARE = 0.2  # share of the rows of the others, below which they are few
_BEYOND = 2  # rows of the others beyond the outer knots, on either side


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
        places: numbers, ascending, (m,), starts and stops among them; none where no
            number repeats.
        scores: what becomes of these, (m,); of others by lines in between.
        is_normal: whether these are normal scores.
    """

    low: float
    high: float
    step: float
    repeated: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    places: np.ndarray
    scores: np.ndarray
    is_normal: bool

    @property
    def ends_repeat(self) -> tuple[bool, bool]:
        """Whether the least and the greatest number are such values."""
        return self.low in self.repeated, self.high in self.repeated


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
    is_chosen &= counts * room > step
    chosen = np.flatnonzero(is_chosen)
    rest = np.repeat(values[~is_chosen], counts[~is_chosen])
    room = max(room, float(np.finfo(float).tiny))
    free = [_free(values, rest, chosen, i, step, room) for i in chosen.tolist()]
    below, above = np.reshape(free, (-1, 2)).T + step / 2
    starts, stops = values[chosen] - below, values[chosen] + above
    num_others = num_rows - counts[chosen].sum()
    is_normal = len(chosen) > 0 and bool(0 < num_others < _RARE * num_rows)
    if is_normal:
        knots = _normal_knots(values, counts, chosen, starts, stops)
    else:
        knots = _shifting_knots(starts, stops, counts[chosen] * room)
    found = (values[chosen], starts, stops, *knots)
    return ColumnForm(low, high, step, *found, is_normal)


def _free(
    values: np.ndarray,
    rest: np.ndarray,
    chosen: np.ndarray,
    index: int,
    step: float,
    room: float,
) -> list[float]:
    """How far there is nothing below and above a number that repeats, with a margin.

    The margin is as wide as where the nearest of the others lie.
    """
    free = []
    for side in (-1, 1):
        other = index + side
        if not 0 <= other < len(values):
            free.append(0.0)
            continue
        gap = abs(values[other] - values[index]) - step
        if other in chosen:
            free.append(gap / 2)
            continue
        last = np.searchsorted(rest, values[other]) + side * _MARGIN
        margin = abs(rest[np.clip(last, 0, len(rest) - 1)] - values[other])
        if step == 0:  # rounded ones are spread already
            margin = max(margin, room)
        free.append(max(gap - margin, 0.0))
    return free


def _shifting_knots(
    starts: np.ndarray, stops: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Knots between which others are moved, to make room for intervals of lengths."""
    if len(starts) == 0:
        return np.zeros(0), np.zeros(0)
    shifts = np.append(0, np.cumsum(lengths - (stops - starts)))
    places = np.stack([starts, stops], axis=1)
    scores = places + np.stack([shifts[:-1], shifts[1:]], axis=1)
    end = lengths.sum()  # any distance: further out the lines go on
    places, scores = (
        np.concatenate([[x[0, 0] - end], x.ravel(), [x[-1, 1] + end]])
        for x in (places, scores)
    )
    return places, scores


def _normal_knots(
    values: np.ndarray,
    counts: np.ndarray,
    chosen: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Knots of z = Phi^-1(F(x)): bounds of intervals, and quantiles between them."""
    from scipy.special import ndtr, ndtri

    below = np.append(0, np.cumsum(counts))
    ranks = (below[:-1] + below[1:]) / 2
    places, found = [], []
    for number, end in enumerate((*chosen, len(values))):
        begin = chosen[number - 1] + 1 if number else 0
        count = below[end] - below[begin]
        if count:  # others, between two intervals
            reach = ndtri(max(1 - _BEYOND / count, 0.5))
            num = 1 + round(count ** (1 / 3))
            levels = below[begin] + count * ndtr(np.linspace(-reach, reach, num))
            inner = np.unique(np.searchsorted(ranks[begin : end - 1], levels)) + begin
            places.append(values[inner])
            found.append(ranks[inner])
        if number < len(chosen):
            places.append([starts[number], stops[number]])
            found.append(below[[end, end + 1]])
    levels = (np.concatenate(found) + 0.5) / (below[-1] + 1)  # neither zero nor one
    return np.concatenate(places), ndtri(levels)


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
    from scipy.special import ndtr, ndtri

    y = x + form.step * (places - 0.5)
    volumes = np.full(len(x), max(form.step, 1.0))
    if len(form.repeated):
        y, slopes = _along(y, form.places, form.scores)
        volumes = volumes * slopes
        number = np.searchsorted(form.starts, x, side="right")
        last = np.maximum(number - 1, 0)
        within = (number > 0) & (x <= form.stops[last])
        low, high = (ends[last] for ends in _intervals(form))
        inner, own = low + (high - low) * places, high - low
        if form.is_normal:
            low, high = ndtr(low), ndtr(high)
            inner = ndtri(low + (high - low) * places)
            own = (high - low) / _normal_pdf(inner)
        y = np.where(within, inner, y)
        own = np.where(x == form.repeated[last], own, 0)
        volumes = np.where(within, own, volumes)
        at_low, at_high = form.ends_repeat
        beyond = (at_low & (x < form.low)) | (at_high & (x > form.high))
        volumes = np.where(beyond, 0, volumes)
    with np.errstate(divide="ignore"):
        return y, np.log(volumes)


def _along(
    x: Float[np.ndarray, " n"], knots: np.ndarray, heights: np.ndarray
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The values and slopes of a line through knots, straight on beyond the outer."""
    widths, rises = np.diff(knots), np.diff(heights)
    # between equal knots there is nothing
    slopes = np.divide(rises, widths, out=np.zeros_like(rises), where=widths > 0)
    part = np.searchsorted(knots[1:-1], x, side="right")
    # from the nearer knot, so that its own height is exact
    is_left = x - knots[part] < knots[part + 1] - x
    near = np.where(is_left, part, part + 1)
    return heights[near] + slopes[part] * (x - knots[near]), slopes[part]


def _intervals(form: ColumnForm) -> tuple[np.ndarray, np.ndarray]:
    """From which score to which those numbers reach that repeat."""
    first = np.searchsorted(form.places, form.starts)
    last = np.searchsorted(form.places, form.stops, side="right") - 1
    return form.scores[first], form.scores[last]


def _normal_pdf(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


def gather(
    form: ColumnForm, y: Float[np.ndarray, " n"], decimals: int
) -> Float[np.ndarray, " n"]:
    """The numbers that continuous ones stand for, rounded to so many decimals.

    None has a sign that the column has nowhere: where the flow goes on a little beyond
    zero, it is reflected, as kernel estimates are at a boundary. Whole numbers stay
    between the least and the greatest.
    """
    x = _along(y, form.scores, form.places)[0] if len(form.repeated) else y
    x = np.abs(x) if form.low >= 0 else x
    x = -np.abs(x) if form.high <= 0 else x
    x = np.round(x, decimals) + 0.0  # no minus zero
    # beyond one that repeats there is nothing, if it is the least or the greatest
    at_low, at_high = form.ends_repeat
    least = form.low if at_low or form.step >= 1 else -np.inf
    most = form.high if at_high or form.step >= 1 else np.inf
    x = np.clip(x, least, most)
    if len(form.repeated) == 0:
        return x
    starts, stops = _intervals(form)
    number = np.searchsorted(starts, y, side="right")
    last = np.maximum(number - 1, 0)
    within = np.where(number > 0, y < stops[last], at_low)
    return np.where(within, form.repeated[last], x)
