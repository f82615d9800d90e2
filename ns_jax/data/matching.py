"""The classes of one source as those of another or of a network: by name, in whatever order."""

import concurrent.futures
from collections.abc import Sequence

import numpy as np

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.progress import Progress, one_line, say

LOOKED_AT = 100  # images for a label, where it lies beside them
SHOWN = 10  # class names in a line
REMEDY = "rename or remove them"


def match(
    source: Source,
    class_names: Sequence[str],
    owner: str,
    *,
    leave_out: bool = False,
    remedy: str = REMEDY,
) -> Source:
    """`source` with its labels as numbers of `class_names`, those of `owner` (a checkpoint, ...).

    Says which of `class_names` have no images. Raises InputError for a source without labels, and
    for one with images of other classes; with `leave_out` those count as images without a label,
    which it says. `remedy`: what else to do about them.
    """
    if not source.class_names:
        raise InputError(f"{source.name} has no labels: {source.no_labels}")
    if (source.some_labels(LOOKED_AT) < 0).all():
        raise InputError(f"{source.name}: not one of its {len(source):,} images has a label")
    numbers = class_names_lib.matching(source.class_names, class_names)
    counts = _images_per_class(source)
    surplus = [c for c in np.flatnonzero(numbers[:-1] < 0) if counts is None or counts[c]]
    there = numbers[:-1] if counts is None else numbers[:-1][counts > 0]
    missing = sorted(set(range(len(class_names))) - set(there.tolist()))
    if surplus:
        names = _listed([source.class_names[c] for c in surplus])
        if not leave_out or not (there >= 0).any():
            twice = [c for c in surplus if source.class_names[c] in class_names]
            raise InputError(
                f"{source.name} has {len(source.class_names)} classes, {owner} has "
                f"{len(class_names)}; missing: {_listed([class_names[c] for c in missing])}; "
                f"surplus: {names}. Classes are matched by "
                + ("name, and some names stand several times" if twice else f"name; {remedy}")
            )
        many = "" if counts is None else f" ({counts[surplus].sum():,} images)"
        say(f"{source.name}: left out, as {owner} lacks {len(surplus)} classes{many}: {names}")
    if missing:
        say(
            f"{source.name} has no images of {len(missing)} of the {len(class_names)} classes of "
            f"{owner}: {_listed([class_names[c] for c in missing])}"
        )
    return source.renumbered(class_names, numbers)


def present(source: Source) -> np.ndarray:
    """The classes that a source has images of: numbers int32 `[n]`, ascending.

    Reads the images where labels lie beside them.
    """
    labels = source.labels
    if labels is None:
        with (
            concurrent.futures.ThreadPoolExecutor(files.THREADS) as pool,
            Progress(f"reading the labels of {source.name}", len(source)) as progress,
        ):
            found = []
            for example in pool.map(source.__getitem__, range(len(source))):
                found.append(example["label"])
                progress.advance(1)
        labels = np.asarray(found, np.int32)
    return np.unique(labels[labels >= 0]).astype(np.int32)


def _images_per_class(source: Source) -> np.ndarray | None:
    """int `[C]`, if it is known without reading the images, and where it has labelled ones."""
    labels = source.labels
    if labels is None or not (known := labels[labels >= 0]).size:
        return None
    return np.bincount(known, minlength=len(source.class_names))


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(map(one_line, names[:SHOWN])) + more or "none"
