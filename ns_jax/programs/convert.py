"""Weights from anywhere to anywhere: our checkpoint, timm safetensors, StableHLO, ONNX.

A directory, which a hub takes as it is, gets a model card to read as well.
"""

import dataclasses
import pathlib

from ml_collections import config_dict

from ns_jax import files
from ns_jax.checkpoints import checkpoint
from ns_jax.config import ranges
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.foreign import onnx_session
from ns_jax.progress import say
from ns_jax.weights import export, hub_card, hub_config, imported, onnx_int8, tensors


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Reads `convert.source`, writes `convert.target` and returns its path.

    The target's ending decides: `.safetensors` for timm, `.stablehlo` for jax.export, `.onnx`,
    otherwise a directory that becomes a checkpoint, with a model card in its README.md; empty means
    the workdir. `DIRECTORY/model.safetensors`, as hubs call it, has the card beside it, and timm's
    `config.json`.
    """
    settings = config.convert
    ranges.check(config)
    settings = config.convert
    target = files.as_path(settings.target or workdir)
    _check(settings, target)
    images = _images(config) if settings.quantise else None
    card, variables = imported.load(settings.source, settings.model)
    if settings.class_names:
        names = _class_names(settings.class_names, len(card.class_names))
        card = dataclasses.replace(card, class_names=names)
    if images:
        onnx_int8.save(target, card, variables, images, settings.onnx_input)
    elif target.suffix in export.ENDINGS:
        export.save(target, card, variables, settings.onnx_input)
    else:
        checkpoint.save_model(target, card, variables)
    if target.suffix not in export.ENDINGS or target.name == tensors.USUAL:
        directory = target.parent if target.suffix in export.ENDINGS else target
        hub_card.write(directory, card, hub_card.Facts.of(settings.source, variables, config))
    if target.name == tensors.USUAL:
        hub_config.write(target.parent, card)
    view = card.preprocessing
    say(
        f"{settings.source} -> {target}: {card.architecture}, {len(card.class_names):,} classes, "
        f"{view.size} pixels, crop {view.crop}, mean {view.mean}, std {view.std}, padding "
        f"{card.padding}, epsilon {card.bn_epsilon:g}"
    )
    return target


def _check(settings: config_dict.ConfigDict, target: pathlib.Path) -> None:
    """What can be told before anything is read. Raises InputError, MissingPackageError."""
    if not settings.source:
        raise InputError(
            "convert.source is empty; name a workdir, a checkpoint, a .safetensors file, a "
            "TensorFlow checkpoint or hf:OWNER/NAME"
        )
    if target.suffix == export.ONNX:
        onnx_session.packages()
    elif settings.quantise:
        raise InputError(f"convert.quantise is for FILE.onnx; convert.target is {target}")


def _images(config: config_dict.ConfigDict) -> onnx_int8.Images:
    """What a quantisation is calibrated and measured on. Raises InputError without a pool."""
    named = [name for name in ("unlabelled", "labelled") if config.data[name]]
    if not named:
        raise InputError(
            "convert.quantise needs images to calibrate on; set --config.data.unlabelled= (or "
            "data.labelled), and data.holdout or data.test to measure what it costs"
        )
    judges = [name for name in ("holdout", "test") if config.data[name]]
    return onnx_int8.Images(
        open_lib.open_from_config(config, named[0]),
        open_lib.open_from_config(config, judges[0]) if judges else None,
        open_lib.loader_settings(config),
        config.convert.calibration_images,
    )


def _class_names(path: str, count: int) -> tuple[str, ...]:
    names = tuple(files.as_path(path).read_text().splitlines())
    if len(names) != count:
        raise InputError(f"{path} has {len(names)} lines, the weights have {count} classes")
    return names
