"""Fine-tuning against training from scratch, with a network that is pre-trained here.

python -m benchmarks.from_weights [--seeds=3] [--workdir=runs/from_weights]

Pre-trained on 500 images of each class of Fashion-MNIST but three; then 20 labels of each of all
ten, once by `configs/folder.py:init=...`, once from scratch with `configs/fashion.py`.
"""

import argparse
import pathlib

import cv2

from configs import fashion, folder
from ns_jax.data import open as open_lib
from ns_jax.data.formats import idx
from ns_jax.programs import evaluate, train

LEFT_OUT = (2, 6, 9)  # Pullover, Shirt, Ankle boot
IMAGES = 500  # of each class to pre-train on


def write_others(root: pathlib.Path) -> None:
    """A folder of the classes that the network is pre-trained on."""
    source = open_lib.open_source(f"idx:{idx.FASHION_MNIST}:train", labels_per_class=1, seed=0)
    for label, name in enumerate(source.class_names):
        directory = root / name.replace("/", "-")
        if label in LEFT_OUT or directory.exists():
            continue
        directory.mkdir(parents=True)
        for index in (source.labels == label).nonzero()[0][:IMAGES]:
            path = directory / f"{index:05d}.png"
            cv2.imwrite(str(path), source[int(index)]["image"])


def pretrained(workdir: pathlib.Path) -> pathlib.Path:
    write_others(workdir / "images")
    config = fashion.get_config("role=teacher")
    config.data.labelled = f"folder:{workdir / 'images'}"
    config.data.test = ""
    config.train.epochs = 8.0
    config.optim.warmup_epochs, config.optim.decay_epochs = 1.0, 0.2
    train.run(config, workdir / "pretrained")
    return workdir / "pretrained"


def tuned(weights: pathlib.Path, seed: int) -> object:
    """What the one command makes of the weights; data and its noise as from scratch."""
    config = folder.get_config(f"init={weights},role=teacher")
    scratch = fashion.get_config("role=teacher")
    for name in ("labelled", "test", "labels_per_class"):
        config.data[name] = scratch.data[name]
    config.seed = config.data.split_seed = seed
    return config


def top1(config, workdir: pathlib.Path) -> float:
    train.run(config, workdir)
    config.evaluate.checkpoint = str(workdir)
    return evaluate.run(config, workdir)["top1"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/from_weights"))
    arguments = parser.parse_args()
    weights = pretrained(arguments.workdir)
    print("| seed | from the weights | from scratch |\n|---|---|---|")
    for seed in range(arguments.seeds):
        scratch = fashion.get_config("role=teacher")
        scratch.seed = scratch.data.split_seed = seed
        found = [
            top1(config, arguments.workdir / f"{name}-{seed}")
            for name, config in (("tuned", tuned(weights, seed)), ("scratch", scratch))
        ]
        print(f"| {seed} | {found[0]:.2%} | {found[1]:.2%} |", flush=True)


if __name__ == "__main__":
    main()
