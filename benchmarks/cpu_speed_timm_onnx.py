"""timm's `torch.onnx` export at work, for `cpu_speed.py`: in onnxruntime, or in OpenVINO.

Everything from uint8 images to the 16 best classes is in the graph, which is the best for it. The
file is in the directory $TIMM_ONNX. Variants: `onnxruntime`; of OpenVINO `throughput` (a stream a
core, images shared between them) and `latency`, in float32, and `bfloat16` (throughput), where the
processor has it.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
import worker
from timm_alone import Whole

network, size, mode, batch = worker.arguments()
variant = sys.argv[3].partition(":")[2]
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
AT_ONCE = max(1, 2**18 // size**2)  # images of a request, where there are several


def export(path: str) -> None:
    torch.onnx.export(
        Whole(network, exportable=True).eval(),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        path,
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def in_onnxruntime(path: str):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def in_openvino(path: str):
    sys.modules["openvino_telemetry"] = None  # else each import is told to its makers
    import openvino

    core = openvino.Core()
    bfloat16 = variant == "bfloat16"
    if bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        print(json.dumps({"unavailable": "this processor has no bfloat16"}), flush=True)
        sys.exit()
    settings = {
        "PERFORMANCE_HINT": "LATENCY" if variant == "latency" else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": os.cpu_count(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    if variant == "latency":
        return lambda: compiled(images)
    queue, found = openvino.AsyncInferQueue(compiled), {}
    queue.set_callback(lambda request, start: found.__setitem__(start, request.results))

    def run():
        for start in range(0, batch, AT_ONCE):
            queue.start_async({0: images[start : start + AT_ONCE]}, start)
        queue.wait_all()

    return run


file = pathlib.Path(os.environ["TIMM_ONNX"]) / f"{network}-{size}.onnx"
if not file.exists():  # the first of these sides writes it
    with contextlib.redirect_stdout(None):  # on which the exporter speaks
        export(str(file))
began = time.perf_counter()
run = in_onnxruntime(str(file)) if variant == "onnxruntime" else in_openvino(str(file))
worker.serve(run, time.perf_counter() - began)
