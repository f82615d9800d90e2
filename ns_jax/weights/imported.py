"""Weights from anywhere, with what must travel with them: (model card, variables)."""

import json
import pathlib
from typing import Any

from ns_jax import files
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import InputError, MissingPackageError
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.progress import say
from ns_jax.weights import published, tf_checkpoint, timm

HUB = "hf:"


def load(source: str | pathlib.Path, model: str = "") -> tuple[ModelCard, dict]:
    """The model card and the variables (NumPy, float32) of `source`.

    `source` is a workdir or checkpoint of ours, a timm safetensors file or a directory with one, a
    TensorFlow 1 checkpoint, or `hf:OWNER/NAME`. `model` names the architecture of a file that does
    not say (`efficientnet-b3`), or better the published weights (`tf_efficientnet_b3.ns_jft_in1k`),
    whose preprocessing is known. Raises InputError that says why.
    """
    if str(source).startswith(HUB):
        return _timm(_download(str(source).removeprefix(HUB)), model)
    path = files.as_path(source)
    if path.suffix == ".safetensors" or any(path.glob("*.safetensors")):
        return _timm(path, model)
    if any(path.glob("*.index")) or path.with_name(f"{path.name}.index").exists():
        network, variables = tf_checkpoint.load(path)
        return _with_card(network, variables, _preprocessing(network.name, model), source)
    if path.is_file():
        raise InputError(
            f"{path}: weights are read from .safetensors files, from TensorFlow 1 checkpoints and "
            "from our own, never from a pickle (.pth, .bin, .npz), which may run any code; where "
            "you trust it, save its tensors with the safetensors library first"
        )
    if model:
        raise InputError(f"{path} is no file of weights that needs model={model!r}")
    return checkpoint.load_model(path)


def _download(repository: str) -> pathlib.Path:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackageError("hf: needs huggingface_hub: pip install 'ns-jax[hub]'") from None
    wanted = ["config.json", "*.safetensors"]
    return pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))


def _timm(path: pathlib.Path, model: str) -> tuple[ModelCard, dict]:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} safetensors files; name one of them")
        path = found[0]
    card = timm.load_card(path)
    hub = {} if card else _hub_config(path)
    architecture = model or (card and card.architecture) or hub.get("model")
    if not architecture:
        raise InputError(
            f"{path} does not say what it holds; name the published weights "
            "(tf_efficientnet_b3.ns_jft_in1k) or the architecture (efficientnet-b3)"
        )
    known = architecture.startswith("tf_")
    name = published.find(architecture)[0] if known else architecture
    network, variables = timm.load(path, name)
    if card and not model:
        return card, variables
    preprocessing = hub.get("preprocessing") if not model else None
    preprocessing = preprocessing or _preprocessing(name, architecture)
    return _with_card(network, variables, preprocessing, path, hub.get("class_names"))


def _hub_config(path: pathlib.Path) -> dict:
    """What a `config.json` as timm writes it says beside the file, if there is one."""
    config = path.with_name("config.json")
    content = json.loads(config.read_text()) if config.exists() else {}
    if "architecture" not in content:
        return {}
    details = content.get("pretrained_cfg", {})
    name = f"{content['architecture']}.{details.get('tag', '')}"
    if name in published.names():
        found: dict[str, Any] = {"model": name}
    else:
        found = {"model": content["architecture"].replace("tf_efficientnet_", "efficientnet-")}
    if "mean" in details:
        size, fraction = details["input_size"][-1], details.get("crop_pct", 1.0)
        crop = "none" if fraction == 1.0 else str(fraction)
        if abs(fraction - size / (size + 32)) < 0.005:  # timm rounds it
            crop = "padded"
        interpolation = details["interpolation"]
        if interpolation == "bicubic":
            interpolation = "bicubic_antialias"  # what timm means by it
        found["preprocessing"] = crops.Preprocessing(
            size, crop, tuple(details["mean"]), tuple(details["std"]), interpolation
        )
    if content.get("label_names"):
        found["class_names"] = content["label_names"]
    return found


def _preprocessing(architecture: str, model: str) -> crops.Preprocessing:
    if model.startswith("tf_"):
        name, preprocessing = published.find(model)
        if name != architecture:
            raise InputError(f"{model} is {name}, but the weights are of {architecture}")
        return preprocessing
    size = efficientnet.build(architecture, num_classes=1).resolution
    say(
        f"{architecture}: taken to see ImageNet's mean and std at {size} pixels; if not so, name "
        "the published weights (AdvProp's and L2's differ)"
    )
    return crops.Preprocessing(size, "padded", *published.IMAGENET)


def _with_card(
    network: efficientnet.EfficientNet,
    variables: dict,
    preprocessing: crops.Preprocessing,
    source: str | pathlib.Path,
    class_names: tuple[str, ...] | None = None,
) -> tuple[ModelCard, dict]:
    names = class_names or published.class_names(network.num_classes)
    if len(names) != network.num_classes:
        raise InputError(f"{source}: {len(names)} class names for {network.num_classes} classes")
    inputs = {"imported": str(source)}
    return ModelCard(network.name, False, tuple(names), preprocessing, inputs), variables
