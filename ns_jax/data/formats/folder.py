"""folder:DIR: class sub-folders, or images without labels, or a labels.csv beside the images."""

import collections
import dataclasses
import io

import numpy as np
import pyarrow as pa
from pyarrow import csv

from ns_jax import files
from ns_jax.data.source import Record, Source, digest, unlabelled
from ns_jax.errors import InputError

TABLE = "labels.csv"  # columns `file` (relative to DIR) and `label` (empty: unknown)


@dataclasses.dataclass(frozen=True)
class _Files:
    root: str
    # large_string: 60 bytes a file where Python's own take three times as many. They are the source
    # itself: each data worker has a copy, 4 bytes longer a file where there are labels.
    keys: pa.Array
    labels: np.ndarray | None  # int32

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        key = self.keys[index].as_py()
        try:
            image = files.read(f"{self.root}/{key}")
        except OSError:
            image = b""  # vanished or unreadable: reported as an empty file
        return image, -1 if self.labels is None else self.labels[index], key


def open_source(root: str) -> Source:
    """A file counts as an image unless a name on its path starts with a dot; one that cannot be
    decoded keeps its index and is reported. Classes and files are in the order of their names; with
    a labels.csv, which lists all that counts, files are in its order.

    Raises FileNotFoundError or InputError for a directory that holds no usable images.
    """
    root = root.rstrip("/") or "/"
    folders, keys = files.listing(root)
    if TABLE in keys:
        keys, names = _read_table(root, keys)
    else:
        names = _folder_names(root, folders, keys)
    class_names = sorted(set(names) - {""})
    numbers = {name: number for number, name in enumerate(class_names)} | {"": -1}
    labels = None
    if class_names:
        labels = np.fromiter((numbers[name] for name in names), np.int32, len(names))
    signatures = files.signatures([f"{root}/{key}" for key in keys])
    return Source(
        name=f"folder:{root}",
        class_names=tuple(class_names),
        fingerprint=digest(*keys, *names, *signatures),
        records=_Files(root, pa.array(keys, pa.large_string()), labels),
        labels=unlabelled(len(keys)) if labels is None else labels,
    )


def _folder_names(root: str, folders: list[str], keys: list[str]) -> list[str]:
    """The class name of each file: its first folder, or "" in a flat directory."""
    loose = [key for key in keys if "/" not in key]
    if folders and loose:
        raise InputError(
            f"folder:{root} holds {len(folders)} class folders and {len(loose)} loose files "
            f"({', '.join(loose[:3])}, ...); move the files elsewhere, or list all images with "
            f"their labels in {root}/{TABLE}"
        )
    if not keys and not folders:
        raise InputError(f"folder:{root} is empty; it needs class folders with images, or images")
    names = [key.partition("/")[0] for key in keys] if folders else [""] * len(keys)
    empty = sorted(set(folders) - set(names))
    if empty:
        raise InputError(
            f"{len(empty)} of {len(folders)} class folders of {root} hold no files: "
            f"{', '.join(empty[:10])}; fill or remove them"
        )
    return names


def _read_table(root: str, there: list[str]) -> tuple[list[str], list[str]]:
    """The files that labels.csv lists and their labels."""
    path = f"{root}/{TABLE}"
    try:
        table = csv.read_csv(
            io.BytesIO(files.read(path)),
            convert_options=csv.ConvertOptions(
                column_types={"file": pa.string(), "label": pa.string()}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a table of commas: {error}") from None
    missing = {"file", "label"} - set(table.column_names)
    if missing:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; it needs `file` (relative to "
            f"{root}) and `label` (a class name, or nothing where it is unknown)"
        )
    keys, names = (table.column(name).to_pylist() for name in ("file", "label"))
    if not keys:
        raise InputError(f"{path} lists no files")
    twice = [key for key, count in collections.Counter(keys).items() if count > 1]
    absent = sorted(set(keys) - set(there))
    for found, problem in ((twice, "are listed twice"), (absent, "do not exist")):
        if found:
            raise InputError(f"{len(found)} files of {path} {problem}: {', '.join(found[:10])}")
    return keys, names
