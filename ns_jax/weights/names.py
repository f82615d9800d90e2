"""timm's names of its EfficientNets, and what a name says that tensors do not.

Networks ported from TensorFlow (`tf_efficientnet_b3`) and timm's own (`efficientnet_b3`) have the
same tensors. They differ in the padding of convolutions with a stride, and in BatchNorm's epsilon.
"""

import dataclasses
import re

from ns_jax.errors import InputError
from ns_jax.model_card import ModelCard

NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
# Prefix of the name: (padding, epsilon of BatchNorm)
CONVENTIONS = {"tf_efficientnet_": ("same", 1e-3), "efficientnet_": ("symmetric", 1e-5)}
_PATTERN = re.compile(r"((?:tf_)?efficientnet_)(b[0-8]|l2)(?:a|_(ns_475|ns|ap))?(?:\.(\w+))?")
# Of names from before there were tags behind a dot: tf_efficientnet_b4_ns
OLD_TAGS = {"ns": "ns_jft_in1k", "ns_475": "ns_jft_in1k_475", "ap": "ap_in1k"}


@dataclasses.dataclass(frozen=True)
class Name:
    """A network of timm's, with or without the tag of published weights."""

    prefix: str  # a key of CONVENTIONS
    network: str  # one of NETWORKS
    tag: str = ""

    @property
    def architecture(self) -> str:
        """As `efficientnet.build` knows it."""
        return f"efficientnet-{self.network}"

    @property
    def padding(self) -> str:
        return CONVENTIONS[self.prefix][0]

    @property
    def bn_epsilon(self) -> float:
        return CONVENTIONS[self.prefix][1]

    def __str__(self) -> str:
        return f"{self.prefix}{self.network}" + (f".{self.tag}" if self.tag else "")


def parse(text: str) -> Name:
    """`timm/tf_efficientnet_b3.ns_jft_in1k`, old names too. Raises InputError for another one."""
    found = _PATTERN.fullmatch(text.removeprefix("timm/"))
    if found:
        prefix, network, old, tag = found.groups()
        return Name(prefix, network, tag or OLD_TAGS.get(old, ""))
    if (network := text.removeprefix("efficientnet-")) in NETWORKS:
        raise InputError(f"{text} {which(network)}")
    raise InputError(
        f"{text!r} is no network that is read; they are tf_efficientnet_N and efficientnet_N, with "
        f"N one of {', '.join(NETWORKS)}"
    )


def which(network: str) -> str:
    """What there is to choose from, of tensors that fit both."""
    return (
        f"may be tf_efficientnet_{network}, ported from TensorFlow, or timm's own "
        f"efficientnet_{network}: same tensors, other padding and epsilon. Say which, or better "
        f"name the published weights, as tf_efficientnet_{network}.ns_jft_in1k"
    )


def of_card(card: ModelCard) -> Name:
    """timm's network of these weights. Raises InputError for one that timm does not have."""
    network = card.architecture.removeprefix("efficientnet-")
    if card.small_images or network not in NETWORKS:
        kind = f"{card.architecture}{' for small images' if card.small_images else ''}"
        raise InputError(f"timm has no {kind}; it has {', '.join(NETWORKS)}")
    for prefix, convention in CONVENTIONS.items():
        if convention == (card.padding, card.bn_epsilon):
            return Name(prefix, network)
    raise InputError(
        f"timm has no {card.architecture} of {card.padding} padding and epsilon {card.bn_epsilon:g}"
    )
