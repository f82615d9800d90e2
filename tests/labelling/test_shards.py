import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax.errors import DamagedError, InputError
from ns_jax.labelling import shards as shards_lib


def test_shard_has_the_contracted_columns(tmp_path):
    path = tmp_path / shards_lib.shard_name(3, 128)
    assert path.name == "labels-00003-of-00128.parquet"
    columns = {
        "index": np.asarray([6, 7]),
        "key": ["a", "b"],
        "status": ["ok", "not an image"],
        "classes": np.asarray([[4, 2], [0, 1]]),
        "probs": np.float32([[0.75, 0.2], [0.5, 0.5]]),
    }
    shards_lib.write_shard(path, columns, {"teacher": "abc", "k": 2})
    table = pq.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "index": "int64",
        "key": "string",
        "status": "string",
        "label": "int32",
        "confidence": "float",
        "classes": "fixed_size_list<element: int32>[2]",
        "probs": "fixed_size_list<element: uint16>[2]",
    }
    rows = table.to_pylist()
    assert rows[0]["label"] == 4 and rows[0]["confidence"] == pytest.approx(0.75)
    assert rows[0]["probs"] == [round(0.75 * 65535), round(0.2 * 65535)]
    assert (rows[1]["label"], rows[1]["confidence"], rows[1]["probs"]) == (-1, 0.0, [0, 0])
    assert shards_lib.Shard(path).metadata == {"teacher": "abc", "k": 2}
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays
    assert json.loads(table.schema.metadata[b"ns_jax"])["teacher"] == "abc"


def test_shard_ranges_depend_on_the_count_alone():
    ranges = shards_lib.shard_ranges(1000, 300)
    assert [(r.start, r.stop) for r in ranges] == [(0, 300), (300, 600), (600, 900), (900, 1000)]


@pytest.fixture
def shards(tmp_path):
    """Four shards of 10 images in all, as they are written."""
    made_of = {"teacher": "abc", "class_names": ["a", "b"], "size": (3, 3)}
    shards = shards_lib.Shards(tmp_path, 10, 3, made_of)
    for number, rows in enumerate(shards.ranges):
        columns = {
            "index": np.asarray(rows),
            "key": [f"image {i}" for i in rows],
            "status": ["not an image" if i == 4 else "ok" for i in rows],
            "classes": np.asarray([[i % 2, 1 - i % 2] for i in rows]),
            "probs": np.full((len(rows), 2), 0.5, np.float32),
        }
        shards.write(number, columns)
    return shards


@pytest.mark.parametrize("where", ["disk", "mapped", "bucket"])
def test_what_is_written_is_read(shards, where, tmp_path, request):
    if where == "bucket":
        request.getfixturevalue("bucket")
        shards = shards_lib.Shards("gs://", 10, 3, {**shards.open(0).metadata})
    shard = shards.open(1, mapped=where == "mapped")
    assert shard.rows == range(3, 6)
    assert {name: column.tolist() for name, column in shard.read("index", "status").items()} == {
        "index": [3, 4, 5],
        "status": ["ok", "not an image", "ok"],
    }
    assert shard.keys().tolist() == ["image 3", "image 4", "image 5"]
    assert [column.tolist() for column in shard.predictions()] == [[1, -1, 1], [0.5, 0.0, 0.5]]
    assert shard.read("classes")["classes"].tolist() == [[1, 0], [0, 1], [1, 0]]
    shard.check()
    found = shards.map(lambda opened: [len(shard.rows) for shard in opened], shards.runs(6))
    assert list(found) == [[3, 3], [3, 1]]


@pytest.mark.parametrize("harm", ["gone", "emptied", "cut off", "text", "no metadata", "short"])
def test_what_cannot_be_read_is_damaged(shards, harm):
    path = pathlib.Path(shards.path(1))
    content = path.read_bytes()
    path.unlink()
    if harm == "no metadata":
        pq.write_table(pa.table({"index": [3, 4, 5]}), path)
    elif harm == "short":
        shutil.copy(shards.path(3), path)
    elif harm != "gone":
        path.write_bytes({"emptied": b"", "cut off": content[:-100], "text": b"x" * 999}[harm])
    with pytest.raises(DamagedError, match=f"{path} is missing or damaged"):
        shards.open(1)


def test_a_flipped_bit_is_found_when_it_is_read(shards):
    path = pathlib.Path(shards.path(1))
    columns = map(pq.read_metadata(path).row_group(0).column, range(7))
    column = next(column for column in columns if column.path_in_schema == "confidence")
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    shard = shards.open(1)
    assert len(shard.keys()) == 3
    for read in (shard.check, shard.predictions):
        with pytest.raises(DamagedError):
            read()


def test_a_shard_of_another_teacher_is_not_damaged_but_refused(shards, tmp_path):
    made_of = {**shards.open(0).metadata, "teacher": "other"}
    with pytest.raises(InputError, match="(?s)made of other inputs.*teacher: 'abc'") as error:
        shards_lib.Shards(tmp_path, 10, 3, made_of).open(0)
    assert not isinstance(error.value, DamagedError)
