"""Tensors of safetensors files as other programs leave them. No pickle.

They come in shards, below a prefix, or beside other things.
"""

import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from ns_jax import files
from ns_jax.errors import InputError, MissingFileError
from ns_jax.progress import say

INDEX = "model.safetensors.index.json"  # of shards: which tensor is in which
USUAL = "model.safetensors"  # among several files the one that a hub means
PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
_STEM = "conv_stem.weight"  # every EfficientNet of timm's has it, and nothing else
COUNTER = "num_batches_tracked"  # PyTorch's, of the batches that a BatchNorm saw; no weight
AVERAGES = ("ema", "average", "shadow")  # in a prefix: of the averages of weights
# Of other libraries' EfficientNets: a name of theirs, whose it is.
OTHERS = {
    "features.0.0.weight": "torchvision",
    "_conv_stem.weight": "efficientnet_pytorch",
    "embeddings.convolution.weight": "transformers",
}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file, or of the shards of which it is one, by their names in it.

    Raises FileNotFoundError, or InputError for what is no whole safetensors file.
    """
    found: dict[str, np.ndarray] = {}
    for file in shards(path):
        if not file.is_file():
            raise MissingFileError(f"there is no file {file}")
        try:
            found |= safetensors.numpy.load_file(files.local(file))
        except (safetensors.SafetensorError, KeyError) as error:
            raise InputError(
                f"{file} ({files.size(str(file)):,} bytes) is not a whole safetensors file: "
                f"{_kind(file) or error}"
            ) from None
    return found


def metadata(path: pathlib.Path) -> dict[str, str]:
    """What the header says beside the tensors; nothing for a file that `read` refuses."""
    try:
        with safetensors.safe_open(files.local(shards(path)[0]), "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}


def find(directory: pathlib.Path) -> pathlib.Path:
    """The file in a directory, or the first of its shards. Raises InputError if none is meant."""
    there = sorted(directory.glob("*.safetensors"))
    if (directory / INDEX).is_file() or (directory / USUAL) in there:
        return directory / USUAL
    sets = {shards(file)[0] for file in there}
    if len(sets) != 1:
        raise InputError(
            f"{directory} holds {len(there)} safetensors files; name one of them: "
            + ", ".join(file.name for file in there[:5])
        )
    return sets.pop()


def shards(path: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold the tensors of the one at `path`: itself, or it and those beside it."""
    if path.name == USUAL and not path.exists() and path.with_name(INDEX).is_file():
        try:
            index = path.with_name(INDEX).read_text()
            names = {str(name) for name in json.loads(index)["weight_map"].values()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path.with_name(INDEX)} is no index of shards: {error!r}") from None
        if not names:
            raise InputError(f"{path.with_name(INDEX)} names no shards")
        # Names alone: an index of other people's does not lead anywhere else.
        return [path.with_name(pathlib.PurePath(name).name) for name in sorted(names)]
    if not (parts := _SHARD.fullmatch(path.name)):
        return [path]
    stem, digits, count = parts.groups()
    numbers = range(1, int(count) + 1) if int(count) < 10_000 else ()
    beside = [f"{stem}-{n:0{len(digits)}}-of-{count}.safetensors" for n in numbers]
    return [path.with_name(name) for name in beside] or [path]


def has_pickle(directory: pathlib.Path) -> str | None:
    """The name of a pickle in a directory."""
    return next((p.name for pattern in PICKLES for p in sorted(directory.glob(pattern))), None)


def pickle_advice(path: pathlib.Path | str) -> str:
    return (
        f"{path}: weights are read from .safetensors files, from TensorFlow 1 checkpoints and from "
        "our own, never from a pickle (.pth, .bin, .npz), which may run any code. One you trust:\n"
        'python -c "import sys, torch, safetensors.torch as s; w = torch.load(sys.argv[1], '
        "weights_only=True); w = w.get('state_dict', w); "
        's.save_file({k: v.contiguous() for k, v in w.items()}, sys.argv[2])" '
        f"{path} model.safetensors"
    )


def of_network(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The tensors of the one EfficientNet among them, by timm's names; what is left aside is said.

    Raises InputError if there is none, or several of which none is the average of the others.
    """
    prefixes = [name.removesuffix(_STEM) for name in tensors if name.endswith(_STEM)]
    prefixes = [p for p in prefixes if not p or p.endswith(".")]
    if not prefixes:
        raise InputError(f"{source} holds no EfficientNet of timm's: {_others(tensors)}")
    averages = [p for p in prefixes if any(word in p.lower() for word in AVERAGES)]
    chosen = averages if len(prefixes) > 1 else prefixes
    if len(chosen) != 1:
        places = ", ".join(repr(p) for p in prefixes[:5])
        raise InputError(
            f"{source} holds {len(prefixes)} EfficientNets, below {places}; save one of them alone"
        )
    (prefix,) = chosen
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
        and not any(name.startswith(p) for p in prefixes if len(p) > len(prefix))
    }
    if prefix:
        aside = [name for name in tensors if not name.startswith(prefix)]
        more = (
            f"; {len(aside)} tensors beside them are left aside: {aside[0]}, ..." if aside else ""
        )
        say(f"{source}: the weights below {prefix!r} are taken{more}")
    return {name: value for name, value in inside.items() if not name.endswith(COUNTER)}


def _others(tensors: Mapping[str, np.ndarray]) -> str:
    """Whose tensors they are, or what they are called."""
    for name, library in OTHERS.items():
        if any(theirs.endswith(name) for theirs in tensors):
            return (
                f"its names are those of {library}, which are not read; load them into timm's "
                "network there, and save that"
            )
    names = sorted(tensors)
    return f"its {len(names):,} tensors are called {', '.join(names[:3])}, ..."


def _kind(path: pathlib.Path) -> str | None:
    """What a file is that only has the name of a safetensors file."""
    with path.open("rb") as file:
        beginning = file.read(64)
    if beginning.startswith((b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")):
        return "it is a pickle of PyTorch's, which is never read"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: fetch the file itself, with git lfs pull"
    if beginning.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a page of the web: the download led to an error or a login"
    return None
