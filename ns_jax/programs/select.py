"""Threshold, best of each class, balance by copies: label shards -> selection."""

import hashlib
import json
import pathlib

import duckdb
import numpy as np
import pyarrow as pa

from ns_jax import config as config_lib
from ns_jax import experiment, manifest, processes
from ns_jax.data import labels
from ns_jax.progress import say

ROWS_AT_ONCE = 1_000_000  # rows of a record batch

# Among the images of a label, ranked by (confidence descending, index ascending), the best
# `per_class` stay. A scarce class is filled up in rounds through its ranking, so the best of it get
# the extra copy. `index` orders the result and makes every step of it exact.
SELECT = """
WITH candidates AS (
    SELECT index, label, confidence, classes, probs,
           row_number() OVER (PARTITION BY label ORDER BY confidence DESC, index) AS rank,
           count(*) OVER (PARTITION BY label) AS candidates
    FROM read_parquet($shards)
    WHERE status = 'ok' AND confidence > $threshold::FLOAT
), kept AS (
    SELECT *, $per_class // least(candidates, $per_class)
              + (rank <= $per_class % least(candidates, $per_class))::BIGINT AS copies
    FROM candidates
    WHERE rank <= $per_class
)
SELECT index, label, confidence, classes, probs
FROM (SELECT *, unnest(range(copies)) AS copy FROM kept)
ORDER BY index, copy
"""

COUNT = """
SELECT label, count(*) AS candidates
FROM read_parquet($shards)
WHERE status = 'ok' AND confidence > $threshold::FLOAT
GROUP BY label
"""


def run(config, workdir: pathlib.Path) -> dict:
    """Writes `selection/` in `workdir`: `selection.arrow`, `report.json`, `manifest.json`.

    Raises ValueError if the threshold keeps nothing. Of many processes the first one does it.
    """
    processes.first_alone(_select, config, workdir)
    return manifest.read(workdir / "selection")["outputs"]


def _select(config, workdir: pathlib.Path) -> None:
    made = manifest.read(config.select.labels)
    directory = workdir / "selection"
    threshold, per_class = config.select.threshold, config.select.per_class
    inputs = {"labels": made["inputs"], "threshold": threshold, "per_class": per_class}
    if manifest.is_done(directory, inputs):
        say(f"{directory}: selected already")
        return None

    class_names = made["inputs"]["class_names"]
    num_shards = made["outputs"]["num_shards"]
    shards = [
        str(pathlib.Path(config.select.labels) / labels.shard_name(shard, num_shards))
        for shard in range(num_shards)
    ]
    database = duckdb.connect()
    values = {"shards": shards, "threshold": threshold}
    candidates = dict(database.execute(COUNT, values).fetchall())
    if not candidates:
        query = "SELECT max(confidence) FROM read_parquet($shards) WHERE status = 'ok'"
        highest = database.execute(query, {"shards": shards}).fetchone()[0]
        raise ValueError(
            f"select.threshold={threshold} keeps none of {made['outputs']['num_images']:,} images; "
            f"the highest confidence is {highest if highest is None else round(highest, 4)}"
        )
    if per_class == 0:
        per_class = max(candidates.values())

    directory.mkdir(parents=True, exist_ok=True)
    rows = database.execute(SELECT, {**values, "per_class": per_class}).to_arrow_reader(
        ROWS_AT_ONCE
    )
    metadata = {
        "source": made["inputs"]["source"],
        "teacher": made["inputs"]["teacher"],
        "class_names": class_names,
    }
    digest = _write(directory / labels.SELECTION, rows, made["inputs"]["k"], metadata)
    selection = labels.Selection(directory)
    accuracy = _accuracy(config, selection, class_names)
    report = _report(selection, candidates, class_names, accuracy)
    config_lib.write_json(directory / "report.json", report)
    missing = [c["name"] for c in report["classes"] if not c["candidates"]]
    if missing:
        say(f"{len(missing)} classes have no candidate: {', '.join(missing[:20])}")
    outputs = {"digest": digest, **{name: report[name] for name in report if name != "classes"}}
    manifest.write(directory, inputs, outputs)
    say(
        f"selected {outputs['kept']:,} of {outputs['candidates']:,} candidates and "
        f"{outputs['copies']:,} copies: {directory}"
    )
    return outputs


def _write(path: pathlib.Path, batches: pa.RecordBatchReader, k: int, metadata: dict) -> str:
    """Streams rows to an Arrow file, whole or not at all; returns a digest of their content."""
    schema = pa.schema(
        {
            "index": pa.int64(),
            "label": pa.int32(),
            "confidence": pa.float32(),
            "classes": pa.list_(pa.int32(), k),
            "probs": pa.list_(pa.uint16(), k),
        },
        metadata={"ns_jax": json.dumps(metadata)},
    )
    total = hashlib.sha256(json.dumps(metadata).encode())
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.ipc.new_file(temporary, schema) as writer:
        for batch in batches:
            batch = batch.cast(schema)
            for column in batch.columns:
                flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
                total.update(flat.to_numpy().tobytes())
            writer.write_batch(batch)
    temporary.replace(path)
    return total.hexdigest()[:16]


def _report(selection, candidates: dict, class_names: list[str], accuracy: float | None) -> dict:
    first = np.ones(len(selection), bool)
    first[1:] = selection.index[1:] != selection.index[:-1]  # rows are in order of index
    classes = []
    for label, name in enumerate(class_names):
        rows = selection.label == label
        kept = int((rows & first).sum())
        classes.append(
            {
                "name": name,
                "candidates": candidates.get(label, 0),
                "kept": kept,
                "copies": int(rows.sum()) - kept,
                "lowest_confidence": float(selection.confidence[rows].min()) if kept else None,
            }
        )
    return {
        "rows": len(selection),
        **{name: sum(c[name] for c in classes) for name in ("candidates", "kept", "copies")},
        "accuracy": accuracy,
        "classes": classes,
    }


def _accuracy(config, selection: labels.Selection, class_names: list[str]) -> float | None:
    """Of the kept labels without their copies, where the source knows the truth; else None."""
    if not config.data.unlabelled:
        return None
    source = experiment.open_source(config, "unlabelled")
    truth = source.known_labels(class_names)
    if truth is None:
        return None
    index, rows = np.unique(selection.index, return_index=True)
    expected = truth[index]
    right, known = (selection.label[rows] == expected).sum(), (expected >= 0).sum()
    return float(right / known) if known else None
