"""Cards and random weights of networks, as tests of exports need them."""

from ns_jax.data import crops
from ns_jax.model_card import ModelCard
from ns_jax.weights import layout, timm
from tests.weights import random_weights

MEAN, STD = (0.485, 0.4, 0.3), (0.229, 0.5, 0.1)


def card_of(architecture: str, size: int, small_images: bool, classes: int = 11) -> ModelCard:
    preprocessing = crops.Preprocessing(size, "none", MEAN, STD)
    return ModelCard(architecture, small_images, tuple(map(str, range(classes))), preprocessing)


def weights_of(card: ModelCard) -> dict:
    """Random weights and statistics, with biases that are not zero."""
    model = card.build()
    shapes = layout.their_shapes(model, timm.entries(model))
    tensors = {name: random_weights.tensor(name, shape) for name, shape in shapes.items()}
    return layout.to_tree(model, timm.entries(model), tensors, "random")
