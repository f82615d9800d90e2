"""timm's TensorFlow-ported EfficientNets as safetensors <-> our tree, to the bit. No pickle."""

import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from ns_jax import files
from ns_jax.errors import DamagedError, InputError, MissingFileError
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.weights import layout

CONV = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]; a depthwise [C, 1, h, w] -> [h, w, 1, C]
BATCH_NORM = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}
# PyTorch's count of the batches that a BatchNorm saw; a statistic of its training, not a weight.
COUNTER = "num_batches_tracked"
NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
CARD = "ns_jax.model.json"  # in the header of a file that we wrote


def entries(model: efficientnet.EfficientNet) -> list[layout.Entry]:
    """Every tensor of timm's `tf_efficientnet_*` of this architecture."""
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
    for block in layout.blocks(model):
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
    found.append(layout.Entry("classifier.weight", "params/head_fc/kernel", None, (1, 0)))
    found.append(layout.Entry("classifier.bias", "params/head_fc/bias", None))
    return found


def load(path: pathlib.Path, name: str) -> tuple[efficientnet.EfficientNet, dict]:
    """The architecture `name` with the file's own number of classes, and its variables.

    Raises FileNotFoundError, or InputError for a file that is cut short, is not safetensors, or
    holds another architecture (the difference is listed), a NaN or an infinity.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    try:
        tensors = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: {error}"
        ) from None
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    head = tensors.get("classifier.bias", np.empty(1))
    model = efficientnet.build(name, num_classes=len(head))
    return model, layout.to_tree(model, entries(model), tensors, str(path))


def load_card(path: pathlib.Path) -> ModelCard | None:
    """The model card that `save` put into a file's header, or None. Raises DamagedError."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(CARD)
    except (safetensors.SafetensorError, OSError):
        return None  # `load` says what is wrong with it
    try:
        return ModelCard.from_json(json.loads(text)) if text else None
    except ValueError as error:
        raise DamagedError(f"{path}: its {CARD} is damaged: {error}") from error


def save(path: pathlib.Path, card: ModelCard, variables: dict) -> None:
    """Writes a file that timm loads strictly; whole or not at all.

    Raises InputError for a network that timm does not have.
    """
    model = card.build()
    if model.small_images or model.name.removeprefix("efficientnet-") not in NETWORKS:
        kind = f"{model.name}{' for small images' if model.small_images else ''}"
        raise InputError(f"timm has no {kind}; it has {', '.join(NETWORKS)}")
    tensors = layout.from_tree(entries(model), variables)
    content = safetensors.numpy.save(tensors, {CARD: json.dumps(card.to_json())})
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
