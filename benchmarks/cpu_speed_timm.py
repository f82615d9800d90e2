"""timm's side of `cpu_speed.py`: channels-last PyTorch, float32, as many threads as cores."""

import os

import numpy as np
import torch
import worker

# timm imports torchvision, whose compiled half does not fit a CPU build of torch: it only needs
# these two operators to exist.
_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402

network, size, mode, batch = worker.arguments()
torch.set_num_threads(os.cpu_count())
model = timm.create_model(f"tf_efficientnet_{network}").to(memory_format=torch.channels_last)
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
images = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory, as they lie
mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def normalised():
    return (images.float() / 255.0 - mean) / std


if mode == "inference":
    model.eval()

    def run():
        with torch.inference_mode():
            return model(normalised()).softmax(-1).topk(16)

else:
    model.train()
    labels = torch.zeros(batch, dtype=torch.long)
    optimiser = torch.optim.RMSprop(
        model.parameters(), lr=1e-4, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5
    )

    def run():
        optimiser.zero_grad()
        logits = model(normalised())
        torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        optimiser.step()


worker.serve(run)
