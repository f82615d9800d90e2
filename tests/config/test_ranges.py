"""Every number and every word of the config: its range, and what is said outside of it."""

import math

import pytest

from configs import base, cifar, digits, folder, imagenet, svhn
from ns_jax import config as config_lib
from ns_jax.config import ranges
from ns_jax.data import crops, resizing
from ns_jax.errors import InputError
from ns_jax.models import efficientnet
from ns_jax.programs import evaluate, label, select
from ns_jax.selection import leaks
from ns_jax.training import numbers as numbers_lib

# Words that have no list of choices: paths, sources, names, and what another part takes apart.
FREE = {
    *("data.labelled", "data.unlabelled", "data.test", "data.holdout", "data.guard"),
    *("data.label_column", "data.cache"),
    *("train.selection", "train.teacher", "train.init", "train.init_model", "train.wandb"),
    *("label.checkpoint", "label.subset", "label.worker"),
    *("label.predictions", "label.holdout_predictions", "label.class_names", "label.class_map"),
    *("select.labels", "select.exclude", "select.corrections"),
    *("evaluate.checkpoint", "evaluate.against"),
    *("selftrain.teacher", "selftrain.filter"),
    *("predict.checkpoint", "predict.source", "predict.target"),
    *("convert.source", "convert.target", "convert.model", "convert.class_names"),
    *("robustness.checkpoint", "robustness.against", "robustness.suites", "robustness.crop"),
    *(f"robustness.{suite}" for suite in ("a", "r", "v2", "sketch", "real", "c", "p", "clean")),
    *("robustness.real_labels", "robustness.frost"),
    *("robustness.corruptions", "robustness.perturbations", "robustness.variant"),
    *("model.name", "model.remat", "finetune.remat", "data.crop", "foreign.crop", "plan.topology"),
}


def declared():
    """Key -> its type, that of optional ones too, in today's base config."""
    config, found = base.get_config(), {}

    def walk(section, prefix):
        for name in section:
            path = prefix + name
            if path == "selftrain.overrides":
                continue
            kind = section.get_type(name)
            if hasattr(section[name], "keys"):
                walk(section[name], f"{path}.")
            else:
                found[path] = kind

    walk(config, "")
    return found


def section_of(config, path):
    *sections, name = path.split(".")
    for section in sections:
        config = config[section]
    return config, name


def outside(range_):
    """Numbers out of a range: beyond each end, and what is no number."""
    found = [math.nan, range_.low if range_.without_low else range_.low - 1]
    if range_.high < math.inf:
        found.append(range_.high if range_.without_high else range_.high + 1)
    else:
        found.append(math.inf)
    return found


def test_every_key_has_a_range_or_choices():
    kinds = {path: kind for path, kind in declared().items() if path != "selftrain.robustness"}
    numeric = {path for path, kind in kinds.items() if kind in (int, float, tuple)}
    words = {path for path, kind in declared().items() if kind is str}
    assert numeric == set(ranges.RANGES)
    assert words == set(ranges.CHOICES) | FREE
    assert not set(ranges.CHOICES) & FREE


@pytest.mark.parametrize("path", ranges.RANGES)
def test_a_number_out_of_its_range_is_refused_with_the_range(path):
    range_, integers = ranges.RANGES[path], declared()[path] is int
    for value in outside(range_):
        if integers and not math.isfinite(value):
            continue  # the config itself takes whole numbers alone
        config = base.get_config()
        section, name = section_of(config, path)
        given = (value,) * (range_.count or 2) if range_.count != 1 else value
        section[name] = int(value) if integers else given
        with pytest.raises(InputError) as error:
            ranges.check(config)
        assert str(error.value) == f"{path} is {section[name]}; it must be {range_}"
    section[name] = None
    if range_.optional:
        ranges.check(config)
        return
    with pytest.raises(InputError, match=f"{path} is None; it must be"):
        ranges.check(config)


@pytest.mark.parametrize("path", ranges.CHOICES)
def test_an_unknown_word_is_refused_with_the_known_ones(path):
    config = base.get_config()
    for word in ranges.CHOICES[path]:
        section, name = section_of(config, path)
        section[name] = word
        ranges.check(config)
    section[name] = "sideways"
    known = ", ".join('""' if word == "" else str(word) for word in ranges.CHOICES[path])
    with pytest.raises(InputError) as error:
        ranges.check(config)
    assert str(error.value) == f"{path}='sideways'; known: {known}"


def test_ends_belong_to_a_range_or_do_not():
    holds = ranges.Range(0, 1, without_low=True, without_high=True).holds
    assert [holds(value) for value in (0, 1e-9, 0.5, 1)] == [False, True, True, False]
    holds = ranges.Range(0, 1).holds
    assert [holds(value) for value in (-1e-9, 0, 1, 1.5, None)] == [False, True, True, False, False]
    three = ranges.RANGES["data.std"].holds
    assert three((0.1, 0.2, 0.3)) and not three((0.1, 0.2)) and not three((0.1, 0.2, 0.0))


def test_the_overrides_of_an_iteration_have_the_same_ranges():
    config = base.get_config()
    config.selftrain.overrides = {"iteration_3": {"optim": {"decay_rate": 1.5}}}
    with pytest.raises(InputError, match="iteration_3: optim.decay_rate is 1.5; .* above 0 and at"):
        ranges.check(config)
    config.selftrain.overrides = {"iteration_3": {"loss": {"normalise": "none"}}}
    with pytest.raises(InputError, match="iteration_3: loss.normalise='none'; known: labelled"):
        ranges.check(config)


@pytest.mark.parametrize(
    "run",
    [
        lambda config: numbers_lib.derive(config, 100, 1),
        lambda config: label.run(config, None),
        lambda config: select.run(config, None),
        lambda config: evaluate.run(config, None),
    ],
)
def test_a_program_that_is_called_checks_them_before_it_opens_anything(run):
    config = base.get_config()
    config.randaugment.translate_pixels = -1.0
    with pytest.raises(InputError, match="randaugment.translate_pixels is -1.0; .* 0 or more"):
        run(config)


def test_the_configs_keep_to_them():
    for module in (base, cifar, digits, folder, svhn):
        ranges.check(module.get_config())
    for arg in ("chain=paper", "chain=v1", "model=l2,finetune=all"):
        ranges.check(imagenet.get_config(arg))


def test_the_choices_are_those_of_what_takes_them():
    assert ranges.CHOICES["data.interpolation"] == resizing.INTERPOLATIONS
    assert ranges.CHOICES["data.crop_sampler"] == crops.SAMPLERS
    assert ranges.RANGES["select.guard_distance"].high == leaks.MAX_DISTANCE
    assert ranges.STAGES.high == len(efficientnet.STAGES)


def test_a_fine_tune_longer_than_its_training_begins_at_epoch_0():
    config = base.get_config()
    config.train.epochs, config.finetune.epochs = 1.0, 1.5
    tuned = config_lib.finetuned(config)
    assert tuned.optim.start_epoch == 0 and tuned.train.epochs == 1.5
    config.train.init = tuned.train.init = "weights"
    ranges.check(tuned)
