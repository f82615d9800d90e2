"""What a source of images is: random access by an index that names the same image for ever."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ns_jax.data import decoding
from ns_jax.digest import Digest
from ns_jax.errors import InputError

Record = tuple[bytes | np.ndarray, int, str]  # image, label, key


class Records(Protocol):
    """What a format makes of files: random access to `(image, label, key)`; label -1: unknown."""

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
        """The true labels, int32 [N], -1 where unknown; None if they are not of these classes."""
        if self.class_names != tuple(class_names):
            return None
        return self.labels if self.truth is None else self.truth

    def __getitem__(self, index: int) -> dict:
        image, label, key = self.records[index]
        return {"image": image, "label": int(label), "key": key}


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
        return image, int(self.numbers[part][label]), f"{part}:{key}"


def join(sources: Sequence[Source]) -> Source:
    """Sources one after the other as one; a key says which one it is of: `1:cat/a.jpg`.

    Classes are joined by name: those of the first source in their order, then new ones. A source
    without labels leaves its images unlabelled.
    """
    names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
    numbers = tuple(
        np.asarray([*(names.index(name) for name in source.class_names), -1], np.int32)
        for source in sources
    )

    def joined(which: str) -> np.ndarray | None:
        arrays = [getattr(source, which) for source in sources]
        if any(array is None for array in arrays):
            return None
        if not names:
            return unlabelled(sum(map(len, arrays)))
        return np.concatenate([n[array] for n, array in zip(numbers, arrays, strict=True)])

    return Source(
        name="+".join(source.name for source in sources),
        class_names=names,
        fingerprint=digest(*(source.fingerprint for source in sources)),
        records=_Joined(
            tuple(source.records for source in sources),
            numbers,
            np.cumsum([len(source) for source in sources]),
        ),
        labels=joined("labels"),
        truth=joined("truth"),
    )
