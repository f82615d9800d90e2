"""Label shards, and the targets that training makes of them."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCALE = 65535  # a stored probability is a uint16: probability * 65535


def shard_name(shard: int, num_shards: int) -> str:
    return f"labels-{shard:05d}-of-{num_shards:05d}.parquet"


def shard_ranges(num_images: int, images_per_shard: int) -> list[range]:
    """The index ranges of all shards; they depend on nothing else."""
    starts = range(0, num_images, images_per_shard)
    return [range(start, min(start + images_per_shard, num_images)) for start in starts]


def write_shard(path: pathlib.Path, columns: dict, metadata: dict) -> None:
    """Writes one shard whole or not at all.

    `columns`: index int `[N]`, key and status lists of str, classes int `[N, k]` best first, probs
    float `[N, k]`; rows whose status is not `ok` get label -1 and confidence 0.
    """
    classes, probs = columns["classes"], columns["probs"]
    k, ok = classes.shape[1], np.asarray(columns["status"]) == "ok"
    stored = np.round(np.clip(probs, 0, 1) * SCALE).astype(np.uint16) * ok[:, None]
    table = pa.table(
        {
            "index": pa.array(columns["index"], pa.int64()),
            "key": pa.array(columns["key"], pa.string()),
            "status": pa.array(columns["status"], pa.string()),
            "label": pa.array(np.where(ok, classes[:, 0], -1), pa.int32()),
            "confidence": pa.array(np.where(ok, probs[:, 0], 0), pa.float32()),
            "classes": _lists(classes.astype(np.int32), pa.int32(), k),
            "probs": _lists(stored.astype(np.uint16), pa.uint16(), k),
        }
    ).replace_schema_metadata({"ns_jax": json.dumps(metadata)})
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _lists(values: np.ndarray, kind: pa.DataType, k: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), k)


def shard_metadata(path: pathlib.Path) -> dict:
    """What a shard says of its teacher, source, preprocessing, number of classes and k."""
    return json.loads(pq.read_schema(path).metadata[b"ns_jax"])


def read_shard(path: pathlib.Path, columns: list[str]) -> dict[str, np.ndarray]:
    """The named columns (none of them a list) of one shard."""
    table = pq.read_table(path, columns=columns)
    return {name: table.column(name).to_numpy() for name in columns}


def hard_target(label: int, num_classes: int, smoothing: float, k: int):
    """One class with its smoothed probability, in k places: (int32 `[k]`, float32 `[k]`)."""
    classes, probs = np.full(k, -1, np.int32), np.zeros(k, np.float32)
    classes[0], probs[0] = label, 1 - smoothing + smoothing / num_classes
    return classes, probs


def soft_target(classes: np.ndarray, stored: np.ndarray, num_classes: int, temperature: float):
    """A stored p as p^(1/T), normalised over all classes: (int32 `[k]`, float32 `[k]`).

    What the k best classes leave of 1 counts as spread evenly over the others.
    """
    probs = stored.astype(np.float64) / SCALE
    others = num_classes - len(classes)
    if others == 0:
        probs /= probs.sum()
    each_other = max(1 - probs.sum(), 0) / others if others else 0.0
    sharpened = probs ** (1 / temperature)
    total = sharpened.sum() + others * each_other ** (1 / temperature)
    return classes.astype(np.int32), (sharpened / total).astype(np.float32)
