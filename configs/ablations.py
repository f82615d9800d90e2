"""The paper's ablations, one deviation each from the digits' or Fashion-MNIST's self-training.

    python -m ns_jax selftrain --config=configs/ablations.py:set=digits,name=no_noise --workdir=...

`name` is a key of ABLATIONS below, `set` is digits or fashion. `base` goes on for four students;
all others train one, which differs from the first of `base` in what the name says. They take its
teacher (--config.selftrain.teacher=BASE/iteration_0), so that nothing else differs.
benchmarks/ablations.py runs them over seeds and docs/ablations.md has its table.
"""

from collections.abc import Callable

from ml_collections import config_dict

from configs import digits, fashion
from ns_jax import config as config_lib
from ns_jax.errors import InputError

SETS = {"digits": digits, "fashion": fashion}
PLAIN = {"model": {"drop_rate": 0.0, "path_drop_rate": 0.0}, "randaugment": {"num_layers": 0}}
ITERATIONS = 4  # of `base`


def _student(changes: dict) -> Callable:
    """Changes of the student's training, as a tree of the keys that differ."""
    return lambda config, _: _merge(config.selftrain.overrides.iteration_1, changes)


def _merge(tree: config_dict.ConfigDict, changes: dict) -> None:
    for name, value in changes.items():
        if isinstance(value, dict):
            if name not in tree:
                tree[name] = config_dict.ConfigDict()
            _merge(tree[name], value)
        else:
            tree[name] = value


def _base(config: config_dict.ConfigDict, which: str) -> None:
    config.selftrain.iterations = ITERATIONS


def _teacher_network(name: str) -> Callable:
    def change(config: config_dict.ConfigDict, which: str) -> None:
        network = config.model.name
        _merge(config.selftrain.overrides.iteration_1, {"model": {"name": network}})
        config.selftrain.overrides.iteration_0 = {"model": {"name": name}}

    return change


def _pool_share(share: float) -> Callable:
    def change(config: config_dict.ConfigDict, which: str) -> None:
        config.select.fraction = share
        config.select.per_class = round(config.select.per_class * share)

    return change


def _other_pool(pseudo_labels: str) -> Callable:
    """The pool is of other things than the classes: clothes for digits, and the reverse."""

    def change(config: config_dict.ConfigDict, which: str) -> None:
        if which == "digits":
            config.data.unlabelled = fashion.get_config().data.test
        else:
            config.data.unlabelled = "digits:unlabelled"
            config.select.per_class = 100
        config.select.threshold = 0.0  # no image of it is what its label says
        config.loss.pseudo_labels = pseudo_labels

    return change


def _from_teacher(config: config_dict.ConfigDict, which: str) -> None:
    config.selftrain.student_init = "teacher"


# What an ablation changes: a function of the config and of the set's name.
ABLATIONS: dict[str, Callable] = {
    "base": _base,
    # Noise: the first two off on unlabelled images alone, as in the paper's Table 6.
    "no_augmentation": _student({"train": {"unlabelled_noise": "model"}}),
    "no_noise": _student({"train": {"unlabelled_noise": "none"}}),
    "no_randaugment_at_all": _student({"randaugment": PLAIN["randaugment"]}),
    "no_dropout_at_all": _student({"model": {"drop_rate": 0.0}}),
    "no_stochastic_depth_at_all": _student({"model": {"path_drop_rate": 0.0}}),
    "no_noise_at_all": _student(PLAIN),
    # A teacher in the step; both need --config.selftrain.overrides.iteration_1.train.teacher=...
    "teacher_in_step": _student({"train": {"teacher": "", "teacher_noise": False}}),
    "noised_teacher": _student({"train": {"teacher": "", "teacher_noise": True}}),
    # Pseudo-labels; of images of other things than the classes as well.
    "hard": _student({"loss": {"pseudo_labels": "hard"}}),
    "other_pool_soft": _other_pool("soft"),
    "other_pool_hard": _other_pool("hard"),
    # The pool and what is taken of it.
    "pool_1_16": _pool_share(1 / 16),
    "pool_1_4": _pool_share(1 / 4),
    "unbalanced": _student({"select": {"balance": "none", "per_class": 10**9}}),
    # Networks.
    "teacher_pico": _teacher_network("efficientnet-pico"),
    "teacher_b0": _teacher_network("efficientnet-b0"),
    "student_pico": _student({"model": {"name": "efficientnet-pico"}}),
    "student_b0": _student({"model": {"name": "efficientnet-b0"}}),
    # Training.
    "ratio_1": _student({"train": {"unlabelled_ratio": 1.0}}),
    "ratio_2": _student({"train": {"unlabelled_ratio": 2.0}}),
    "ratio_7": _student({"train": {"unlabelled_ratio": 7.0}}),
    "ratio_14": _student({"train": {"unlabelled_ratio": 14.0}}),
    "from_teacher": _from_teacher,
}


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(arg, role="selftrain", set="digits", name="base")
    for key, known in (("set", SETS), ("name", ABLATIONS)):
        if arg[key] not in known:
            raise InputError(f"config argument {key}={arg[key]}; known: {', '.join(known)}")
    config = SETS[arg.set].get_config()
    config.train.keep_checkpoints = 1
    config.train.tensorboard = False
    config.train.evaluate_every_epochs = 0.0
    config.selftrain.iterations = 1
    ABLATIONS[arg.name](config, arg.set)
    return config_lib.at_role(config, arg.role)
