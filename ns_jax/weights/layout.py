"""Other people's tensors <-> our tree: a list of entries, one for each of their tensors.

A format (`timm`, `tf_checkpoint`) is a function from a network to such a list. Blocks after a
stage's first are separate tensors there and slices of one stacked array here.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from ns_jax import trees
from ns_jax.errors import InputError
from ns_jax.models import efficientnet
from ns_jax.progress import one_line


@dataclasses.dataclass(frozen=True)
class Entry:
    """Their tensor `name` and the place of ours that it fills."""

    name: str
    path: str  # "params/stage3/rest/expand_conv/kernel"
    layer: int | None  # the slice of a stacked array, or None: all of it
    axes: tuple[int, ...] | None = None  # ours = theirs.transpose(axes); None: as it is


def shapes(model: efficientnet.EfficientNet) -> dict[str, jax.ShapeDtypeStruct]:
    """Our abstract leaves by path; nothing is allocated."""
    return trees.by_path(jax.eval_shape(lambda rng: model.init(rng, 32), jax.random.key(0)))


def their_shapes(
    model: efficientnet.EfficientNet, entries: list[Entry]
) -> dict[str, tuple[int, ...]]:
    """The shape that each of their tensors must have."""
    ours, expected = shapes(model), {}
    for entry in entries:
        shape = ours[entry.path].shape[0 if entry.layer is None else 1 :]
        inverse = np.argsort(entry.axes) if entry.axes else range(len(shape))
        expected[entry.name] = tuple(shape[axis] for axis in inverse)
    return expected


def to_tree(
    model: efficientnet.EfficientNet,
    entries: list[Entry],
    tensors: Mapping[str, np.ndarray],
    source: str,
    what: str = "",
) -> dict:
    """`{"params", "batch_stats"}` as float32 NumPy arrays, of what the entries fill.

    Raises InputError with the first missing, surplus and misshapen tensors and how many there are
    (`what`: the sentence before them), or with tensors that hold a number that is not finite.
    """
    filled = {entry.path for entry in entries}
    ours = {path: leaf for path, leaf in shapes(model).items() if path in filled}
    expected = their_shapes(model, entries)
    _check_names_and_shapes(expected, tensors, what or f"{source} does not hold {model.name}")
    broken = [entry.name for entry in entries if not np.isfinite(tensors[entry.name]).all()]
    if broken:
        raise InputError(
            f"{source}: {len(broken)} tensors hold NaN or infinity: {', '.join(broken[:10])}"
        )
    leaves = {path: np.empty(leaf.shape, np.float32) for path, leaf in ours.items()}
    for entry in entries:
        theirs = tensors[entry.name].astype(np.float32)
        theirs = theirs.transpose(entry.axes) if entry.axes else theirs
        leaves[entry.path][... if entry.layer is None else entry.layer] = theirs
    return trees.from_paths(leaves)


def from_tree(entries: list[Entry], variables: dict) -> dict[str, np.ndarray]:
    """Their tensors, float32, contiguous."""
    leaves, tensors = trees.by_path(variables), {}
    for entry in entries:
        leaf = np.asarray(leaves[entry.path])
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        theirs = leaf.transpose(np.argsort(entry.axes)) if entry.axes else leaf
        tensors[entry.name] = np.ascontiguousarray(theirs)
    return tensors


def _check_names_and_shapes(expected: dict, tensors: Mapping, what: str) -> None:
    differing = {
        "missing": [f"{n} {list(s)}" for n, s in expected.items() if n not in tensors],
        "surplus": [f"{n} {list(tensors[n].shape)}" for n in tensors if n not in expected],
        "misshapen": [
            f"{name} {list(tensors[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if count := sum(map(len, differing.values())):
        first, *others = (f"{kind}: {_few(found)}" for kind, found in differing.items() if found)
        raise InputError("\n  ".join([f"{what}; {count:,} tensors differ; {first}", *others]))


def _few(lines: list[str]) -> str:
    """In one line: the names are other people's."""
    shown = "; ".join(map(one_line, lines[:3]))
    return f"{shown}; and {len(lines) - 3:,} more" if len(lines) > 3 else shown
