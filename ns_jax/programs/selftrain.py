"""The whole loop: a teacher, then for each iteration label, select, train a student, evaluate."""

import contextlib
import copy
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import model_card
from ns_jax.checkpoints import checkpoint
from ns_jax.data import matching, overlap
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import DamagedError, InputError
from ns_jax.inference import engines, scoring, teachers
from ns_jax.parallel import processes
from ns_jax.predictions import tables
from ns_jax.predictions.given import IncompleteError
from ns_jax.programs import evaluate, label, report, robustness, select, train
from ns_jax.progress import say, table
from ns_jax.report import summary_table
from ns_jax.report.timeline import Timeline
from ns_jax.robustness import build
from ns_jax.training import examples
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import trainer as trainer_lib
from ns_jax.weights import imported

FINETUNE = "finetune"  # directory of an iteration's fine-tune
# What each stage writes last, in the directory of its iteration.
DONE = {
    "train": "manifest.json",
    "finetune": f"{FINETUNE}/manifest.json",
    "label": "labels/manifest.json",
    "select": "selection/manifest.json",
    "evaluate": "eval.json",
    "robustness": "robustness.json",
}
FILTER = "filter"  # directory of the labels and the selection of `selftrain.filter`


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> list[dict]:
    """Runs what is not done yet and returns a summary of each iteration, the teacher's first."""
    configs = [
        _iteration_config(config, workdir, k) for k in range(config.selftrain.iterations + 1)
    ]
    _validate(configs)
    summaries = []
    stages = _Stages(config, workdir)
    if config.selftrain.filter:
        say("the filter chooses the images that all teachers label")
        _label_and_select(_filter_config(configs[1], workdir), workdir / FILTER, stages)
    for k, iteration_config in enumerate(configs):
        directory = workdir / f"iteration_{k}"
        say(f"iteration {k}: {'the teacher' if k == 0 else f'student {k}'}")
        summary = {"iteration": k, "model": iteration_config.model.name}
        if k > 0 and not iteration_config.train.teacher:  # which labels in the step
            summary |= _label_and_select(iteration_config, directory, stages)
        if k > 0 or not config.selftrain.teacher:
            with stages.stage(directory, "train"):
                summary["training"] = train.run(iteration_config, directory)
            if iteration_config.finetune.epochs > 0:
                finetune = _finetune_config(iteration_config, directory)
                with stages.stage(directory, "finetune"):
                    summary["finetune"] = train.run(finetune, directory / FINETUNE)
        by_file = k == 0 and tables.is_predictions(config.selftrain.teacher)
        if by_file:
            summary["model"] = "predictions"
        elif k == 0 and teachers.exported_names(config.selftrain.teacher):
            summary["model"] = "exported"
        if config.data.test:
            with stages.stage(directory, "evaluate"):
                summary |= _evaluated(iteration_config, directory, by_file)
        if config.selftrain.robustness and not by_file:  # which says nothing of other images
            with stages.stage(directory, "robustness"):
                summary["robustness"] = robustness.run(iteration_config, directory, shared=workdir)
        summaries.append(summary)
    table("Self-training", *summary_table.rows(summaries))
    _say_what_is_there(configs[-1], workdir)
    return summaries


def _evaluated(config: config_dict.ConfigDict, directory: pathlib.Path, by_file: bool) -> dict:
    """The evaluation; none of predictions that do not cover the test images, which is said."""
    try:
        return {"evaluation": evaluate.run(config, directory)}
    except IncompleteError as error:
        if not by_file:
            raise
        say(f"the teacher is not evaluated: {error}")
        return {}


def _say_what_is_there(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Where to find what was made, and what to do next."""
    last = config.evaluate.checkpoint
    say(f"the last network: {last}; all iterations, with labels and selections: {workdir}")
    say(f"all of it on one page: {workdir / report.PAGE}")
    say("use it in Python: ns_jax.load(PATH).predict(IMAGES)")
    if config.data.labelled.startswith("digits:"):
        here, python = pathlib.Path.cwd(), pathlib.Path(sys.executable)
        python = python.relative_to(here) if python.is_relative_to(here) else pathlib.Path("python")
        say(
            "on images of your own, in a sub-folder for each class:\n"
            f"  {python} -m ns_jax selftrain --config=configs/folder.py --workdir=runs/mine "
            "--config.data.labelled=folder:LABELLED --config.data.unlabelled=folder:POOL"
        )


class _Stages:
    """The timeline of a run, and the report that is written after each stage."""

    def __init__(self, config: config_dict.ConfigDict, workdir: pathlib.Path):
        self._config, self._workdir = config, workdir
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        self._timeline = Timeline(workdir, devices, write=processes.is_first())

    @contextlib.contextmanager
    def stage(self, directory: pathlib.Path, program: str) -> Iterator[None]:
        done = (directory / DONE[program]).exists()
        with self._timeline.stage(f"{directory.name}/{program}", done) as worked:
            yield
        if worked or not (self._workdir / report.PAGE).exists():
            self.report()
        processes.wait("the report")  # of a large pool it may take minutes

    def report(self) -> None:
        """No error of it stops a run; it is said."""
        if not processes.is_first():
            return
        try:
            report.write(self._config, self._workdir)
        except Exception as error:
            if os.environ.get(report.ERRORS) == "raise":
                raise
            say(f"the report could not be written, and the run goes on: {error!r}")


def _label_and_select(
    config: config_dict.ConfigDict, directory: pathlib.Path, stages: _Stages
) -> dict:
    """Both stages' outputs. Shards found damaged when they are needed are labelled again."""
    while True:
        with stages.stage(directory, "label"):
            labels = label.run(config, directory)
        try:
            with stages.stage(directory, "select"):
                return {"labels": labels, "selection": select.run(config, directory)}
        except DamagedError:
            if not processes.call_on_first(label.mend, directory / "labels"):
                raise  # it was something else


def _outcome(config: config_dict.ConfigDict, workdir: pathlib.Path, k: int) -> pathlib.Path:
    """Where the weights of iteration k are in the end."""
    directory = workdir / f"iteration_{k}"
    return directory / FINETUNE if config_lib.at_iteration(config, k).finetune.epochs else directory


def _filter_config(config: config_dict.ConfigDict, workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The first iteration's config, with the filter as its teacher and the whole pool to label."""
    config = copy.deepcopy(config)
    config.label.predictions, config.label.weights = "", None  # the teacher's
    _teach(config, config.selftrain.filter)
    config.label.subset = ""
    config.select.labels = str(workdir / FILTER / "labels")
    return config


def _finetune_config(
    config: config_dict.ConfigDict, directory: pathlib.Path
) -> config_dict.ConfigDict:
    """The fine-tune of an iteration, from the weights that its training left in `directory`."""
    config = config_lib.finetuned(config)
    config.train.init, config.train.init_model = str(directory), ""
    return config


def _iteration_config(
    config: config_dict.ConfigDict, workdir: pathlib.Path, k: int
) -> config_dict.ConfigDict:
    """The config of iteration k with its paths and its own seed filled in."""
    given = config.selftrain.teacher
    iteration = config_lib.at_iteration(config, k)
    iteration.selftrain.overrides = {}  # in place
    iteration.seed = config_lib.derived_seed(config.seed, k)
    iteration.evaluate.checkpoint = str(_outcome(config, workdir, k))
    iteration.robustness.suites = ",".join(config.selftrain.robustness)
    iteration.robustness.checkpoint = iteration.evaluate.checkpoint
    if k == 0 and given:
        if teachers.has_weights(given):
            _take_network(iteration, checkpoint.load_card(given))
        iteration.evaluate.checkpoint = iteration.robustness.checkpoint = given
    if k > 0:
        teacher = given if given and k == 1 else str(_outcome(config, workdir, k - 1))
        _set_up_student(iteration, teacher, workdir, workdir / f"iteration_{k}")
        # Beside the first teacher: what is gained over all iterations.
        iteration.robustness.against = given or str(_outcome(config, workdir, 0))
        if tables.is_predictions(given):
            iteration.robustness.against = ""
    return iteration


def _take_network(config: config_dict.ConfigDict, card: model_card.ModelCard) -> None:
    """Makes the config's network that of a card."""
    config.model.name, config.model.small_images = card.architecture, card.small_images
    config.model.padding, config.model.bn_epsilon = card.padding, card.bn_epsilon


def _teach(config: config_dict.ConfigDict, teacher: str) -> None:
    """Has `teacher`, a checkpoint or predictions, label. Raises InputError."""
    config.label.checkpoint = "" if tables.is_predictions(teacher) else teacher
    if tables.is_predictions(teacher):
        if config.label.predictions:
            raise InputError(
                f"selftrain.teacher or selftrain.filter is {teacher}, and label.predictions "
                f"{config.label.predictions}: name all in one, with commas between; for the mean "
                "with a student, label.predictions in selftrain.overrides.iteration_2"
            )
        config.label.predictions = teacher


def _set_up_student(
    config: config_dict.ConfigDict, teacher: str, workdir: pathlib.Path, directory: pathlib.Path
) -> None:
    """Fills in where a student's pseudo-labels and its first weights come from."""
    filtered = str(workdir / FILTER / "selection") if config.selftrain.filter else ""
    if config.train.teacher:  # it labels in the step, and nothing is stored
        config.train.selection = filtered
        if config.train.teacher == config_lib.PREVIOUS:
            if not teachers.has_weights(teacher):
                raise InputError(
                    f"{teacher} cannot label in the step, which takes a checkpoint; set "
                    'selftrain.overrides.iteration_1.train.teacher="", and "previous" from '
                    "iteration_2 on"
                )
            config.train.teacher = teacher
    else:
        _teach(config, teacher)
        config.label.subset = filtered
        config.select.labels = str(directory / "labels")
        config.train.selection = str(directory / "selection")
    if config.selftrain.student_init == "teacher" and not config.train.init:
        if not teachers.has_weights(teacher):
            raise InputError(
                f'selftrain.student_init is "teacher", but {teacher} holds no weights to start '
                'from; use "scratch", or name a checkpoint as train.init in '
                "selftrain.overrides.iteration_1"
            )
        config.train.init, config.train.new_head = teacher, False
        config.train.init_model = ""


def _validate(configs: list) -> None:
    """All that can be known before the first step: a mistake in iteration 3 is said now."""
    if configs[0].train.teacher not in ("", config_lib.PREVIOUS):
        raise InputError(
            f"train.teacher={configs[0].train.teacher} would label for every student alike; set "
            f'train.teacher="{config_lib.PREVIOUS}": each iteration\'s own teacher, the first of '
            "which selftrain.teacher may name; or name one in selftrain.overrides.iteration_1"
        )
    opened = {}  # of a million files, opening takes half a minute

    def source(config: config_dict.ConfigDict, which: str) -> Source:
        key = (which, *config.data.values())
        if key not in opened:
            opened[key] = open_lib.open_from_config(config, which)
        return opened[key]

    for k, config in enumerate(configs):
        ratio = config.train.unlabelled_ratio
        if bool(ratio) != (k > 0):
            raise InputError(
                f"iteration {k} {'is a student' if k else 'has no teacher'} but its "
                f"train.unlabelled_ratio is {ratio:g}; "
                f"set selftrain.overrides.iteration_{k}.train.unlabelled_ratio"
            )
        labelled = source(config, "labelled")
        if k == 0:
            examples.check_labelled(labelled)
        devices = trainer_lib.training_devices(config)
        numbers_lib.derive(config, len(labelled), len(devices))
        if config.finetune.epochs > 0:
            finetune = _finetune_config(config, pathlib.Path("."))
            numbers_lib.derive(finetune, len(labelled), len(devices))
            trainer_lib.build_model(finetune, len(labelled.class_names))
        model = trainer_lib.build_model(config, len(labelled.class_names))
        view = trainer_lib.build_preprocessing(config, model)
        trainer_lib.train_view(config, view)
        if config.selftrain.robustness:
            build.check_in_selftrain(config, view)
            _check_gradients(config, configs[0].selftrain.teacher)
        if k > 0:
            select.check(config)
            of_files = config.label.predictions or teachers.exported_names(config.label.checkpoint)
            if not config.train.teacher:
                engines.check(config.label)
                if of_files:
                    teachers.check(config, labelled.class_names)
            source(config, "unlabelled")
        _check_init(config, configs, k)
    if configs[0].selftrain.filter and len(configs) == 1:
        raise InputError("selftrain.filter is set, but selftrain.iterations is 0")
    _check_sources(configs[0], functools.partial(source, configs[0]))


def _check_gradients(config: config_dict.ConfigDict, teacher: str) -> None:
    """Raises InputError for attacks on a first teacher that is an exported file."""
    attacks = [name for name in config.selftrain.robustness if name in build.ATTACKS]
    if attacks and teacher and teachers.exported_names(teacher):
        raise InputError(
            f"selftrain.robustness has {' and '.join(attacks)}, which need gradients; "
            f"{teacher} does not give any: leave them out, and run the program robustness on the "
            "students afterwards"
        )


def _check_sources(config: config_dict.ConfigDict, source: Callable[[str], Source]) -> None:
    """Raises InputError for a source with other classes than the first teacher's, and for held-out
    images that are trained on.
    """
    labelled = source("labelled")
    names, owner = labelled.class_names, labelled.name
    new_head = config.train.new_head or config.selftrain.teacher
    init = "" if new_head else config.train.init
    filtered = config.selftrain.filter
    if filtered and teachers.has_weights(filtered):
        filter_names = checkpoint.load_card(config.selftrain.filter).class_names
        matching.match(labelled, filter_names, config.selftrain.filter)
    given = config.selftrain.teacher
    if given and teachers.has_weights(given):
        names, owner = checkpoint.load_card(given).class_names, given
        matching.match(labelled, names, owner)
    elif init:
        names, owner = imported.card_of(init, config.train.init_model).class_names, init
        matching.match(labelled, names, owner)
    if config.data.holdout:
        overlap.check(matching.match(source("holdout"), names, owner), labelled)
    if config.data.test:
        scoring.prepare(source("test"), names, owner, config.evaluate.classes)


def _check_init(config: config_dict.ConfigDict, configs: list, k: int) -> None:
    """Raises InputError where iteration k would start from the weights of another network."""
    init, student = config.train.init, config.model
    if not init or (k == 0 and config.selftrain.teacher):
        return
    if k > 0 and init == configs[k - 1].evaluate.checkpoint:
        whose, other = "its teacher", configs[k - 1].model.to_dict()
        name, small_images = other["name"], other["small_images"]
        remedy = "selftrain.student_init needs one network; use scratch"
    else:
        whose, card = f"train.init={init}", imported.card_of(init, config.train.init_model)
        name, small_images, remedy = card.architecture, card.small_images, "name another checkpoint"
        other = vars(card)
    if (student.name, student.small_images) != (name, small_images):
        raise InputError(
            f"iteration {k} is {student.name} and {whose} {name}"
            f"{' for small images' if small_images != student.small_images else ''}; {remedy}"
        )
    for key in model_card.CONVENTION:
        ours, theirs = student[key], other[key]
        if None not in (ours, theirs) and ours != theirs:
            raise InputError(f"iteration {k} has model.{key} {ours} and {whose} {theirs}; {remedy}")
