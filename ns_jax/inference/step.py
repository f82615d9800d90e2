"""The pure steps of inference, and the one place that compiles them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ns_jax import trees
from ns_jax.models import efficientnet
from ns_jax.parallel import mesh as mesh_lib


def logits_step(
    variables: dict,
    images: jax.Array,
    *,
    model: efficientnet.EfficientNet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """uint8 images -> logits float32 `[B, classes]`, nothing random."""
    return model.apply(variables, efficientnet.normalise(images, mean, std), train=False)[0]


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of those that predict together."""

    model: efficientnet.EfficientNet
    view: int  # which of the views of an image it takes
    mean: tuple[float, ...]
    std: tuple[float, ...]


def member_logits(
    variables: list, views: list, *, members: tuple[Member, ...], flip: bool
) -> jax.Array:
    """float32 `[B, M, classes]`: of each member, with `flip` on the mirrored image as well.

    `variables` are the members'; `views` uint8 `[B, S, S, 3]`, of one size each.
    """
    found = []
    for member, own in zip(members, variables, strict=True):
        images = views[member.view]
        for seen in (images, images[:, :, ::-1]) if flip else (images,):
            settings: dict[str, Any] = {
                "model": member.model,
                "mean": member.mean,
                "std": member.std,
            }
            found.append(logits_step(own, seen, **settings))
    return jnp.stack(found, axis=1)


def predict_step(
    replicated: dict, views: list, *, members: tuple[Member, ...], flip: bool, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k best classes int32 `[B, k]` and their probabilities float32 `[B, k]`, nothing random.

    `replicated`: the `members`' variables, a `temperature` by which all logits are divided, and
    maybe `classes`, int32 `[n]`: only these compete, as if there were no others. Distributions are
    averaged. Labelling and evaluation are this one pass. Ties go to the lower class.
    """
    logits = member_logits(replicated["members"], views, members=members, flip=flip)
    competing = replicated.get("classes")
    if competing is not None:
        logits = logits[..., competing]
    probs = jax.nn.softmax(logits / replicated["temperature"]).mean(axis=1)
    probs, classes = jax.lax.top_k(probs, k)
    return (classes if competing is None else competing[classes]), probs


PIECE_PIXELS = 65536  # that a CPU core takes through the network at once; at least two images


def _in_pieces(function: Callable, replicated: trees.Tree, rows: trees.Tree) -> trees.Tree:
    """`function` over a few images at a time, so that a core's activations stay in its cache.

    `rows`: arrays of images `[B, S, S, 3]`, and others `[B, ...]` that go with them.
    """
    columns = jax.tree.leaves(rows)
    piece = max(2, PIECE_PIXELS // max(math.prod(one.shape[1:3]) for one in columns))
    count = len(columns[0])
    pieces = -(-count // piece)

    def cut(column: jax.Array) -> jax.Array:
        missing = [(0, pieces * piece - count)] + [(0, 0)] * (column.ndim - 1)
        return jnp.pad(column, missing).reshape(pieces, piece, *column.shape[1:])

    results = jax.lax.map(functools.partial(function, replicated), jax.tree.map(cut, rows))
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[:count], results)


@functools.lru_cache(maxsize=16)
def compile_inference(mesh: mesh_lib.DeviceMesh, function: Callable, **static: Any) -> Any:
    """`(replicated, rows) -> rows` of `function`; `replicated`, the weights, is on every device.

    The same for equal arguments: labelling and evaluation, of all iterations, trace and compile the
    pass of one network once.

    A function of images alone: each device takes its own rows, a CPU's cores being its devices.
    """
    function = functools.partial(function, **static)
    if mesh_lib.on_cpu(mesh):
        function = functools.partial(_in_pieces, function)
    return jax.jit(
        mesh_lib.per_device(function, mesh), compiler_options=mesh_lib.compiler_options(mesh)
    )
