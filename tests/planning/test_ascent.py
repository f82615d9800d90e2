"""The search for the largest number that fits, against needs of our own making."""

import numpy as np
import pytest

from ns_jax.planning import ascent

LIMIT = 15.5


def search(need, start, most=1000, says=True):
    """Bounds, and the numbers in the order they were asked for; None for what is too much."""
    asked = []

    def measured(number):
        asked.append(number)
        found = need(number)
        return found if found <= LIMIT or says else None

    return ascent.largest(measured, LIMIT, start, most), asked


def line(offset, slope):
    return lambda number: offset + slope * number


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(
    ("need", "start", "expected"),
    [
        (line(0, 1), 1, 15),
        (line(0, 1), 15, 15),
        (line(0, 1), 16, 15),
        (line(1.2, 0.25), 8, 57),
        (line(1.2, 0.25), 100, 57),
        (line(5, 0.2), 10, 52),
        (line(0, 10), 1, 1),
    ],
)
def test_it_ends_between_neighbours_after_a_few_measurements(need, start, expected, says):
    found, asked = search(need, start, says=says)
    assert (found.fits, found.too_much, found.exact) == (expected, expected + 1, True)
    assert len(asked) == len(set(asked)) <= 6
    assert found.needs == {
        number: need(number) if need(number) <= LIMIT or says else None for number in sorted(asked)
    }


@pytest.mark.parametrize("start", [8, 12, 32])
def test_it_comes_from_below(start):
    """A step's memory as it was once measured, steep at first: what is too much is met once."""
    images, memory = [0, 8, 12, 32, 56, 500], [1.2, 3.38, 5.35, 9.32, 15.25, 125.5]
    found, asked = search(lambda number: float(np.interp(number, images, memory)), start)
    assert found.exact and found.fits == 57
    assert asked == sorted(asked) and len(asked) <= 5


@pytest.mark.parametrize("start", [2, 4, 8, 40])
def test_stairs_are_climbed(start):
    """As rows are filled up to multiples of 8."""
    found, asked = search(lambda number: 2 + 2.1 * -(-number // 8), start)
    assert found.exact and found.fits == 48 and len(asked) <= ascent.MOST_MEASUREMENTS


def test_noise_does_not_mislead_it():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        noise = 1 + rng.uniform(-0.01, 0.01, 1001)
        true = line(rng.uniform(0, 3), rng.uniform(0.2, 2))
        needs = [true(number) * noise[number] for number in range(1001)]
        found, asked = search(needs.__getitem__, 4, says=seed % 2 == 0)
        assert found.exact and len(asked) < ascent.MOST_MEASUREMENTS
        assert needs[found.fits] <= LIMIT < needs[found.too_much]


def test_nothing_fits():
    found, asked = search(line(16, 1), 8, says=False)
    assert (found.fits, found.too_much, found.exact) == (0, 1, True)
    assert asked == [8, 4, 2, 1]


def test_everything_fits_up_to_the_bound():
    found, asked = search(line(1, 1e-4), 4, most=64)
    assert (found.fits, found.too_much, found.exact) == (64, 65, True)
    assert asked == [4, 61, 64]


def test_it_gives_up_and_says_what_it_knows():
    found, asked = search(line(15, 1e-5), 1, most=10**6)
    assert len(asked) == ascent.MOST_MEASUREMENTS and not found.exact
    assert found.fits == max(asked) and found.too_much == 10**6 + 1


@pytest.mark.parametrize("start", [0, 11])
def test_it_begins_within_the_range(start):
    with pytest.raises(ValueError, match="must be in 1..10"):
        ascent.largest(float, LIMIT, start, 10)
