"""Trees of arrays by path: names, comparison, counting, a digest."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ns_jax.digest import Digest
from ns_jax.errors import DivergedError, InputError

# A pytree: arrays, abstract arrays or shardings, nested as `jax.tree` has it.
Tree = Any


def check_finite(tree: Tree, name: str) -> None:
    """Raises DivergedError, with the number of them, for arrays that are not finite."""
    found = by_path(tree)
    wrong = [path for path, leaf in found.items() if not np.isfinite(leaf).all()]
    if wrong:
        raise DivergedError(
            f"{name}: {len(wrong)} of its {len(found)} arrays are not finite, {wrong[0]} first; "
            "take an earlier checkpoint"
        )


def by_path(tree: Tree) -> dict:
    """`{"stage3/rest/expand_conv/kernel": leaf, ...}` in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_paths(leaves: dict) -> dict:
    """The nested dict that `by_path` took apart."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *scopes, name = path.split("/")
        scope = tree
        for part in scopes:
            scope = scope.setdefault(part, {})
        scope[name] = leaf
    return tree


def count(tree: Tree) -> int:
    """Elements of all leaves; abstract leaves will do."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def differences(theirs: Mapping, ours: Mapping, there: str = "there", now: str = "now") -> list:
    """A line for each name whose values differ, sorted by name: `  name: 1 there, 2 now`.

    A name without a value is the same as one whose value is None.
    """
    return [
        f"  {name}: {theirs.get(name)!r} {there}, {ours.get(name)!r} {now}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def check_same(expected: Tree, found: Tree, what: str) -> None:
    """Raises InputError with the differences if two trees differ in paths, shapes or dtypes."""
    expected, found = (
        {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in by_path(tree).items()}
        for tree in (expected, found)
    )
    lines = differences(expected, found, "expected", "found")
    if lines:
        more = [f"  ... and {len(lines) - 40} more"] if len(lines) > 40 else []
        raise InputError("\n".join([f"{what}:", *lines[:40], *more]))


def digest(tree: Tree) -> str:
    """16 hexadecimal digits that name the content of a tree of arrays."""
    total = Digest()
    for path, leaf in sorted(by_path(tree).items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return str(total)
