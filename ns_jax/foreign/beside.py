"""What lies beside a network's file and describes it: files of the Hugging Face hub and of timm.

`preprocessor_config.json` and `config.json` of transformers, `config.json` of timm, in the file's
directory or, where that is called `onnx`, in the one around it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from ns_jax.errors import InputError
from ns_jax.foreign import onnx_session
from ns_jax.progress import say

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
# Pillow's, in which both libraries resize: our nearest one.
BY_NUMBER = {2: "bilinear", 3: "bicubic_antialias"}
BY_NAME = {"bilinear": "bilinear", "bicubic": "bicubic_antialias"}
USUAL = "bicubic_antialias"


@dataclasses.dataclass(frozen=True)
class Described:
    """What the files say; None or () where they do not."""

    class_names: tuple[str, ...] = ()
    size: int | None = None
    crop: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None


def read(path: pathlib.Path) -> Described:
    """Raises InputError for such a file that says something impossible."""
    found = Described()
    places = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    for name, understand in ((CONFIG, _config), (PREPROCESSOR, _preprocessor)):
        for file in (place / name for place in places):
            if file.is_file():
                told = _understood(understand, file)
                if told:
                    say(f"{path}: {', '.join(told)} as {file} says")
                    found = dataclasses.replace(found, **told)
                break
    return found


def _understood(understand: Callable[[dict], dict], file: pathlib.Path) -> dict:
    try:
        content = json.loads(file.read_text())
        found = understand(content) if isinstance(content, dict) else {}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
        raise InputError(
            f"{file} cannot be understood: {error!r}; mend it, or move it away and set "
            "foreign.image_size, foreign.crop, foreign.mean and foreign.std"
        ) from None
    return {name: value for name, value in found.items() if value not in (None, ())}


def _config(content: dict) -> dict:
    """timm's has the preprocessing in it, that of transformers the class names alone."""
    if "pretrained_cfg" in content:
        return of_timm(content)
    names = content.get("id2label")
    return {"class_names": onnx_session.listed(names)} if names else {}


def of_timm(content: dict) -> dict:
    """What timm's `config.json` says, by the names of `Described`."""
    view = content.get("pretrained_cfg", {})
    size, share = int(view.get("input_size", [0])[-1]), view.get("crop_pct") or 1.0
    # timm rounds the official share.
    crop = "padded" if size and abs(share - size / (size + 32)) < 0.005 else _share(share)
    if view.get("crop_mode") == "squash":
        say("timm squashes whole images for this network; here their centre square is seen")
    names = content.get("label_names") or view.get("label_names")
    return {
        "class_names": onnx_session.listed(names) if names else (),
        "size": size or None,
        "crop": crop if size else None,
        "mean": _three(view.get("mean")),
        "std": _three(view.get("std")),
        "interpolation": BY_NAME.get(view.get("interpolation", "bicubic"), USUAL),
    }


def _preprocessor(content: dict) -> dict:
    """An image processor's, of transformers."""
    edge, squashed = _edge(content.get("size"))
    if content.get("do_resize", True) is False:
        edge, squashed = None, False
    size, share = edge, 1.0
    if content.get("do_center_crop") and "crop_size" in content:
        size, _ = _edge(content["crop_size"])
        squashed = False
        share = min(1.0, size / edge) if size and edge else 1.0
    elif edge and edge < 384 and content.get("crop_pct"):  # ConvNeXT's
        squashed, share = False, content["crop_pct"]
    if squashed:
        say(
            f"{PREPROCESSOR} squeezes images of any shape to {edge} x {edge}; here their centre "
            "square is shown"
        )
    # (p f - mean) / std of a pixel p is (p / 255 - mean / 255 f) / (std / 255 f).
    rescaled = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    scale, normalised = 255 * rescaled, content.get("do_normalize", True)
    mean = _three(content.get("image_mean")) if normalised else (0.0, 0.0, 0.0)
    std = _three(content.get("image_std")) if normalised else (1.0, 1.0, 1.0)
    return {
        "size": size,
        "crop": _share(share) if edge else None,
        "mean": mean and tuple(value / scale for value in mean),
        "std": std and tuple(value / scale for value in std),
        "interpolation": BY_NUMBER.get(content.get("resample", 3), USUAL),
    }


def _edge(size: Any) -> tuple[int | None, bool]:
    """Pixels of the short side, and whether the aspect is lost."""
    if size is None:
        return None, False
    if isinstance(size, dict):
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), False
        return int(size["height"]), True
    if isinstance(size, list):
        return int(size[-1]), True
    return int(size), False


def _share(share: float) -> str:
    return "none" if share == 1 else f"{share:g}"


def _three(values: Any) -> tuple[float, float, float] | None:
    if values is None:
        return None
    red, green, blue = map(float, values)
    return red, green, blue
