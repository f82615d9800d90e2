import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ns_jax.labelling import shards as shards_lib
from ns_jax.training import targets


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
    assert shards_lib.shard_metadata(path) == {"teacher": "abc", "k": 2}
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays
    assert json.loads(table.schema.metadata[b"ns_jax"])["teacher"] == "abc"


def test_shard_ranges_depend_on_the_count_alone():
    ranges = shards_lib.shard_ranges(1000, 300)
    assert [(r.start, r.stop) for r in ranges] == [(0, 300), (300, 600), (600, 900), (900, 1000)]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("k", [3, 6])
def test_soft_targets_are_the_tempered_distribution(temperature, k):
    full = np.asarray(
        [0.4, 0.25, 0.2, 0.05, 0.05, 0.05]
    )  # the tail is even, so k = 3 loses nothing
    stored = np.round(full[:k] * shards_lib.SCALE).astype(np.uint16)
    classes, probs = targets.soft_target(np.arange(k), stored, 6, temperature)
    expected = full ** (1 / temperature) / (full ** (1 / temperature)).sum()
    assert classes.dtype == np.int32 and probs.dtype == np.float32
    np.testing.assert_allclose(probs, expected[:k], atol=3e-5)
