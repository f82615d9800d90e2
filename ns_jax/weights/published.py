"""What goes with the published weights: resolution, crop, mean and std of each family, class names.

The official protocol: crops of the official padding of 32 pixels, TensorFlow 1's bicubic, and only
AdvProp's networks see images scaled to -1..1.
"""

import importlib.resources

from ns_jax.data import crops
from ns_jax.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RESOLUTIONS = dict(b0=224, b1=240, b2=260, b3=300, b4=380, b5=456, b6=528, b7=600, b8=672, l2=800)

# family: (networks, mean and std)
FAMILIES = {
    "in1k": (("b0", "b1", "b2", "b3", "b4", "b5"), IMAGENET),
    "aa_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"), IMAGENET),
    "ra_in1k": (("b5", "b7", "b8"), IMAGENET),
    "ap_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"), HALVES),
    "ns_jft_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2"), IMAGENET),
    "ns_jft_in1k_475": (("l2",), IMAGENET),
}


def names() -> list[str]:
    """All published names, as timm spells them: `tf_efficientnet_b3.ns_jft_in1k`."""
    return [f"tf_efficientnet_{n}.{family}" for family, (ns, _) in FAMILIES.items() for n in ns]


def find(name: str) -> tuple[str, crops.Preprocessing]:
    """(architecture, preprocessing) of a published name; raises InputError with the known ones."""
    if name not in names():
        raise InputError(f"unknown published weights {name!r}; known: {', '.join(names())}")
    network, _, family = name.removeprefix("tf_efficientnet_").partition(".")
    mean, std = FAMILIES[family][1]
    size = 475 if family.endswith("_475") else RESOLUTIONS[network]
    return f"efficientnet-{network}", crops.Preprocessing(size, "padded", mean, std, "bicubic_tf")


def class_names(num_classes: int) -> list[str]:
    """ImageNet's WordNet ids in their usual order for 1,000 classes, else plain numbers."""
    if num_classes != 1000:
        return [str(number) for number in range(num_classes)]
    text = importlib.resources.files("ns_jax.weights") / "imagenet_classes.txt"
    return text.read_text().split()
