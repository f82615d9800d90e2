"""A linear probe on DINO's features as a teacher (not run here: it needs torch and weights).

    python examples/teacher_dino.py LABELLED POOL predictions.npz

LABELLED holds a folder for each class, POOL images.
"""

import pathlib
import sys

import numpy as np
import timm
import torch
from PIL import Image
from sklearn import linear_model

BATCH = 64
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
MODEL = timm.create_model("vit_small_patch14_dinov2", pretrained=True, num_classes=0).eval()
VIEW = timm.data.create_transform(**timm.data.resolve_model_data_config(MODEL))


@torch.inference_mode()
def read(root: str) -> tuple[list[str], np.ndarray]:
    paths = sorted(path for path in pathlib.Path(root).rglob("*") if path.suffix in ENDINGS)
    features = []
    for start in range(0, len(paths), BATCH):
        images = [VIEW(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
        features.append(MODEL(torch.stack(images)).numpy())
    return [path.relative_to(root).as_posix() for path in paths], np.concatenate(features)


if __name__ == "__main__":
    paths, features = read(sys.argv[1])
    probe = linear_model.LogisticRegression(max_iter=2000)
    probe.fit(features, [path.partition("/")[0] for path in paths])
    keys, features = read(sys.argv[2])
    names, probs = np.array(probe.classes_), probe.predict_proba(features)
    np.savez(sys.argv[3], keys=np.array(keys), probs=probs, class_names=names)
