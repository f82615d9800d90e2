"""The config.json of a directory for the Hugging Face hub: timm loads the weights by it."""

import json
import pathlib

from ns_jax import files
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.progress import say
from ns_jax.weights import names

CONFIG = "config.json"
INTERPOLATIONS = ("bilinear", "bicubic")  # timm's names, with which ours begin


def write(directory: pathlib.Path, card: ModelCard) -> None:
    """Writes `config.json` beside the weights; one that is there is the user's, and stays.

    `timm.create_model("local-dir:DIRECTORY", pretrained=True)`, or `hf-hub:OWNER/NAME` of what was
    uploaded, is then this network, and `timm.data.resolve_model_data_config` its preprocessing.
    Raises InputError for a network that timm does not have, OSError.
    """
    path = directory / CONFIG
    if path.exists():
        say(f"{path} is there already and stays as it is")
        return
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content(card), indent=2))


def content(card: ModelCard) -> dict:
    """As timm writes it. Raises InputError for a network that timm does not have."""
    view, name = card.preprocessing, names.of_card(card)
    count = len(card.class_names)
    network = efficientnet.build(card.architecture, num_classes=max(1, count))
    (interpolation,) = (one for one in INTERPOLATIONS if view.interpolation.startswith(one))
    described = {
        "input_size": [3, view.size, view.size],
        "fixed_input_size": False,
        "interpolation": interpolation,
        "crop_pct": view.fraction(),
        "crop_mode": "center",
        "mean": list(view.mean),
        "std": list(view.std),
        "num_classes": count,
        "pool_size": [-(-view.size // 32)] * 2,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "label_names": list(card.class_names),
    }
    return {
        "architecture": str(name),
        "num_classes": count,
        "num_features": network.features(efficientnet.HEAD_FEATURES),
        "global_pool": "avg",
        "pretrained_cfg": described,
    }
