"""timm's side of `cpu_speed.py`: channels-last PyTorch, float32, as many threads as cores.

Its variant `compiled` goes through `torch.compile`, for inference with weights frozen into the code
(so that BatchNorm is folded into them).
"""

import os
import sys
import time

import numpy as np

compiled = ":compiled" in sys.argv[3]
if compiled and sys.argv[3].startswith("inference"):
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # before torch is imported

import torch  # noqa: E402
import worker  # noqa: E402
from timm_alone import Whole  # noqa: E402

network, size, mode, batch = worker.arguments()
torch.set_num_threads(os.cpu_count())
model = Whole(network)
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
images = torch.from_numpy(images)

if mode == "inference":
    model.eval()
    step = torch.compile(model) if compiled else model

    def run():
        with torch.inference_mode():
            return step(images)

else:
    model.train()
    labels = torch.zeros(batch, dtype=torch.long)
    optimiser = torch.optim.RMSprop(
        model.parameters(), lr=1e-4, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5
    )

    def loss_of(images):
        return torch.nn.functional.cross_entropy(model.logits(images), labels, label_smoothing=0.1)

    step = torch.compile(loss_of) if compiled else loss_of

    def run():
        optimiser.zero_grad()
        step(images).backward()
        optimiser.step()


began = time.perf_counter()
run()
worker.serve(run, time.perf_counter() - began)
