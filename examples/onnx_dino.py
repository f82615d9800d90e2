"""DINO with a linear probe, trained on a few labels, as an ONNX teacher (not run here: it needs
torch, weights and onnxscript).

    python examples/onnx_dino.py LABELLED teacher/model.onnx
"""

import json
import pathlib
import sys

import timm
import torch
from PIL import Image
from sklearn import linear_model


@torch.inference_mode()
def main(labelled: str, target: str) -> None:
    dino = timm.create_model("vit_small_patch14_dinov2", pretrained=True, num_classes=0).eval()
    view = timm.data.resolve_model_data_config(dino)
    see = timm.data.create_transform(**view)
    paths = [p for p in sorted(pathlib.Path(labelled).glob("*/*")) if p.suffix in (".jpg", ".png")]
    features = [dino(see(Image.open(path).convert("RGB"))[None])[0].numpy() for path in paths]
    probe = linear_model.LogisticRegression(max_iter=2000)
    probe.fit(features, [path.parent.name for path in paths])
    layer = torch.nn.Linear(*probe.coef_.T.shape)  # of two classes there is one row: add a third
    layer.weight.copy_(torch.tensor(probe.coef_))
    layer.bias.copy_(torch.tensor(probe.intercept_))
    path, images = pathlib.Path(target), torch.zeros(2, *view["input_size"])
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes, model = ({0: torch.export.Dim("batch")},), torch.nn.Sequential(dino, layer)
    torch.onnx.export(model, (images,), path, dynamic_shapes=shapes, dynamo=True)
    content = {"pretrained_cfg": view, "label_names": probe.classes_.tolist()}
    path.with_name("config.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
