"""CLIP or SigLIP as an ONNX teacher: the image tower, times the text vectors of the class names
(not run here: it needs torch, weights and onnxscript).

    pip install open_clip_torch
    python examples/onnx_clip.py ViT-B-16-SigLIP webli CLASS_NAMES.txt teacher.onnx
It prints the flags that say how images are seen."""

import pathlib
import sys

import open_clip
import torch


class ImageTower(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, text: torch.Tensor) -> None:
        super().__init__()
        self.model, self.text, self.scale = model, text, model.logit_scale.exp().detach()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.model.encode_image(images, normalize=True) @ self.text.T


@torch.no_grad()
def main(name: str, pretrained: str, class_names: str, target: str) -> None:
    names = list(filter(str.strip, pathlib.Path(class_names).read_text().splitlines()))
    model = open_clip.create_model(name, pretrained=pretrained).eval()
    prompts = open_clip.get_tokenizer(name)([f"a photo of a {one}." for one in names])
    tower = ImageTower(model, model.encode_text(prompts, normalize=True))
    view = open_clip.get_model_preprocess_cfg(model)
    images = torch.zeros(2, 3, *view["size"])
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(tower, (images,), target, dynamic_shapes=shapes, dynamo=True)
    print(f"--config.foreign.mean={view['mean']} --config.foreign.std={view['std']}")
    print(f"--config.foreign.crop=none --config.label.class_names={class_names}")


if __name__ == "__main__":
    main(*sys.argv[1:])
