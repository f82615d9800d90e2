"""Unreadable images: counted, limited, and listed in the end. They keep their index throughout."""

from collections.abc import Iterable

from ns_jax.data import decoding
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.progress import one_line


class BadImages:
    """The unreadable images met so far in one source."""

    def __init__(
        self,
        source: Source,
        max_fraction: float,
        known: Iterable[int] = (),
        num_images: int | None = None,
    ):
        """`known`: indices of those met before; `num_images`: that are read, if not all."""
        self.name = source.name
        self._source, self._max_fraction = source, max_fraction
        self._num_images = len(source) if num_images is None else num_images
        self._indices = set(known)

    def __len__(self) -> int:
        return len(self._indices)

    def indices(self) -> list[int]:
        return sorted(self._indices)

    def add(self, indices: Iterable[int]) -> None:
        """Raises InputError once they are more than the allowed share of those that are read."""
        self._indices.update(int(index) for index in indices)
        if len(self) > self._max_fraction * self._num_images:
            raise InputError(
                f"{len(self)} of {self._num_images} images of {self._source.name} cannot be read, "
                f"more than data.max_bad_fraction={self._max_fraction} allows. The first ones:\n"
                + "\n".join(self.lines(10))
            )

    def lines(self, most: int = 20) -> list[str]:
        """`  key: reason` of the first ones by index; reasons are found by reading them again."""
        lines = []
        for index in sorted(self._indices)[:most]:
            example = self._source[index]
            try:
                decoding.decode(example["image"], self._source.max_pixels)
                reason = "readable now"
            except decoding.BadImageError as error:
                reason = str(error)
            lines.append(f"  {one_line(example['key'])}: {reason}")
        if len(self) > most:
            lines.append(f"  ... and {len(self) - most} more")
        return lines
