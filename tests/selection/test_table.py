"""A selection on disk: written in equal batches, read where it is looked at."""

import pathlib

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest

from ns_jax.data import open as open_lib
from ns_jax.selection import table as table_lib
from ns_jax.training import examples as examples_lib

METADATA = {"source": "s", "teacher": "t", "class_names": ["a", "b", "c"]}


def write(directory, copies, k=3, pieces=1, on_batch=lambda batch: None):
    """A selection of the images 0, 10, 20, ... with so many copies; returns its columns."""
    directory.mkdir(parents=True, exist_ok=True)
    rng, count = np.random.default_rng(0), len(copies)
    columns = {
        "index": np.arange(count) * 10,
        "label": rng.integers(0, 3, count).astype(np.int32),
        "confidence": rng.random(count).astype(np.float32),
        "classes": rng.integers(0, 3, (count, k)).astype(np.int32),
        "probs": rng.integers(0, 65536, (count, k)).astype(np.uint16),
    }
    copies = np.asarray(copies, np.int64)
    with table_lib.Writer(directory, k, METADATA, on_batch) as writer:
        for rows in np.array_split(np.arange(count), pieces):
            writer.write({name: array[rows] for name, array in columns.items()}, copies[rows])
    return {name: np.repeat(array, copies, 0) for name, array in columns.items()}, writer.digest()


@pytest.fixture(params=[1, 7, 64, 1 << 18])
def batch_rows(request, monkeypatch):
    monkeypatch.setattr(table_lib, "MAX_BATCH_ROWS", request.param)
    return 1 << (request.param.bit_length() - 1)


COPIES = np.random.default_rng(1).integers(0, 40, 32)


def test_every_row_reads_as_it_was_written(tmp_path, batch_rows):
    expected, _ = write(tmp_path, COPIES, pieces=5)
    found = table_lib.Selection(tmp_path)
    rows = COPIES.sum()
    assert len(found) == rows and found.metadata == METADATA
    reader = pa.ipc.open_file(str(tmp_path / table_lib.NAME))
    sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
    assert set(sizes[:-1]) <= {batch_rows} and 0 < sizes[-1] <= batch_rows
    for name, array in expected.items():
        column = getattr(found, name)
        assert column.shape == array.shape and np.asarray(column).dtype == array.dtype
        np.testing.assert_array_equal(column, array)
        np.testing.assert_array_equal([column[row] for row in range(rows)], array)
        np.testing.assert_array_equal(column[-1], array[-1])
        for part in (slice(3, 3), slice(5, 2), slice(1, 130), slice(-40, None), slice(9, 300, 7)):
            np.testing.assert_array_equal(column[part], array[part])
        with pytest.raises(IndexError, match=f"row {rows} of a selection of {rows} rows"):
            column[rows]


def test_a_batch_that_is_just_full_is_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(table_lib, "MAX_BATCH_ROWS", 8)
    expected, _ = write(tmp_path, [24])  # one image, three batches
    found = table_lib.Selection(tmp_path)
    np.testing.assert_array_equal(found.classes, expected["classes"])
    assert pa.ipc.open_file(str(tmp_path / table_lib.NAME)).num_record_batches == 3


def test_pieces_do_not_matter(tmp_path, batch_rows):
    files, digests = [], []
    for pieces in (1, 3, 32):
        digests.append(write(tmp_path / str(pieces), COPIES, pieces=pieces)[1])
        files.append((tmp_path / str(pieces) / table_lib.NAME).read_bytes())
    assert files[0] == files[1] == files[2] and len(set(digests)) == 1
    assert write(tmp_path / "other", COPIES[::-1])[1] != digests[0]


def test_wide_rows_make_shorter_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(table_lib, "MAX_BATCH_BYTES", 100 * table_lib.row_bytes(50))
    seen = []
    write(tmp_path, [150], k=50, on_batch=lambda batch: seen.append(len(batch["index"])))
    assert seen == [64, 64, 22]


@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_images_come_each_once_with_their_copies(tmp_path, rows_at_once):
    copies = np.asarray([1, 12, 3, 1, 1, 7])
    write(tmp_path, copies)
    index, found = zip(*table_lib.Selection(tmp_path).images(rows_at_once), strict=True)
    assert np.concatenate(index).tolist() == [0, 10, 20, 30, 40, 50]
    assert np.concatenate(found).tolist() == copies.tolist()


def test_what_is_pickled_does_not_grow_with_the_rows(tmp_path):
    sizes = []
    for count in (10, 100_000):
        write(tmp_path / f"{count:06}", [1] * count)
        found = table_lib.Selection(tmp_path / f"{count:06}")
        pickled = [cloudpickle.dumps(each) for each in (found, found.index, found.probs)]
        sizes.append([len(each) for each in pickled])
        again = [cloudpickle.loads(each) for each in pickled]
        assert len(again[0]) == count and again[1][count - 1] == (count - 1) * 10
        np.testing.assert_array_equal(again[2], found.probs)
    assert sizes[0] == sizes[1] and max(sizes[0]) < 300


def test_examples_for_data_workers_do_not_grow_with_the_rows(tmp_path):
    pool = open_lib.open_source("digits:unlabelled", labels_per_class=3, seed=0)
    write(tmp_path, [10_000] * 3)
    index = examples_lib.teacher_labelled_examples(pool, table_lib.Selection(tmp_path)).index
    assert len(index) == 30_000 and int(index[29_999]) == 20
    assert len(cloudpickle.dumps(index)) < 300
    everything = examples_lib.teacher_labelled_examples(pool, None).index
    assert len(cloudpickle.dumps(everything)) < 300


def test_rows_are_mapped(tmp_path):
    write(tmp_path, [1000] * 600)  # three batches
    found = table_lib.Selection(tmp_path)
    assert str(tmp_path / table_lib.NAME) in pathlib.Path("/proc/self/maps").read_text()
    before = pa.total_allocated_bytes()
    assert found.index[599_999] == 5990 and len(found.probs[0]) == 3
    assert pa.total_allocated_bytes() == before


def test_a_missing_selection_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the select program first"):
        table_lib.Selection(tmp_path)


@pytest.mark.parametrize("left", [0, 5, 1000, -8])
def test_a_truncated_selection_is_said(tmp_path, left):
    write(tmp_path, COPIES)
    path = tmp_path / table_lib.NAME
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="selection.arrow is truncated.*run the select program"):
        table_lib.Selection(tmp_path)


@pytest.mark.parametrize("sizes", [(5, 3, 4), (5, 5, 3, 5, 5, 2), (3, 5, 5, 5)])
def test_batches_of_several_sizes_are_refused(tmp_path, sizes):
    batch = {"index": pa.int64(), "label": pa.int32(), "confidence": pa.float32()}
    batch |= {"classes": pa.list_(pa.int32(), 1), "probs": pa.list_(pa.uint16(), 1)}
    schema = pa.schema(batch, metadata={"ns_jax": "{}"})
    with pa.ipc.new_file(tmp_path / table_lib.NAME, schema) as writer:
        for rows in sizes:
            lists = [[0]] * rows
            columns = [range(rows), range(rows), [0.5] * rows, lists, lists]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    with pytest.raises(ValueError, match="record batches are not of one size"):
        table_lib.Selection(tmp_path)


def test_a_failure_while_writing_leaves_no_file(tmp_path):
    def fail(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, COPIES, on_batch=fail)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_said_before_a_row_is_written(tmp_path):
    rows = 10**15
    writer = table_lib.Writer(tmp_path, 1, METADATA, lambda batch: None)
    message = r"1,000,000,000,000,000 rows need 22,000,000,000,000,000 bytes, [0-9,]+ are free"
    with pytest.raises(OSError, match=message), writer:
        writer.check_room(rows)
    assert list(tmp_path.iterdir()) == []
