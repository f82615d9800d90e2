"""What people said of single labels: a CSV file that a report's page makes. docs/report.md."""

import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.errors import InputError, MissingFileError
from ns_jax.labelling.shards import SCALE, Shard, Shards

COLUMNS = ("index", "key", "verdict", "label")
RIGHT, WRONG, OTHER = VERDICTS = ("right", "wrong", "other")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the file."""

    line: int
    index: int
    key: str
    verdict: str  # of VERDICTS
    label: str  # the class that was judged, or of OTHER the true one


@dataclasses.dataclass(frozen=True)
class Effect:
    """What corrections do to n labels."""

    label: np.ndarray  # int32 [n]
    kept: np.ndarray  # bool [n]: whatever threshold and share say
    dropped: np.ndarray  # bool [n]
    hard: np.ndarray  # bool [n]: of those kept, whose class is another than the teacher's


def read(path: pathlib.Path) -> list[Row]:
    """Raises InputError for what is not such a file, with its line; FileNotFoundError."""
    if not path.is_file():
        raise MissingFileError(f"select.corrections={path}: there is no such file")
    with files.local(path).open(
        newline="", encoding="utf-8-sig"
    ) as file:  # spreadsheets write a BOM
        try:
            lines = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (lines.fieldnames or ())]:
                raise InputError(
                    f"select.corrections={path} has no column {missing[0]!r}; its first line must "
                    f"be {','.join(COLUMNS)}, as a report's page writes it"
                )
            return [_row(path, lines.line_num, line) for line in lines]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"select.corrections={path} is no CSV file: {error}") from None


def _row(path: pathlib.Path, number: int, line: dict) -> Row:
    where = f"select.corrections={path}, line {number}"
    index, key, verdict, label = (line[name] or "" for name in COLUMNS)
    if not (index.strip().isascii() and index.strip().isdigit()):
        raise InputError(f"{where}: {index!r} is not an index; it must be a whole number")
    if verdict.strip() not in VERDICTS:
        raise InputError(f"{where}: verdict {verdict!r}; known: {', '.join(VERDICTS)}")
    if verdict.strip() == OTHER and not label:
        raise InputError(f"{where}: verdict {OTHER!r} needs the class's name in the column label")
    return Row(number, int(index), key, verdict.strip(), label)


class Corrections:
    """Corrections of the labels of one labelling, by index."""

    def __init__(self, path: pathlib.Path, rows: Sequence[Row], class_names: Sequence[str]):
        """Raises InputError for a class that is not there, and for an image that stands twice."""
        self._path, self._rows = path, sorted(rows, key=lambda row: row.index)
        for before, row in zip(self._rows, self._rows[1:], strict=False):
            if before.index == row.index:
                lines = sorted((before.line, row.line))
                raise InputError(
                    f"{self._where(row)}: image {row.index} stands in lines {lines[0]} and "
                    f"{lines[1]}; leave one of them"
                )
        numbers = class_names_lib.matching([row.label for row in self._rows], class_names)
        named = {name: number for number, name in enumerate(class_names)}
        for row, number in zip(self._rows, numbers, strict=False):
            if row.label and row.label not in named and number < 0:
                raise InputError(
                    f"{self._where(row)}: there is no class {row.label!r} among the labels' "
                    f"{len(class_names):,}: {', '.join(class_names[:10])}"
                    f"{', ...' if len(class_names) > 10 else ''}"
                )
        self._label = np.asarray(
            [
                named.get(row.label, number) if row.label else -1
                for row, number in zip(self._rows, numbers, strict=False)
            ],
            np.int32,
        )
        self._index = np.asarray([row.index for row in self._rows], np.int64)
        self._verdict = np.asarray([VERDICTS.index(row.verdict) for row in self._rows], np.int8)

    def __len__(self) -> int:
        return len(self._rows)

    def _where(self, row: Row) -> str:
        return f"select.corrections={self._path}, line {row.line}"

    def check(self, shards: Shards, num_images: int, whole: bool) -> None:
        """Raises InputError unless they are of images that were labelled. `whole`: all of a source,
        so that row i is image i; else each shard says which images it holds.
        """
        numbers: Iterable[int] = range(len(shards))
        if whole:
            for row in self._rows[-1:]:
                if row.index >= num_images:
                    raise InputError(
                        f"{self._where(row)}: there is no image {row.index}; the labels are of "
                        f"images 0 to {num_images - 1:,}"
                    )
            numbers = np.unique(self._index // shards.largest).tolist()
        for number in numbers:
            self._check_shard(shards.open(number))

    def _check_shard(self, shard: Shard) -> None:
        index = shard.read("index")["index"]
        places, ours = _places(index, self._index)
        if not len(places):
            return
        found = shard.read("key", "status")
        for place, number in zip(places.tolist(), ours.tolist(), strict=True):
            row, key, status = self._rows[number], found["key"][place], found["status"][place]
            if key != row.key:
                raise InputError(
                    f"{self._where(row)}: image {row.index} is {row.key!r} there, but {key!r} in "
                    "the labels; the file was made of another source"
                )
            if status != "ok" and row.verdict != WRONG:
                raise InputError(
                    f"{self._where(row)}: {row.key!r} could not be read ({status}); it has nothing "
                    "to learn from"
                )

    def effect(self, label: np.ndarray, index: np.ndarray) -> Effect:
        """On labels int32 `[n]`, the teacher's, of images int64 `[n]` in order.

        An image that was found wrong, or right, as another class than it has now is not what was
        judged: the first is left alone, of the second the true class is known.
        """
        kept, dropped, hard = np.zeros((3, len(index)), bool)
        places, ours = _places(index, self._index)
        if len(places):
            verdict, named, now = self._verdict[ours], self._label[ours], label[places]
            readable, same = now >= 0, (named < 0) | (named == now)
            wrong = verdict == VERDICTS.index(WRONG)
            dropped[places] = wrong & same
            kept[places] = ~wrong & readable
            hard[places] = readable & ~wrong & ((verdict == VERDICTS.index(OTHER)) | ~same)
            label = label.copy()
            label[places] = np.where(hard[places], named, now)
        return Effect(label, kept, dropped, hard)

    def rewrite(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of a selection, `[n]` or `[n, k]`, with hard labels where a class was named."""
        effect = self.effect(columns["label"], columns["index"])
        if not effect.hard.any():
            return columns
        rows = np.flatnonzero(effect.hard)
        columns = {**columns, "label": effect.label}
        confidence, classes, probs = (
            columns[name].copy() for name in ("confidence", "classes", "probs")
        )
        confidence[rows] = 1
        probs[rows] = 0
        probs[rows, 0] = SCALE
        named = effect.label[rows]
        is_there = classes[rows] == named[:, None]  # at most once a row
        displaced = np.where(is_there, classes[rows, :1], classes[rows])
        classes[rows] = displaced
        classes[rows, 0] = named
        return {**columns, "confidence": confidence, "classes": classes, "probs": probs}


def _places(index: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in `index [n]`, ascending, some of `wanted [m]` stand, and which: int64 `[l]` each."""
    if not len(index):
        return np.zeros((2, 0), np.int64)[0], np.zeros(0, np.int64)
    first, stop = np.searchsorted(wanted, [index[0], index[-1] + 1])
    ours = np.arange(first, stop)
    places = np.searchsorted(index, wanted[ours])
    there = index[np.minimum(places, len(index) - 1)] == wanted[ours]
    return places[there], ours[there]
