"""What timm says: run in an environment of its own, which `make parity` builds (.venv-timm).

    python tests/weights/timm_reference.py golden tests/weights/timm_logits.npz [NETWORK ...]
    python tests/weights/timm_reference.py loads tf_efficientnet_b0 FILE.safetensors
    python tests/weights/timm_reference.py hub DIRECTORY

`golden` writes timm's logits `[2, 1000]` of all networks (or those named, beside what the file has)
on random weights and statistics, at 131 x 97 pixels; `loads` loads a file strictly and writes its
logits beside it; `hub` loads a directory by its config.json and writes logits and preprocessing.
"""

import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import random_weights  # noqa: E402

# timm imports torchvision, whose compiled half does not fit a CPU build of torch: it only needs
# these two operators to exist.
_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

PORTED = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
OWN = ("efficientnet_b0", "efficientnet_b1", "efficientnet_b4")
SIZE = (131, 97)  # odd, and not square
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def logits(model) -> np.ndarray:
    scaled = random_weights.images(SIZE).astype(np.float32) / 255.0
    scaled = (scaled - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()).numpy()


def golden(path: str, *networks: str) -> None:
    found = dict(np.load(path)) if networks else {}
    for network in networks or (*PORTED, *OWN):
        model = timm.create_model(network if network in OWN else f"tf_efficientnet_{network}")
        weights = {
            name: torch.from_numpy(random_weights.tensor(name, tuple(value.shape)))
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        model.load_state_dict(weights)
        found[network] = logits(model)
        print(f"{network}: standard deviation of the logits {found[network].std():.4g}")
    np.savez_compressed(path, **found)


def loads(name: str, path: str) -> None:
    tensors = load_file(path)
    model = timm.create_model(name, num_classes=len(tensors["classifier.bias"]))
    model.load_state_dict(tensors, strict=True)
    np.save(f"{path}.npy", logits(model))


def hub(directory: str) -> None:
    model = timm.create_model(f"local-dir:{directory}", pretrained=True)
    np.save(f"{directory}/logits.npy", logits(model))
    told = timm.data.resolve_model_data_config(model)
    pathlib.Path(directory, "data.json").write_text(json.dumps(told))


if __name__ == "__main__":
    {"golden": golden, "loads": loads, "hub": hub}[sys.argv[1]](*sys.argv[2:])
