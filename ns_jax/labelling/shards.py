"""Label shards, and the targets that training makes of them."""

import collections
import concurrent.futures
import io
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax import cores, files
from ns_jax.errors import DamagedError, InputError

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


WAITING = 2  # runs of shards that are read before their turn: one may take longer than others


class Shard:
    """One open shard: `rows`, their places among all rows, and `read(names)`, their columns."""

    def __init__(self, path: pathlib.Path, rows: range, made_of: dict, known: set[bytes]):
        """`known`: what shards say of themselves that has been compared with `made_of` already.

        Raises InputError for another teacher or source, DamagedError if it is not there or damaged.
        """
        self.path, self.rows = path, rows
        self._num_classes = len(made_of["class_names"])
        try:
            # Mapped: pages of a shard that are in memory already are not copied.
            self._file = pq.ParquetFile(
                files.open_binary(str(path)) if files.is_remote(str(path)) else path,
                memory_map=True,
                page_checksum_verification=True,
            )
            metadata = self._file.metadata.metadata[b"ns_jax"]
        except FileNotFoundError:
            raise DamagedError(f"there is no {path}; {_remedy(path.parent)}") from None
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise self._damaged(error) from None
        if metadata not in known:
            theirs = json.loads(metadata)
            wrong = [
                f"  {name}: {theirs.get(name)!r} there, {made_of.get(name)!r} in the manifest"
                for name in sorted(theirs.keys() | {"source", "teacher"})
                if theirs.get(name) != made_of.get(name)
            ]
            if wrong:
                raise InputError(
                    f"{path} is not of the labels that its directory's manifest describes; "
                    + f"remove it, and {_remedy(path.parent)}\n"
                    + "\n".join(wrong)
                )
            known.add(metadata)
        if self._file.metadata.num_rows != len(rows):
            raise self._damaged(f"{self._file.metadata.num_rows:,} rows instead of {len(rows):,}")

    def read(self, *names: str) -> dict[str, np.ndarray]:
        """Columns by name, `[N]`, lists as `[N, k]`. Raises DamagedError."""
        try:
            table = self._file.read(columns=list(names), use_threads=False)
            return {name: _array(table.column(name)) for name in names}
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise self._damaged(error) from None

    def keys(self) -> list[str]:
        """Raises DamagedError."""
        try:
            return self._file.read(columns=["key"], use_threads=False).column("key").to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(error) from None

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """`label` int32 and `confidence` float32 `[N]`; label -1, confidence 0: a bad image."""
        label, confidence = self.read("label", "confidence").values()
        sound = label.min() >= -1 and label.max() < self._num_classes
        if not (sound and confidence.min() >= 0 and confidence.max() < 2):  # NaN is not sound
            raise self._damaged(
                f"labels {label.min()} to {label.max()} of {self._num_classes} classes, "
                f"confidences {confidence.min()} to {confidence.max()}"
            )
        return label, confidence

    def columns(self, label, confidence, index: np.ndarray) -> dict[str, np.ndarray]:
        """All columns of a selection: its `predictions`, the indices it must hold, and the rest."""
        found = self.read("index", "classes", "probs")
        if not np.array_equal(found["index"], index):
            raise self._damaged("it holds other images than its place says")
        return {**found, "label": label, "confidence": confidence}

    def _damaged(self, error) -> DamagedError:
        what = " ".join(str(error).split())
        return DamagedError(
            f"{self.path} is truncated or damaged ({what}); remove it, and "
            f"{_remedy(self.path.parent)}"
        )


def _remedy(directory: pathlib.Path) -> str:
    return f"remove {directory / 'manifest.json'} and run label again: it makes what is missing"


def _array(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0)
    if pa.types.is_fixed_size_list(whole.type):
        return whole.flatten().to_numpy(zero_copy_only=True).reshape(-1, whole.type.list_size)
    return whole.to_numpy(zero_copy_only=True)


class Shards:
    """The label shards of a directory."""

    def __init__(self, directory: pathlib.Path, made_of: dict, num_rows: int, most_threads: int):
        """`made_of`: the inputs in the directory's manifest. Opens nothing."""
        self._made_of, self._known = made_of, set()
        self._ranges = shard_ranges(num_rows, made_of["images_per_shard"])
        count = len(self._ranges)
        self._paths = [directory / shard_name(shard, count) for shard in range(count)]
        self._threads = min(cores.count(), most_threads, count)
        self.in_flight = self._threads + WAITING

    @property
    def largest(self) -> int:
        """Rows of a shard, at most."""
        return len(self._ranges[0])

    def runs(self, rows: int) -> Iterator[range]:
        """All shards, in order, in parts of up to `rows` rows, but at least one shard."""
        size = max(1, rows // self.largest)
        for start in range(0, len(self._paths), size):
            yield range(start, min(start + size, len(self._paths)))

    def rows_of(self, run: range) -> range:
        return range(self._ranges[run[0]].start, self._ranges[run[-1]].stop)

    def map(self, function: Callable, runs: Iterable[range], *more: Iterable) -> Iterator:
        """`function(shards of the run, ...)` of each run, in order, made ahead by threads.

        `more` gives further arguments, an item for each run, as `map` takes them.
        """
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            waiting = collections.deque()
            tasks = zip(runs, *more, strict=False)  # the others may be endless
            try:
                for run, *arguments in tasks:
                    waiting.append(pool.submit(function, self._open(run), *arguments))
                    if len(waiting) == self.in_flight:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _open(self, run: range) -> Iterator[Shard]:
        paths, ranges = (
            itertools.islice(a, run.start, run.stop) for a in (self._paths, self._ranges)
        )
        return (
            Shard(path, rows, self._made_of, self._known)
            for path, rows in zip(paths, ranges, strict=True)
        )
