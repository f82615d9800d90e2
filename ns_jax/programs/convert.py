"""Weights from anywhere to anywhere: our checkpoint, timm safetensors, StableHLO, ONNX."""

import dataclasses
import pathlib

from ml_collections import config_dict

from ns_jax import files
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.progress import say
from ns_jax.weights import export, imported, onnx_graph


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Reads `convert.source`, writes `convert.target` and returns its path.

    The target's ending decides: `.safetensors` for timm, `.stablehlo` for jax.export, `.onnx`,
    otherwise a directory that becomes a checkpoint; empty means the workdir.
    """
    settings = config.convert
    target = files.as_path(settings.target or workdir)
    _check(config, target)
    if not settings.source:
        raise InputError(
            "convert.source is empty; name a workdir, a checkpoint, a .safetensors file, a "
            "TensorFlow checkpoint or hf:OWNER/NAME"
        )
    card, variables = imported.load(settings.source, settings.model)
    if settings.class_names:
        names = _class_names(settings.class_names, len(card.class_names))
        card = dataclasses.replace(card, class_names=names)
    if target.suffix in export.ENDINGS:
        export.save(target, card, variables, settings.onnx_input)
    else:
        checkpoint.save_model(target, card, variables)
    view = card.preprocessing
    say(
        f"{settings.source} -> {target}: {card.architecture}, {len(card.class_names):,} classes, "
        f"{view.size} pixels, crop {view.crop}, mean {view.mean}, std {view.std}"
    )
    return target


def _check(config: config_dict.ConfigDict, target: pathlib.Path) -> None:
    """What can be told before any weights are read."""
    onnx_graph.check_input(config.convert.onnx_input)
    if target.suffix == export.ONNX:
        onnx_graph.packages()


def _class_names(path: str, count: int) -> tuple[str, ...]:
    names = tuple(files.as_path(path).read_text().splitlines())
    if len(names) != count:
        raise InputError(f"{path} has {len(names)} lines, the weights have {count} classes")
    return names
