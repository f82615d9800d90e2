"""Trees of arrays by path: names, comparison, counting, a digest."""

import hashlib
import math

import jax
import numpy as np

from ns_jax.errors import InputError


def by_path(tree) -> dict:
    """`{"stage3/rest/expand_conv/kernel": leaf, ...}` in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_paths(leaves: dict) -> dict:
    """The nested dict that `by_path` took apart."""
    tree = {}
    for path, leaf in leaves.items():
        *scopes, name = path.split("/")
        scope = tree
        for part in scopes:
            scope = scope.setdefault(part, {})
        scope[name] = leaf
    return tree


def count(tree) -> int:
    """Elements of all leaves; abstract leaves will do."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def check_same(expected, found, what: str) -> None:
    """Raises InputError with the difference if two trees differ in paths, shapes or dtypes."""
    expected, found = (
        {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in by_path(tree).items()}
        for tree in (expected, found)
    )
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            lines += [f"- {path} {expected[path]}"] if path in expected else []
            lines += [f"+ {path} {found[path]}"] if path in found else []
    if lines:
        shown = "\n".join(f"  {line}" for line in lines[:40])
        more = f"\n  ... and {len(lines) - 40} more lines" if len(lines) > 40 else ""
        raise InputError(f"{what} (- expected, + found):\n{shown}{more}")


def digest(tree) -> str:
    """16 hexadecimal digits that name the content of a tree of arrays."""
    total = hashlib.sha256()
    for path, leaf in sorted(by_path(tree).items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]
