"""EfficientNet B0 to B8, L0 to L2, and two small ones, from one table.

Each stage is its first block (which changes stride and width) and `rest`, the equal blocks after
it, stacked along axis 0 and run by `nn.scan`; unrolling the scan does not change the tree.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ns_jax.errors import InputError
from ns_jax.models import layers
from ns_jax.models.cpu_convolutions import PADDINGS, Steps

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
# What the forward pass keeps of a block for the backward pass, which computes the rest again.
# Statistics are always kept: they are small, and again would mean once more between devices.
REMAT = {
    "none": None,  # all of it
    "convs": ("expand_conv", "depthwise_conv", "project_conv"),  # normalisation and swish again
    "depthwise": ("depthwise_conv",),
    "full": (),  # its input alone
}


def round_features(features: int, width: float) -> int:
    """The nearest multiple of 8 (half up, at least 8) that loses no more than a tenth."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


class SqueezeExcite(nn.Module):
    """Channel attention; the squeezed width counts from the block's input, before expansion."""

    se_features: int
    place: layers.Placement

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(layers.Conv, use_bias=True, place=self.place)
        pooled = x.mean((1, 2), keepdims=True)
        pooled = layers.swish(conv(self.se_features, name="se_reduce")(pooled))
        return x * layers.sigmoid(conv(x.shape[-1], name="se_expand")(pooled))


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a pass goes through a part of the network."""

    train: bool  # BatchNorm takes the batch's statistics and moves its averages
    noise: bool  # dropout and stochastic depth are on


class Rows(NamedTuple):
    """What is known of the rows of a batch; None: all are alike."""

    noisy: jax.Array | None = None  # bool [B]: dropout and stochastic depth are on
    counted: layers.CountedRows | None = None  # in BatchNorm's statistics


NO_ROWS = Rows()


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project, stochastic depth, skip."""

    spec: StageSpec
    steps: Steps
    norm: functools.partial
    mode: Mode
    place: layers.Placement

    @nn.compact
    def __call__(self, x: jax.Array, keep_prob: jax.Array, rows: Rows) -> tuple[jax.Array, None]:
        spec, inputs, expanded = self.spec, x, x.shape[-1] * self.spec.expand_ratio
        conv = functools.partial(layers.Conv, place=self.place)
        if spec.expand_ratio != 1:
            x = conv(expanded, name="expand_conv")(x)
            x = self.norm(activate=True, name="expand_bn")(x, self.mode.train, rows.counted)
        depthwise = layers.DepthwiseConv(
            spec.kernel_size, self.steps, self.place, name="depthwise_conv"
        )
        x = depthwise(x)
        x = self.norm(activate=True, name="depthwise_bn")(x, self.mode.train, rows.counted)
        x = SqueezeExcite(max(1, int(inputs.shape[-1] * SE_RATIO)), self.place, name="se")(x)
        x = conv(spec.features, name="project_conv")(x)
        x = self.norm(name="project_bn")(x, self.mode.train, rows.counted)
        if self.steps.stride == 1 and inputs.shape[-1] == spec.features:
            if self.mode.noise:
                x = layers.drop_path(x, keep_prob, self.make_rng("dropout"), rows.noisy)
            x = x + inputs
        return x, None


class Stage(nn.Module):
    """The first block, then `repeats - 1` equal ones under one scan."""

    spec: StageSpec
    padding: str
    norm: functools.partial
    mode: Mode
    place: layers.Placement
    scan_unroll: int
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, keep_probs: jax.Array, rows: Rows) -> jax.Array:
        def block(**remat_options: Any) -> type[MBConv]:
            names = REMAT[self.remat]
            if names is None or not self.mode.train:
                return MBConv
            policy = jax.checkpoint_policies.save_only_these_names(layers.STATISTICS, *names)
            return nn.remat(MBConv, policy=policy, **remat_options)

        steps, once = Steps(self.spec.stride, self.padding), Steps(1, self.padding)
        first = block()(self.spec, steps, self.norm, self.mode, self.place, name="first")
        x, _ = first(x, keep_probs[0], rows)
        rest = self.spec.repeats - 1
        if rest:
            scanned = nn.scan(
                block(prevent_cse=False),  # scan itself keeps XLA from undoing the remat
                variable_axes={"params": 0, "batch_stats": 0, "group_stats": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=rest,
                unroll=min(self.scan_unroll or rest, rest),
            )(self.spec, once, self.norm, self.mode, self.place, name="rest")
            x, _ = scanned(x, keep_probs[1:], rows)
        return x


class _Network(nn.Module):
    arch: "EfficientNet"

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode, rows: Rows = NO_ROWS) -> jax.Array:
        arch, place = self.arch, self.arch.placement
        norm = functools.partial(layers.BatchNorm, arch.stat_groups, arch.bn_epsilon)
        conv = functools.partial(layers.Conv, place=place)

        def mode_of(stage: int) -> Mode:
            """Frozen stages (0: the stem) work as in evaluation."""
            frozen = arch.frozen_stages is not None and stage <= arch.frozen_stages
            return Mode(train=False, noise=False) if frozen else mode

        stem = conv(arch.features(STEM_FEATURES), 3, Steps(2, arch.padding), name="stem_conv")
        x = stem(place.constrain_batch(x))
        x = norm(activate=True, name="stem_bn")(x, mode_of(0).train, rows.counted)
        keep_probs, block = arch.keep_probs(), 0
        remat = arch.remat_of_stages()
        for i, spec in enumerate(arch.stages(), start=1):
            if i - 1 == arch.frozen_stages:
                x = jax.lax.stop_gradient(x)  # no backward pass below
            stage = Stage(
                spec,
                arch.padding,
                norm,
                mode_of(i),
                place,
                arch.scan_unroll,
                remat[i - 1],
                name=f"stage{i}",
            )
            x = stage(x, keep_probs[block : block + spec.repeats], rows)
            block += spec.repeats
        if arch.frozen_stages == len(remat):
            x = jax.lax.stop_gradient(x)
        x = conv(arch.features(HEAD_FEATURES), name="head_conv")(x)
        x = norm(activate=True, name="head_bn")(x, mode.train, rows.counted)
        x = x.mean((1, 2))
        dropped = nn.Dropout(arch.drop_rate, deterministic=not mode.noise)(x)
        x = dropped if rows.noisy is None else jnp.where(rows.noisy[:, None], dropped, x)
        return layers.Dense(arch.num_classes, place, name="head_fc")(x).astype(jnp.float32)


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
    padding: str = PADDINGS[0]  # TensorFlow's; "symmetric" is PyTorch's
    bn_epsilon: float = 1e-3  # TensorFlow's; PyTorch's is 1e-5
    bn_momentum: float = 0.99
    stat_groups: int = 1
    dtype: str = "float32"
    scan_unroll: int = 1
    remat: str = "none"  # a name of REMAT, or seven of them with commas, one for each stage
    frozen_stages: int | None = None  # that training leaves alone, with the stem; 0: the stem only
    placement: layers.Placement = layers.ANYWHERE

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

    def remat_of_stages(self) -> list[str]:
        names = self.remat.split(",")
        return names * len(STAGES) if len(names) == 1 else names

    def is_frozen(self, path: str) -> bool:
        """Whether training leaves the parameter at `path` as it is."""
        part = path.split("/")[0]
        if self.frozen_stages is None or part.startswith("head"):
            return False
        return not part.startswith("stage") or int(part[len("stage") :]) <= self.frozen_stages

    def num_bodies(self) -> int:
        """Blocks that are compiled apart: each stage's first, and one of its equal ones."""
        return sum(min(spec.repeats, 2) for spec in self.stages())

    def keep_probs(self) -> jax.Array:
        """Survival of block i of N, `1 - path_drop_rate * i / N`, float32 `[N]`."""
        blocks = sum(spec.repeats for spec in self.stages())
        return 1.0 - self.path_drop_rate * jnp.arange(blocks, dtype=jnp.float32) / blocks

    def init(self, rng: jax.Array, size: int) -> dict:
        """Fresh `{"params", "batch_stats"}`, float32."""
        images = jnp.zeros((1, size, size, 3), self.dtype)
        # Shapes alone matter: of the forms that a convolution has, the one that is traced fastest.
        anywhere = dataclasses.replace(self, placement=layers.Anywhere(on_cpu=False))
        variables = _Network(anywhere).init({"params": rng}, images, Mode(train=False, noise=False))
        return {"params": variables["params"], "batch_stats": variables["batch_stats"]}

    def with_new_head(self, variables: dict, rng: jax.Array) -> dict:
        """These weights with a fresh classifier for this network's number of classes.

        They may be without one.
        """
        features = variables["params"]["head_bn"]["scale"].shape[0]
        kernel = layers.dense_init(rng, (features, self.num_classes))
        head = {"kernel": kernel, "bias": jnp.zeros((self.num_classes,))}
        return {**variables, "params": {**variables["params"], "head_fc": head}}

    @staticmethod
    def with_classes(variables: dict, order: np.ndarray) -> dict:
        """These weights with other numbers for the same classes: n is what `order[n]` was."""
        head = {name: array[..., order] for name, array in variables["params"]["head_fc"].items()}
        return {**variables, "params": {**variables["params"], "head_fc": head}}

    def apply(
        self,
        variables: dict,
        images: jax.Array,
        train: bool,
        rng: jax.Array | None = None,
        noise: bool | None = None,
        noisy: jax.Array | None = None,
        bad: jax.Array | None = None,
    ) -> tuple[jax.Array, dict]:
        """Normalised `images` `[B, H, W, 3]` -> (float32 logits `[B, classes]`, batch_stats).

        With `train` the batch's own statistics normalise and the moving averages advance; with
        `noise` (None: as `train`) `rng` drives dropout and stochastic depth, of the rows that are
        `noisy` (bool `[B]`; None: all). Rows that are `bad` (bool `[B]`; None: none is) do not
        enter the batch's statistics. Without either nothing is random and nothing changes.
        """
        mode = Mode(train, train if noise is None else noise)
        images = images.astype(self.dtype)
        rngs: dict[str, Any] = {"dropout": rng} if mode.noise else {}
        if not train:
            logits: Any = _Network(self).apply(variables, images, mode, Rows(noisy), rngs=rngs)
            return logits, variables["batch_stats"]
        counted = None if bad is None else layers.count_rows(~bad, self.stat_groups)
        logits, found = _Network(self).apply(
            variables, images, mode, Rows(noisy, counted), rngs=rngs, mutable=["group_stats"]
        )
        batch_stats = layers.update_moving_averages(
            variables["batch_stats"],
            found.get("group_stats", {}),
            self.bn_momentum,
            self.placement.mean_of_groups,
        )
        return logits, batch_stats


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 `[B, S, S, 3]` -> float32 of about zero mean and unit variance; on the device."""
    return (images.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)


def build(
    name: str, num_classes: int, drop_rate: float | None = None, **options: Any
) -> EfficientNet:
    """The architecture `name` with the table's numbers; `options` are fields of `EfficientNet`.

    What is None has the field's default. Raises InputError for an unknown name, padding or remat
    policy.
    """
    if name not in SCALING:
        raise InputError(f"unknown model {name!r}; known: {', '.join(SCALING)}")
    width, depth, resolution, table_drop_rate = SCALING[name]
    model = EfficientNet(
        name=name,
        num_classes=num_classes,
        width=width,
        depth=depth,
        resolution=resolution,
        drop_rate=table_drop_rate if drop_rate is None else drop_rate,
        **{option: value for option, value in options.items() if value is not None},
    )
    if model.padding not in PADDINGS:
        raise InputError(f"unknown padding {model.padding!r}; known: {', '.join(PADDINGS)}")
    if not 0 < model.bn_epsilon < 1:
        raise InputError(f"bn_epsilon is {model.bn_epsilon:g}; it must be between 0 and 1")
    remat = model.remat_of_stages()
    if len(remat) != len(STAGES) or not set(remat) <= set(REMAT):
        raise InputError(
            f"unknown remat {model.remat!r}; known: {', '.join(REMAT)}, or {len(STAGES)} of them "
            "with commas between, one for each stage"
        )
    if model.frozen_stages is not None and not 0 <= model.frozen_stages <= len(STAGES):
        raise InputError(
            f"frozen_stages is {model.frozen_stages}; it must be in 0..{len(STAGES)}, or None"
        )
    return model
