"""folder:DIR: class sub-folders, or images without labels, or a labels.csv beside the images."""

import collections
import dataclasses
import os
import unicodedata

import numpy as np
import pyarrow as pa

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data import endings, headers, label_table
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.listing import Listing, listing
from ns_jax.data.source import Record, Source, as_text, digest, unlabelled
from ns_jax.errors import InputError
from ns_jax.progress import one_line, say_once

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
        except OSError as error:
            if files.is_remote(self.root) and files.is_of_the_machine(error, self.root):
                raise
            image = b""  # vanished or unreadable: reported as an empty file
        return image, -1 if self.labels is None else self.labels[index], as_text(name)

    def keys(self, indices: np.ndarray) -> pa.Array:
        names = self.names.take(pa.array(indices))
        try:
            return names.cast(pa.large_string())
        except pa.ArrowInvalid:  # some are not UTF-8
            return pa.array(map(as_text, names.to_pylist()), pa.large_string())


def open_source(root: str, column: str = "label") -> Source:
    """A file counts as an image by its ending, or one without an ending by how it begins, unless it
    or a directory on its path is hidden or junk; one that cannot be read or decoded keeps its index
    and is reported. Classes and files are in the order of their names; with a labels.csv, which
    lists all that counts, whatever it is called, files are in its order and labels in `column`.

    Numbers are named by class_names.txt, if it is there. Raises FileNotFoundError or InputError for
    a directory that holds no usable images.
    """
    root = root.rstrip("/") or "/"
    there = listing(root)
    given = class_names_lib.beside(f"{root}/{label_table.NAME}")
    if label_table.NAME in there.keys:
        keys, words = label_table.read(root, there.keys, column)
        found = class_names_lib.of_labels(pa.array(words, pa.large_string()), given, root)
        numbers, names = found.numbers, found.names
        no_labels = f"the column `{column}` of its {label_table.NAME} is empty"
    else:
        keys, passed_over = _images(root, there)
        words = _folder_names(root, there, keys, passed_over)
        numbers, names = _of_folders(words, given, root)
        no_labels = f"it has no class folders and no {label_table.NAME}"
        if passed_over:
            counted = endings.counted(passed_over)
            say_once(f"folder:{root}: passed over {counted} that are no images")
    if there.unread:
        say_once(f"folder:{root}: not looked into: {_first(there.unread)}")
    # Files and labels say it all, but for names that numbers have only there.
    listed = given if names is given else ()
    signatures = signatures_lib.of([f"{root}/{key}" for key in keys])
    _say_unreadable(root, keys, signatures)
    labels = numbers if names else None
    return Source(
        name=f"folder:{root}",
        class_names=names,
        fingerprint=digest(*keys, *words, *listed, *signatures),
        records=_Files(root, pa.array(map(os.fsencode, keys), pa.large_binary()), labels),
        labels=unlabelled(len(keys)) if labels is None else labels,
        no_labels="" if names else no_labels,
        late=files.is_remote(root),
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
        elif key not in class_names_lib.FILES:  # which say something of the others
            passed_over[ending] += 1
    return keys, passed_over


def _look(path: str) -> str:
    """What a file without an ending is: `image` or `other` by how it begins, `empty`, `locked`."""
    beginning = files.beginning(path)
    if not beginning:
        return "locked" if beginning is None else "empty"
    return "image" if headers.is_image(beginning) else "other"


def _say_unreadable(root: str, keys: list[str], signatures: list[bytes]) -> None:
    signed = zip(keys, signatures, strict=True)
    bad = [key for key, sign in signed if sign == signatures_lib.UNREADABLE]
    if bad:
        reasons = [f"{key} ({files.why_unreadable(f'{root}/{key}')})" for key in bad[:SHOWN]]
        say_once(
            f"folder:{root}: {len(bad):,} files cannot be read and count as bad images: "
            f"{_first(reasons, len(bad))}"
        )


def _first(names: list[str], count: int = 0) -> str:
    """Some names, each in one line, and whether there are more: of `count`, or of the list."""
    more = ", ..." if max(count, len(names)) > SHOWN else ""
    return ", ".join(map(_shown, names[:SHOWN])) + more


def _shown(name: str) -> str:
    return one_line(as_text(name))


def _of_folders(
    words: list[str], given: tuple[str, ...], root: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers int32 `[N]` and the names of classes whose folders `words` names, "" for none."""
    folders = sorted(set(words) - {""})
    whole = class_names_lib.whole_numbers(pa.array(folders, pa.string()))
    if given and whole is not None:
        of_folders, names, _ = class_names_lib.of_labels(whole, given, f"folder:{root}")
    else:  # as they are called: there may be a folder `1` and a folder `01`, or `-1`
        called = [unicodedata.normalize("NFC", folder) for folder in folders]
        names = class_names_lib.in_order(set(called))
        places = {name: place for place, name in enumerate(names)}
        of_folders = np.asarray([places[name] for name in called], np.int32)
    number = dict(zip(folders, of_folders.tolist(), strict=True)) | {"": -1}
    return np.fromiter((number[word] for word in words), np.int32, len(words)), names


def _folder_names(
    root: str, there: Listing, keys: list[str], passed_over: collections.Counter[str]
) -> list[str]:
    """The class name of each file: its first folder, or "" in a flat directory."""
    folders, loose = there.folders, [key for key in keys if "/" not in key]
    if folders and loose:
        raise InputError(
            f"folder:{root} holds {len(folders)} class folders and {len(loose)} loose files "
            f"({', '.join(map(_shown, loose[:3]))}, ...); move the files elsewhere, or list "
            f"all images with their labels in {root}/{label_table.NAME}"
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
            f"{', '.join(map(_shown, empty[:SHOWN]))}; what is no image does not count; fill or "
            f"remove them{_locked(there.unread)}"
        )
    return list(map(as_text, names))


def _locked(unread: list[str]) -> str:
    return f". Not looked into: {_first(unread)}" if unread else ""
