"""Any timm model as a teacher (not run here: it needs torch and timm).

python examples/teacher_timm.py MODEL CHECKPOINT.pth CLASS_NAMES.txt POOL logits.npz
"""

import pathlib
import sys

import numpy as np
import timm
import torch
from PIL import Image

BATCH = 64
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


@torch.inference_mode()
def main(name: str, checkpoint: str, class_names: str, pool: str, target: str) -> None:
    names = pathlib.Path(class_names).read_text().split("\n")
    names = [line.strip() for line in names if line.strip()]
    model = timm.create_model(name, num_classes=len(names), checkpoint_path=checkpoint).eval()
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    paths = sorted(path for path in pathlib.Path(pool).rglob("*") if path.suffix in ENDINGS)
    logits = []
    for start in range(0, len(paths), BATCH):
        images = [view(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
        logits.append(model(torch.stack(images)).numpy())
    keys = np.array([path.relative_to(pool).as_posix() for path in paths])
    np.savez(target, keys=keys, logits=np.concatenate(logits), class_names=np.array(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
