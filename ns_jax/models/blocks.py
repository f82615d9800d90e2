"""The MBConv blocks of a network, one by one, and where each one's weights lie in our tree."""

import dataclasses
from collections.abc import Iterator

from ns_jax.models import efficientnet


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: the `index`-th of all, the `place`-th of its stage (both from 0)."""

    index: int
    stage: int
    place: int
    expands: bool

    @property
    def scope(self) -> str:
        return f"stage{self.stage}/{'rest' if self.place else 'first'}"

    @property
    def layer(self) -> int | None:
        """The slice of the stacked arrays of `scope`; None: all of them."""
        return self.place - 1 if self.place else None


def of(model: efficientnet.EfficientNet) -> Iterator[Block]:
    """In the order in which images go through them."""
    index = 0
    for stage, spec in enumerate(model.stages(), start=1):
        for place in range(spec.repeats):
            yield Block(index, stage, place, spec.expand_ratio != 1)
            index += 1
