"""An EfficientNet as an ONNX graph: BatchNorm folded into the convolutions, padding in numbers.

Written from the card and the weights alone, without a tracer. ONNX has images as `[b, C, H, W]` and
kernels as `[out, in, kh, kw]`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ns_jax import trees
from ns_jax.errors import InputError
from ns_jax.foreign.onnx_session import packages
from ns_jax.model_card import ModelCard
from ns_jax.models import blocks, cpu_convolutions, efficientnet

UINT8_NHWC, FLOAT_NCHW = "uint8_nhwc", "float_nchw"
INPUTS = (UINT8_NHWC, FLOAT_NCHW)
IMAGES, LOGITS, PROBABILITIES = "images", "logits", "probabilities"  # the graph's ends
OPSET, IR_VERSION = 17, 8  # of 2022: old enough for what runs on phones and in browsers
KERNEL_AXES = (3, 2, 0, 1)  # ours [kh, kw, in, out]; a depthwise [k, k, 1, C] becomes [C, 1, k, k]
MOST_BYTES = 2**31 - 2**20  # of a protobuf, less the graph's own


def check_input(onnx_input: str) -> None:
    """Raises InputError for a form of input that a graph cannot have."""
    if onnx_input not in INPUTS:
        raise InputError(f"unknown form of ONNX input {onnx_input!r}; known: {', '.join(INPUTS)}")


def build(
    card: ModelCard,
    variables: dict,
    onnx_input: str = UINT8_NHWC,
    output: str = PROBABILITIES,
) -> Any:
    """An `onnx.ModelProto`: images of the card's size S -> float32 `[b, classes]`.

    `onnx_input`: uint8 `[b, S, S, 3]`, normalised inside, or float32 `[b, 3, S, S]`, normalised by
    the card's mean and std before. `output`: PROBABILITIES or LOGITS. Raises MissingPackageError;
    InputError for another form or for more weights than such a file can hold.
    """
    onnx, _ = packages()
    check_input(onnx_input)
    num_bytes = 4 * trees.count(variables)
    if num_bytes > MOST_BYTES:
        raise InputError(
            f"the weights are {num_bytes:,} bytes, and an ONNX file holds {MOST_BYTES:,}; write "
            "a .stablehlo or .safetensors file, which have no such limit"
        )
    writer = _Writer(onnx, trees.by_path(variables), card, output)
    writer.network(onnx_input)
    size, value = card.preprocessing.size, onnx.helper.make_tensor_value_info
    images = {
        UINT8_NHWC: (onnx.TensorProto.UINT8, ["batch", size, size, 3]),
        FLOAT_NCHW: (onnx.TensorProto.FLOAT, ["batch", 3, size, size]),
    }
    outputs = (onnx.TensorProto.FLOAT, ["batch", len(card.class_names)])
    graph = onnx.helper.make_graph(
        writer.nodes,
        card.architecture,
        [value(IMAGES, *images[onnx_input])],
        [value(output, *outputs)],
        writer.constants,
        value_info=writer.shapes,  # some converters want to know them
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ns_jax",
    )


@dataclasses.dataclass(frozen=True)
class _Map:
    """Activations `[b, features, size, size]`, by the name of the node that makes them."""

    name: str
    size: int
    features: int

    @property
    def shape(self) -> list:
        return ["batch", self.features, self.size, self.size]


class _Writer:
    """Nodes and constants so far. A node has one output, of the node's own name."""

    def __init__(self, onnx: Any, leaves: dict, card: ModelCard, output: str):
        self._onnx, self._leaves, self._card, self._output = onnx, leaves, card, output
        self.nodes: list = []
        self.constants: list = []
        self.shapes: list = []

    def network(self, onnx_input: str) -> None:
        card = self._card
        x = _Map(IMAGES, card.preprocessing.size, 3)
        scale = np.ones(3)
        if onnx_input == UINT8_NHWC:
            x = self._bytes_in(x, card)
            scale = 1 / (255.0 * np.asarray(card.preprocessing.std))
        x = self._swish(self._conv(x, "stem", "stem_conv", "stem_bn", stride=2, scale=scale))
        model = card.build()
        for block in blocks.of(model):
            x = self._block(x, block, model.stages()[block.stage - 1])
        x = self._swish(self._conv(x, "head_conv", "head_conv", "head_bn"))
        pooled = self._map("GlobalAveragePool", "head/pool", [x], size=1)
        flat = self._add("Flatten", "head/flat", [pooled.name], ["batch", x.features])
        weights = [
            self._constant(f"head_fc/{part}", self._leaf(f"params/head_fc/{part}", None))
            for part in ("kernel", "bias")
        ]
        shape = ["batch", len(card.class_names)]
        if self._output == LOGITS:
            self._add("Gemm", LOGITS, [flat, *weights], shape)
        else:
            logits = self._add("Gemm", "head_fc", [flat, *weights], shape)
            self._add("Softmax", PROBABILITIES, [logits], shape, axis=1)

    def _bytes_in(self, x: _Map, card: ModelCard) -> _Map:
        """Bytes to floats less the mean, by whose deviation the stem's kernel divides.

        So the stem's zero padding is that of normalised images. Bytes move faster than floats.
        """
        kinds = self._onnx.TensorProto
        shape, name = x.shape, "images/nchw"
        self._add("Transpose", name, [IMAGES], shape, dtype=kinds.UINT8, perm=(0, 3, 1, 2))
        self._add("Cast", "images/float", [name], shape, to=kinds.FLOAT)
        mean = 255.0 * np.asarray(card.preprocessing.mean).reshape(1, 3, 1, 1)
        inputs = ["images/float", self._constant("images/mean", mean)]
        return dataclasses.replace(x, name=self._add("Sub", "images/centred", inputs, shape))

    def _block(self, inputs: _Map, block: blocks.Block, spec: efficientnet.StageSpec) -> _Map:
        name, stride, x = f"stage{block.stage}/{block.place}", spec.stride, inputs
        where, layer = f"{block.scope}/", block.layer
        if block.place:
            stride = 1
        if block.expands:
            layers_ = (f"{where}expand_conv", f"{where}expand_bn", layer)
            x = self._swish(self._conv(x, f"{name}/expand_conv", *layers_))
        layers_ = (f"{where}depthwise_conv", f"{where}depthwise_bn", layer)
        x = self._swish(self._conv(x, f"{name}/depthwise_conv", *layers_, stride=stride))
        x = self._squeeze_excite(x, f"{name}/se", f"{where}se/", layer)
        layers_ = (f"{where}project_conv", f"{where}project_bn", layer)
        x = self._conv(x, f"{name}/project_conv", *layers_)
        if stride == 1 and inputs.features == x.features:
            x = self._map("Add", f"{name}/skip", [x, inputs])
        return x

    def _conv(
        self,
        x: _Map,
        name: str,
        conv: str,
        norm: str,
        layer: int | None = None,
        stride: int = 1,
        scale: np.ndarray | float = 1.0,
    ) -> _Map:
        """A convolution of ours with the BatchNorm that follows it; `scale` is of its input."""
        kernel = self._leaf(f"params/{conv}/kernel", layer)
        gain, bias = self._leaf(f"params/{norm}/scale", layer), f"params/{norm}/bias"
        mean, var = (self._leaf(f"batch_stats/{norm}/{part}", layer) for part in ("mean", "var"))
        factor = gain / np.sqrt(var + self._card.bn_epsilon)
        kernel = kernel * np.reshape(scale, (1, 1, -1, 1)) * factor
        weights = kernel.transpose(KERNEL_AXES), self._leaf(bias, layer) - mean * factor
        size = kernel.shape[0]
        steps = cpu_convolutions.Steps(stride, self._card.padding)
        before, after = steps.pads(x.size, size)
        return self._linear(
            x,
            name,
            weights,
            size=steps.out(x.size),
            kernel_shape=(size, size),
            strides=(stride, stride),
            pads=(before, before, after, after),
            group=x.features // kernel.shape[2],
        )

    def _squeeze_excite(self, x: _Map, name: str, where: str, layer: int | None) -> _Map:
        gate = self._map("GlobalAveragePool", f"{name}/pool", [x], size=1)
        for step in ("se_reduce", "se_expand"):
            kernel = self._leaf(f"params/{where}{step}/kernel", layer).transpose(KERNEL_AXES)
            weights = kernel, self._leaf(f"params/{where}{step}/bias", layer)
            gate = self._linear(gate, f"{name}/{step}", weights, size=1)
            if step == "se_reduce":
                gate = self._swish(gate)
        return self._map("Mul", f"{name}/gated", [x, self._map("Sigmoid", f"{name}/gate", [gate])])

    def _swish(self, x: _Map) -> _Map:
        gate = self._map("Sigmoid", f"{x.name}/sigmoid", [x])
        return self._map("Mul", f"{x.name}/swish", [x, gate])

    def _linear(
        self, x: _Map, name: str, weights: tuple[np.ndarray, np.ndarray], size: int, **options: Any
    ) -> _Map:
        """A convolution with these kernel and bias, to maps of `size`."""
        parts = zip(("kernel", "bias"), weights, strict=True)
        inputs = [x.name, *(self._constant(f"{name}/{part}", array) for part, array in parts)]
        y = _Map(name, size, len(weights[1]))
        self._add("Conv", name, inputs, y.shape, **options)
        return y

    def _map(self, kind: str, name: str, inputs: Sequence[_Map], size: int | None = None) -> _Map:
        """A node without weights, to maps as its first input's, or of another `size`."""
        y = dataclasses.replace(inputs[0], name=name, size=size or inputs[0].size)
        self._add(kind, name, [x.name for x in inputs], y.shape)
        return y

    def _add(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        shape: list,
        dtype: int | None = None,
        **attributes: Any,
    ) -> str:
        helper = self._onnx.helper
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        if name != self._output:
            dtype = dtype or self._onnx.TensorProto.FLOAT
            self.shapes.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def _constant(self, name: str, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array, np.float32)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _leaf(self, path: str, layer: int | None) -> np.ndarray:
        """An array of ours, or a block's slice of it, in float64, so that folding rounds once."""
        array = np.asarray(self._leaves[path])
        return (array if layer is None else array[layer]).astype(np.float64)
