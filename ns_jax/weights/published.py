"""What goes with the published weights: resolution, crop, mean and std of each family, class names.

Those ported from TensorFlow have the official protocol: crops of the official padding of 32 pixels,
TensorFlow 1's bicubic, and only AdvProp's networks see images scaled to -1..1. timm's own have what
timm evaluates them with.
"""

import importlib.resources

from ns_jax.data import crops
from ns_jax.errors import InputError
from ns_jax.weights import names as timm_names

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
# timm's own, as timm 1.0.31 has them: resolution, crop, mean and std
OWN = {
    "efficientnet_b0.ra_in1k": (224, "0.875", IMAGENET),
    "efficientnet_b0.ra4_e3600_r224_in1k": (224, "0.9", HALVES),
    "efficientnet_b1.ft_in1k": (224, "0.875", IMAGENET),
    "efficientnet_b1.ra4_e3600_r240_in1k": (240, "0.9", HALVES),
    "efficientnet_b2.ra_in1k": (256, "0.875", IMAGENET),
    "efficientnet_b3.ra2_in1k": (288, "0.875", IMAGENET),
    "efficientnet_b4.ra2_in1k": (320, "0.875", IMAGENET),
    "efficientnet_b5.sw_in12k_ft_in1k": (448, "none", IMAGENET),
    "efficientnet_b5.sw_in12k": (416, "0.95", IMAGENET),
}
TIMM_BICUBIC = "bicubic_antialias"  # what timm means by bicubic


def names() -> list[str]:
    """All published names, as timm spells them: `tf_efficientnet_b3.ns_jft_in1k`."""
    ported = [f"tf_efficientnet_{n}.{family}" for family, (ns, _) in FAMILIES.items() for n in ns]
    return [*ported, *OWN]


def find(name: str) -> tuple[str, crops.Preprocessing]:
    """(architecture, preprocessing) of a published name, or of an older one for the same.

    Raises InputError with the known ones.
    """
    parsed = timm_names.parse(name)
    if str(parsed) not in names():
        raise InputError(f"unknown published weights {name!r}; known: {', '.join(names())}")
    if own := OWN.get(str(parsed)):
        size, crop, (mean, std) = own
        view = crops.Preprocessing(size, crop, mean, std, TIMM_BICUBIC)
    else:
        mean, std = FAMILIES[parsed.tag][1]
        size = 475 if parsed.tag.endswith("_475") else RESOLUTIONS[parsed.network]
        view = crops.Preprocessing(size, "padded", mean, std, "bicubic_tf")
    return parsed.architecture, view


def class_names(num_classes: int) -> list[str]:
    """ImageNet's WordNet ids in their usual order for 1,000 classes, else plain numbers."""
    if num_classes != 1000:
        return [str(number) for number in range(num_classes)]
    text = importlib.resources.files("ns_jax.weights") / "imagenet_classes.txt"
    return text.read_text().split()
