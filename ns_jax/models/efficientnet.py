"""EfficientNet B0 to B8, L0 to L2, and two small ones, from one table.

Each stage is its first block (which changes stride and width) and `rest`, the equal blocks after
it, stacked along axis 0 and run by `nn.scan`; unrolling the scan does not change the tree.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from ns_jax.models import layers

# name: (width, depth, resolution, dropout rate). B0-B8 and L2 are the official tables, L2 at the
# resolution it was trained at; L0 and L1 are the first version of the paper, with the dropout of
# their neighbours. Pico and nano are ours, for 32-pixel images on a CPU.
SCALING = {
    "efficientnet-pico": (0.25, 0.33, 32, 0.2),
    "efficientnet-nano": (0.35, 0.5, 32, 0.2),
    "efficientnet-b0": (1.0, 1.0, 224, 0.2),
    "efficientnet-b1": (1.0, 1.1, 240, 0.2),
    "efficientnet-b2": (1.1, 1.2, 260, 0.3),
    "efficientnet-b3": (1.2, 1.4, 300, 0.3),
    "efficientnet-b4": (1.4, 1.8, 380, 0.4),
    "efficientnet-b5": (1.6, 2.2, 456, 0.4),
    "efficientnet-b6": (1.8, 2.6, 528, 0.5),
    "efficientnet-b7": (2.0, 3.1, 600, 0.5),
    "efficientnet-b8": (2.2, 3.6, 672, 0.5),
    "efficientnet-l0": (2.8, 3.7, 380, 0.5),
    "efficientnet-l1": (3.9, 3.7, 380, 0.5),
    "efficientnet-l2": (4.3, 5.3, 475, 0.5),
}


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One row of EfficientNet's table: equal blocks, the first with `stride` and a new width."""

    repeats: int
    kernel_size: int
    stride: int
    expand_ratio: int
    features: int


# Table 1 of the EfficientNet paper (B0): repeats, kernel, stride, expansion, output channels.
STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)
STEM_FEATURES, HEAD_FEATURES = 32, 1280
SE_RATIO = 0.25
REMAT_POLICIES = ("none", "full")


def round_features(features: int, width: float) -> int:
    """The nearest multiple of 8 (half up, at least 8) that loses no more than a tenth."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


class SqueezeExcite(nn.Module):
    """Channel attention; the squeezed width counts from the block's input, before expansion."""

    se_features: int

    @nn.compact
    def __call__(self, x):
        pooled = x.mean((1, 2), keepdims=True)
        pooled = layers.swish(
            layers.Conv(self.se_features, use_bias=True, name="se_reduce")(pooled)
        )
        return x * layers.sigmoid(layers.Conv(x.shape[-1], use_bias=True, name="se_expand")(pooled))


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project, stochastic depth, skip."""

    spec: StageSpec
    stride: int
    norm: functools.partial
    train: bool

    @nn.compact
    def __call__(self, x, keep_prob):
        spec, inputs, expanded = self.spec, x, x.shape[-1] * self.spec.expand_ratio
        if spec.expand_ratio != 1:
            x = layers.Conv(expanded, name="expand_conv")(x)
            x = self.norm(activate=True, name="expand_bn")(x, self.train)
        x = layers.DepthwiseConv(spec.kernel_size, self.stride, name="depthwise_conv")(x)
        x = self.norm(activate=True, name="depthwise_bn")(x, self.train)
        x = SqueezeExcite(max(1, int(inputs.shape[-1] * SE_RATIO)), name="se")(x)
        x = layers.Conv(spec.features, name="project_conv")(x)
        x = self.norm(name="project_bn")(x, self.train)
        if self.stride == 1 and inputs.shape[-1] == spec.features:
            if self.train:
                x = layers.drop_path(x, keep_prob, self.make_rng("dropout"))
            x = x + inputs
        return x, None


class Stage(nn.Module):
    """The first block, then `repeats - 1` equal ones under one scan."""

    spec: StageSpec
    norm: functools.partial
    train: bool
    scan_unroll: int
    remat: str

    @nn.compact
    def __call__(self, x, keep_probs):
        def block(**remat_options):
            return nn.remat(MBConv, **remat_options) if self.remat == "full" else MBConv

        x, _ = block()(self.spec, self.spec.stride, self.norm, self.train, name="first")(
            x, keep_probs[0]
        )
        rest = self.spec.repeats - 1
        if rest:
            scanned = nn.scan(
                block(prevent_cse=False),  # scan itself keeps XLA from undoing the remat
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True, "dropout": True},
                length=rest,
                unroll=min(self.scan_unroll or rest, rest),
            )
            x, _ = scanned(self.spec, 1, self.norm, self.train, name="rest")(x, keep_probs[1:])
        return x


class _Network(nn.Module):
    arch: "EfficientNet"

    @nn.compact
    def __call__(self, x, train: bool):
        arch = self.arch
        norm = functools.partial(layers.BatchNorm, arch.stat_groups, arch.bn_momentum)
        x = layers.Conv(arch.features(STEM_FEATURES), 3, 2, name="stem_conv")(x)
        x = norm(activate=True, name="stem_bn")(x, train)
        keep_probs, block = arch.keep_probs(), 0
        for i, spec in enumerate(arch.stages(), start=1):
            stage = Stage(spec, norm, train, arch.scan_unroll, arch.remat, name=f"stage{i}")
            x = stage(x, keep_probs[block : block + spec.repeats])
            block += spec.repeats
        x = layers.Conv(arch.features(HEAD_FEATURES), name="head_conv")(x)
        x = norm(activate=True, name="head_bn")(x, train)
        x = x.mean((1, 2))
        x = nn.Dropout(arch.drop_rate, deterministic=not train)(x)
        dense = functools.partial(nn.Dense, kernel_init=layers.dense_init, dtype=x.dtype)
        return dense(arch.num_classes, name="head_fc")(x).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class EfficientNet:
    """An architecture: pure functions `init` and `apply`, and the numbers they follow from."""

    name: str
    num_classes: int
    width: float
    depth: float
    resolution: int
    drop_rate: float
    path_drop_rate: float = 0.2
    small_images: bool = False
    bn_momentum: float = 0.99
    stat_groups: int = 1
    dtype: str = "float32"
    scan_unroll: int = 1
    remat: str = "none"

    def features(self, features: int) -> int:
        return round_features(features, self.width)

    def stages(self) -> list[StageSpec]:
        """The scaled table. For small images stages 2 and 3 keep their size, as on SVHN."""
        return [
            dataclasses.replace(
                spec,
                repeats=math.ceil(self.depth * spec.repeats),
                stride=1 if self.small_images and i in (2, 3) else spec.stride,
                features=self.features(spec.features),
            )
            for i, spec in enumerate(STAGES, start=1)
        ]

    def keep_probs(self) -> jax.Array:
        """Survival of block i of N, `1 - path_drop_rate * i / N`, float32 `[N]`."""
        blocks = sum(spec.repeats for spec in self.stages())
        return 1.0 - self.path_drop_rate * jnp.arange(blocks, dtype=jnp.float32) / blocks

    def init(self, rng: jax.Array, size: int) -> dict:
        """Fresh `{"params", "batch_stats"}`, float32."""
        images = jnp.zeros((1, size, size, 3), self.dtype)
        variables = _Network(self).init({"params": rng}, images, train=False)
        return {"params": variables["params"], "batch_stats": variables["batch_stats"]}

    def with_new_head(self, variables: dict, rng: jax.Array) -> dict:
        """These weights with a fresh classifier for this network's number of classes."""
        features = variables["params"]["head_fc"]["kernel"].shape[0]
        kernel = layers.dense_init(rng, (features, self.num_classes))
        head = {"kernel": kernel, "bias": jnp.zeros((self.num_classes,))}
        return {**variables, "params": {**variables["params"], "head_fc": head}}

    def apply(self, variables: dict, images: jax.Array, train: bool, rng: jax.Array | None = None):
        """Normalised `images` `[B, H, W, 3]` -> (float32 logits `[B, classes]`, batch_stats).

        With `train` the batch's own statistics normalise, the moving averages advance, and `rng`
        drives dropout and stochastic depth; without it nothing is random and nothing changes.
        """
        images = images.astype(self.dtype)
        if not train:
            return _Network(self).apply(variables, images, train=False), variables["batch_stats"]
        logits, updated = _Network(self).apply(
            variables, images, train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        return logits, updated["batch_stats"]


def build(name: str, num_classes: int, drop_rate: float | None = None, **options) -> EfficientNet:
    """The architecture `name` with the table's numbers; `options` are fields of `EfficientNet`.

    Raises ValueError for an unknown name or remat policy.
    """
    if name not in SCALING:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(SCALING)}")
    width, depth, resolution, table_drop_rate = SCALING[name]
    model = EfficientNet(
        name=name,
        num_classes=num_classes,
        width=width,
        depth=depth,
        resolution=resolution,
        drop_rate=table_drop_rate if drop_rate is None else drop_rate,
        **options,
    )
    if model.remat not in REMAT_POLICIES:
        raise ValueError(f"unknown remat {model.remat!r}; known: {', '.join(REMAT_POLICIES)}")
    return model
