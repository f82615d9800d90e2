"""The headers of a tar file: where the image and what the label of each sample is.

A sample is the members whose names are the same up to the first dot, wherever they stand.
"""

import collections
import dataclasses
import posixpath
import tarfile
from typing import Any, BinaryIO

from ns_jax import files
from ns_jax.data import endings
from ns_jax.data.listing import is_junk
from ns_jax.data.source import as_text
from ns_jax.errors import InputError

LABEL = "cls"  # a number or a class name; img2dataset's .txt is a caption
# How compressed files begin, and what unpacks them. In those nothing can be read by its place.
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip, then tar"),
}

Place = tuple[int, int]  # offset and size, bytes


@dataclasses.dataclass
class Samples:
    """Those with an image, in the order of their images, and what else there is to know."""

    keys: list[str] = dataclasses.field(default_factory=list)
    places: list[Place] = dataclasses.field(default_factory=list)  # of their images
    labels: list[str | None] = dataclasses.field(default_factory=list)
    unused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first_unused: str = ""  # name of a member
    lost_labels: int = 0  # of no image in this file
    flaw: str = ""  # why the file was not read to its end
    may_pass: bool = False  # the flaw: it may be the disk's, or the network's


def read_samples(shard: str) -> Samples:
    """What there is up to a flaw.

    Raises InputError for a compressed file, and for a label that may be that of several images.
    """
    reader = _Reader(shard)
    samples = reader.samples
    try:
        with files.open_binary(shard) as file:
            _check_not_compressed(shard, file)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members.clear()  # type: ignore[attr-defined]  # which would keep all
                    reader.add(archive, member)
    except tarfile.TarError as error:
        samples.flaw = str(error)
    except OSError as error:
        if files.is_of_the_machine(error, shard):
            raise
        samples.flaw, samples.may_pass = error.strerror or str(error), True
    reader.end_run()
    reader.join()
    return samples


class _Reader:
    """Makes samples of members as they come: runs of one key, and labels that stand apart."""

    def __init__(self, shard: str):
        self.samples = Samples()
        self._shard = shard
        self._apart: dict[str, list[str]] = {}  # labels without an image beside them, by key
        self._begin_run(None)

    def _begin_run(self, key: str | None) -> None:
        self._key = key
        self._image: Place | None = None
        self._unread: tuple[Place, str] | None = None  # an image of a kind that is not read
        self._label: str | None = None

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Raises tarfile.TarError where a label breaks off."""
        if member.isdir():
            return
        if not member.isfile() or any(map(is_junk, _parts(member.name))):
            self._leave(member.name)
            return
        folder, name = posixpath.split(member.name)
        stem, _, extension = name.partition(".")
        key, extension = posixpath.join(folder, stem), extension.lower()
        if key != self._key:
            self.end_run()
            self._begin_run(key)
        place = member.offset_data, member.size
        if extension in endings.READ and not self._image:
            self._image = place
        elif extension in endings.UNREAD and not self._unread:
            self._unread = place, member.name
        elif extension == LABEL and self._label is None:
            content: Any = archive.extractfile(member)  # not None: it is a file
            self._label = as_text(content.read()).strip()
        else:
            self._leave(member.name)

    def end_run(self) -> None:
        image = self._image
        if self._unread:
            place, name = self._unread
            if image:
                self._leave(name)
            else:  # a bad image is one that is told
                image = place
        if image and self._key is not None:
            self.samples.keys.append(self._key)
            self.samples.places.append(image)
            self.samples.labels.append(self._label)
        elif self._label is not None and self._key is not None:
            self._apart.setdefault(self._key, []).append(self._label)
        self._begin_run(None)

    def join(self) -> None:
        """Gives labels that stand apart to the images of their keys. Raises InputError."""
        if not self._apart:
            return
        waiting: dict[str, list[int]] = {key: [] for key in self._apart}
        for row, (key, label) in enumerate(
            zip(self.samples.keys, self.samples.labels, strict=True)
        ):
            if label is None and key in waiting:
                waiting[key].append(row)
        for key, labels in self._apart.items():
            rows = waiting[key]
            if rows and (len(rows) > 1 or len(set(labels)) > 1):
                raise InputError(
                    f"{self._shard}: {len(rows)} images and {len(labels)} labels are called {key} "
                    "and do not stand together; write the files of each sample one after the other"
                )
            for row in rows:
                self.samples.labels[row] = labels[0]
            for _ in labels[len(rows) :]:
                self._leave(f"{key}.{LABEL}")
                self.samples.lost_labels += 1

    def _leave(self, name: str) -> None:
        self.samples.unused[endings.of(posixpath.basename(name))] += 1
        self.samples.first_unused = self.samples.first_unused or as_text(name)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _check_not_compressed(shard: str, file: BinaryIO) -> None:
    beginning = file.read(8)
    file.seek(0)
    for magic, (kind, tool) in COMPRESSED.items():
        if beginning.startswith(magic):
            raise InputError(
                f"{shard} is compressed with {kind}, so that no image could be read by its place; "
                f"unpack it ({tool} {shard}) and name the .tar file (images hardly get smaller)"
            )
