"""The columns of a batch, and where its labelled rows lie."""

import numpy as np
import pytest

from ns_jax.data.batch import BatchSpec

IMAGES = {"image": (4, 4, 3), "teacher_image": (6, 6, 3)}


def spec(labelled=4, unlabelled=8, groups=2):
    return BatchSpec(labelled, unlabelled, groups, IMAGES, places=5)


def test_its_bytes_hold_its_arrays_each_aligned():
    taken = 0

    def make(shape, dtype):
        nonlocal taken
        array = np.empty(shape, dtype)
        taken += array.nbytes + -array.nbytes % 64
        return array

    batch = spec().empty(7, make)
    assert spec().num_bytes(7, 64) == taken
    assert batch["teacher_image"].shape == (7, 6, 6, 3) and batch["target_probs"].shape == (7, 5)
    assert batch["index"].dtype == np.int64 and batch["is_labelled"].dtype == bool


def test_only_a_batch_with_unlabelled_rows_tells_them_apart():
    assert "is_labelled" in spec().device_columns
    assert "is_labelled" not in spec(unlabelled=0).columns
    assert "index" in spec().columns and "index" not in spec().device_columns


@pytest.mark.parametrize(("labelled", "unlabelled", "groups"), [(4, 8, 2), (4, 0, 1), (6, 12, 3)])
def test_each_group_has_its_labelled_rows_first_and_streams_lose_nothing(
    labelled, unlabelled, groups
):
    one = spec(labelled, unlabelled, groups)
    rows = np.arange(one.rows)
    parts = one.is_labelled(rows).reshape(groups, -1)
    expected = [True] * (labelled // groups) + [False] * (unlabelled // groups)
    assert (parts == expected).all()
    for kind, count in ((True, labelled), (False, unlabelled)):
        numbers = [
            one.number_in_stream(step, int(row))
            for step in range(3)
            for row in rows[one.is_labelled(rows) == kind]
        ]
        assert numbers == list(range(3 * count))
