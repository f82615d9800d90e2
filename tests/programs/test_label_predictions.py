"""Predictions made elsewhere as a teacher: every form gives the same labels, bad ones are named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import scipy.special

from ns_jax import workdir as workdir_lib
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import label

DIGITS = [str(c) for c in range(10)]


@pytest.fixture
def config(tiny_config):
    tiny_config.label.checkpoint = ""
    tiny_config.label.images_per_shard = 300
    return tiny_config


def keys_of(config, which="unlabelled"):
    source = open_lib.open_from_config(config, which)
    return [source[index]["key"] for index in range(len(source))]


def some_logits(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 10)) * 3


def write_csv(path, keys, probs, names=DIGITS, key="key"):
    columns = {key: keys, **{n: column for n, column in zip(names, probs.T, strict=True)}}
    pa.csv.write_csv(pa.table(columns), path)


def read(workdir):
    """All rows in order of the shards."""
    manifest = workdir_lib.read_manifest(workdir / "labels")
    count = manifest["outputs"]["num_shards"]
    names = ["index", "key", "status", "label", "confidence", "classes", "probs"]
    parts = [
        shards_lib.Shard(workdir / "labels" / shards_lib.shard_name(n, count)).read(*names)
        for n in range(count)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def dense(rows):
    """float `[N, 10]` of what shards hold."""
    found = np.zeros((len(rows["index"]), 10))
    np.put_along_axis(found, rows["classes"], rows["probs"] / shards_lib.SCALE, 1)
    return found


@pytest.mark.parametrize("form", ["csv", "tsv", "logits", "parquet", "lists", "npz", "npy", "best"])
def test_every_form_gives_the_same_labels_whatever_its_order(form, config, tmp_path):
    keys = np.asarray(keys_of(config))
    logits = some_logits(len(keys))
    probs = scipy.special.softmax(logits, 1)
    order = np.random.default_rng(1).permutation(len(keys))
    named, mixed = keys[order].tolist(), probs[order]
    backwards = DIGITS[::-1]
    ending = {"logits": "csv", "lists": "parquet", "best": "csv"}.get(form, form)
    path = tmp_path / f"predictions.{ending}"
    if form == "csv":
        write_csv(path, named, mixed[:, ::-1], backwards, key="path")
    elif form == "tsv":
        lines = ["\t".join(["file_name", *DIGITS])]
        rows = zip(named, mixed, strict=True)
        lines += ["\t".join([key, *(f"{p:.7f}" for p in row)]) for key, row in rows]
        path.write_text("\n".join(lines))
    elif form == "logits":
        write_csv(path, named, logits[order] + 5)
    elif form == "parquet":
        columns = {n: mixed[:, c].astype(np.float32) for c, n in enumerate(DIGITS)}
        pq.write_table(pa.table({"key": named, **columns}), path, row_group_size=100)
    elif form == "lists":
        table = pa.table({"key": named, "logits": list(logits[order][:, ::-1])})
        metadata = {"class_names": json.dumps(backwards)}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    elif form == "npz":
        np.savez(path, keys=np.array(named), probs=np.asfortranarray(mixed), class_names=DIGITS)
    elif form == "npy":
        np.save(path, mixed.astype(np.float32))
        path.with_suffix(".txt").write_text("\n".join(named))
        (tmp_path / "names.txt").write_text("\n".join(DIGITS))
        config.label.class_names = str(tmp_path / "names.txt")
    else:
        best = np.argsort(-mixed, 1)
        columns = {"key": named}
        for place in range(10):
            columns[f"class_{place + 1}"] = best[:, place].astype(str)
            columns[f"probability_{place + 1}"] = mixed[np.arange(len(best)), best[:, place]]
        pa.csv.write_csv(pa.table(columns), path)
    config.label.predictions = str(path)
    outputs = label.run(config, tmp_path / "run")
    rows = read(tmp_path / "run")
    assert rows["key"].tolist() == keys.tolist() and (rows["status"] == "ok").all()
    np.testing.assert_array_equal(rows["index"], np.arange(len(keys)))
    np.testing.assert_allclose(dense(rows), probs, atol=3e-5)
    np.testing.assert_array_equal(rows["label"], probs.argmax(1))
    assert outputs["num_without_prediction"] == 0
    # Again: nothing is read but what names the content; another content is another teacher.
    assert label.run(config, tmp_path / "run") == outputs
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / path.name
    write_csv(other.with_suffix(".csv"), named, mixed[::-1])
    config.label.predictions = str(other.with_suffix(".csv"))
    with pytest.raises(InputError, match="teacher"):
        label.run(config, tmp_path / "run")
