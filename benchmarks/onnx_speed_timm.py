"""Writes timm's `torch.onnx` export of a network for `onnx_speed.py`: NETWORK PIXELS FILE."""

import sys

import torch
from timm_alone import timm

network, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = timm.create_model(f"tf_efficientnet_{network}", exportable=True).eval()
model = torch.nn.Sequential(model, torch.nn.Softmax(-1))
torch.onnx.export(
    model,
    (torch.zeros(2, 3, size, size),),
    path,
    input_names=["images"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    dynamo=True,
    external_data=False,
)
