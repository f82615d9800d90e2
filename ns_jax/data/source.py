"""What a source of images is: random access by an index that names the same image for ever."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data import decoding, shards
from ns_jax.data.shards import Shards
from ns_jax.digest import Digest
from ns_jax.errors import InputError

Record = tuple[bytes | np.ndarray, int, str]  # image, label, key


class Records(Protocol):
    """What a format makes of files: random access to `(image, label, key)`; label -1: unknown.

    Those that know keys without reading images have `keys` too, as `keys_of` gives them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class Indices(Protocol):
    """Whole numbers by position: a range, an array, or a mapped column."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """`source[i]` -> `{"image": bytes or uint8 [H, W, 3], "label": int or -1, "key": str}`.

    Pickled for data workers: `records` carries what it takes to read, not what has been read. The
    copy knows neither `labels` nor `truth`.
    """

    name: str
    class_names: tuple[str, ...]  # empty if nothing is labelled
    fingerprint: str  # changes when the content does
    records: Records  # index -> (image, label, key)
    # All labels, int32 [N], where they are known without reading the images.
    labels: np.ndarray | None = None
    # Labels that the source knows but hides (int32 [N]): to measure pseudo-labels, not to train on.
    truth: np.ndarray | None = None
    max_pixels: int = decoding.MAX_PIXELS  # of an image that is decoded
    no_labels: str = ""  # of a source without classes why there are none
    shards: Shards | None = None  # of a bucket that images lie in; None: in none, or all on a disk
    late: bool = False  # each image is an object of a bucket: a request of its own

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict:
        # A worker takes labels from `records`; all those of a large source are 4 bytes an image.
        return {**self.__dict__, "labels": None, "truth": None}

    def check_fingerprint(self, fingerprint: str, what: str) -> None:
        """Raises InputError if `what`, made of a source with `fingerprint`, is of another one."""
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{what} was made of another source than {self.name}: fingerprint {fingerprint} "
                f"there, {self.fingerprint} now; name that source, or make it anew"
            )

    def known_labels(self, class_names: Sequence[str]) -> np.ndarray | None:
        """The true labels as numbers of `class_names`, int32 [N]; None if none is known.

        -1 where they are unknown, or of a class that is not among them.
        """
        labels = self.labels if self.truth is None else self.truth
        numbers = class_names_lib.matching(self.class_names, class_names)
        if labels is None or (numbers < 0).all():
            return None
        return labels if _is_same(numbers) else numbers[labels]

    def labelled(self) -> np.ndarray:
        """Indices, int [n], of images that have a label, or may have one if it is not known."""
        return np.arange(len(self)) if self.labels is None else np.flatnonzero(self.labels >= 0)

    def some_labels(self, most: int) -> np.ndarray:
        """All labels, int [N]; where images have to be read for them, of `most` spread evenly."""
        if self.labels is not None:
            return self.labels
        indices = np.linspace(0, len(self) - 1, min(len(self), most)).astype(int)
        return np.asarray([self[int(index)]["label"] for index in indices], np.int32)

    def keys(self, indices: np.ndarray) -> pa.Array:
        """The keys of images, large_string `[n]`; `indices` int `[n]`."""
        return keys_of(self.records, indices)

    def renumbered(self, class_names: Sequence[str], numbers: np.ndarray) -> "Source":
        """The same images with the labels `numbers[label]` of `class_names`.

        `numbers` int32 `[own classes + 1]`, -1: no class, as at the end.
        """

        def new(labels: np.ndarray | None) -> np.ndarray | None:
            return labels if labels is None or not self.class_names else numbers[labels]

        names = tuple(class_names)
        if len(names) == len(self.class_names) and _is_same(numbers):
            return dataclasses.replace(self, class_names=names)
        return dataclasses.replace(
            self,
            class_names=names,
            records=_Renumbered(self.records, numbers),
            labels=new(self.labels),
            truth=new(self.truth),
        )

    def __getitem__(self, index: int) -> dict:
        image, label, key = self.records[index]
        label = _checked(label, len(self.class_names), key)
        return {"image": image, "label": label, "key": key}


def _is_same(numbers: np.ndarray) -> bool:
    """Whether all classes keep their numbers."""
    return np.array_equal(numbers[:-1], np.arange(len(numbers) - 1))


def _checked(label: int, num_classes: int, key: str) -> int:
    """A label that was read with its image; -1 of any negative one. Raises InputError."""
    if label >= num_classes:
        raise InputError(f"{key} has the label {label}, but there are {num_classes} class names")
    return max(int(label), -1)


def keys_of(records: Records, indices: np.ndarray) -> pa.Array:
    """large_string `[n]` of records `indices`, int `[n]`; images are read where it takes that."""
    if hasattr(records, "keys"):
        return records.keys(indices)
    with concurrent.futures.ThreadPoolExecutor(files.THREADS) as pool:
        found = pool.map(lambda index: records[int(index)][2], indices)
        return pa.array(found, pa.large_string())


def keys_of_parts(
    ends: np.ndarray, indices: np.ndarray, of: Callable[[int, np.ndarray], pa.Array]
) -> pa.Array:
    """large_string `[n]` of rows `indices` of parts that end at rows `ends`, one after the other.

    `of(part, own)`: the keys of those of one part, whose indices among all rows `own` are.
    """
    indices = np.asarray(indices, np.int64)
    parts = np.searchsorted(ends, indices, side="right")
    order = np.argsort(parts, kind="stable")
    there, starts = np.unique(parts[order], return_index=True)
    pieces = np.split(order, starts[1:])
    found = [of(int(p), indices[own]) for p, own in zip(there, pieces, strict=False)]
    if not found:
        return pa.array([], pa.large_string())
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    whole = pa.concat_arrays([one.cast(pa.large_string()) for one in found])
    return whole.take(back)


def numbered_keys(prefix: str, numbers: np.ndarray, digits: int = 8) -> pa.Array:
    """large_string `[n]`: a prefix, a dash, and a number with leading zeros."""
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.large_string()), digits, "0")
    return behind(f"{prefix}-", padded)


def behind(prefix: str, keys: pa.Array) -> pa.Array:
    """large_string `[n]`: keys with a prefix before each."""
    before, nothing = (pa.scalar(text, pa.large_string()) for text in (prefix, ""))
    return pc.binary_join_element_wise(before, keys, nothing)


def unlabelled(count: int) -> np.ndarray:
    """int32 [count], all -1: the labels of a source without any, in the memory of a single one."""
    return np.broadcast_to(np.int32(-1), count)


def as_text(name: bytes | str) -> str:
    """A name that may not be UTF-8 as text that is, `caf\\xe9` of the byte 0xE9."""
    data = name.encode(errors="surrogateescape") if isinstance(name, str) else name
    return data.decode(errors="backslashreplace")


def digest(*parts: bytes | str) -> str:
    """A fingerprint of its parts."""
    total = Digest()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return str(total)


@dataclasses.dataclass(frozen=True)
class _Renumbered:
    """Records with other numbers for their labels."""

    records: Records
    numbers: np.ndarray  # of its label, or -1 at the end -> the new one

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        image, label, key = self.records[index]
        return image, int(self.numbers[_checked(label, len(self.numbers) - 1, key)]), key

    def keys(self, indices: np.ndarray) -> pa.Array:
        return keys_of(self.records, indices)


@dataclasses.dataclass(frozen=True)
class _Joined:
    """The records of several sources, one after the other, with labels in a common numbering."""

    parts: tuple[Records, ...]
    numbers: tuple[np.ndarray, ...]  # of each part: its label, or -1 at the end -> the common one
    ends: np.ndarray  # int64

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        part = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[part - 1] if part else 0
        image, label, key = self.parts[part][index - int(start)]
        numbers = self.numbers[part]
        return image, int(numbers[_checked(label, len(numbers) - 1, key)]), f"{part}:{key}"

    def keys(self, indices: np.ndarray) -> pa.Array:
        starts = np.concatenate([[0], self.ends[:-1]])

        def of(part: int, own: np.ndarray) -> pa.Array:
            return behind(f"{part}:", keys_of(self.parts[part], own - starts[part]))

        return keys_of_parts(self.ends, indices, of)


def join(sources: Sequence[Source]) -> Source:
    """Sources one after the other as one; a key says which one it is of: `1:cat/a.jpg`.

    Classes are joined by name: those of the first source in their order, then new ones. A source
    without labels leaves its images unlabelled.
    """
    names: list[str] = []
    for source in sources:
        found = class_names_lib.matching(source.class_names, names)
        names += [name for name, place in zip(source.class_names, found, strict=False) if place < 0]
    numbers = tuple(class_names_lib.matching(source.class_names, names) for source in sources)
    for source, found in zip(sources, numbers, strict=True):
        if (found[:-1] < 0).any():
            twice = source.class_names[int(found.argmin())]
            raise InputError(
                f"{source.name} cannot be joined: the class name {twice!r} stands several times"
            )

    def joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        there = [array for array in arrays if array is not None]
        if len(there) < len(arrays):
            return None
        if not names:
            return unlabelled(sum(map(len, there)))
        return np.concatenate([n[array] for n, array in zip(numbers, there, strict=True)])

    known = [source.labels if source.truth is None else source.truth for source in sources]
    hidden = any(source.truth is not None for source in sources)
    return Source(
        name="+".join(source.name for source in sources),
        class_names=tuple(names),
        fingerprint=digest(*(source.fingerprint for source in sources)),
        records=_Joined(
            tuple(source.records for source in sources),
            numbers,
            np.cumsum([len(source) for source in sources]),
        ),
        labels=joined([source.labels for source in sources]),
        truth=joined(known) if hidden else None,
        no_labels="; ".join(source.no_labels for source in sources if source.no_labels),
        shards=shards.joined([source.shards for source in sources], list(map(len, sources))),
        late=any(source.late for source in sources),
    )
