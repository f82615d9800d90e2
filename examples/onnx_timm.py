"""Any timm model as an ONNX teacher (not run here: it needs torch, timm and onnxscript).

    python examples/onnx_timm.py MODEL CHECKPOINT.pth CLASS_NAMES.txt teacher/model.onnx

`config.json` beside it says how images are seen, and the class names.
"""

import json
import pathlib
import sys

import timm
import torch


def main(name: str, checkpoint: str, class_names: str, target: str) -> None:
    lines = pathlib.Path(class_names).read_text().splitlines()
    names = [line.strip() for line in lines if line.strip()]
    model = timm.create_model(name, num_classes=len(names), checkpoint_path=checkpoint).eval()
    view = timm.data.resolve_model_data_config(model)
    path = pathlib.Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.zeros(2, *view["input_size"]),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
    )
    content = {"architecture": name, "pretrained_cfg": view, "label_names": names}
    path.with_name("config.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
