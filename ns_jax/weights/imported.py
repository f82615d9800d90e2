"""Weights from anywhere, with what must travel with them: (model card, variables)."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ns_jax import files
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import InputError, MissingFileError, MissingPackageError
from ns_jax.foreign import beside
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.progress import say
from ns_jax.weights import names, published, tensors, tf_checkpoint, timm

HUB = "hf:"


def load(source: str | pathlib.Path, model: str = "") -> tuple[ModelCard, dict]:
    """The model card and the variables (NumPy, float32) of `source`.

    `source` is a workdir or checkpoint of ours, a timm safetensors file or a directory with one, a
    TensorFlow 1 checkpoint, or `hf:OWNER/NAME`. `model` names what a file holds that does not say:
    timm's network (`tf_efficientnet_b3`, `efficientnet_b3`), or better the published weights
    (`tf_efficientnet_b3.ns_jft_in1k`), whose preprocessing is known. Raises InputError that says
    why.
    """
    if str(source).startswith(HUB):
        path = _download(str(source).removeprefix(HUB))
        if not any(path.glob("*.safetensors")):
            return checkpoint.load_model(path)
        return _timm(path, model)
    path = files.as_path(source)
    path = path.parent if path.name == tensors.INDEX else path
    if path.suffix == ".safetensors" or any(path.glob("*.safetensors")):
        return _timm(path, model)
    if any(path.glob("*.index")) or path.with_name(f"{path.name}.index").exists():
        network, variables = tf_checkpoint.load(path)
        preprocessing = _preprocessing(network.name, model and _of_tensorflow(model, network.name))
        return _with_card(network, variables, preprocessing, source)
    if path.is_file():
        raise InputError(tensors.pickle_advice(path))
    if model:
        raise InputError(f"{path} is no file of weights that needs model={model!r}")
    try:
        return checkpoint.load_model(path)
    except MissingFileError as error:
        if path.is_dir() and (pickle := tensors.has_pickle(path)):
            advice = tensors.pickle_advice(path / pickle)
            raise MissingFileError(f"{error}. {advice}") from None
        raise


@functools.lru_cache(maxsize=4)
def card_of(source: str, model: str = "") -> ModelCard:
    """The card of `load`'s weights, which are not kept. Raises InputError as `load`."""
    path = files.as_path(source)
    if not source.startswith(HUB) and not model and path.is_dir():
        with contextlib.suppress(InputError):
            return checkpoint.load_card(path)
    return load(source, model)[0]


def _of_tensorflow(model: str, architecture: str) -> str:
    """The published name of a TensorFlow checkpoint's weights; "" for a bare architecture."""
    if model == architecture:
        return ""
    name = names.parse(model)
    if name.architecture != architecture or not name.prefix.startswith("tf_"):
        raise InputError(f"{model} is not what the checkpoint holds, tf_{architecture}")
    return str(name) if name.tag else ""


def _download(repository: str) -> pathlib.Path:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackageError("hf: needs huggingface_hub: pip install 'ns-jax[hub]'") from None
    wanted = ["config.json", "*.safetensors", tensors.INDEX, "checkpoints/*"]
    path = pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    if not any(path.glob("*.safetensors")) and not (path / "checkpoints").is_dir():
        raise InputError(
            f"hf:{repository} has no safetensors and no checkpoint of ns_jax; a pickle of its is "
            "never read"
        )
    return path


def _timm(path: pathlib.Path, model: str) -> tuple[ModelCard, dict]:
    path = tensors.find(path) if path.is_dir() else path
    card = timm.load_card(path)
    if card and not model:
        convention = {"padding": card.padding, "bn_epsilon": card.bn_epsilon}
        return card, timm.load(path, card.architecture, **convention)[1]
    hub = {} if card else _hub_config(path)
    text = model or hub.get("model") or tensors.metadata(path).get(timm.ARCHITECTURE)
    if not text:
        found = timm.recognise(tensors.of_network(tensors.read(path), str(path)))
        raise InputError(f"{path} does not say what it holds; it {names.which(found or 'b3')}")
    name = names.parse(text)
    network, variables = timm.load(
        path, name.architecture, padding=name.padding, bn_epsilon=name.bn_epsilon
    )
    preprocessing = hub.get("preprocessing") if not model else None
    preprocessing = preprocessing or _preprocessing(name.architecture, str(name) * bool(name.tag))
    return _with_card(network, variables, preprocessing, path, hub.get("class_names"))


def _hub_config(path: pathlib.Path) -> dict:
    """What a `config.json` as timm writes it says beside the file, if there is one."""
    config = path.with_name("config.json")
    content = json.loads(config.read_text()) if config.exists() else {}
    if "architecture" not in content:
        return {}
    tag = content.get("pretrained_cfg", {}).get("tag", "")
    name, told = f"{content['architecture']}.{tag}", beside.of_timm(content)
    found: dict[str, Any] = {"model": content["architecture"]}
    if name in published.names():
        found["model"] = name
    if told["mean"]:
        view = (told[key] for key in ("size", "crop", "mean", "std", "interpolation"))
        found["preprocessing"] = crops.Preprocessing(*view)
    if told["class_names"]:
        found["class_names"] = told["class_names"]
    return found


def _preprocessing(architecture: str, published_name: str) -> crops.Preprocessing:
    if published_name:
        return published.find(published_name)[1]
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
    class_names: Sequence[str] | None = None,
) -> tuple[ModelCard, dict]:
    count = network.num_classes if "head_fc" in variables["params"] else 0
    class_names = (class_names if count else None) or published.class_names(count)
    if len(class_names) != count:
        raise InputError(f"{source}: {len(class_names)} class names for {count} classes")
    card = ModelCard(
        architecture=network.name,
        small_images=False,
        class_names=tuple(class_names),
        preprocessing=preprocessing,
        inputs={"imported": str(source)},
        padding=network.padding,
        bn_epsilon=network.bn_epsilon,
    )
    return card, variables
