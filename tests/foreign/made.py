"""ONNX files as somebody else may write them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
KINDS = {
    np.uint8: TensorProto.UINT8,
    np.float32: TensorProto.FLOAT,
    np.float16: TensorProto.FLOAT16,
}


def write(
    path, shape=("b", 3, "h", "w"), dtype=np.float32, weights=WEIGHTS, softmax=False, rank=2, **more
):
    """A network as somebody else may write it: the mean colour, times a matrix."""
    kind, nodes, x = KINDS.get(dtype, TensorProto.INT32), [], "x"
    add = lambda op, *inputs, **attributes: nodes.append(  # noqa: E731
        helper.make_node(op, list(inputs), [f"{op}{len(nodes)}"], **attributes)
    )
    add("Cast", x, to=TensorProto.FLOAT)
    if len(shape) == 4:
        add("ReduceMean", nodes[-1].output[0], axes=(2, 3) if shape[1] == 3 else (1, 2), keepdims=0)
        add("MatMul", nodes[-1].output[0], "weights")
    if softmax:
        add("Softmax", nodes[-1].output[0], axis=1)
    if rank == 3:
        add("Unsqueeze", nodes[-1].output[0], "axes")
    inputs = [helper.make_tensor_value_info(x, kind, shape)]
    if more.get("second"):
        inputs.append(helper.make_tensor_value_info("y", kind, shape))
    graph = helper.make_graph(
        nodes,
        "other",
        inputs,
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.asarray([2]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def write_linear(path, weights, softmax=True, names=None):
    """A linear classifier of pixels: float `[b, 3, S, S]`, of which the first channel counts.

    `weights` `[S * S, classes]`; `names`: class names, into the metadata.
    """
    size = int(len(weights) ** 0.5)
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["grey"]),
        helper.make_node("Flatten", ["grey"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    last = "probabilities" if softmax else "scores"
    graph = helper.make_graph(
        nodes if softmax else nodes[:-1],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("b", 3, size, size))],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(weights, np.float32), "weights"),
            numpy_helper.from_array(np.asarray([0]), "zero"),
            numpy_helper.from_array(np.asarray([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if names:
        model.metadata_props.add(key="names", value=str(dict(enumerate(names))))
    onnx.save(model, path)
    return path
