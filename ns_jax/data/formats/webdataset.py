"""wds:GLOB: tar shards of samples, as img2dataset and WebDataset write them.

A sample is the members whose names are the same up to the first dot: `00012.jpg`, `00012.cls`. When
a shard is first opened its headers are read, and where each image lies is kept in an index beside
the shard, `SHARD.tar.index.arrow` (in ~/.cache/ns_jax where its directory cannot be written). From
then on an image costs one read.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import mmap
import multiprocessing
import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import cores, files
from ns_jax.buckets import reads
from ns_jax.data import class_names, endings, patterns
from ns_jax.data import shards as shards_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.formats.tar import LABEL, read_samples
from ns_jax.data.patterns import INDEX
from ns_jax.data.source import Record, Source, as_text, digest, keys_of_parts, unlabelled
from ns_jax.digest import Digest
from ns_jax.errors import InputError
from ns_jax.progress import say, say_once

SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", *(f".tar.{end}" for end in ("gz", "bz2", "xz", "zst")))
VERSION = b"2"  # of an index; one of another version is built anew
SCHEMA = pa.schema(
    {"key": pa.string(), "offset": pa.int64(), "size": pa.int64(), "label": pa.string()}
)
FEW = 8  # shards to index without a pool of processes


@dataclasses.dataclass(frozen=True)
class _Samples:
    shards: tuple[str, ...]
    indices: tuple[str, ...]  # paths
    ends: np.ndarray  # int64: samples up to and with each shard
    numbers: dict[str | None, int]  # of the labels in the indices
    version: str  # of what the shards hold

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        row = index - (int(self.ends[shard - 1]) if shard else 0)
        keys, offsets, sizes, labels = _columns(self.indices[shard], self.version)
        path, place = self.shards[shard], (int(offsets[row]), int(sizes[row]))
        try:
            copy = shards_lib.copy_of(path)
            image = copy.read(*place) if copy else files.read_range(path, *place, self.version)
        except OSError as error:
            if files.is_remote(path) and files.is_of_the_machine(error, path):
                raise
            image = b""  # reported as an empty file
        return image, self.numbers.get(labels[row].as_py(), -1), keys[row].as_py()

    def keys(self, indices: np.ndarray) -> pa.Array:
        starts = np.concatenate([[0], self.ends[:-1]])

        def of(shard: int, own: np.ndarray) -> pa.Array:
            names = _columns(self.indices[shard], self.version)[0]
            return names.take(pa.array(own - starts[shard]))

        return keys_of_parts(self.ends, indices, of)


def open_source(pattern: str) -> Source:
    """All samples with an image, in the order of the shards' names and within them.

    Labels are those of `.cls` members, numbers (named by class_names.txt beside the shards) or
    names. Raises InputError.
    """
    name = f"wds:{pattern}"
    shards = patterns.shards("wds", pattern, SUFFIXES)
    signatures = signatures_lib.of(shards, shards=True)
    indices = _indices(shards, [digest(VERSION, signature) for signature in signatures])
    tables = [_load(path) for path in indices]
    ends = np.cumsum([len(table) for table in tables])
    _say(name, shards, tables)
    labels = pa.concat_tables(tables).column("label")
    found = values = pc.unique(labels)  # one for each class, and maybe None
    if (whole := class_names.whole_numbers(found)) is not None:
        values = whole
    numbers, names, spelled = class_names.of_labels(values, class_names.beside(shards[0]), name)
    number_of = dict(zip(found.to_pylist(), numbers.tolist(), strict=True))
    sizes = (table.column("size").to_numpy().tobytes() for table in tables)
    fingerprint = digest(*spelled, *signatures, *sizes)
    return Source(
        name=name,
        class_names=names,
        fingerprint=fingerprint,
        records=_Samples(tuple(shards), tuple(indices), ends, number_of, fingerprint),
        labels=numbers[pc.index_in(labels, found).to_numpy()] if names else unlabelled(len(labels)),
        shards=shards_lib.in_bucket(shards, ends, signatures),
        no_labels="" if names else f"no sample has a member `.{LABEL}` with a label",
    )


def _indices(shards: list[str], signatures: list[str]) -> list[str]:
    """The path of each shard's index; those that are missing or of another content are built."""
    with concurrent.futures.ThreadPoolExecutor(files.THREADS) as pool:
        found = list(pool.map(_find, shards, signatures))
    todo = [i for i, path in enumerate(found) if path is None]
    if len(todo) > FEW:
        say(f"indexes {len(todo):,} of {len(shards):,} tar files")
    arguments = [shards[i] for i in todo], [signatures[i] for i in todo]
    if len(todo) <= FEW:
        built: Iterable[str] = map(build_index, *arguments)
    else:
        context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
        with concurrent.futures.ProcessPoolExecutor(cores.count(), context) as pool:
            built = list(pool.map(build_index, *arguments))
    for i, path in zip(todo, built, strict=True):
        found[i] = path
    return found  # type: ignore[return-value]  # none is missing now


def _places(shard: str) -> list[str]:
    """Where a shard's index may lie, best place first: mapped from a disk if need be by many."""
    is_remote = files.is_remote(shard)
    name = Digest(os.fsencode(shard if is_remote else os.path.abspath(shard)))
    places = [f"{shard}{INDEX}", str(files.own_cache() / "indices" / f"{name}{INDEX}")]
    return places[::-1] if is_remote else places


def _find(shard: str, signature: str) -> str | None:
    places = _places(shard)
    for path in places:
        try:
            if _load(path).schema.metadata.get(b"signature") != signature.encode():
                continue
        except (OSError, ValueError):  # not there, or broken off
            continue
        if files.is_remote(path):
            with contextlib.suppress(OSError):
                files.write(places[0], files.read(path))
                return places[0]
        return path
    return None


def build_index(shard: str, signature: str) -> str:
    """Reads a shard's headers and writes its index; returns the index's path.

    Raises InputError for a file that is compressed, or whose labels may be those of others.
    """
    samples = read_samples(shard)
    offsets, sizes = zip(*samples.places, strict=True) if samples.places else ((), ())
    columns = (map(as_text, samples.keys), offsets, sizes, samples.labels)
    about = {
        "signature": "" if samples.may_pass else signature,  # then it is read anew the next time
        "flaw": samples.flaw,
        "unused": json.dumps(samples.unused),
        "lost_labels": str(samples.lost_labels),
        "first_unused": samples.first_unused,
    }
    schema = SCHEMA.with_metadata(about)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    table = pa.table(arrays, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    written, places = [], _places(shard)
    for path in places:
        try:
            files.write(path, sink.getvalue().to_pybytes())
            written.append(path)
        except Exception as error:  # a client of a bucket refuses in its own words
            refused = isinstance(error, OSError) or reads.is_refusal(error)
            if not refused or (path == places[-1] and not written):
                raise
        if written and not files.is_remote(shard):
            break
    return written[0]


def _say(name: str, shards: list[str], tables: list[pa.Table]) -> None:
    """What was not read, and what had no use.

    Raises InputError if there is no image, or if no label belongs to one.
    """
    abouts = [table.schema.metadata for table in tables]
    flaws = [
        f"{shard}: {about[b'flaw'].decode()}{'; its index ends there' if len(table) else ''}"
        for shard, about, table in zip(shards, abouts, tables, strict=True)
        if about[b"flaw"]
    ]
    unused = collections.Counter[str]()
    for about in abouts:
        unused.update(json.loads(about[b"unused"]))
    first = next(
        (
            f"{about[b'first_unused'].decode()} in {shard}"
            for shard, about in zip(shards, abouts, strict=True)
            if about[b"first_unused"]
        ),
        "",
    )
    had = f"{endings.counted(unused)} in them had no use, the first {first}" if unused else ""
    if not any(map(len, tables)):
        reasons = "; ".join(filter(None, (*flaws[: patterns.SHOWN], had)))
        raise InputError(f"{name}: no images in {len(shards)} tar files: {reasons or 'all empty'}")
    lost = sum(int(about[b"lost_labels"]) for about in abouts)
    if lost and all(table.column("label").null_count == len(table) for table in tables):
        raise InputError(
            f"{name}: {lost:,} .{LABEL} files belong to no image of the same tar file; "
            "write the files of each sample one after the other"
        )
    patterns.say_flaws(name, flaws)
    if had:
        say_once(f"{name}: {had}")


def _load(path: str) -> pa.Table:
    if files.is_remote(path):
        return pa.ipc.open_file(pa.py_buffer(files.read(path))).read_all()
    with open(path, "rb") as file:  # Arrow itself maps no file whose name is not UTF-8
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


@functools.lru_cache(maxsize=4096)
def _columns(path: str, version: str) -> tuple[pa.Array, np.ndarray, np.ndarray, pa.Array]:
    """keys, offsets, sizes, labels; of an index on disk mapped, not read."""
    table = _load(path).combine_chunks()
    keys, offsets, sizes, labels = (table.column(name).chunk(0) for name in SCHEMA.names)
    return keys, offsets.to_numpy(), sizes.to_numpy(), labels
