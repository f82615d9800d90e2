"""The order of a training from shards in a bucket."""

import numpy as np
import pytest

from ns_jax.data.shard_order import Lanes, ShardPlan
from ns_jax.data.shards import RUN, Shards, joined

SEED = 7


def ends(shards: int, most: int = 90) -> np.ndarray:
    return np.cumsum(np.random.default_rng(shards).integers(1, most, shards))


@pytest.mark.parametrize(
    ("shards", "batch", "lanes"),
    [(40, 32, 8), (3, 32, 8), (1, 7, 16), (200, 256, 16), (5, 1, 4), (30, 300, 8), (6, 10, 3)],
)
def test_each_example_comes_once_an_epoch(shards, batch, lanes):
    order = Lanes(ends(shards), batch, lanes, SEED)
    for epoch in range(3):
        numbers = range(epoch * len(order), (epoch + 1) * len(order))
        assert sorted(order.place(n).example for n in numbers) == list(range(len(order)))


def test_a_lane_goes_from_shard_to_shard_as_was_said():
    order = Lanes(ends(12), 8, 4, SEED)
    for lane in range(4):
        numbers = [n for n in range(5 * len(order)) if order.lane(n) == lane]
        places = [order.place(n).shard for n in numbers]
        for number, shard, after in zip(numbers, places, places[1:], strict=False):
            assert after in (shard, order.following(number))


def test_a_batch_has_images_of_few_shards_and_of_as_many_as_there_are_lanes():
    order = Lanes(np.arange(1, 101) * 100, 64, 8, SEED)
    there = [{order.place(64 * step + n).shard for n in range(64)} for step in range(300)]
    assert {8} <= set(map(len, there)) <= {7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
    assert np.mean([len(shards) for shards in there]) < 10


def test_a_host_needs_the_shards_of_its_own_rows():
    shards = Shards(tuple(range(100)), np.arange(1, 101) * 100)  # numbers for files
    order = Lanes(shards.ends, 64, 8, SEED)
    for host in range(4):
        rows = range(16 * host, 16 * (host + 1))
        plan = ShardPlan(shards, order, rows)
        assert plan.at_once == 2
        for step in (0, 77, 1000):
            now, soon = plan.needed(step)
            assert {order.place(64 * step + row).shard for row in rows} <= set(now)
            assert len(soon) <= 2 and not set(now) & set(soon)


def test_another_seed_and_another_epoch_are_other_orders():
    first, other = (Lanes(ends(20), 16, 4, seed) for seed in (1, 2))
    whole = len(first)
    orders = [
        [lanes.place(n).example for n in range(start, start + whole)]
        for lanes, start in ((first, 0), (first, whole), (other, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_a_selection_and_joined_sources_have_their_own_shards():
    shards = Shards(("a", "b", "c"), np.asarray([10, 20, 30]))
    chosen = shards.chosen(np.asarray([0, 0, 3, 20, 21, 29]))
    assert chosen.files == ("a", "c") and chosen.ends.tolist() == [3, 6]
    both = joined([None, shards], [RUN + 1, 30])
    assert both.files == (None, None, "a", "b", "c")
    assert both.ends.tolist() == [RUN, RUN + 1, RUN + 11, RUN + 21, RUN + 31]
    assert joined([None, None], [3, 4]) is None
    assert both.of_images(np.asarray([0, RUN + 1, RUN + 30])) == [0, 2, 4]
