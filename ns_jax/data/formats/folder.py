"""folder:DIR: class sub-folders, or images without labels, or a labels.csv beside the images."""

import collections
import dataclasses
import io
import os

import numpy as np
import pyarrow as pa
from pyarrow import csv

from ns_jax import files
from ns_jax.data import endings, headers
from ns_jax.data.listing import Listing, listing
from ns_jax.data.source import Record, Source, as_text, digest, unlabelled
from ns_jax.errors import InputError
from ns_jax.progress import one_line, say_once

TABLE = "labels.csv"  # columns `file` (relative to DIR) and `label` (empty: unknown)
SHOWN = 10  # names in a line


@dataclasses.dataclass(frozen=True)
class _Files:
    root: str
    # large_binary: 60 bytes a file where Python's own take three times as many, and names that are
    # not UTF-8 too. They are the source itself: each data worker has a copy, 4 bytes longer a file
    # where there are labels.
    names: pa.Array
    labels: np.ndarray | None  # int32

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index].as_py()
        try:
            image = files.read(f"{self.root}/{os.fsdecode(name)}")
        except OSError:
            image = b""  # vanished or unreadable: reported as an empty file
        return image, -1 if self.labels is None else self.labels[index], as_text(name)


def open_source(root: str) -> Source:
    """A file counts as an image by its ending, or one without an ending by how it begins, unless it
    or a directory on its path is hidden or junk; one that cannot be read or decoded keeps its index
    and is reported. Classes and files are in the order of their names; with a labels.csv, which
    lists all that counts, whatever it is called, files are in its order.

    Raises FileNotFoundError or InputError for a directory that holds no usable images.
    """
    root = root.rstrip("/") or "/"
    there = listing(root)
    if TABLE in there.keys:
        keys, names = _read_table(root, there.keys)
    else:
        keys, passed_over = _images(root, there)
        names = _folder_names(root, there, keys, passed_over)
        if passed_over:
            counted = endings.counted(passed_over)
            say_once(f"folder:{root}: passed over {counted} that are no images")
    if there.unread:
        say_once(f"folder:{root}: not looked into: {_first(there.unread)}")
    class_names = sorted(set(names) - {""})
    numbers = {name: number for number, name in enumerate(class_names)} | {"": -1}
    labels = None
    if class_names:
        labels = np.fromiter((numbers[name] for name in names), np.int32, len(names))
    signatures = files.signatures([f"{root}/{key}" for key in keys])
    _say_unreadable(root, keys, signatures)
    return Source(
        name=f"folder:{root}",
        class_names=tuple(class_names),
        fingerprint=digest(*keys, *names, *signatures),
        records=_Files(root, pa.array(map(os.fsencode, keys), pa.large_binary()), labels),
        labels=unlabelled(len(keys)) if labels is None else labels,
    )


def _images(root: str, there: Listing) -> tuple[list[str], collections.Counter[str]]:
    """The files that are images, and the numbers of all others by their endings."""
    found = [endings.of(key.rpartition("/")[2]) for key in there.keys]
    unsure = [key for key, ending in zip(there.keys, found, strict=True) if ending == endings.NONE]
    looks = files.in_threads(_look, [f"{root}/{key}" for key in unsure])
    accepted = {"image", "locked", "empty"} if "image" in looks else {"image", "locked"}
    taken = {
        key
        for key, look in zip(unsure, looks, strict=True)
        # A link that leads nowhere beside class folders was one of them.
        if look in accepted and ("/" in key or look == "image" or not there.folders)
    }
    keys, passed_over = [], collections.Counter[str]()
    for key, ending in zip(there.keys, found, strict=True):
        if key in taken or endings.is_images(ending):
            keys.append(key)
        else:
            passed_over[ending] += 1
    return keys, passed_over


def _look(path: str) -> str:
    """What a file without an ending is: `image` or `other` by how it begins, `empty`, `locked`."""
    beginning = files.beginning(path)
    if not beginning:
        return "locked" if beginning is None else "empty"
    return "image" if headers.is_image(beginning) else "other"


def _say_unreadable(root: str, keys: list[str], signatures: list[bytes]) -> None:
    bad = [key for key, sign in zip(keys, signatures, strict=True) if sign == files.UNREADABLE]
    if bad:
        reasons = [f"{key} ({files.why_unreadable(f'{root}/{key}')})" for key in bad[:SHOWN]]
        say_once(
            f"folder:{root}: {len(bad):,} files cannot be read and count as bad images: "
            f"{_first(reasons, len(bad))}"
        )


def _first(names: list[str], count: int = 0) -> str:
    """Some names, each in one line, and whether there are more: of `count`, or of the list."""
    more = ", ..." if max(count, len(names)) > SHOWN else ""
    return ", ".join(map(one_line, names[:SHOWN])) + more


def _folder_names(
    root: str, there: Listing, keys: list[str], passed_over: collections.Counter[str]
) -> list[str]:
    """The class name of each file: its first folder, or "" in a flat directory."""
    folders, loose = there.folders, [key for key in keys if "/" not in key]
    if folders and loose:
        raise InputError(
            f"folder:{root} holds {len(folders)} class folders and {len(loose)} loose files "
            f"({', '.join(map(one_line, loose[:3]))}, ...); move the files elsewhere, or list "
            f"all images with their labels in {root}/{TABLE}"
        )
    but = f" but for {endings.counted(passed_over)} that are no images" if passed_over else ""
    if not keys and not folders:
        raise InputError(
            f"folder:{root} is empty{but}; it needs class folders with images, or images"
        )
    names = [key.partition("/")[0] for key in keys] if folders else [""] * len(keys)
    if empty := sorted(set(folders) - set(names)):
        raise InputError(
            f"{len(empty)} of {len(folders)} class folders of {root} hold no files: "
            f"{', '.join(map(one_line, empty[:SHOWN]))}; what is no image does not count; fill or "
            f"remove them{_locked(there.unread)}"
        )
    return list(map(as_text, names))


def _locked(unread: list[str]) -> str:
    return f". Not looked into: {_first(unread)}" if unread else ""


def _read_table(root: str, there: list[str]) -> tuple[list[str], list[str]]:
    """The files that labels.csv lists and their labels."""
    path = f"{root}/{TABLE}"
    try:
        table = csv.read_csv(
            io.BytesIO(files.read(path)),
            convert_options=csv.ConvertOptions(
                # Names of files need not be UTF-8.
                column_types={"file": pa.binary(), "label": pa.string()},
                strings_can_be_null=False,
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
    keys = list(map(os.fsdecode, keys))
    if not keys:
        raise InputError(f"{path} lists no files")
    twice = [key for key, count in collections.Counter(keys).items() if count > 1]
    absent = [f for f in sorted(set(keys) - set(there)) if not files.is_named(f"{root}/{f}")]
    for found, problem in ((twice, "are listed twice"), (absent, "do not exist")):
        if found:
            raise InputError(
                f"{len(found)} files of {path} {problem}: {', '.join(map(one_line, found[:SHOWN]))}"
            )
    return keys, names
