"""Multiply-adds of an EfficientNet, by its table: what a step is measured against."""

from ns_jax.models import efficientnet
from ns_jax.models.efficientnet import EfficientNet


def macs(model: EfficientNet, size: int) -> int:
    """Of one image of `size` pixels in a forward pass: convolutions, squeeze-excite, classifier."""
    size = -(-size // 2)
    features = model.features(efficientnet.STEM_FEATURES)
    total = size**2 * 9 * 3 * features
    for spec in model.stages():
        for block in range(spec.repeats):
            stride = spec.stride if block == 0 else 1
            expanded = features * spec.expand_ratio
            if spec.expand_ratio != 1:
                total += size**2 * features * expanded
            size = -(-size // stride)
            total += size**2 * spec.kernel_size**2 * expanded
            squeezed = max(1, int(features * efficientnet.SE_RATIO))
            total += 2 * expanded * squeezed
            total += size**2 * expanded * spec.features
            features = spec.features
    head = model.features(efficientnet.HEAD_FEATURES)
    return total + size**2 * features * head + head * model.num_classes
