"""timm without torchvision's compiled half, which does not fit a CPU build of torch."""

import torch

# It only needs these two operators to exist.
_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Whole(torch.nn.Module):
    """uint8 `[b, S, S, 3]` -> the 16 best of 1,000 classes and their probabilities."""

    def __init__(self, network: str, **options):
        super().__init__()
        self.network = timm.create_model(f"tf_efficientnet_{network}", **options)
        self.network.to(memory_format=torch.channels_last)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        seen = images.permute(0, 3, 1, 2)  # channels last in memory, as they lie
        return self.network((seen.float() / 255.0 - self.mean) / self.std)

    def forward(self, images: torch.Tensor):
        return self.logits(images).softmax(-1).topk(16)
