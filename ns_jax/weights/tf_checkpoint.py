"""The TensorFlow 1 checkpoints that the authors released, by the moving averages of their weights.

Needs TensorFlow, the extra `tf`; nothing else here does. Names inside a scope count up in the order
in which the official code calls its layers.
"""

import pathlib

from ns_jax import files
from ns_jax.errors import InputError, MissingFileError, MissingPackageError
from ns_jax.models import blocks, efficientnet
from ns_jax.weights import layout

AVERAGE = "/ExponentialMovingAverage"
BATCH_NORM = {
    "gamma": "params/{}/scale",
    "beta": "params/{}/bias",
    "moving_mean": "batch_stats/{}/mean",
    "moving_variance": "batch_stats/{}/var",
}
DEPTHWISE = (0, 1, 3, 2)  # [h, w, C, 1] -> [h, w, 1, C]


def entries(model: efficientnet.EfficientNet) -> list[layout.Entry]:
    """Every variable below the model's scope, without scope and suffix."""
    found: list[layout.Entry] = []

    def kernel(
        theirs: str,
        ours: str,
        layer: int | None = None,
        axes: tuple[int, ...] | None = None,
        bias: bool = False,
    ) -> None:
        name = "depthwise_kernel" if axes else "kernel"
        found.append(layout.Entry(f"{theirs}/{name}", f"params/{ours}/kernel", layer, axes))
        if bias:
            found.append(layout.Entry(f"{theirs}/bias", f"params/{ours}/bias", layer))

    def norm(theirs: str, ours: str, layer: int | None = None) -> None:
        for name, path in BATCH_NORM.items():
            found.append(layout.Entry(f"{theirs}/{name}", path.format(ours), layer))

    kernel("stem/conv2d", "stem_conv")
    norm("stem/tpu_batch_normalization", "stem_bn")
    for block in blocks.of(model):
        theirs, ours, layer = f"blocks_{block.index}", block.scope, block.layer
        norms = [f"{theirs}/tpu_batch_normalization{suffix}" for suffix in ("", "_1", "_2")]
        if block.expands:
            kernel(f"{theirs}/conv2d", f"{ours}/expand_conv", layer)
            norm(norms.pop(0), f"{ours}/expand_bn", layer)
        kernel(f"{theirs}/depthwise_conv2d", f"{ours}/depthwise_conv", layer, DEPTHWISE)
        norm(norms.pop(0), f"{ours}/depthwise_bn", layer)
        kernel(f"{theirs}/se/conv2d", f"{ours}/se/se_reduce", layer, bias=True)
        kernel(f"{theirs}/se/conv2d_1", f"{ours}/se/se_expand", layer, bias=True)
        projection = "conv2d_1" if block.expands else "conv2d"
        kernel(f"{theirs}/{projection}", f"{ours}/project_conv", layer)
        norm(norms.pop(0), f"{ours}/project_bn", layer)
    kernel("head/conv2d", "head_conv")
    norm("head/tpu_batch_normalization", "head_bn")
    kernel("head/dense", "head_fc", bias=True)
    return found


def load(path: pathlib.Path) -> tuple[efficientnet.EfficientNet, dict]:
    """The network and its averaged variables; `path` is the directory or the files' prefix.

    The architecture is the variables' scope, as `efficientnet-b0`. An in-graph teacher, optimiser
    slots and the raw variables are left aside. Raises MissingPackageError without TensorFlow,
    InputError for a checkpoint without averages, or with missing, surplus, misshapen or broken
    variables.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise MissingPackageError(
            "TF1 checkpoints need TensorFlow: pip install 'ns-jax[tf]'"
        ) from None
    if files.is_remote(str(path)):
        raise InputError(f"{path}: TensorFlow's checkpoints are read from a disk; copy it there")
    prefix = tf.train.latest_checkpoint(str(path)) if path.is_dir() else str(path)
    if prefix is None or not pathlib.Path(f"{prefix}.index").exists():
        raise MissingFileError(f"there is no TensorFlow checkpoint at {path}")
    reader = tf.train.load_checkpoint(prefix)
    stem = f"/stem/conv2d/kernel{AVERAGE}"
    names = [n for n in reader.get_variable_to_shape_map() if not n.startswith("teacher_model/")]
    scopes = [name.removesuffix(stem) for name in names if name.endswith(stem)]
    if len(scopes) != 1:
        raise InputError(
            f"{path} holds {len(scopes)} EfficientNets with moving averages, one is needed; its "
            f"variables begin with {', '.join(sorted(names)[:3])}"
        )
    scope = f"{scopes[0]}/"
    tensors = {
        name.removeprefix(scope).removesuffix(AVERAGE): reader.get_tensor(name)
        for name in names
        if name.startswith(scope) and name.endswith(AVERAGE)
    }
    classes = len(tensors["head/dense/bias"]) if "head/dense/bias" in tensors else 1
    model = efficientnet.build(scopes[0], num_classes=classes)
    return model, layout.to_tree(model, entries(model), tensors, str(path))
