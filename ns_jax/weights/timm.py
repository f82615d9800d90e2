"""timm's EfficientNets, ported ones and its own, as safetensors <-> our tree, to the bit."""

import collections
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from ns_jax import files
from ns_jax.errors import DamagedError
from ns_jax.model_card import ModelCard
from ns_jax.models import blocks, efficientnet
from ns_jax.progress import say
from ns_jax.weights import layout, names
from ns_jax.weights import tensors as tensors_lib
from ns_jax.weights.names import NETWORKS

CONV = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]; a depthwise [C, 1, h, w] -> [h, w, 1, C]
BATCH_NORM = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}
CARD = "ns_jax.model.json"  # in the header of a file that we wrote
ARCHITECTURE = "architecture"  # timm's name, in the header as well
CLASSIFIER = ("classifier.weight", "classifier.bias")
ENDS = ("conv_stem", "conv_head")
HEADS = ("classifier.", "head.", "fc.", "head_fc.", "last_linear.")  # what people put in its place


def entries(model: efficientnet.EfficientNet, classifier: bool = True) -> list[layout.Entry]:
    """Every tensor of timm's network of this architecture, with the classifier's or without."""
    found: list[layout.Entry] = []

    def conv(theirs: str, ours: str, layer: int | None = None, bias: bool = False) -> None:
        found.append(layout.Entry(f"{theirs}.weight", f"params/{ours}/kernel", layer, CONV))
        if bias:
            found.append(layout.Entry(f"{theirs}.bias", f"params/{ours}/bias", layer))

    def norm(theirs: str, ours: str, layer: int | None = None) -> None:
        for name, path in BATCH_NORM.items():
            found.append(layout.Entry(f"{theirs}.{name}", path.format(ours), layer))

    conv("conv_stem", "stem_conv")
    norm("bn1", "stem_bn")
    for block in blocks.of(model):
        theirs, ours, layer = f"blocks.{block.stage - 1}.{block.place}", block.scope, block.layer
        if block.expands:
            conv(f"{theirs}.conv_pw", f"{ours}/expand_conv", layer)
            norm(f"{theirs}.bn1", f"{ours}/expand_bn", layer)
        # Where nothing is expanded, timm numbers from the depthwise convolution on.
        depthwise, project = (2, 3) if block.expands else (1, 2)
        conv(f"{theirs}.conv_dw", f"{ours}/depthwise_conv", layer)
        norm(f"{theirs}.bn{depthwise}", f"{ours}/depthwise_bn", layer)
        conv(f"{theirs}.se.conv_reduce", f"{ours}/se/se_reduce", layer, bias=True)
        conv(f"{theirs}.se.conv_expand", f"{ours}/se/se_expand", layer, bias=True)
        projection = "conv_pwl" if block.expands else "conv_pw"
        conv(f"{theirs}.{projection}", f"{ours}/project_conv", layer)
        norm(f"{theirs}.bn{project}", f"{ours}/project_bn", layer)
    conv("conv_head", "head_conv")
    norm("bn2", "head_bn")
    if classifier:
        found.append(layout.Entry("classifier.weight", "params/head_fc/kernel", None, (1, 0)))
        found.append(layout.Entry("classifier.bias", "params/head_fc/bias", None))
    return found


def load(
    path: pathlib.Path, name: str, **convention: Any
) -> tuple[efficientnet.EfficientNet, dict]:
    """The architecture `name` with the file's own number of classes, and its variables.

    `convention` are the padding and the epsilon, which no tensor tells. Weights without a
    classifier are without `head_fc`. Raises FileNotFoundError, or InputError for a file that is cut
    short, is not safetensors, or holds another architecture, a NaN or an infinity.
    """
    tensors = tensors_lib.of_network(tensors_lib.read(files.as_path(path)), str(path))
    classifier = any(name in tensors for name in CLASSIFIER)
    if not classifier:
        heads = [name for name in tensors if name.startswith(HEADS)]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
        aside = f" of timm's ({', '.join(heads[:3])} is left aside)" if heads else ""
        say(f"{path} has no classifier{aside}: it needs training with train.new_head=True")
    bias = tensors.get("classifier.bias", np.empty(1))
    model = efficientnet.build(name, num_classes=len(bias), **convention)
    what = f"{path} does not hold {model.name}"
    if (there := recognise(tensors)) and f"efficientnet-{there}" != model.name:
        what += f", but has the shape of {there}"
    return model, layout.to_tree(model, entries(model, classifier), tensors, str(path), what)


def recognise(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The network, one of NETWORKS, whose width and depth these tensors have."""
    ends = [tensors[f"{name}.weight"] for name in ENDS if f"{name}.weight" in tensors]
    places = {tuple(name.split(".")[1:3]) for name in tensors if name.startswith("blocks.")}
    stages = collections.Counter(block[0] for block in places)
    found = [*(len(end) for end in ends), *(stages[str(number)] for number in range(len(stages)))]
    for network in NETWORKS:
        model = efficientnet.build(f"efficientnet-{network}", num_classes=1)
        widths = [model.features(efficientnet.STEM_FEATURES)]
        widths.append(model.features(efficientnet.HEAD_FEATURES))
        if found == widths + [stage.repeats for stage in model.stages()]:
            return network
    return None


def load_card(path: pathlib.Path) -> ModelCard | None:
    """The model card that `save` put into a file's header, or None. Raises DamagedError."""
    text = tensors_lib.metadata(path).get(CARD)
    try:
        return ModelCard.from_json(json.loads(text)) if text else None
    except ValueError as error:
        raise DamagedError(f"{path}: its {CARD} is damaged: {error}") from error


def save(path: pathlib.Path, card: ModelCard, variables: dict) -> names.Name:
    """Writes a file that timm's network of the returned name loads strictly; whole or not at all.

    Raises InputError for a network that timm does not have.
    """
    name = names.of_card(card)
    model = efficientnet.build(card.architecture, num_classes=max(1, len(card.class_names)))
    tensors = layout.from_tree(entries(model, bool(card.class_names)), variables)
    header = {CARD: json.dumps(card.to_json()), ARCHITECTURE: str(name)}
    content = safetensors.numpy.save(tensors, header)
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return name
