"""Predictions that were made elsewhere, as a teacher: checked, and found by the image's key."""

import dataclasses
import functools
import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data import patterns
from ns_jax.data.source import Source, digest
from ns_jax.digest import Digest
from ns_jax.errors import InputError
from ns_jax.predictions import classes, join, scores, tables
from ns_jax.progress import one_line, say

NO_PREDICTION = "no prediction"  # status of an image that the tables lack


class IncompleteError(InputError):
    """Images without a prediction, where each has to have one."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What tables do not say themselves; each "" where they do."""

    class_names: str = ""  # a file with a class name a line: of the scores, in their order
    class_map: str = ""  # CSV, theirs,ours
    scores: str = ""  # "probabilities" or "logits"


class Predictions:
    """The tables of one teacher. What is wrong in their heads is said when they are opened."""

    def __init__(self, pattern: str, expected: Sequence[str], settings: Settings):
        """`pattern`: a file or many; `expected`: the classes, () for those of the tables.

        Raises InputError.
        """
        self.name, self._settings = pattern, settings
        self._map = classes.read_map(settings.class_map) if settings.class_map else {}
        numbering = classes.Numbering(self._map, expected, pattern)
        dropped = [name for name, ours in self._map.items() if not ours]
        paths = patterns.shards("predictions", pattern, tables.ENDINGS)
        self._tables = [tables.Table(path, dropped) for path in paths]
        self._theirs = self._class_names(bool(dropped))
        if not expected:
            names = self._theirs or self._names_in_rows()
            expected = numbering.found(names)
        self.class_names = tuple(expected)
        self._numbering = classes.Numbering(self._map, expected, pattern)
        self._best_only = self._tables[0].layout.best_only
        if not self._best_only:
            self._numbering.say_missing(self._theirs)
        elif settings.scores == scores.LOGITS:
            raise InputError(
                f"{pattern} holds a few classes of each image, whose logits say nothing without "
                "the others; write probabilities"
            )
        self._used = np.zeros(0, bool)
        self._named: list[str] = []  # sources whose images have been looked for

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the tables' content, and how it is read."""
        found = []
        for path in itertools.chain(*(table.paths for table in self._tables)):
            with files.open_binary(path) as file:
                found.append(str(hashlib.file_digest(file, Digest)))  # type: ignore[arg-type]
        maps = [f"{theirs}\0{ours}" for theirs, ours in sorted(self._map.items())]
        read = [*self._theirs, "", *maps, "", *self.class_names, "", self._settings.scores]
        return digest("predictions", *found, *read)

    def rows_of(self, source: Source) -> np.ndarray:
        """The row of each image, int64 `[len(source)]`, -1: no prediction.

        Raises IncompleteError where the tables have none of its images, InputError where a row is
        of several images or of several sources, and for rows that are no distribution.
        """
        rows = join.rows_of(source, self._index, self._keys)
        there = rows[rows >= 0]
        if not len(there):
            theirs, ours = (
                ", ".join(map(one_line, keys))
                for keys in (
                    self._keys_of(np.arange(min(3, len(self._index)))),
                    source.keys(np.arange(min(3, len(source)))).to_pylist(),
                )
            )
            raise IncompleteError(
                f"{self.name} has no prediction of any of the {len(source):,} images of "
                f"{source.name}: keys there are {theirs}, ...; here {ours}, ..."
            )
        used = np.bincount(there, minlength=len(self._index))
        self._check(np.flatnonzero(used > 1), f"are of several images of {source.name}")
        both = np.flatnonzero((used > 0) & self._used)
        if source.name not in self._named:
            self._check(both, f"are of {source.name} and of {' or '.join(self._named)}")
        self._named.append(source.name)
        self._used |= used > 0
        return rows

    def surplus(self) -> np.ndarray:
        """Rows that no image has been found for, int64 ascending."""
        return np.flatnonzero(~self._used)

    def check_surplus(self, sources: Iterator[Source]) -> None:
        """Raises InputError for rows of images that are in none of those that were looked for, or
        of `sources`, which are opened if there are any.
        """
        for source in sources:
            if not len(self.surplus()):
                return
            if source.name not in self._named:
                rows = join.rows_of(source, self._index, self._keys)
                self._used[rows[rows >= 0]] = True
                self._named.append(source.name)
        self._check(self.surplus(), f"are of no image of {', '.join(self._named)}")

    def log_probs(self, rows: np.ndarray) -> np.ndarray:
        """float32 `[n, classes]`, the logarithms of the distributions in rows; NaN of -1.

        NaN also where all of the probability is on classes that are left out.
        """
        stored = self._stored[np.maximum(rows, 0)]
        if self._best_only:
            found = scores.of_best(stored["classes"], stored["probs"], len(self.class_names))
        else:
            found = stored
        return np.where(rows[:, None] < 0, np.float32(np.nan), found)

    @property
    def _index(self) -> join.Index:
        return self._read[0]

    @property
    def _stored(self) -> Any:
        return self._read[1]

    @functools.cached_property
    def _read(self) -> tuple[join.Index, Any]:
        """One pass over the tables: keys by their numbers, and rows in a file that has no name."""
        say(f"reading the predictions {self.name}")
        flaws, found, kind, count = scores.Flaws(), [], self._settings.scores, 0
        store: Any = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as its map)
        for batch in self._batches():
            if not kind:
                kind = self._kind(batch)
            self._add_flaws(flaws, batch, kind, count)
            count += len(batch.keys)
            if not flaws.counts:
                found.append(join.numbers(batch.keys))
                _append(store, self._rows(batch, kind))
        flaws.check(self.name, self._remedy(kind))
        if not count:
            raise InputError(f"{self.name} holds no predictions")
        index = join.Index(np.concatenate(found))
        self._used = np.zeros(count, bool)
        stored = np.memmap(store, self._dtype, "r", shape=(count, *self._shape))
        self._check(index.repeated(), "have the key of an earlier row", index)
        say(f"{self.name}: {count:,} predictions, {kind} of {len(self.class_names)} classes")
        return index, stored

    @property
    def _dtype(self) -> np.dtype:
        if not self._best_only:
            return np.dtype(np.float32)
        k = self._width
        return np.dtype([("classes", np.int32, (k,)), ("probs", np.float32, (k,))])

    @property
    def _shape(self) -> tuple[int, ...]:
        return () if self._best_only else (len(self.class_names),)

    @functools.cached_property
    def _width(self) -> int:
        """Scores of a row."""
        first = self._tables[0]
        if not first.layout.is_list:
            return len(first.layout.scores)
        if not first.layout.best_only:
            return len(self._theirs)
        return next((batch.scores.shape[1] for batch in first.batches() if len(batch.keys)), 1)

    def _batches(self) -> Iterator[tables.Batch]:
        """All rows; scores of no class, where there are fewer than k, are 0."""
        for batch in itertools.chain(*(table.batches() for table in self._tables)):
            if not len(batch.keys):
                continue
            if batch.scores.shape[1] != self._width:
                raise InputError(
                    f"{self.name} has rows of {batch.scores.shape[1]} scores; there must be "
                    f"{self._width}"
                )
            if self._best_only:
                batch = dataclasses.replace(batch, scores=np.where(_empty(batch), 0, batch.scores))
            yield batch

    def _keys(self) -> Iterator[pa.Array]:
        return (k for k in itertools.chain(*(t.keys() for t in self._tables)) if len(k))

    @functools.cached_property
    def _order(self) -> scores.Order:
        return scores.Order(self._numbering.numbers(self._theirs), len(self.class_names))

    @property
    def _partial(self) -> bool:
        """Whether the scores of a row need not be of all classes."""
        return self._best_only or any(not ours for ours in self._map.values())

    def _kind(self, batch: tables.Batch) -> str:
        return scores.PROBABILITIES if self._best_only else self._kind_of(batch.scores)

    def _kind_of(self, found: np.ndarray) -> str:
        return scores.kind_of(found, self._partial)

    def _rows(self, batch: tables.Batch, kind: str) -> np.ndarray:
        if not self._best_only:
            return scores.log_distribution(batch.scores, kind, self._order)
        rows = np.empty(len(batch.keys), self._dtype)
        rows["classes"] = self._numbers(batch).reshape(batch.scores.shape)
        rows["probs"] = batch.scores
        return rows

    def _numbers(self, batch: tables.Batch) -> np.ndarray:
        """Our numbers of the classes of the k best, int32 `[n * k]`. Raises InputError."""
        encoded = pc.fill_null(batch.classes, "").dictionary_encode()
        names = self._spelled(encoded.dictionary.to_pylist())
        there = [place for place, name in enumerate(names) if name]
        numbers = np.full(len(names), -1, np.int32)
        numbers[there] = self._numbering.numbers([names[place] for place in there])
        return numbers[encoded.indices.to_numpy()]

    def _spelled(self, words: list[str]) -> list[str]:
        """Classes of the k best by name: numbers are named by the list of classes, if any is."""
        if not self._theirs:
            return words
        found = [class_names_lib.number(word) for word in words]
        if None in found or set(words) <= {*self._theirs, ""}:
            return words
        most = max(found)  # type: ignore[type-var]  # none is None
        if most >= len(self._theirs):  # type: ignore[operator]
            raise InputError(f"{self.name}: class {most} of {len(self._theirs)} class names")
        return ["" if n < 0 else self._theirs[n] for n in found]  # type: ignore[operator,index]

    def _add_flaws(self, flaws: scores.Flaws, batch: tables.Batch, kind: str, start: int) -> None:
        keys, found = batch.keys, batch.scores
        empty = pc.equal(pc.fill_null(pc.binary_length(keys), 0), 0)
        flaws.add("rows have no key", empty.to_numpy(zero_copy_only=False), None, start)
        if self._best_only:  # there may be fewer than k
            flaws.add("rows have no class", np.asarray(_empty(batch).all(1)), None, start)
        for reason, where in scores.flaws_of(found, kind, self._partial).items():
            if where.any():
                flaws.add(reason, where, pc.fill_null(keys, "").to_pylist(), start)

    def _remedy(self, kind: str) -> str:
        if kind == scores.PROBABILITIES and not self._settings.scores and not self._best_only:
            return ' (the scores look like probabilities; label.scores="logits" if they are none)'
        return ""

    def _check(self, rows: np.ndarray, what: str, index: join.Index | None = None) -> None:
        """Raises InputError if there are such rows."""
        if len(rows):
            keys = self._keys_of(rows[: scores.SHOWN])
            total = len(index or self._index)
            raise InputError(
                f"{self.name}: {len(rows):,} of {total:,} rows {what}: "
                f"{', '.join(map(one_line, keys))}"
                f"{', ...' * (len(rows) > scores.SHOWN)}"
            )

    def _keys_of(self, rows: np.ndarray) -> list[str]:
        found, start = [], 0
        for keys in self._keys():
            own = rows[(rows >= start) & (rows < start + len(keys))] - start
            found += keys.take(pa.array(own)).to_pylist()
            start += len(keys)
            if len(found) == len(rows):
                break
        return found

    def _class_names(self, some_left_out: bool) -> tuple[str, ...]:
        """The names of the scores in their order, alike in all tables. Raises InputError."""
        first, *others = self._tables
        for table in others:
            same = (table.layout, table.class_names) == (first.layout, first.class_names)
            if not same:
                raise InputError(
                    f"{first.path} and {table.path} have other columns or classes, or another "
                    "order of them; name them as two teachers, or write them alike"
                )
        if not self._settings.class_names:
            if not first.class_names and not first.layout.best_only:
                raise InputError(
                    f"{first.path} does not say which classes its scores are of; name a file with "
                    "a class name a line, in their order, as label.class_names"
                )
            return first.class_names
        names = classes.read_names(self._settings.class_names)
        columns = len(first.layout.scores)
        if not first.layout.is_list and not first.layout.best_only and len(names) != columns:
            raise InputError(
                f"{first.path} has {columns} columns of scores and {self._settings.class_names} "
                f"{len(names)} class names"
            )
        return names

    def _names_in_rows(self) -> tuple[str, ...]:
        """All classes that are among the k best of a row, in order."""
        found: set[str] = set()
        for batch in self._batches():
            found.update(filter(None, pc.unique(batch.classes).to_pylist()))
        return class_names_lib.in_order(found)


def _append(store: Any, rows: np.ndarray) -> None:
    """Raises InputError if there is no room."""
    try:
        store.write(np.ascontiguousarray(rows).data)
        store.flush()
    except OSError as error:
        raise InputError(
            f"{error}: scores wait in a temporary file in {tempfile.gettempdir()}; make room "
            "there, or name another directory as TMPDIR"
        ) from None


def _empty(batch: tables.Batch) -> np.ndarray:
    """Which of the k best are none, bool `[n, k]`."""
    words = pc.fill_null(batch.classes, "")
    return pc.equal(words, "").to_numpy(zero_copy_only=False).reshape(batch.scores.shape)
