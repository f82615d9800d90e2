"""The README.md of a directory that goes to the Hugging Face hub: what is known of its weights.

huggingface_hub writes the metadata. Scores are those of an `eval.json` of these very weights, the
training is what the workdir's `config.json` says. What is not known is left out or said to be.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files, trees
from ns_jax import workdir as workdir_lib
from ns_jax.inference import metrics
from ns_jax.model_card import ModelCard
from ns_jax.progress import say

README, HUB = "README.md", "hf:"
CLASSES_SHOWN, WORST_SHOWN = 20, 3
_ITERATION = re.compile(r"iteration_(\d+)")
# What a reader would ask for first, of one training's config.
TRAINING_KEYS = (
    *("train.epochs", "train.batch_size", "train.unlabelled_ratio", "data.image_size"),
    *("optim.learning_rate_per_256", "optim.weight_decay", "optim.ema_decay"),
    *("randaugment.num_layers", "randaugment.magnitude", "model.drop_rate"),
    *("model.path_drop_rate", "loss.label_smoothing", "loss.pseudo_labels", "loss.temperature"),
    *("select.threshold", "select.per_class", "seed"),
)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a workdir knows of its weights, beside their model card."""

    scores: dict | None = None  # of `eval.json`
    training: config_dict.ConfigDict | None = None  # the config of the one training
    iteration: int | None = None  # of the self-training; 0 is the teacher
    base_model: str = ""  # OWNER/NAME on the hub

    @classmethod
    def of(cls, source: str, variables: dict, config: config_dict.ConfigDict) -> "Facts":
        """Those of `convert.source`; `config` declares all keys, and its values do not count."""
        if source.startswith(HUB):
            return cls(base_model=source.removeprefix(HUB))
        path = files.absolute(source)
        # No root, and no `gs://` without a bucket.
        around = [one for one in path.parents[:4] if not str(one).endswith("/")]
        places = [one for one in (path, *around) if one.is_dir()]
        digest = trees.digest(variables)
        scores = [one for one in _read(places, "eval.json") if one["inputs"]["model"] == digest]
        ends = [one["outputs"].get("model") for one in _read(places, workdir_lib.MANIFEST)]
        recorded = [one for one in _read(places, workdir_lib.CONFIG) if digest in ends]
        numbers = [int(found[1]) for one in places if (found := _ITERATION.fullmatch(one.name))]
        iteration = numbers[0] if numbers else None
        training = _training(config, recorded[0], iteration, path) if recorded else None
        init = training.train.init if training else ""
        return cls(
            scores=scores[0] if scores else None,
            training=training,
            iteration=iteration,
            base_model=init.removeprefix(HUB) if init.startswith(HUB) else "",
        )


def _read(places: list[pathlib.Path], name: str) -> Iterator[dict]:
    for place in places:
        if (place / name).is_file():
            yield json.loads((place / name).read_text())


def _training(
    config: config_dict.ConfigDict, recorded: dict, iteration: int | None, path: pathlib.Path
) -> config_dict.ConfigDict:
    """The config of the training that ended in `path`."""
    config = workdir_lib.with_values(config, recorded)
    if iteration is not None:
        config = config_lib.at_iteration(config, iteration)
    return config_lib.finetuned(config) if "finetune" in path.parts else config


def write(directory: pathlib.Path, card: ModelCard, facts: Facts) -> None:
    """Writes `README.md` beside the weights; one that is there is the user's, and stays.

    Without huggingface_hub a line says what is missing. Raises OSError.
    """
    path = directory / README
    if path.exists():
        say(f"{path} is there already and stays as it is")
        return
    try:
        import huggingface_hub
    except ImportError:
        say(f"no model card is written ({path}): it needs pip install 'ns-jax[hub]'")
        return
    name = _printable(files.absolute(directory).name)
    data = huggingface_hub.ModelCardData(
        model_name=name,
        base_model=facts.base_model or None,
        library_name="ns_jax",
        pipeline_tag="image-classification",
        tags=["image-classification", "efficientnet", "jax", *(["noisy-student"] * _taught(facts))],
        eval_results=_results(huggingface_hub.EvalResult, facts) or None,
    )
    body = "\n".join(_body(name, card, facts))
    content = huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    path.write_text(str(content), encoding="utf-8")


def _results(make: type, facts: Facts) -> list:
    """The scores, as fractions of 1, exactly as `eval.json` has them."""
    if not facts.scores:
        return []
    test = _public(facts.training.data.test) if facts.training else "a labelled source"
    names = {"top1": ("accuracy", "top-1"), "top5": ("accuracy", "top-5")}
    names["ece"] = ("ece", "expected calibration error")
    return [
        make(
            task_type="image-classification",
            dataset_type=test.split(":")[0],
            dataset_name=test,
            metric_type=kind,
            metric_name=name,
            metric_value=facts.scores[key],
        )
        for key, (kind, name) in names.items()
    ]


def _body(name: str, card: ModelCard, facts: Facts) -> Iterator[str]:
    view, count = card.preprocessing, len(card.class_names)
    yield f"# {_code(name)}\n"
    yield (
        f"{card.architecture}{' for small images' if card.small_images else ''}, {count:,} "
        "classes, made by ns_jax (Noisy Student Training, arXiv 1911.04252).\n"
    )
    yield "    import ns_jax\n"
    yield '    classifier = ns_jax.load("hf:OWNER/NAME")  # or this directory'
    yield '    classifier.predict(["image.jpg"], top=5)\n'
    yield (
        f"Images are seen at {view.size} pixels: crop {view.crop}, interpolation "
        f"{view.interpolation}, mean {_numbers(view.mean)}, standard deviation "
        f"{_numbers(view.std)}. `load` does this.\n"
    )
    yield (
        f"## Classes\n\nThe first {CLASSES_SHOWN} of {count:,}:\n"
        if count > CLASSES_SHOWN
        else ("## Classes\n")
    )
    yield f"    {_json(card.class_names[:CLASSES_SHOWN])}\n"
    yield "## Scores\n"
    yield from _scores(card, facts)
    yield "## Training\n"
    yield from _trained(card, facts)
    yield "## Limits\n"
    yield from _limits(card, facts)
    yield "\n## License\n\nNot stated: whoever publishes these weights states it, above."


def _scores(card: ModelCard, facts: Facts) -> Iterator[str]:
    scores = facts.scores
    if not scores:
        yield "These weights were not evaluated where they were converted.\n"
        return
    low, high = metrics.share_interval(
        round(scores["top1"] * scores["num_images"]), scores["num_images"]
    )
    if facts.training:
        yield f"On {_code(_public(facts.training.data.test))}:\n"
    yield "| | |\n|---|---|"
    yield f"| top-1 | {scores['top1']:.2%} (95 % interval {low:.2%} to {high:.2%}) |"
    yield f"| top-5 | {scores['top5']:.2%} |"
    yield f"| expected calibration error | {scores['ece']:.4f} |"
    yield f"| images | {scores['num_images']:,}, and {scores['num_corrupt']:,} unreadable |\n"


def _trained(card: ModelCard, facts: Facts) -> Iterator[str]:
    config = facts.training
    if not config:
        origin = f" from {_code(facts.base_model)}" if facts.base_model else ""
        yield f"Imported{origin}; how these weights were trained is not known here.\n"
        return
    if facts.iteration is not None:
        kind = f"student {facts.iteration}" if facts.iteration else "the teacher"
        yield f"This is {kind} of a self-training. What it learned from:\n"
    yield "| | |\n|---|---|"
    yield _row("labelled images", _public(config.data.labelled))
    if _taught(facts):
        yield _row("unlabelled images", _public(config.data.unlabelled))
    if facts.base_model:
        yield _row("first weights", facts.base_model)
    values = dict(config_lib.leaves(json.loads(config.to_json_best_effort())))
    for key in TRAINING_KEYS:
        if _taught(facts) or not key.startswith(("select.", "loss.pseudo", "loss.temp")):
            own = values[key] is None
            yield _row(f"`{key}`", "the network's own" if own else str(values[key]))
    yield ""


def _limits(card: ModelCard, facts: Facts) -> Iterator[str]:
    yield (
        "- The scores hold for images of the kind that was tested; other cameras, places or times "
        "were not."
        if facts.scores
        else "- Nothing is known here of how often these weights are right."
    )
    yield "- Whatever an image shows, one of the classes is named: there is no 'none of these'."
    if _taught(facts):
        yield (
            "- It learned from labels that another network gave, and may have learned that "
            "network's mistakes."
        )
    if facts.scores:
        known = [
            (share, name)
            for share, name in zip(facts.scores["per_class"], card.class_names, strict=True)
            if share is not None
        ]
        worst = ", ".join(
            f"{_code(name)} {share:.1%}" for share, name in sorted(known)[:WORST_SHOWN]
        )
        yield f"- The classes that are least often right: {worst}."


def _taught(facts: Facts) -> bool:
    """Whether unlabelled images had a part in it; a fine-tune is of a student that they taught."""
    config = facts.training
    return config is not None and (config.train.unlabelled_ratio > 0 or bool(facts.iteration))


def _public(source: str) -> str:
    """A source's name without the directories of whoever trained on it."""
    parts = source.rstrip("/").split("+")
    return _printable("+".join(map(_without_directories, parts)))


def _without_directories(part: str) -> str:
    if "tfds:" in part or "digits:" in part:
        return part
    return re.sub(r"(?<=:)[^:]*/(?=[^:/])", "", part)


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _code(text: str) -> str:
    """In a code span, where Markdown and HTML mean nothing."""
    return f"`{_printable(text).replace('`', chr(39))}`"


def _row(what: str, value: str) -> str:
    return f"| {what} | {_code(value).replace('|', chr(92) + '|')} |"


def _json(names: tuple[str, ...]) -> str:
    """One line, whatever the names are; it stands in an indented block, where nothing is markup."""
    return json.dumps(names, ensure_ascii=False).replace("\u2028", "\\u2028")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
