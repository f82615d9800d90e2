"""A sample of a labelled pool: at most 64 label shards, evenly spread, and a million rows."""

import bisect
import dataclasses
import pathlib
from typing import Any

import numpy as np

from ns_jax import workdir as workdir_lib
from ns_jax.errors import MissingFileError
from ns_jax.labelling.shards import Shard, Shards
from ns_jax.selection.table import MAX_BATCH_ROWS, Selection

SHARDS, ROWS = 64, 1 << 20  # at most
UNREADABLE = 50  # files that are named
# How probably a label is wrong where the teacher before gave another one: at least one of the two
# is, and the later one less often.
DISAGREEMENT = 1 / 3
_COLUMNS = {
    **{"index": np.int64, "label": np.int32, "confidence": np.float32, "second": np.int32},
    **{"copies": np.int64, "before": np.int32, "_shard": np.int32, "_place": np.int64},
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """N labelled images of the pool, in order of index, and those that could not be read."""

    index: np.ndarray  # int64 [N]
    label: np.ndarray  # int32 [N]
    confidence: np.ndarray  # float32 [N]
    second: np.ndarray  # int32 [N]: the second best class, -1 where there is none
    copies: np.ndarray  # int64 [N]: rows of the selection that show the image
    before: np.ndarray  # int32 [N]: its label in the iteration before, -1 unknown
    truth: np.ndarray | None  # int32 [N], -1 unknown
    num_images: int  # that were labelled
    complete: bool  # it is all of them
    has_before: bool
    unreadable: list[dict]  # {"index", "key", "reason"} of the first ones
    _shards: Shards
    _shard: np.ndarray  # int32 [N]: where each lies, ...
    _place: np.ndarray  # ... and as which row of it

    def __len__(self) -> int:
        return len(self.index)

    def keys(self, rows: np.ndarray) -> list[str]:
        """Names of some of the images, int64 `[n]` rows. Raises DamagedError."""
        found = [""] * len(rows)
        for number in np.unique(self._shard[rows]).tolist():
            keys = self._shards.open(number).keys()
            for position in np.flatnonzero(self._shard[rows] == number).tolist():
                found[position] = keys[self._place[rows[position]]]
        return found


def take(
    labels: pathlib.Path,
    selection: pathlib.Path | None,
    before: pathlib.Path | None,
    truth: np.ndarray | None,
) -> Sample:
    """A sample of the labels in a directory, which are finished.

    `selection` that was made of them, `before` the labels of the iteration before, `truth` int32
    of each image of the source. Raises DamagedError, FileNotFoundError.
    """
    made = workdir_lib.read_manifest(labels)
    shards = Shards.of_manifest(labels, made)
    selected = Selection(selection) if selection else None
    earlier = _same_places(before, made) if before else None
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(SHARDS, len(shards))).astype(int))
    most = max(1, ROWS // len(chosen))
    parts: list[dict[str, np.ndarray]] = [{n: np.zeros(0, kind) for n, kind in _COLUMNS.items()}]
    unreadable: list[dict] = []
    for number in chosen.tolist():
        part = _part(shards.open(number), most, unreadable)
        place, index = part["_place"], part["index"]
        previous = earlier.open(number).predictions()[0][place] if earlier else None
        part["before"] = np.full(len(place), -1, np.int32) if previous is None else previous
        part["copies"] = _copies(selected, index)
        part["_shard"] = np.full(len(place), number, np.int32)
        parts.append(part)
    columns: Any = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    total = made["outputs"]["num_images"]
    return Sample(
        **columns,
        truth=None if truth is None else truth[columns["index"]],
        num_images=total,
        complete=len(columns["index"]) + made["outputs"]["num_bad"] == total,
        has_before=earlier is not None,
        unreadable=unreadable,
        _shards=shards,
    )


def _part(shard: Shard, most: int, unreadable: list[dict]) -> dict[str, np.ndarray]:
    """Rows of a shard that were read, `most` of them at most; names those that were not."""
    label, confidence = shard.predictions()
    found = shard.read("index", "classes")
    index, classes = found["index"], found["classes"]
    if (label < 0).any() and len(unreadable) < UNREADABLE:
        named = shard.read("key", "status")
        for place in np.flatnonzero(label < 0)[: UNREADABLE - len(unreadable)].tolist():
            key, reason = named["key"][place], named["status"][place]
            unreadable.append({"index": int(index[place]), "key": key, "reason": reason})
    places = np.flatnonzero(label >= 0)
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(int)]
    second = classes[:, 1] if classes.shape[1] > 1 else np.full(len(index), -1, np.int32)
    columns = {"index": index, "label": label, "confidence": confidence, "second": second}
    return {**{name: column[places] for name, column in columns.items()}, "_place": places}


def _same_places(before: pathlib.Path, made: dict) -> Shards | None:
    """The shards of an earlier labelling in which an image stands where it does now, if it does."""
    try:
        earlier = workdir_lib.read_manifest(before)
    except (MissingFileError, OSError, ValueError):
        return None
    names = ("source", "subset", "images_per_shard", "class_names")
    same = all(earlier["inputs"].get(name) == made["inputs"].get(name) for name in names)
    return Shards.of_manifest(before, earlier) if same else None


def _copies(selection: Selection | None, index: np.ndarray) -> np.ndarray:
    """How many rows of a selection show each of these images, int64 `[n]`, in order of index."""
    copies = np.zeros(len(index), np.int64)
    if selection is None or not len(index):
        return copies
    first = bisect.bisect_left(selection.index, index[0])
    stop = bisect.bisect_right(selection.index, index[-1])
    for start in range(first, stop, MAX_BATCH_ROWS):
        rows = np.asarray(selection.index[start : min(stop, start + MAX_BATCH_ROWS)])
        places = np.searchsorted(index, rows)
        there = index[np.minimum(places, len(index) - 1)] == rows
        np.add.at(copies, places[there], 1)
    return copies


def worth(sample: Sample) -> np.ndarray:
    """What correcting each image's label moves, float64 `[N]`, the more the better:

    the rows that show it (1 where it was not selected), times how probably its label is wrong
    (1 - confidence, and at least DISAGREEMENT where the iteration before said another class), times
    how typical it is: the share of its class's images with the same second best class.
    """
    rows = np.maximum(sample.copies, 1)
    wrong = 1.0 - np.minimum(sample.confidence.astype(np.float64), 1.0)
    disagrees = (sample.before >= 0) & (sample.before != sample.label)
    wrong = np.where(disagrees, np.maximum(wrong, DISAGREEMENT), wrong)
    if not len(sample):
        return wrong
    pair = sample.label.astype(np.int64) << 32 | (sample.second + 1)
    _, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
    of_class = np.bincount(sample.label)
    typical = counts[inverse] / of_class[sample.label]
    return rows * wrong * typical


def offered(sample: Sample, count: int) -> np.ndarray:
    """The images whose correction moves most, int64 `[count]` rows of the sample, best first."""
    value = worth(sample)
    order = np.lexsort((sample.index, -value))[:count]
    return order[value[order] > 0]


GROUPS = {
    "surest": "the surest that were kept",
    "borderline": "kept, with the least confidence",
    "rejected": "left out, just below",
    "disagreement": "of which the iteration before said another class",
}


def groups(sample: Sample, label: int, count: int) -> dict[str, np.ndarray]:
    """Rows of the sample of a class, `count` of each of `GROUPS` at most, most telling first."""
    rows = np.flatnonzero(sample.label == label)
    rows = rows[np.lexsort((sample.index[rows], -sample.confidence[rows]))]
    kept, left_out = rows[sample.copies[rows] > 0], rows[sample.copies[rows] == 0]
    surest = kept[:count]
    borderline = kept[len(surest) :][::-1][:count]
    moved = rows[(sample.before[rows] >= 0) & (sample.before[rows] != label)]
    found = (surest, borderline, left_out[:count], moved[:count])
    return dict(zip(GROUPS, found, strict=True))
