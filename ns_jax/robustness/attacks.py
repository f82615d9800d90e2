"""Attacks that change every pixel by at most epsilon, of the 255 levels: FGSM and PGD.

Untargeted, in the maximum norm, on the resized image before it is normalised; the network is as in
evaluation, in float32; pixels stay in 0..255 and need not be whole. The paper gives FGSM's epsilons
(0, 2, 4, 8, 16) and ten steps of PGD at 16, but no step size, start or label: those are ours.
FGSM: Goodfellow et al., arXiv 1412.6572. PGD: Madry et al., arXiv 1706.06083.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ns_jax.errors import InputError
from ns_jax.inference import step as inference_step

LEVELS = 255.0
STEP_SHARE = 2.5  # of epsilon that all steps of PGD together could go, as in Madry's code
LABELS = ("true", "predicted")

Scores = Callable[[jax.Array], jax.Array]  # float32 images [B, H, W, 3] of 0..255 -> [B, classes]


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to attack a network. FGSM is a single step of epsilon."""

    epsilon: float  # levels of 255
    steps: int = 1
    step_size: float | None = None  # None: 2.5 epsilon / steps; of a single step epsilon
    restarts: int = 0  # random starts, each image's worst counts; 0: from the image itself
    label: str = "true"  # the class to be led away from, or the "predicted" one
    seed: int = 0  # of random starts, with an image's index

    def __post_init__(self) -> None:
        for name, least in (("epsilon", 0), ("steps", 1), ("restarts", 0)):
            if not least <= getattr(self, name) < np.inf:
                raise InputError(f"an attack's {name} is {getattr(self, name)}; at least {least}")
        if self.label not in LABELS:
            raise InputError(f"an attack's label is {self.label!r}; known: {', '.join(LABELS)}")

    def numbers(self) -> dict:
        """What a compiled attack is told: so all epsilons, and FGSM and PGD, are one program."""
        default = self.epsilon if self.steps == 1 else STEP_SHARE * self.epsilon / self.steps
        size = default if self.step_size is None else self.step_size
        return {
            "epsilon": np.float32(self.epsilon),
            "step_size": np.float32(size),
            "steps": np.int32(self.steps),
            "restarts": np.int32(self.restarts),
            "of_predicted": np.bool_(self.label == "predicted"),
            "seed": np.uint32(self.seed % 2**32),
        }


def fgsm(scores: Scores, images: jax.Array, labels: jax.Array, epsilon: float) -> jax.Array:
    """The images, each pixel changed by epsilon the way that raises the loss: float32, as `images`.

    `scores`: logits or log-probabilities; `images` `[B, H, W, 3]` of 0..255; `labels` int32 `[B]`.
    """
    return pgd(scores, images, labels, epsilon, steps=1, step_size=epsilon)


def pgd(
    scores: Scores,
    images: jax.Array,
    labels: jax.Array,
    epsilon: float | jax.Array,
    *,
    steps: int | jax.Array,
    step_size: float | jax.Array,
    start: jax.Array | None = None,
) -> jax.Array:
    """As `fgsm` in many steps, each brought back to within epsilon of the image and into 0..255.

    `start`: where to begin, float32 `[B, H, W, 3]`; None: at the images.
    """
    images = images.astype(jnp.float32)

    def loss(changed: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(scores(changed))
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=-1).sum()

    def one(_: int, changed: jax.Array) -> jax.Array:
        changed = changed + step_size * jnp.sign(jax.grad(loss)(changed))
        return jnp.clip(jnp.clip(changed, images - epsilon, images + epsilon), 0.0, LEVELS)

    return jax.lax.fori_loop(0, steps, one, images if start is None else start)


def random_start(rng: jax.Array, image: jax.Array, epsilon: jax.Array) -> jax.Array:
    """A point drawn evenly within epsilon of an image `[H, W, 3]`, in 0..255."""
    noise = jax.random.uniform(rng, image.shape, jnp.float32, -1.0, 1.0)
    return jnp.clip(image.astype(jnp.float32) + epsilon * noise, 0.0, LEVELS)


def attack_step(
    replicated: dict, rows: dict, *, members: tuple[inference_step.Member, ...], flip: bool, k: int
) -> jax.Array:
    """The k best classes of each attacked image, int32 `[B, k]`, best first.

    `replicated`: the `members`' variables and an `Attack`'s numbers. `rows`: the one view that
    the members share, uint8 `[B, S, S, 3]`, `label` and `index` int32 `[B]`. Of several random
    starts the first that changes the class counts, or the last one.
    """
    (images,), attack = rows["views"], replicated["attack"]

    def scores(seen: jax.Array) -> jax.Array:
        """Log-probabilities float32 `[B, classes]` of the members' mean."""
        settings: dict[str, Any] = {"members": members, "flip": flip}
        logits = inference_step.member_logits(replicated["members"], [seen], **settings)
        log_probs = jax.nn.log_softmax(logits)
        return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(logits.shape[1])

    def best(seen: jax.Array) -> jax.Array:
        return jax.lax.top_k(scores(seen), k)[1]

    clean = best(images.astype(jnp.float32))
    labels = jnp.where(attack["of_predicted"], clean[:, 0], rows["label"])
    rng = jax.random.key(attack["seed"])

    def once(number: int | jax.Array, found: jax.Array) -> jax.Array:
        def begin(index: jax.Array, image: jax.Array) -> jax.Array:
            own = jax.random.fold_in(jax.random.fold_in(rng, number), index)
            return random_start(own, image, attack["epsilon"])

        drawn = jax.vmap(begin)(rows["index"], images)
        start = jnp.where(attack["restarts"] > 0, drawn, images.astype(jnp.float32))
        sizes = {name: attack[name] for name in ("steps", "step_size")}
        changed = pgd(scores, images, labels, attack["epsilon"], start=start, **sizes)
        withstood = found[:, :1] == labels[:, None]
        return jnp.where(withstood, best(changed), found)

    # An image that is wrong as it is needs no attack: every class found stays.
    return jax.lax.fori_loop(0, jnp.maximum(attack["restarts"], 1), once, clean)
