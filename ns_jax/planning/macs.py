"""Multiply-adds of an EfficientNet, by its table: what a step is measured against."""

from ns_jax.models import efficientnet
from ns_jax.models.efficientnet import EfficientNet


def macs(model: EfficientNet, size: int) -> int:
    """Multiply-adds of a forward pass, an image of `size` pixels: convolutions, SE, classifier."""
    return sum(_parts(model, size))


def training_macs(model: EfficientNet, size: int) -> int:
    """Multiply-adds of one image in a training step: a backward pass is two forward ones.

    What is frozen has none. The gradient with respect to the input of the first trained stage is
    counted, though not needed.
    """
    parts = _parts(model, size)
    frozen = 0 if model.frozen_stages is None else 1 + model.frozen_stages
    return sum(parts) + 2 * sum(parts[frozen:])


def _parts(model: EfficientNet, size: int) -> list[int]:
    """The multiply-adds of the stem, of each stage and of the head with the classifier."""
    size = -(-size // 2)
    features = model.features(efficientnet.STEM_FEATURES)
    parts = [size**2 * 9 * 3 * features]
    for spec in model.stages():
        stage = 0
        for block in range(spec.repeats):
            stride = spec.stride if block == 0 else 1
            expanded = features * spec.expand_ratio
            if spec.expand_ratio != 1:
                stage += size**2 * features * expanded
            size = -(-size // stride)
            stage += size**2 * spec.kernel_size**2 * expanded
            squeezed = max(1, int(features * efficientnet.SE_RATIO))
            stage += 2 * expanded * squeezed
            stage += size**2 * expanded * spec.features
            features = spec.features
        parts.append(stage)
    head = model.features(efficientnet.HEAD_FEATURES)
    return [*parts, size**2 * features * head + head * model.num_classes]
