"""timm's side of `input_speed.py`: its transforms (Pillow) in a PyTorch DataLoader."""

import sys

import torch
import worker

# timm imports torchvision, whose compiled half does not fit a CPU build of torch: it only needs
# these two operators to exist.
_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from timm.data import ImageDataset, create_transform  # noqa: E402
from timm.data.loader import fast_collate  # noqa: E402

BATCH = 64


class Endless(torch.utils.data.Sampler):
    """Image after image, at random for training."""

    def __init__(self, size: int, shuffled: bool):
        self.size, self.shuffled = size, shuffled

    def __iter__(self):
        while True:
            order = torch.randperm(self.size) if self.shuffled else torch.arange(self.size)
            yield from order.tolist()


kind_of_batch, directory, mode, cores, count = sys.argv[1:]
training = mode == "training"
torch.set_num_threads(1)
kind = {"auto_augment": "rand-m9-n2"} if training else {"crop_pct": 0.875}
uint8 = kind_of_batch == "uint8"  # to be normalised on the device, as ours are
transform = create_transform(
    224, is_training=training, use_prefetcher=uint8, interpolation="bicubic", **kind
)
dataset = ImageDataset(directory, transform=transform)
loader = torch.utils.data.DataLoader(
    dataset,
    batch_size=BATCH,
    sampler=Endless(len(dataset), training),
    num_workers=int(cores),
    collate_fn=fast_collate if uint8 else None,
)
worker.serve_stream(iter(loader), BATCH, int(count))
