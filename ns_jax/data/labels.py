"""Label shards, and the targets that training makes of them."""

import io
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax.data import files

SCALE = 65535  # a stored probability is a uint16: probability * 65535
SHARDS = "labels-*-of-*.parquet"
# Of a shard's columns, where the default is larger: 52 bytes an image instead of 59 (k = 16 of
# 1,000 classes, keys that are numbers). Splitting the bytes of `probs` would save 6 more, but
# DuckDB, with which people look into shards, cannot read that.
ENCODINGS = {
    "index": "DELTA_BINARY_PACKED",
    "key": "DELTA_BYTE_ARRAY",
    "confidence": "BYTE_STREAM_SPLIT",
}


def shard_name(shard: int, num_shards: int) -> str:
    return f"labels-{shard:05d}-of-{num_shards:05d}.parquet"


def shard_ranges(num_images: int, images_per_shard: int) -> list[range]:
    """The index ranges of all shards; they depend on nothing else."""
    starts = range(0, num_images, images_per_shard)
    return [range(start, min(start + images_per_shard, num_images)) for start in starts]


def write_shard(path: pathlib.Path, columns: dict, metadata: dict) -> bool:
    """Writes one shard whole or not at all; whether it did, for one that is there stays.

    `columns`: index int `[N]`, key and status lists of str, classes int `[N, k]` best first, probs
    float `[N, k]`, and maybe phash uint64 `[N]`; rows whose status is not `ok` get label -1 and
    confidence 0. Raises OSError.
    """
    classes, probs = columns["classes"], columns["probs"]
    k, ok = classes.shape[1], np.asarray(columns["status"]) == "ok"
    # Rounded down, so that what is left of 1 for the classes that are not stored is never negative.
    stored = np.floor(np.clip(probs, 0, 1) * np.float64(SCALE)).astype(np.uint16) * ok[:, None]
    arrays = {
        "index": pa.array(columns["index"], pa.int64()),
        "key": pa.array(columns["key"], pa.string()),
        "status": pa.array(columns["status"], pa.string()),
        "label": pa.array(np.where(ok, classes[:, 0], -1), pa.int32()),
        "confidence": pa.array(np.where(ok, probs[:, 0], 0), pa.float32()),
        "classes": _lists(classes.astype(np.int32), pa.int32(), k),
        "probs": _lists(stored, pa.uint16(), k),
    }
    if "phash" in columns:
        arrays["phash"] = pa.array(columns["phash"], pa.uint64())
    table = pa.table(arrays).replace_schema_metadata({"ns_jax": json.dumps(metadata)})
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=["status", "label", "classes.list.element"],
        column_encoding=ENCODINGS,
        write_page_checksum=True,
    )
    return files.create(os.fspath(path), buffer.getvalue())


def _lists(values: np.ndarray, kind: pa.DataType, k: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), k)


def shard_metadata(path: pathlib.Path) -> dict:
    """What a shard says of its teacher, source, preprocessing, number of classes and k.

    Raises pyarrow.ArrowInvalid for a file that is cut off or no Parquet.
    """
    with files.open_binary(os.fspath(path)) as file:
        return json.loads(pq.read_schema(file).metadata[b"ns_jax"])


def read_shard(path: pathlib.Path, columns: list[str]) -> dict[str, np.ndarray]:
    """The named columns (none of them a list) of one shard.

    Raises pyarrow.ArrowException or OSError for a file that is damaged.
    """
    with files.open_binary(os.fspath(path)) as file:
        table = pq.read_table(file, columns=columns, page_checksum_verification=True)
    return {name: table.column(name).to_numpy() for name in columns}


def check_shard(path: pathlib.Path) -> None:
    """Reads all of a shard. Raises as `read_shard`."""
    with files.open_binary(os.fspath(path)) as file:
        pq.read_table(file, page_checksum_verification=True)


def hard_target(label: int, num_classes: int, smoothing: float, k: int):
    """One class with its smoothed probability, in k places: (int32 `[k]`, float32 `[k]`)."""
    classes, probs = np.full(k, -1, np.int32), np.zeros(k, np.float32)
    classes[0], probs[0] = label, 1 - smoothing + smoothing / num_classes
    return classes, probs


def soft_target(classes: np.ndarray, stored: np.ndarray, num_classes: int, temperature: float):
    """A stored p as p^(1/T), normalised over all classes: (int32 `[k]`, float32 `[k]`).

    What the stored classes leave of 1 counts as spread evenly over the others, among which are
    those too improbable to be stored: 0 in the shard, an empty place in the target.
    """
    probs = stored.astype(np.float64) / SCALE
    used = probs > 0 if len(classes) < num_classes else np.ones(len(classes), bool)
    others = num_classes - used.sum()
    if others == 0:
        probs /= probs.sum()
    each_other = max(1 - probs.sum(), 0) / others if others else 0.0
    sharpened = probs ** (1 / temperature)
    total = sharpened.sum() + others * each_other ** (1 / temperature)
    named = np.where(used, classes, -1).astype(np.int32)
    return named, (sharpened / total).astype(np.float32)
