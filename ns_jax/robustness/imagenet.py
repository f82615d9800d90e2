"""ImageNet's test sets: whose classes are which of a network's thousand.

Classes are WordNet ids; ImageNet-V2's folders are numbers, 0 to 999, which are not to be sorted as
text. ImageNet-A and -R hold 200 classes, among which alone a network then chooses.
"""

import dataclasses
import importlib.resources
import json
import re
from collections.abc import Sequence

import numpy as np

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data import matching
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.weights import published

IMAGE_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)  # of 1 to 50,000
MOST_NAMED = 10  # classes that an error lists


def wnids(subset: str = "") -> list[str]:
    """The WordNet ids of all thousand classes, or of the 200 of ImageNet-`a` or -`r`, in order."""
    if not subset:
        return published.class_names(1000)
    text = importlib.resources.files("ns_jax.robustness") / f"imagenet_{subset}_classes.txt"
    return text.read_text().split()


def check_network(class_names: Sequence[str], checkpoint: str, suite: str) -> None:
    """Raises InputError for a network of other classes than ImageNet's, in whatever order."""
    if set(class_names) != set(wnids()):
        raise InputError(
            f"suite {suite} is of ImageNet's 1,000 classes, by their WordNet ids; {checkpoint} has "
            f"{len(class_names)} classes ({', '.join(list(class_names)[:3])}, ...); suites of any "
            "network: own, fgsm, pgd"
        )


def class_ids(names: Sequence[str], source: str, subset: str = "") -> list[str]:
    """The WordNet id of each of a source's classes, which are ids already or numbers from 0 on.

    Raises InputError for classes that are none of the thousand or, of a folder, not all there.
    """
    known = wnids()
    numbered = all(name.isdecimal() and int(name) < len(known) for name in names)
    ids = [known[int(name)] for name in names] if numbered else list(names)
    surplus = sorted(set(ids) - set(known))
    missing = sorted(set(wnids(subset)) - set(ids))
    for found, what in ((surplus, "are not ImageNet's"), (missing, "are missing")):
        if found:
            more = ", ..." if len(found) > MOST_NAMED else ""
            raise InputError(
                f"{source}: {len(found)} classes {what}: {', '.join(found[:MOST_NAMED])}{more}; it "
                f"needs a folder for each of {len(wnids(subset)):,} WordNet ids"
            )
    return ids


def match(source: Source, class_names: Sequence[str], owner: str, subset: str = "") -> Source:
    """A set with its labels as numbers of a network's `class_names`. Raises InputError."""
    ids = class_ids(source.class_names, source.name, subset)
    return matching.match(dataclasses.replace(source, class_names=tuple(ids)), class_names, owner)


def numbers(ids: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Which of the network's classes these are, int32."""
    return class_names_lib.matching(ids, class_names)[:-1]


def check_folders(directory: str, subset: str = "") -> None:
    """As `class_ids`, of the folders in a directory, whose files are not looked at."""
    class_ids([name for name in files.names(directory) if name[:1] != "."], directory, subset)


def real_labels(path: str) -> list[list[int]]:
    """The classes that each of the 50,000 images of validation shows (real.json of ImageNet-ReaL).

    They are numbers of ImageNet's classes; an image may show none. Raises InputError.
    """
    try:
        content = json.loads(files.read(path))
        labels = [[int(number) for number in numbers] for numbers in content]
    except FileNotFoundError:
        raise InputError(f"robustness.real_labels: there is no {path}") from None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no real.json, a list of each image's list of classes: {error}"
        ) from None
    if any(not 0 <= number < len(wnids()) for numbers in labels for number in numbers):
        raise InputError(f"{path} names classes outside 0..{len(wnids()) - 1}")
    return labels


def image_number(key: str, source: Source) -> int:
    """Which image of validation a key names, from 0. Raises InputError."""
    found = IMAGE_NUMBER.search(key)
    if not found:
        raise InputError(
            f"{source.name}: {key} is not named as ImageNet's validation images are, "
            "ILSVRC2012_val_00000001.JPEG; suite real finds its labels by that number"
        )
    return int(found[1]) - 1
