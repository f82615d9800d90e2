"""A training state as a few long vectors: how a CPU carries it from step to step.

XLA:CPU makes a kernel of each operation on each array. Of the 2,500 kernels of a small network's
step 1,900 were the optimiser's, the averages' and the choice between the old and the new state, one
set for every layer; on long vectors they are a handful, which compiles and runs in less time.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ns_jax import trees


class Unpacked:
    """The state as it is: on accelerators, and wherever arrays are split over devices."""

    def pack(self, tree: trees.Tree) -> trees.Tree:
        return tree

    def unpack(self, tree: trees.Tree) -> trees.Tree:
        return tree


UNPACKED = Unpacked()
DECAYED, SPARED = "decayed", "spared"  # vectors of parameters with and without the L2 penalty


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """Trees of one structure as `{group: vector}`, the leaves of a group in their order."""

    structure: object  # of the tree
    shapes: tuple[tuple[int, ...], ...]  # of its leaves
    groups: tuple[str, ...]  # of each leaf

    def pack(self, tree: trees.Tree) -> dict:
        leaves = jax.tree.leaves(tree)
        of_group: dict[str, list] = {name: [] for name in dict.fromkeys(self.groups)}
        for leaf, name in zip(leaves, self.groups, strict=True):
            of_group[name].append(leaf.reshape(-1))
        join = np.concatenate if isinstance(leaves[0], np.ndarray) else jnp.concatenate
        return {name: join(parts) for name, parts in of_group.items()}

    def unpack(self, vectors: dict) -> trees.Tree:
        starts, leaves = dict.fromkeys(vectors, 0), []
        for shape, name in zip(self.shapes, self.groups, strict=True):
            start, size = starts[name], math.prod(shape)
            leaves.append(vectors[name][start : start + size].reshape(shape))
            starts[name] += size
        return jax.tree.unflatten(self.structure, leaves)


class Packing:
    """Packs parameters, statistics, and whatever in a larger tree has the structure of either."""

    def __init__(self, shapes: Any, decayed: trees.Tree):
        """`shapes`: of a `TrainState`; `decayed`: tree of bool, parameters of the L2 penalty."""
        names = [DECAYED if one else SPARED for one in jax.tree.leaves(decayed)]
        stats = ["all"] * len(jax.tree.leaves(shapes.batch_stats))
        self._vectors = [_vectors(shapes.params, names), _vectors(shapes.batch_stats, stats)]

    @staticmethod
    def decayed(params: dict) -> dict:
        """`optim.decayed` of packed parameters."""
        return {name: name == DECAYED for name in params}

    def pack(self, tree: trees.Tree) -> trees.Tree:
        by_structure = {one.structure: one.pack for one in self._vectors}
        return _replaced(by_structure, tree)

    def unpack(self, tree: trees.Tree) -> trees.Tree:
        """The inverse of `pack`."""
        by_structure = {
            jax.tree.structure(dict.fromkeys(one.groups, 0)): one.unpack for one in self._vectors
        }
        return _replaced(by_structure, tree)


def _vectors(shapes: trees.Tree, groups: list[str]) -> _Vectors:
    leaves, structure = jax.tree.flatten(shapes)
    return _Vectors(structure, tuple(leaf.shape for leaf in leaves), tuple(groups))


def _replaced(by_structure: dict[object, Callable], tree: trees.Tree) -> trees.Tree:
    """The tree with each part of these structures replaced by what its function makes of it."""

    def is_part(node: trees.Tree) -> bool:
        return jax.tree.structure(node) in by_structure

    def replace(node: trees.Tree) -> trees.Tree:
        function = by_structure.get(jax.tree.structure(node))
        return function(node) if function else node

    return jax.tree.map(replace, tree, is_leaf=is_part)
