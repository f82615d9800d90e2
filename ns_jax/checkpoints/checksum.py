"""A checksum of a tree of arrays: what a checkpoint should hold, and whether replicas are equal.

Of each leaf the sum of its 32-bit words, each times an odd number of its place, modulo 2^32; of the
leaves' sums the same. One word that changed always shows. The order of summing, and so how arrays
are split over devices, never matters.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ns_jax import trees
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.parallel import processes

PIECE = 2**22  # words that the host takes at once


class ReplicaError(RuntimeError):
    """Copies of one weight that are no longer equal: a device or a link is broken."""


def of_host(tree: trees.Tree) -> int:
    """The checksum of arrays on the host with elements of 4 bytes."""
    return total(of_leaves(tree))


def of_leaves(tree: trees.Tree) -> trees.Tree:
    """That of each leaf."""

    def of_leaf(leaf: np.ndarray) -> int:
        words = np.ascontiguousarray(leaf).reshape(-1).view(np.uint32)
        pieces = range(0, len(words), PIECE)
        return sum(_weighted(words[start : start + PIECE], start) for start in pieces) % 2**32

    return jax.tree.map(of_leaf, tree)


def per_device_sums(tree: trees.Tree) -> np.ndarray:
    """uint32 `[devices, leaves]`, in every process: of each leaf as each device has it.

    All rows are equal unless copies of one array differ. Arrays on one mesh, elements of 4 bytes.
    """
    return np.asarray(prepare(tree)(tree))


def prepare(tree: trees.Tree) -> Callable:
    """`per_device_sums` for trees like this one, compiled once, in all processes together.

    One CPU device has its arrays where the host has them: nothing is compiled.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if mesh_lib.is_one_cpu(leaves[0].sharding.mesh):
        return lambda tree: np.array([jax.tree.leaves(of_leaves(tree))], np.uint32)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves]
    return _compiled(treedef, tuple(like))


def check_replicas(sums: np.ndarray, tree: trees.Tree, step: int) -> None:
    """Raises ReplicaError, naming devices and leaves, unless all rows of the sums are equal."""
    _, row_of, counts = np.unique(sums, axis=0, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        return
    others = np.flatnonzero(row_of.reshape(-1) != counts.argmax())
    usual = sums[np.flatnonzero(row_of.reshape(-1) == counts.argmax())[0]]
    devices = jax.tree.leaves(tree)[0].sharding.mesh.devices.reshape(-1)
    leaves = [
        path
        for path, differ in zip(trees.by_path(tree), (sums != usual).any(0), strict=True)
        if differ
    ]
    named = ", ".join(f"{devices[i]} of process {devices[i].process_index}" for i in others[:8])
    raise ReplicaError(
        f"at step {step:,} {len(others)} of {len(devices)} devices have other weights than the "
        f"rest: {named}; in {len(leaves)} arrays, the first is {leaves[0]}. Nothing was saved. The "
        "same command goes on from the last checkpoint; leave that host out if it happens again"
    )


def total(sums: trees.Tree) -> int:
    """The checksum of a tree, from a tree of those of its leaves."""
    return _weighted(np.array(jax.tree.leaves(sums), np.uint64), 0)


@functools.cache
def _compiled(treedef: jax.tree_util.PyTreeDef, leaves: tuple) -> Callable:
    tree = jax.tree.unflatten(treedef, leaves)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, tree)
    function = mesh_lib.per_device_reduction(_of_part, leaves[0].sharding.mesh, shardings)
    compiled = function.lower(tree).compile()
    processes.wait("checksum")  # one may have found it in its cache, and another compiles
    return compiled


def _weighted(words: np.ndarray, first: int) -> int:
    """The weighted sum of words on the host, the first of which has this place."""
    places = np.arange(first, first + len(words), dtype=np.uint64)
    return int((words * (2 * places + 1)).sum(dtype=np.uint64) % 2**32)


def _of_part(part: jax.Array, firsts: list, shape: list) -> jax.Array:
    """uint32: of a part of an array of `shape`, on the device."""
    words = jax.lax.bitcast_convert_type(part, jnp.uint32)
    place = jnp.zeros(part.shape, jnp.uint32)
    for dim, first in enumerate(firsts):
        along = jax.lax.broadcasted_iota(jnp.uint32, part.shape, dim) + jnp.uint32(first)
        place = place * jnp.uint32(shape[dim]) + along
    return (words * (2 * place + 1)).sum(dtype=jnp.uint32)
