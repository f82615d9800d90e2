"""idx:DIR:SPLIT: the pairs of IDX files that MNIST, Fashion-, K- and EMNIST come as.

Images lie in SPLIT-images-idx3-ubyte, labels in SPLIT-labels-idx1-ubyte, both as they are or with
gzip: a few numbers, biggest byte first, then nothing but pixels or labels.
"""

import dataclasses
import functools
import gzip
import math
import re
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ns_jax import files
from ns_jax.data import class_names
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.source import Record, Source, digest, numbered_keys
from ns_jax.errors import InputError, MissingFileError

_IMAGES = re.compile(r"(.+?)[-_.]images[-.]idx3-ubyte(\.gz)?")
_LABELS = re.compile(r"(.+?)[-_.]labels[-.]idx1-ubyte(\.gz)?")
ALIASES = {"test": ("test", "t10k")}  # ends of file names that a split is known by
TRANSPOSED = ":transposed"
BYTES = 0x08  # the header's third byte: what the numbers are
OTHERS = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
GZIP_RATIO = 1032  # that no gzip file exceeds

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
PACKAGES = {FASHION_MNIST: "dataset-fashion-mnist"}  # Debian's, by the directories that they make
NAMES = {
    FASHION_MNIST: (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
}


@dataclasses.dataclass(frozen=True)
class _Pair:
    images: str
    labels: str
    prefix: str
    version: str  # of what the files hold
    first: int  # the label of class 0
    transposed: bool

    def __len__(self) -> int:
        return len(_array(self.labels, 1, self.version))

    def __getitem__(self, index: int) -> Record:
        grey = _array(self.images, 3, self.version)[index]
        rgb = np.repeat((grey.T if self.transposed else grey)[..., None], 3, axis=-1)
        label = int(_array(self.labels, 1, self.version)[index]) - self.first
        return rgb, label, f"{self.prefix}-{index:08d}"

    def keys(self, indices: np.ndarray) -> pa.Array:
        return numbered_keys(self.prefix, indices)


def open_source(rest: str) -> Source:
    """The images of `DIR:SPLIT` with their labels, in the order of the files.

    SPLIT is what file names have before `-images`, or the end of it: `train`, `letters-train`;
    `test` also finds MNIST's `t10k`. `:transposed` behind it swaps rows and columns, as EMNIST
    needs to stand upright. Classes are the numbers from the smallest label to the largest, unless
    class_names.txt beside the files names them from label 0 on. Raises InputError.
    """
    transposed = rest.endswith(TRANSPOSED)
    directory, colon, split = rest.removesuffix(TRANSPOSED).rpartition(":")
    if not colon or not directory or split.startswith("//"):
        raise InputError(f"idx:{rest} names no split; write idx:DIR:train or idx:DIR:test")
    directory = directory.rstrip("/") or "/"
    prefix, images, labels = _find(directory, split)
    version = digest(*signatures_lib.of([images, labels], shards=True), str(transposed))
    shape, numbers = _array(images, 3, version).shape, _array(labels, 1, version)
    if len(numbers) != shape[0]:
        raise InputError(
            f"{images} has {shape[0]:,} images but {labels} {len(numbers):,} labels: they are not "
            "of one data set, or one of them is incomplete"
        )
    if 0 in shape:
        raise InputError(f"{images} has {shape[0]:,} images of {shape[2]} x {shape[1]} pixels")
    first, names = _names(directory, numbers, labels)
    return Source(
        name=f"idx:{rest}",
        class_names=names,
        fingerprint=digest(*names, version),
        records=_Pair(images, labels, prefix, version, first, transposed),
        labels=numbers.astype(np.int32) - first,
    )


def _find(directory: str, split: str) -> tuple[str, str, str]:
    """The prefix of the one pair that a split names, and the paths of images and labels."""
    there = files.names(directory)
    images, labels = _by_prefix(there, _IMAGES), _by_prefix(there, _LABELS)
    if not images:
        package = PACKAGES.get(directory)
        remedy = f"run: apt-get install {package}" if package else "name another directory"
        raise MissingFileError(
            f"{directory} has no IDX files of images (train-images-idx3-ubyte.gz or the like); "
            f"{remedy}"
        )
    ends = ALIASES.get(split, (split,))
    found = [prefix for prefix in images if prefix in ends]
    found = found or [prefix for prefix in images if re.split("[-_.]", prefix)[-1] in ends]
    found = found or [prefix for prefix in images if prefix.endswith((f"-{split}", f"_{split}"))]
    if len(found) != 1:
        what = f"{len(found)} splits are called" if found else "no split is called"
        known = ", ".join(found or images)
        raise InputError(
            f"{what} {split!r} in {directory}; write idx:{directory}: and one of {known}"
        )
    prefix = found[0]
    if prefix not in labels:
        expected = images[prefix].replace("images", "labels").replace("idx3", "idx1")
        raise MissingFileError(
            f"{directory}/{images[prefix]} has no labels beside it: {expected} is missing"
        )
    return prefix, f"{directory}/{images[prefix]}", f"{directory}/{labels[prefix]}"


def _by_prefix(names: Sequence[str], pattern: re.Pattern) -> dict[str, str]:
    """File names by what they begin with; of a file that is there twice the one without gzip."""
    found: dict[str, str] = {}
    for match in map(pattern.fullmatch, sorted(names)):  # NAME comes before NAME.gz
        if match:
            found.setdefault(match[1], match[0])
    return found


def _names(directory: str, numbers: np.ndarray, path: str) -> tuple[int, tuple[str, ...]]:
    """The label that the first class has in the file, and the names of all classes."""
    names = class_names.beside(f"{directory}/x") or NAMES.get(directory, ())
    smallest, largest = int(numbers.min()), int(numbers.max())
    if not names:
        return smallest, tuple(map(str, range(smallest, largest + 1)))
    if largest >= len(names):
        raise InputError(
            f"{path} has the label {largest} but {len(names)} class names; complete "
            f"{class_names.FILES[0]} beside it: a name a line, from label 0 on"
        )
    return 0, names


@functools.lru_cache(maxsize=8)
def _array(path: str, dimensions: int, version: str) -> np.ndarray:
    """uint8 with so many dimensions: a file's content, mapped if it lies on a disk as it is.

    With gzip, or in a bucket, it is read whole, once by each process. Raises InputError.
    """
    content = _content(path, dimensions)
    start = 4 + 4 * dimensions
    shape = _shape(content[:start].tobytes(), path, dimensions)
    length, count = len(content) - start, math.prod(shape)
    if length != count:
        ends = "ends before" if length < count else "goes on after"
        sizes = " x ".join(f"{size:,}" for size in shape)
        raise InputError(f"{path} {ends} the {sizes} bytes that it announces; fetch it again")
    return content[start:].reshape(shape)


def _content(path: str, dimensions: int) -> np.ndarray:
    """All bytes of a file, unpacked, or one more than its header announces: uint8 [N]."""
    size, packed = files.size(path), path.endswith(".gz")
    if size and not packed and not files.is_remote(path):
        return np.memmap(path, np.uint8, "r")
    with files.open_binary(path) as raw, gzip.open(raw) if packed else raw as file:
        try:
            header = file.read(4 + 4 * dimensions)
            announced = math.prod(_shape(header, path, dimensions))
            # gzip checks its sum where a read meets the end.
            rest = file.read(min(announced, size * GZIP_RATIO) + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged: {error}; fetch it again") from None
    return np.frombuffer(header + rest, np.uint8)


def _shape(header: bytes, path: str, dimensions: int) -> tuple[int, ...]:
    """What a header says, or InputError for one that is not as expected."""
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in (BYTES, *OTHERS):
        raise InputError(
            f"{path} is no IDX file: it begins with {header[:4].hex(' ') or 'nothing'}, "
            f"not with 00 00 08 {dimensions:02x}"
        )
    if header[2] != BYTES or header[3] != dimensions:
        raise InputError(
            f"{path} holds {OTHERS.get(header[2], 'bytes')} in {header[3]} dimensions; read are "
            f"bytes in {dimensions}: {'images, rows, columns' if dimensions == 3 else 'labels'}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{path} is incomplete: it ends within its header; fetch it again")
    return tuple(np.frombuffer(header[4:], ">u4").tolist())
