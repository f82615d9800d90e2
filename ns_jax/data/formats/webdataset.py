"""wds:GLOB: tar shards of samples, as img2dataset and WebDataset write them.

A sample is the members whose names are the same up to the first dot: `00012.jpg`, `00012.cls`. When
a shard is first opened its headers are read, and where each image lies is kept in an index beside
the shard, `SHARD.tar.index.arrow` (in ~/.cache/ns_jax where its directory cannot be written). From
then on an image costs one read.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import cores, files
from ns_jax.data import class_names
from ns_jax.data.source import Record, Source, digest, unlabelled
from ns_jax.digest import Digest
from ns_jax.errors import InputError
from ns_jax.progress import say

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2", "avif")
LABEL = "cls"  # a number or a class name; img2dataset's .txt is a caption
VERSION = b"1"  # of an index; one of another version is built anew
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
        try:
            image = files.read_range(
                self.shards[shard], int(offsets[row]), int(sizes[row]), self.version
            )
        except OSError:
            image = b""  # reported as an empty file
        return image, self.numbers.get(labels[row].as_py(), -1), keys[row].as_py()


def open_source(pattern: str) -> Source:
    """All samples with an image, in the order of the shards' names and within them.

    Labels are those of `.cls` members, numbers (named by class_names.txt beside the shards) or
    names. Raises InputError.
    """
    shards = files.expand(pattern)
    signatures = files.signatures(shards, shards=True)
    indices = _indices(shards, [digest(VERSION, signature) for signature in signatures])
    tables = [_load(path) for path in indices]
    ends = np.cumsum([len(table) for table in tables])
    if not ends[-1]:
        raise InputError(f"wds:{pattern}: no images in {len(shards)} tar files")
    labels = pa.concat_tables(tables).column("label")
    found = values = pc.unique(labels)  # one for each class, and maybe None
    if (whole := class_names.whole_numbers(found)) is not None:
        values = whole
    numbers, names, spelled = class_names.of_labels(
        values, class_names.beside(shards[0]), f"wds:{pattern}"
    )
    number_of = dict(zip(found.to_pylist(), numbers.tolist(), strict=True))
    sizes = (table.column("size").to_numpy().tobytes() for table in tables)
    fingerprint = digest(*spelled, *signatures, *sizes)
    return Source(
        name=f"wds:{pattern}",
        class_names=names,
        fingerprint=fingerprint,
        records=_Samples(tuple(shards), tuple(indices), ends, number_of, fingerprint),
        labels=numbers[pc.index_in(labels, found).to_numpy()] if names else unlabelled(len(labels)),
        no_labels="" if names else f"no sample has a member `.{LABEL}` with a label",
    )


def _indices(shards: list[str], signatures: list[str]) -> list[str]:
    """The path of each shard's index; those that are missing or of another content are built."""
    found = [_find(shard, sign) for shard, sign in zip(shards, signatures, strict=True)]
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
    """Where a shard's index may lie, best place first."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    name = Digest(os.path.abspath(shard).encode())
    return [f"{shard}.index.arrow", str(cache / "ns_jax" / "indices" / f"{name}.index.arrow")]


def _find(shard: str, signature: str) -> str | None:
    for path in _places(shard):
        try:
            if _load(path).schema.metadata.get(b"signature") == signature.encode():
                return path
        except (OSError, pa.ArrowInvalid):  # not there, or broken off
            continue
    return None


def build_index(shard: str, signature: str) -> str:
    """Reads a shard's headers and writes its index; returns the index's path.

    Raises InputError for a file that is no tar archive.
    """
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    try:
        for key, offset, size, label in _read_headers(shard):
            for name, value in zip(SCHEMA.names, (key, offset, size, label), strict=True):
                columns[name].append(value)
    except tarfile.TarError as error:
        raise InputError(f"{shard}: {error}") from None
    schema = SCHEMA.with_metadata({"signature": signature})
    table = pa.table(columns, schema=schema).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    first, *others = _places(shard)
    for path in (first, *others):
        try:
            files.write(path, sink.getvalue().to_pybytes())
            return path
        except OSError:
            if path == others[-1]:
                raise
    raise AssertionError


def _read_headers(shard: str) -> Iterator[tuple]:
    """(key, offset, size, label) of each sample with an image. Raises tarfile.TarError."""
    sample = label = image = None
    with files.open_binary(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in _members(archive, shard):
            folder, name = posixpath.split(member.name)
            stem, _, extension = name.partition(".")
            key = posixpath.join(folder, stem)
            if key != sample:
                if image:
                    yield sample, *image, label
                sample, label, image = key, None, None
            if not member.isfile():
                continue
            if extension.lower() in IMAGES and not image:
                image = member.offset_data, member.size
            elif extension == LABEL:
                content: Any = archive.extractfile(member)  # not None: it is a file
                label = content.read().decode().strip()
    if image:
        yield sample, *image, label


def _members(archive: tarfile.TarFile, shard: str) -> Iterator[tarfile.TarInfo]:
    """The headers that there are; of a file that breaks off, those before its end."""
    try:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # which would keep all of them
            yield member
    except tarfile.ReadError as error:
        say(f"{shard}: {error}; its index ends there")


def _load(path: str) -> pa.Table:
    if files.is_remote(path):
        return pa.ipc.open_file(pa.py_buffer(files.read(path))).read_all()
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


@functools.lru_cache(maxsize=4096)
def _columns(path: str, version: str) -> tuple[pa.Array, np.ndarray, np.ndarray, pa.Array]:
    """keys, offsets, sizes, labels; of an index on disk mapped, not read."""
    table = _load(path).combine_chunks()
    keys, offsets, sizes, labels = (table.column(name).chunk(0) for name in SCHEMA.names)
    return keys, offsets.to_numpy(), sizes.to_numpy(), labels
