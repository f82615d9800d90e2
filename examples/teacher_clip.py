"""CLIP or SigLIP as a teacher that has seen no label (not run here: it needs torch and weights).

    pip install open_clip_torch
    python examples/teacher_clip.py ViT-B-16-SigLIP webli CLASS_NAMES.txt POOL logits.npz

`loss.temperature` or `data.holdout` make good for confidence that means nothing yet.
"""

import pathlib
import sys

import numpy as np
import open_clip
import torch
from PIL import Image

BATCH = 64
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


@torch.inference_mode()
def main(name: str, pretrained: str, class_names: str, pool: str, target: str) -> None:
    lines = pathlib.Path(class_names).read_text().splitlines()
    names = [line.strip() for line in lines if line.strip()]
    model, _, view = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    prompts = open_clip.get_tokenizer(name)([f"a photo of a {one}." for one in names])
    text = model.eval().encode_text(prompts, normalize=True)
    paths = sorted(path for path in pathlib.Path(pool).rglob("*") if path.suffix in ENDINGS)
    logits = []
    for start in range(0, len(paths), BATCH):
        images = [view(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
        seen = model.encode_image(torch.stack(images), normalize=True)
        logits.append((model.logit_scale.exp() * seen @ text.T).numpy())
    keys = np.array([path.relative_to(pool).as_posix() for path in paths])
    np.savez(target, keys=keys, logits=np.concatenate(logits), class_names=np.array(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
