"""images:GLOB: plain image files, whatever directories they lie in, without labels."""

import dataclasses

import numpy as np
import pyarrow as pa

from ns_jax import files
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.source import Record, Source, as_text, digest, unlabelled
from ns_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Images:
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        try:
            image = files.read(path)
        except OSError as error:
            if files.is_remote(path) and files.is_of_the_machine(error, path):
                raise
            image = b""  # vanished or unreadable: reported as an empty file
        return image, -1, as_text(path)

    def keys(self, indices: np.ndarray) -> pa.Array:
        return pa.array([as_text(self.paths[int(i)]) for i in indices], pa.large_string())


def open_source(pattern: str) -> Source:
    """All files that match, in the order of their paths, which are their keys.

    Raises FileNotFoundError for none, InputError for a directory.
    """
    if files.is_directory(pattern):
        slashless = pattern.rstrip("/")
        raise InputError(
            f"{pattern} is a directory; write folder:{slashless} for all images below it, or "
            f"'{slashless}/*.jpg'"
        )
    paths = files.expand(pattern)
    return Source(
        name=f"images:{pattern}",
        class_names=(),
        fingerprint=digest(*paths, *signatures_lib.of(paths)),
        records=_Images(tuple(paths)),
        labels=unlabelled(len(paths)),
        late=files.is_remote(pattern),
        no_labels="plain files have none; put them into a folder for each class",
    )
