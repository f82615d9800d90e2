"""Class names where a format has only numbers: class_names.txt beside the data, a name a line."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax import files
from ns_jax.errors import InputError

FILES = ("class_names.txt", "label.labels.txt")  # ours, and that of TensorFlow Datasets


def beside(path: str) -> tuple[str, ...]:
    """The names in the directory of `path`; none if there is no such file."""
    for name in FILES:
        try:
            text = files.read(f"{os.path.dirname(path) or '.'}/{name}").decode()
        except FileNotFoundError:
            continue
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()


def of_labels(
    labels: pa.Array, names: tuple[str, ...], source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 numbers (-1 where there is no label) and names of a column of numbers or of names.

    Names in the column are sorted. Numbers are named by `names` or, without any, by themselves from
    0 up to the largest. Raises InputError for a number that has no name.
    """
    if pa.types.is_integer(labels.type):
        numbers = pc.fill_null(labels, -1).to_numpy(zero_copy_only=False).astype(np.int32)
        largest = int(numbers.max(initial=-1))
        names = names or tuple(map(str, range(largest + 1)))
        if largest >= len(names):
            raise InputError(
                f"{source} has the label {largest} but {len(names)} class names; complete "
                f"{FILES[0]} beside the files: a name a line, from label 0 on"
            )
        return numbers, names if largest >= 0 else ()
    encoded = pc.dictionary_encode(pc.cast(labels, pa.string()))
    found = encoded.dictionary.to_pylist()
    names = tuple(sorted(name for name in found if name))
    new = np.asarray([names.index(name) if name else -1 for name in found] + [-1], np.int32)
    places = pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False)
    return new[places], names
