"""Keys by numbers: equal for equal keys alone, wherever in an array they stand."""

import numpy as np
import pyarrow as pa
import pytest

from ns_jax.data.source import Source, unlabelled
from ns_jax.predictions import join


def array(*keys):
    return pa.array(keys, pa.large_string())


def test_numbers_are_those_of_the_text_alone():
    keys = [f"{kind}/{number}" for kind in ("a", "b", "ab", "é" * 40) for number in range(5000)]
    keys += [letter * 3000 for letter in "xy"] + ["x" * 2999]
    found = join.numbers(array(*keys))
    assert len(np.unique(found)) == len(keys)
    shuffled = np.random.default_rng(0).permutation(len(keys))
    again = join.numbers(array(*(keys[place] for place in shuffled)))
    np.testing.assert_array_equal(again, found[shuffled])
    np.testing.assert_array_equal(join.numbers(array(*keys).slice(7, 100)), found[7:107])
    assert len(join.numbers(array())) == 0


def test_rows_are_found_in_any_order_and_repetitions_are_named():
    table = join.Index(join.numbers(array("c", "a", "b", "a")))
    rows = table.rows_of(join.numbers(array("b", "z", "c", "a")))
    assert rows.tolist() == [2, -1, 0, 1]
    assert table.repeated().tolist() == [3]
    assert join.Index(join.numbers(array())).rows_of(join.numbers(array("a"))).tolist() == [-1]


class Named:
    """The records of images that nobody reads."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        raise AssertionError("an image was read")

    def keys(self, indices):
        return array(*(self.names[index] for index in indices))


def source_of(*names):
    return Source("some", (), "", Named(names), unlabelled(len(names)))


@pytest.mark.parametrize(
    ("there", "rows"),
    [
        (["a/2.jpg", "b/1.jpg", "a/1.jpg"], [2, 0, 1]),
        (["/data/a/1.jpg", "/data/b/1.jpg"], [0, -1, 1]),
        # More of them lie in one directory than in the other.
        (["/x/a/1.jpg", "/y/a/1.jpg", "/y/a/2.jpg"], [1, 2, -1]),
        (["/data/é/b/1.jpg"], [-1, -1, 0]),
        (["1.jpg", "2.jpg"], [-1, -1, -1]),  # a/1.jpg and b/1.jpg are called that
        (["a/1.jpg", "/data/b/1.jpg"], [0, -1, -1]),  # one that is found settles it
        (["A/1.jpg"], [-1, -1, -1]),
    ],
)
def test_which_row_is_an_images(there, rows):
    source = source_of("a/1.jpg", "a/2.jpg", "b/1.jpg")
    index = join.Index(join.numbers(array(*there)))
    assert join.rows_of(source, index, lambda: iter([array(*there)])).tolist() == rows


def test_names_alone_are_enough_where_they_are_unique():
    source, there = source_of("a/1.jpg", "b/2.jpg"), ["z/2.jpg", "1.jpg"]
    index = join.Index(join.numbers(array(*there)))
    assert join.rows_of(source, index, lambda: iter([array(*there)])).tolist() == [1, 0]
