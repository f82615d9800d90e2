"""Class names: their order, which of them mean the same class, and labels as numbers of classes."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import files
from ns_jax.errors import InputError

FILES = ("class_names.txt", "label.labels.txt")  # ours, and that of TensorFlow Datasets
MOST = 1_000_000  # classes that numbers may stand for; a larger one is no number of a class
UNKNOWN = ("", "-1")  # how a label in words says that there is none
_WHOLE = re.compile(r"(-?[0-9]{1,18})(?:\.0+)?")


class Labels(NamedTuple):
    """A column of labels as classes."""

    numbers: np.ndarray  # int32 [N], -1: unknown
    names: tuple[str, ...]  # empty if nothing is labelled
    spelled: tuple[str, ...]  # the names as a fingerprint takes them, as all versions did


def beside(path: str) -> tuple[str, ...]:
    """The names in the directory of `path`; none if there is no such file."""
    for name in FILES:
        try:
            text = files.read(f"{os.path.dirname(path) or '.'}/{name}").decode()
        except FileNotFoundError:
            continue
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()


def normal(name: str) -> str:
    """What a name is compared by: composed (NFC), no blanks around; `03` and `3.0` are `3`."""
    text = unicodedata.normalize("NFC", name).strip()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted; as numbers if all of them are whole numbers."""
    ordered = sorted(names)
    if all(map(_WHOLE.fullmatch, ordered)):
        ordered.sort(key=lambda name: int(normal(name)))
    return tuple(ordered)


def matching(names: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    """int32 `[len(names) + 1]`: the place of each name in `expected`, and -1 for no label.

    -1 also for a name that is not there, or stands there several times (but where `expected`
    begins with just these names). Names are matched as they are, else by `normal`.
    """
    if tuple(names) == tuple(expected[: len(names)]):
        return np.asarray([*range(len(names)), -1], np.int32)
    exact = _places(expected)
    normals = _places(list(map(normal, expected)))
    found = (exact[name] if name in exact else normals.get(normal(name), -1) for name in names)
    return np.asarray([*found, -1], np.int32)


def _places(names: Sequence[str]) -> dict[str, int]:
    """The place of each name, -1 of one that stands there several times."""
    counts = Counter(names)
    return {name: -1 if counts[name] > 1 else place for place, name in enumerate(names)}


def number(word: str) -> int | None:
    """The whole number that a word is, -1 of an empty one; None of any other."""
    word = normal(word)
    if not word:
        return -1
    return int(word) if _WHOLE.fullmatch(word) else None


def whole_numbers(labels: pa.Array) -> pa.Array | None:
    """Labels in words as int64, -1 where there is none; None if they are not all whole numbers.

    For few labels, one of each kind.
    """
    found = [number(label or "") for label in labels.to_pylist()]
    return None if None in found else pa.array(found, pa.int64())


def of_labels(labels: pa.Array | pa.ChunkedArray, given: tuple[str, ...], source: str) -> Labels:
    """The classes of a column of whole numbers (any integer type) or of words.

    Numbers, in words too, are named by `given`: a name for each from 0 on. Without any, numbers are
    named by themselves from 0 up to the largest, and words are names, sorted. What is null, empty
    or negative is no label. Raises InputError for a number that has no name.
    """
    if pa.types.is_integer(labels.type):
        return _of_numbers(labels, given, source)
    found = pc.unique(labels)
    places = pc.index_in(labels, found).to_numpy()
    if given and (numbers := whole_numbers(found)) is not None:
        of_found = _of_numbers(numbers, given, source)
        return of_found._replace(numbers=of_found.numbers[places])
    words = ["" if word is None else word for word in found.to_pylist()]
    of_words, names = named(words)
    spelled = tuple(sorted(word for word in words if word))
    return Labels(of_words[places], names, spelled)


def named(words: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes that words name: their numbers int32 `[len(words)]`, and the names in order.

    Several spellings of one name are one class; of one spelled in a single way that is the name.
    """
    spellings: dict[str, set[str]] = {}
    for word in words:
        spellings.setdefault(normal(word), set()).add(_plain(word))
    names = in_order(
        min(spelled) if len(spelled) == 1 else name
        for name, spelled in spellings.items()
        if name not in UNKNOWN
    )
    number = {normal(name): place for place, name in enumerate(names)}
    return np.asarray([number.get(normal(word), -1) for word in words], np.int32), names


def _plain(word: str) -> str:
    """As it is to be shown: composed, without blanks around, a whole number without `.0`."""
    text = unicodedata.normalize("NFC", word).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _of_numbers(labels: pa.Array | pa.ChunkedArray, given: tuple[str, ...], source: str) -> Labels:
    numbers = pc.fill_null(pc.cast(labels, pa.int64()), -1).to_numpy()
    largest = int(numbers.max(initial=-1))
    if largest >= (len(given) or MOST):
        raise InputError(
            f"{source} has the label {largest} but {len(given)} class names; complete "
            f"{FILES[0]} beside the files: a name a line, from label 0 on"
            if given
            else f"{source} has the label {largest}, which is no number of a class: they count "
            "from 0 on. Write labels that are names as text"
        )
    names = given or tuple(map(str, range(largest + 1)))
    names = names if largest >= 0 else ()
    return Labels(np.maximum(numbers, -1).astype(np.int32), names, names)
