"""What the columns of a table of predictions are: keys, and scores in one of two forms."""

import dataclasses
import re
from collections.abc import Collection, Sequence

from ns_jax.errors import InputError
from ns_jax.progress import one_line, say_once

KEYS = ("key", "path", "file", "filename", "file_name", "image")
CLASSES = ("class", "label", "name")
SCORES = ("probability", "prob", "confidence", "score")
LISTS = ("probs", "probabilities", "logits", "scores", "log_probs")  # a row's scores as one value
LIST_OF_CLASSES = "classes"
ROW_NUMBERS = ("", "Unnamed: 0", "__index_level_0__")  # pandas' index, which is no class
STATUS = "status"  # rows whose status is not `ok` hold no prediction
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a table has what. Either `scores` are columns, one a class or one list of all; or there
    are the k best `classes` of each row with their `scores`, as pairs of columns or of lists.
    """

    key: str
    scores: tuple[str, ...]
    classes: tuple[str, ...] = ()
    is_list: bool = False
    has_status: bool = False

    @property
    def best_only(self) -> bool:
        return bool(self.classes)

    @property
    def columns(self) -> list[str]:
        return [self.key, *self.classes, *self.scores, *[STATUS] * self.has_status]


def find(
    names: Sequence[str], lists: Collection[str], dropped: Collection[str], path: str
) -> Layout:
    """The layout of a table with columns `names`, of which `lists` are lists.

    `dropped`: columns that are none of a class. Raises InputError for a table without a key or
    without scores.
    """
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"{path} has several columns of the name {_listed(twice)}; keep one")
    names = [name for name in names if name not in ROW_NUMBERS]
    spelled = {name.lower(): name for name in reversed(names)}
    key = next((spelled[name] for name in KEYS if name in spelled), None)
    if key is None:
        raise InputError(
            f"{path} has no column with the keys or paths of the images ({', '.join(KEYS)}), only "
            f"{_listed(names)}"
        )
    status = STATUS in names
    if whole := [name for name in LISTS if name in lists]:
        listed: tuple[str, ...] = (LIST_OF_CLASSES,) if LIST_OF_CLASSES in lists else ()
        return Layout(key, (whole[0],), listed, is_list=True, has_status=status)
    classes, scores = _pairs(names, path)
    if classes:
        used = {key, STATUS, *classes, *scores}
        if others := [name for name in names if name not in used]:
            say_once(f"{path}: passed over the columns {_listed(others)}")
        return Layout(key, scores, classes, has_status=status)
    scores = tuple(name for name in names if name not in {key, STATUS, *dropped, *lists})
    if scores and set(scores) <= {*CLASSES, *SCORES}:
        lacking = "confidence" if set(scores) & set(CLASSES) else "label"
        raise InputError(f"{path} has `{scores[0]}` but no `{lacking}`, only {_listed(names)}")
    if not scores:
        raise InputError(
            f"{path} has no scores, only {_listed(names)}: it needs a column for each class, or "
            "`class_1`, `probability_1` and so on, or `label` and `confidence`, or lists `probs`"
        )
    return Layout(key, scores, has_status=status)


def _pairs(names: Sequence[str], path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of classes and of their scores, best first: `class_1`, ..., or one of each."""
    there = set(names)

    def first(words: Sequence[str], end: str) -> str | None:
        return next((f"{word}{end}" for word in words if f"{word}{end}" in there), None)

    ends = ["_1", "_0", ""]
    end = next((end for end in ends if first(CLASSES, end) and first(SCORES, end)), None)
    if end is None:
        return (), ()
    numbered = re.compile(rf"(?:{'|'.join((*CLASSES, *SCORES))})_(\d+)")
    places = (
        [""] if not end else sorted({m[1] for m in map(numbered.fullmatch, names) if m}, key=int)
    )
    classes, scores = [], []
    for place in places:
        behind = f"_{place}" if place else ""
        one, score = first(CLASSES, behind), first(SCORES, behind)
        if one is None or score is None:
            raise InputError(
                f"{path} has {one or score or f'a gap at {place}'} but no column of "
                f"{'its class' if score else 'its score'}, only {_listed(names)}"
            )
        classes.append(one)
        scores.append(score)
    return tuple(classes), tuple(scores)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
