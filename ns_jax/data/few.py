"""few:SOURCE and rest:SOURCE: a few images of a labelled source, and all others without labels.

The rest knows its labels and hides them, so that pseudo-labels are measured against them.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from ns_jax.config import ranges
from ns_jax.data.source import Record, Records, Source, digest, keys_of, unlabelled
from ns_jax.errors import InputError
from ns_jax.progress import Progress

KINDS = ("few", "rest")
_labels_read: dict[str, np.ndarray] = {}  # by fingerprint, of sources that had to be read for them


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which images keep their label: a number of each class or a share of it, by the seed."""

    per_class: int
    seed: int
    share: float | None = None  # of each class, at least one image; it then counts alone
    limit: int | None = None  # images of the rest; a smaller rest lies in a larger one


@dataclasses.dataclass(frozen=True)
class _Part:
    records: Records
    indices: np.ndarray  # int64
    hidden: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        image, label, key = self.records[int(self.indices[index])]
        return image, -1 if self.hidden else label, key

    def keys(self, indices: np.ndarray) -> pa.Array:
        return keys_of(self.records, self.indices[indices])


def part(kind: str, source: Source, draw: Draw) -> Source:
    """The few or the rest of a source, each in the source's order; they share no image.

    Images without a label are of the rest. Raises InputError if a class has fewer images than are
    to keep their label, and for numbers out of range.
    """
    ranges.check_number("data.labels_per_class", draw.per_class)
    ranges.check_number("data.labels_share", draw.share)
    ranges.check_number("data.rest_limit", draw.limit)
    labels = _labels(source)
    order = np.random.default_rng(draw.seed).permutation(len(source))
    by_class = order[np.argsort(labels[order], kind="stable")]
    ends = np.searchsorted(labels[by_class], np.arange(len(source.class_names) + 1))
    counts = _counts(source, draw, np.diff(ends))
    few = np.concatenate([by_class[e : e + n] for e, n in zip(ends[:-1], counts, strict=True)])
    hidden = kind == "rest"
    chosen = np.sort(_rest(source, draw, order, few) if hidden else few)
    return Source(
        name=f"{kind}:{source.name}",
        class_names=source.class_names,
        fingerprint=digest(source.fingerprint, kind, chosen.tobytes()),
        records=_Part(source.records, chosen, hidden),
        labels=unlabelled(len(chosen)) if hidden else labels[chosen],
        truth=labels[chosen] if hidden else None,
        shards=source.shards and source.shards.chosen(chosen),
        late=source.late,
    )


def _labels(source: Source) -> np.ndarray:
    """All labels, int32 [N]; where only the images' records have them, these are read, once."""
    if source.labels is not None:
        return source.labels
    if source.fingerprint not in _labels_read:
        labels = np.empty(len(source), np.int32)
        with Progress(f"reading the labels of {source.name}", len(source)) as progress:
            for index in range(len(source)):
                labels[index] = source.records[index][1]
                progress.advance(1)
        _labels_read[source.fingerprint] = labels
    return _labels_read[source.fingerprint]


def _counts(source: Source, draw: Draw, there: np.ndarray) -> np.ndarray:
    """How many images of each class keep their label, of those `there` are."""
    if not len(there):
        raise InputError(f"{source.name} has no labels of which a few could be kept")
    if draw.share is None:
        asked, wanted = f"labels_per_class is {draw.per_class}", np.full(len(there), draw.per_class)
    else:
        asked = f"labels_share is {draw.share}"
        wanted = np.maximum(1, np.round(draw.share * there).astype(int))
    scarce = np.flatnonzero(there < wanted)
    if len(scarce):
        found = ", ".join(f"{source.class_names[c]} {there[c]:,}" for c in scarce[:10])
        raise InputError(
            f"data.{asked}, but {len(scarce)} of the {len(there)} classes of "
            f"{source.name} have fewer images: {found}{', ...' if len(scarce) > 10 else ''}; "
            "keep fewer labels, or leave these classes out"
        )
    return wanted


def _rest(source: Source, draw: Draw, order: np.ndarray, few: np.ndarray) -> np.ndarray:
    """The images of a random order that are not of the few, up to the limit."""
    is_few = np.zeros(len(source), bool)
    is_few[few] = True
    rest = order[~is_few[order]]
    if not len(rest):
        raise InputError(
            f"rest:{source.name} is empty: all {len(source):,} images are to keep their label; "
            "lower data.labels_per_class or data.labels_share"
        )
    return rest[: draw.limit]
