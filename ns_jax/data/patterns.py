"""The shards that a source's pattern names, among whatever else lies beside them."""

import collections
import functools
import glob
import os
import re

from ns_jax import files
from ns_jax.data import braces, class_names, endings
from ns_jax.errors import MissingFileError
from ns_jax.progress import one_line, say_once

INDEX = ".index.arrow"  # behind a tar file's name: our own index of it
_NUMBER = re.compile(r"-\d+-of-\d+$")  # behind the ending, as TensorFlow Datasets write it
SHOWN = 10  # files that are named


def shards(kind: str, pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files that a pattern matches, in order; if they are of several kinds, `suffixes` count.

    The others are counted and said. Raises FileNotFoundError if there are none, if one is missing
    that braces stand for, or for a directory.
    """
    name = f"{kind}:{pattern}"
    if files.is_directory(pattern):
        raise MissingFileError(
            f"{name} is a directory; name the files in it: {name.rstrip('/')}/*{suffixes[0]}"
        )
    ours = (INDEX, *class_names.FILES)
    found = [path for path in _matches(pattern) if not path.endswith(ours)]
    if not found:
        raise MissingFileError(f"no file matches {pattern}")
    wanted = [path for path in found if _NUMBER.sub("", path.lower()).endswith(suffixes)]
    if not wanted or len(wanted) == len(found):
        return found
    others = collections.Counter(endings.of(os.path.basename(p)) for p in set(found) - set(wanted))
    counted = endings.counted(others)
    say_once(f"{name}: passed over {counted}; there are some that end in {suffixes[0]}")
    return wanted


def say_flaws(name: str, flaws: list[str]) -> None:
    """Says which shards of a source could not be read, or not to their end, and why."""
    for flaw in flaws[:SHOWN]:
        say_once(f"{name}: {one_line(flaw)}")
    if len(flaws) > SHOWN:
        say_once(f"{name}: ... and {len(flaws) - SHOWN:,} more such files")


def _matches(pattern: str) -> list[str]:
    """As `files.expand`, of a pattern with braces."""
    if files.is_file(pattern):
        return [pattern]
    directory, name = os.path.split(pattern)
    if files.is_directory(directory):  # whatever braces its own name has
        named = [os.path.join(directory, inside) for inside in braces.expand(name)]
    else:
        named = braces.expand(pattern)
    if len(named) == 1:
        return files.expand(named[0])
    listed = functools.cache(lambda directory: frozenset(files.names(directory)))
    found: set[str] = set()
    missing = []
    for one in named:
        try:
            if not glob.has_magic(one):  # a request for each directory of a bucket
                directory, name = os.path.split(one)
                found.update([one] if name in listed(directory or ".") else files.expand(one))
            else:
                found.update(files.expand(one))
        except MissingFileError:
            missing.append(one)
    if missing:
        more = ", ..." if len(missing) > SHOWN else ""
        raise MissingFileError(
            f"{len(missing):,} of the {len(named):,} names that {pattern} stands for are missing: "
            f"{', '.join(missing[:SHOWN])}{more}; name those that are there"
        )
    return sorted(found)
