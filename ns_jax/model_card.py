"""What travels with weights."""

from ns_jax.data import crops
from ns_jax.errors import InputError
from ns_jax.models import efficientnet

MODEL_KEYS = ("name", "num_classes", "small_images")  # what weights fit; all else is of a training


def describe(model, preprocessing: crops.Preprocessing, class_names) -> dict:
    """The content of `model.json`."""
    return {
        "model": {key: getattr(model, key) for key in MODEL_KEYS},
        "class_names": list(class_names),
        "preprocessing": vars(preprocessing),
    }


def described_model(description: dict) -> efficientnet.EfficientNet:
    return efficientnet.build(**description["model"])


def described_preprocessing(description: dict) -> crops.Preprocessing:
    fields = description["preprocessing"]
    return crops.Preprocessing(
        **{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )


def check_classes(names: tuple[str, ...], expected: list[str], source: str, teacher: str) -> None:
    """Raises InputError if a source's classes are not those of a checkpoint."""
    if list(names) == list(expected):
        return
    missing = [name for name in expected if name not in names]
    surplus = [name for name in names if name not in expected]
    raise InputError(
        f"{source} has {len(names)} classes, {teacher} has {len(expected)}; missing: "
        f"{', '.join(missing[:10]) or 'none'}; surplus: {', '.join(surplus[:10]) or 'none'}. "
        "Classes are matched by name and order"
    )
