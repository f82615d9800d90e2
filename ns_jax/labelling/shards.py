"""Label shards: their one writer, their one reader, and all of those of a labelling."""

import collections
import concurrent.futures
import contextlib
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax import cores, files
from ns_jax import workdir as workdir_lib
from ns_jax.errors import DamagedError, DivergedError

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
WAITING = 2  # runs of shards that are read before their turn: one may take longer than others


def shard_name(shard: int, num_shards: int) -> str:
    return f"labels-{shard:05d}-of-{num_shards:05d}.parquet"


def shard_ranges(num_images: int, images_per_shard: int) -> list[range]:
    """The index ranges of all shards; they depend on nothing else."""
    starts = range(0, num_images, images_per_shard)
    return [range(start, min(start + images_per_shard, num_images)) for start in starts]


def write_shard(path: str | pathlib.Path, columns: dict, metadata: dict) -> bool:
    """Writes one shard atomically; whether it did, for one that is there stays.

    `metadata`: what it is made of: teacher, source, preprocessing, class names, k and so on.
    `columns`: index int `[N]`, key and status lists of str, classes int `[N, k]` best first, probs
    float `[N, k]`, and maybe phash uint64 `[N]`; rows whose status is not `ok` get label -1 and
    confidence 0. Raises OSError.
    """
    classes, probs = columns["classes"], columns["probs"]
    k, ok = classes.shape[1], np.asarray(columns["status"]) == "ok"
    # Rounded down, so that what is left of 1 for the classes that are not stored is never negative.
    kept = np.clip(np.where(ok[:, None], probs, 0), 0, 1)  # a failed row's may be no numbers
    stored = np.floor(kept * np.float64(SCALE)).astype(np.uint16)
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


class Shard:
    """One label shard, open: what it is made of, which rows it holds, and their columns.

    Whatever cannot be read is a DamagedError, also where a shard is missing: both are mended by
    labelling again.
    """

    def __init__(self, path: str | pathlib.Path, rows: range | None = None, mapped: bool = False):
        """`rows`: the places that its rows must have among all rows; None: any number of rows.

        `mapped`: pages that are in memory already are not copied. But an error of the disk then
        ends the process instead of being a DamagedError, so it is for many passes over sound files.
        """
        self.path = files.as_path(path)
        with self._readable():
            self._file = pq.ParquetFile(
                files.open_binary(os.fspath(path)) if files.is_remote(os.fspath(path)) else path,
                memory_map=mapped,
                page_checksum_verification=True,
            )
            self.footer: bytes = self._file.metadata.metadata[b"ns_jax"]
        count = self._file.metadata.num_rows
        self.rows = range(count) if rows is None else rows
        if count != len(self.rows):
            raise self._damaged(f"{count:,} rows instead of {len(self.rows):,}")

    @property
    def metadata(self) -> dict:
        """What it is made of, as it was given to `write_shard`; not to be changed."""
        with self._readable():
            return _parsed(self.footer)

    def check(self) -> None:
        """Reads all of it. Raises DamagedError."""
        with self._readable():
            self._file.read(use_threads=False)

    def read(self, *names: str) -> dict[str, np.ndarray]:
        """Columns by name: `[N]`, str as objects, lists as `[N, k]`. Raises DamagedError."""
        with self._readable():
            table = self._file.read(columns=list(names), use_threads=False)
            return {name: _array(table.column(name)) for name in names}

    def keys(self) -> np.ndarray:
        """str `[N]`. Raises DamagedError."""
        return self.read("key")["key"]

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """`label` int32 and `confidence` float32 `[N]`; label -1, confidence 0: a bad image.

        Raises DamagedError, and DivergedError for a teacher whose outputs were not finite.
        """
        label, confidence = self.read("label", "confidence").values()
        if np.isnan(confidence).any():  # which the checksums say was written
            raise DivergedError(
                f"{self.path}: the outputs of the teacher {self.metadata['teacher']} are not finite"
            )
        num_classes = len(self.metadata["class_names"])
        sound = label.min() >= -1 and label.max() < num_classes
        if not (sound and confidence.min() >= 0 and confidence.max() < 2):
            raise self._damaged(
                f"labels {label.min()} to {label.max()} of {num_classes} classes, "
                f"confidences {confidence.min()} to {confidence.max()}"
            )
        return label, confidence

    def columns(
        self, label: np.ndarray, confidence: np.ndarray, index: np.ndarray
    ) -> dict[str, np.ndarray]:
        """All columns of a selection: its `predictions`, the indices it must hold, and the rest.

        Raises DamagedError.
        """
        found = self.read("index", "classes", "probs")
        if not np.array_equal(found["index"], index):
            raise self._damaged("it holds other images than its place says")
        return {**found, "label": label, "confidence": confidence}

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Errors of reading the file are errors of the file."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from None

    def _damaged(self, reason: object) -> DamagedError:
        """The reason is on the first line, what to do on the second."""
        return DamagedError(
            f"{self.path} is missing or damaged: {' '.join(str(reason).split())}\n"
            f"{_remedy(self.path)}"
        )


def _remedy(path: pathlib.Path) -> str:
    manifest = path.parent / workdir_lib.MANIFEST
    return f"remove it and {manifest}, and run label again, which makes what is missing"


@functools.lru_cache(maxsize=8)  # all shards of a labelling say the same
def _parsed(footer: bytes) -> dict:
    return json.loads(footer)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0)
    if pa.types.is_fixed_size_list(whole.type):
        return whole.flatten().to_numpy(zero_copy_only=True).reshape(-1, whole.type.list_size)
    return whole.to_numpy(zero_copy_only=not pa.types.is_string(whole.type))


class Shards:
    """All label shards of one labelling, by number: which rows each holds, what all are made of."""

    def __init__(
        self,
        directory: str | pathlib.Path,
        num_rows: int,
        images_per_shard: int,
        made_of: dict,
        most_threads: int = 1,
    ):
        """`made_of`: the metadata of each. `most_threads`: that `map` reads with. Opens nothing."""
        self.directory, self.made_of = os.fspath(files.as_path(directory)), made_of
        self.ranges = shard_ranges(num_rows, images_per_shard)
        count = len(self.ranges)
        self.names = [shard_name(number, count) for number in range(count)]
        self._threads = min(cores.count(), most_threads, count)
        self.in_flight = self._threads + WAITING
        self._known: set[bytes] = set()  # footers that have been compared with `made_of`

    @classmethod
    def of_manifest(
        cls, directory: str | pathlib.Path, manifest: dict, most_threads: int = 1
    ) -> "Shards":
        """Those of a finished labelling; `manifest`: as `workdir.read_manifest` gives it."""
        made_of = dict(manifest["inputs"])
        size, num_rows = made_of.pop("images_per_shard"), manifest["outputs"]["num_images"]
        return cls(directory, num_rows, size, made_of, most_threads)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> str:
        return f"{self.directory}/{self.names[number]}"

    def write(self, number: int, columns: dict) -> None:
        """`columns`: as `write_shard` takes them. Raises OSError."""
        write_shard(self.path(number), columns, self.made_of)

    def open(self, number: int, mapped: bool = False) -> Shard:
        """Raises DamagedError as `Shard`, InputError for one that is made of something else."""
        shard = Shard(self.path(number), self.ranges[number], mapped)
        if shard.footer not in self._known:
            remedy = _remedy(shard.path)
            workdir_lib.check_inputs(shard.metadata, self.made_of, shard.path, remedy)
            self._known.add(shard.footer)
        return shard

    @property
    def largest(self) -> int:
        """Rows of a shard, at most."""
        return len(self.ranges[0])

    def runs(self, rows: int) -> Iterator[range]:
        """All shards, in order, in parts of up to `rows` rows, but at least one shard."""
        size = max(1, rows // self.largest)
        for start in range(0, len(self.names), size):
            yield range(start, min(start + size, len(self.names)))

    def rows_of(self, run: range) -> range:
        return range(self.ranges[run[0]].start, self.ranges[run[-1]].stop)

    def map(self, function: Callable, runs: Iterable[range], *more: Iterable) -> Iterator:
        """`function(shards of the run, ...)` of each run, in order, made ahead by threads.

        `more` gives further arguments, an item for each run, as `map` takes them.
        """
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            waiting: collections.deque[concurrent.futures.Future] = collections.deque()
            tasks = zip(runs, *more, strict=False)  # the others may be endless
            try:
                for run, *arguments in tasks:
                    opened = (self.open(number, mapped=True) for number in run)
                    waiting.append(pool.submit(function, opened, *arguments))
                    if len(waiting) == self.in_flight:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
