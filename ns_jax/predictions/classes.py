"""Whose classes: the names in a table of predictions as numbers of the classes of the labels."""

import csv
import io
import os
from collections.abc import Sequence

import numpy as np

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.errors import InputError, paths_of_the_user
from ns_jax.progress import one_line, say

SHOWN = 10
REST = "*"  # in a map: all names of theirs that have no line and are none of ours


def read_names(path: str) -> tuple[str, ...]:
    """A class name a line."""
    return tuple(line.strip() for line in _text(path).splitlines() if line.strip())


def read_map(path: str) -> dict[str, str]:
    """`theirs,ours` a line: by their name ours, or "" for a class that is left out.

    `*,` leaves out all that have no line and are none of ours.

    Raises InputError for a line of other than two names, and for a name of theirs with several.
    """
    found: dict[str, str] = {}
    for number, row in enumerate(csv.reader(io.StringIO(_text(path))), 1):
        names = [name.strip() for name in row]
        if not any(names) or (number == 1 and names == ["theirs", "ours"]):
            continue
        if len(names) != 2:
            raise InputError(
                f"{path}, line {number}: {len(names)} names, not two, `theirs,ours`; "
                'a name that holds a comma stands in quotation marks, "a, b"'
            )
        theirs, ours = class_names_lib.normal(names[0]), names[1]
        if theirs == REST and ours:
            raise InputError(
                f"{path}, line {number}: all other classes can be left out, `{REST},`, not become "
                f"{one_line(ours)}"
            )
        if found.setdefault(theirs, ours) != ours:
            raise InputError(
                f"{path}, line {number}: {one_line(names[0])} is {one_line(found[theirs])} above "
                f"and {one_line(ours)} here; many of theirs may be one of ours, not the reverse"
            )
    return found


class Numbering:
    """The number of each name of theirs among our classes, which are known or found."""

    def __init__(self, class_map: dict[str, str], expected: Sequence[str], path: str):
        """`path`: the table, in errors."""
        self.class_names, self._map, self._path = tuple(expected), class_map, path
        self._own = set(map(class_names_lib.normal, expected))

    def is_left_out(self, name: str) -> bool:
        """Whether a class of theirs is none of ours on purpose."""
        return self._ours(name) == ""

    def check_map(self, theirs: Sequence[str]) -> None:
        """Raises InputError for lines of the map whose name is none of theirs."""
        there = {*map(class_names_lib.normal, theirs), REST}
        if surplus := [name for name in self._map if name not in there]:
            raise InputError(
                f"label.class_map has {len(surplus)} names that {self._path} does not have: "
                f"{_listed(surplus)}; it has {_listed(theirs)}"
            )

    def found(self, theirs: Sequence[str]) -> tuple[str, ...]:
        """Our names that these stand for, in the order in which they come."""
        return tuple(dict.fromkeys(filter(None, map(self._ours, theirs))))

    def numbers(self, theirs: Sequence[str]) -> np.ndarray:
        """int32 `[len(theirs)]`, -1 of classes that are left out. Raises InputError for others."""
        ours = [self._ours(name) for name in theirs]
        numbers = class_names_lib.matching(ours, self.class_names)[:-1]
        surplus = [
            name for name, own, n in zip(theirs, ours, numbers, strict=True) if own and n < 0
        ]
        if surplus:
            raise InputError(
                f"{self._path} has {len(surplus)} classes that the labels do not have: "
                f"{_listed(surplus)}; theirs are {_listed(self.class_names)}. Write a line "
                "`theirs,ours` for each into a CSV file, nothing behind the comma for one to be "
                "left out, and name it as label.class_map"
            )
        return numbers

    def say_missing(self, theirs: Sequence[str]) -> None:
        """Says which of our classes have no score at all."""
        there = set(self.numbers(theirs).tolist())
        missing = [name for n, name in enumerate(self.class_names) if n not in there]
        if missing:
            say(f"{self._path} has no scores of {len(missing)} classes: {_listed(missing)}")

    def _ours(self, name: str) -> str:
        normal = class_names_lib.normal(name)
        if REST in self._map and normal not in self._own:
            return self._map.get(normal, self._map[REST])
        return self._map.get(normal, name)


def _text(path: str) -> str:
    try:
        with paths_of_the_user():
            return files.read(os.path.expanduser(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
