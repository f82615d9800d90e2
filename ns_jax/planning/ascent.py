"""The largest number whose need stays within a limit, in few measurements, each of them dear.

The need is almost linear in the number, so that what has been measured foretells the place to look
at. A number that needs too much may take longer to measure than one that does not, and says less:
so the search comes from below.
"""

import dataclasses
from collections.abc import Callable

from ns_jax.errors import InputError

MOST_MEASUREMENTS = 10


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What is known of the largest number that fits."""

    fits: int  # the largest that was found to fit; 0: none
    too_much: int  # the smallest above it that does not, or the first beyond what was asked for
    needs: dict[int, float | None]  # of what was measured

    @property
    def exact(self) -> bool:
        """Whether no number is left between the two."""
        return self.too_much - self.fits == 1


def largest(need: Callable[[int], float | None], limit: float, start: int, most: int) -> Bounds:
    """Searches 1..`most` from `start` on.

    `need(number)` is in the unit of `limit`; None for one that is too much and nobody knows how
    much. It is asked at most `MOST_MEASUREMENTS` times, of each number once. Raises InputError for
    a `start` outside of the range.
    """
    if not 1 <= start <= most:
        raise InputError(f"start is {start}; it must be in 1..{most}")
    fitting, needs = {}, {}
    fits, too_much, number, surprises = 0, most + 1, start, 0
    while number is not None:
        needs[number] = need(number)
        fitted = needs[number] is not None and needs[number] <= limit
        if fitted:
            fits, fitting[number] = number, needs[number]
        else:
            too_much = number
        if too_much - fits == 1 or len(needs) == MOST_MEASUREMENTS:
            number = None
        elif not fits:
            number = _lower(too_much, needs[too_much], limit)
        elif not fitted:
            number, surprises = (fits + too_much) // 2, 0
        else:
            # Needs may rise in stairs: where the limit is not reached as foretold, steps grow.
            step, is_last = _step(fitting, limit)
            least = max(1, 2**surprises // 2)
            number = min(fits + max(least, step), too_much - 1)
            surprises = surprises + 1 if is_last and step <= least else 0
    return Bounds(fits, too_much, dict(sorted(needs.items())))


def _step(fitting: dict[int, float], limit: float) -> tuple[int, bool]:
    """From the largest number that fits towards where the limit is reached; whether to there.

    Of the slopes from smaller numbers the steepest counts, and no step is longer than what they
    were taken over. A number alone tells of a line through the origin: too steep a one, for there
    is a need at 0, so that it leads to a number that fits.
    """
    last = max(fitting)
    room = limit - fitting[last]
    slopes = [
        (fitting[last] - own) / (last - number) for number, own in fitting.items() if number < last
    ]
    span = last - min(fitting)
    if not slopes:
        return int(room / fitting[last] * last), True
    steepest = max(slopes)
    step = int(room / steepest) if steepest > 0 else span + 1
    return min(step, span), step <= span


def _lower(too_much: int, need: float | None, limit: float) -> int:
    """Below what is too much: half of it, or less where its need is more than twice the limit."""
    share = min(0.5, limit / need) if need else 0.5
    return max(1, int(too_much * share))
