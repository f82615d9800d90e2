"""Where images come from: random access by an index that names the same image for ever."""

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

DIGITS_SPLITS = ("train", "unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class Source:
    """`source[i]` -> `{"image": bytes or uint8 [H, W, 3], "label": int or -1, "key": str}`."""

    name: str
    class_names: tuple[str, ...]  # empty if nothing is labelled
    fingerprint: str  # changes when the content does
    keys: tuple[str, ...]
    labels: np.ndarray  # int32 [N], -1: unknown
    read: object  # index -> image
    # Labels that the source knows but hides (int32 [N]): to measure pseudo-labels, not to train on.
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        return {
            "image": self.read(index),
            "label": int(self.labels[index]),
            "key": self.keys[index],
        }


def open_source(name: str, *, labels_per_class: int, seed: int) -> Source:
    """The source named `digits:SPLIT` or `folder:DIR`.

    `labels_per_class` and `seed` choose the labelled few of the digits. Raises ValueError for an
    unknown name, FileNotFoundError or ValueError for a directory that holds no usable images.
    """
    kind, _, rest = name.partition(":")
    if kind == "digits":
        return _digits(rest, labels_per_class, seed)
    if kind == "folder":
        return _folder(pathlib.Path(rest))
    raise ValueError(f"unknown source {name!r}; known: digits:SPLIT, folder:DIR")


def _digits(split: str, labels_per_class: int, seed: int) -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8.

    Every third image is the test split. Of the others `labels_per_class` images of each class,
    drawn by the seed, are the train split; the rest, their labels hidden, are the unlabelled one.
    """
    if split not in DIGITS_SPLITS:
        raise ValueError(f"digits has no split {split!r}; known: {', '.join(DIGITS_SPLITS)}")
    images, labels = _digits_arrays()
    pool = np.flatnonzero(np.arange(len(labels)) % 3)
    scarcest = np.bincount(labels[pool]).min()
    if not 1 <= labels_per_class < scarcest:
        raise ValueError(
            f"data.labels_per_class is {labels_per_class}; the digits allow 1 to {scarcest - 1}"
        )
    order = np.random.default_rng(seed).permutation(pool)
    train = np.concatenate([order[labels[order] == c][:labels_per_class] for c in range(10)])
    chosen = {
        "train": np.sort(train),
        "unlabelled": np.setdiff1d(pool, train),
        "test": np.arange(0, len(labels), 3),
    }[split]
    hidden = split == "unlabelled"
    return Source(
        name=f"digits:{split}",
        class_names=tuple(str(c) for c in range(10)),
        fingerprint=_hash(images[chosen].tobytes(), labels[chosen].tobytes(), split.encode()),
        keys=tuple(f"digit-{i:04d}" for i in chosen),
        labels=np.full(len(chosen), -1, np.int32) if hidden else labels[chosen],
        read=lambda index: images[chosen[index]],
        truth=labels[chosen] if hidden else None,
    )


@functools.cache
def _digits_arrays() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # slow to import, and only the digits need it

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.int32)


def _folder(root: pathlib.Path) -> Source:
    """A directory of class sub-folders, or of images without labels.

    Every file counts as an image unless its name starts with a dot; one that cannot be decoded
    keeps its index and is reported. Classes and files are in order of their names.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{root} is not a directory")
    classes, loose = [], []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if not entry.name.startswith("."):
            (classes if entry.is_dir() else loose).append(entry.name)
    if classes and loose:
        raise ValueError(
            f"folder:{root} holds {len(classes)} class folders and {len(loose)} loose files "
            f"({', '.join(loose[:3])}, ...); move the files elsewhere"
        )
    files = {name: _files_below(root / name) for name in classes} or {"": _files_below(root)}
    empty = [name for name, found in files.items() if not found]
    if empty == [""]:
        raise ValueError(f"folder:{root} is empty; it needs class folders with images, or images")
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(classes)} class folders of {root} hold no files: "
            f"{', '.join(empty[:10])}; fill or remove them"
        )
    paths = [path for found in files.values() for path, _ in found]
    sizes = [size for found in files.values() for _, size in found]
    numbers = range(len(classes)) if classes else (-1,)
    counts = [len(found) for found in files.values()]
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return Source(
        name=f"folder:{root}",
        class_names=tuple(classes),
        fingerprint=_hash(*(f"{k} {s}\n".encode() for k, s in zip(keys, sizes, strict=True))),
        keys=keys,
        labels=np.repeat(np.asarray(numbers, np.int32), counts),
        read=lambda index: _read_bytes(paths[index]),
    )


def _files_below(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    shown = [path for path in files if not path.name.startswith(".")]
    return [(path, path.stat().st_size) for path in sorted(shown)]


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # vanished or unreadable: reported as an empty file


def _hash(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]
