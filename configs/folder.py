"""Self-training on your own images, from directories.

    python -m ns_jax selftrain --config=configs/folder.py --workdir=runs/mine \\
        --config.data.labelled=folder:LABELLED --config.data.unlabelled=folder:UNLABELLED \\
        --config.data.test=folder:TEST

LABELLED and TEST hold a sub-folder for each class; UNLABELLED holds images, in sub-folders or not.
The argument chooses the networks and the image size: `configs/folder.py:model=efficientnet-b2`,
`...:student=efficientnet-b4` for a student larger than its teacher, `...:small=true` for images of
about 32 pixels.

`...:init=hf:timm/tf_efficientnet_b3.ns_jft_in1k`, or a file or a checkpoint, starts the teacher
from these weights; network, image size and preprocessing are theirs (`weights=NAME` says what a
file holds that does not). `students=` says what students start from: `scratch`, `init` (the same
weights; a larger student its own published ones), `teacher`, or other weights by name.
"""

from typing import Any

from configs import base
from ns_jax import config as config_lib
from ns_jax.errors import InputError

SCRATCH = {"epochs": 100.0, "warmup": 5.0, "decay": 1.5, "rate": 0.016}
SMALL = {"epochs": 300.0, "warmup": 20.0, "decay": 4.5, "rate": 0.05}  # the digits' settings
# From weights: a fifth of the epochs at a quarter of the rate.
TUNED = {"epochs": 20.0, "warmup": 2.0, "decay": 0.3, "rate": 0.004}
TUNED_SMALL = {"epochs": 60.0, "warmup": 4.0, "decay": 0.9, "rate": 0.0125}


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(
        arg,
        role="selftrain",
        model="",
        student="",
        small=False,
        init="",
        weights="",
        students="scratch",
    )
    config = base.get_config()
    config.model.name = arg.model or "efficientnet-b0"
    config.train.batch_size = 32
    config.train.save_every_steps = 500
    config.train.log_every_steps = 50
    config.optim.ema_decay = 0.999  # 0.9999 looks back further than a short run has steps
    config.randaugment.magnitude = 10.0
    config.select.per_class = 0  # every class gets as many rows as the largest one
    small = arg.small
    if arg.init:
        card = _start_from(config, arg.init, arg.weights)
        small = small or card.small_images
        if arg.model not in ("", card.architecture):
            raise InputError(f"model={arg.model}, but init={arg.init} is {card.architecture}")
    elif arg.students != "scratch" or arg.weights:
        raise InputError("students and weights need init, the weights that the teacher starts from")
    if small:
        _for_small_images(config, of_weights=bool(arg.init))
    from_scratch = SMALL if small else SCRATCH
    _assign(config, (TUNED_SMALL if small else TUNED) if arg.init else from_scratch)
    config.selftrain.iterations = 2
    student: dict[str, Any] = {
        "model": {"name": arg.student or config.model.name},
        "train": {"unlabelled_ratio": 3.0},
    }
    if arg.init:
        _set_up_student(config, student, arg, from_scratch)
    config.selftrain.overrides = {"iteration_0": {}, "iteration_1": student}
    return config_lib.at_role(config, arg.role)


def _for_small_images(config, of_weights: bool) -> None:
    """Few images too, most likely: the digits' settings."""
    config.model.small_images = True
    if not of_weights:
        config.data.image_size = 32
        config.data.crop = "none"
    config.data.train_view = "pad"
    config.randaugment.magnitude = 5.0
    config.randaugment.translate_pixels = 4.0
    config.randaugment.cutout_pixels = 4.0
    config.model.bn_momentum = 0.9  # 0.99 does not settle in a few hundred steps
    config.loss.temperature = 0.5


def _assign(config, schedule: dict) -> None:
    config.train.epochs = schedule["epochs"]
    config.optim.warmup_epochs = schedule["warmup"]
    config.optim.decay_epochs = schedule["decay"]
    config.optim.learning_rate_per_256 = schedule["rate"]


def _start_from(config, init: str, weights: str):
    """Has the teacher start from weights, and see images as these do; returns their card."""
    from ns_jax.weights import imported  # which takes seconds

    card = imported.card_of(init, weights)
    config.train.init, config.train.init_model, config.train.new_head = init, weights, True
    config.model.name = card.architecture
    config.data.update(_view_of(card))
    return card


def _view_of(card) -> dict:
    """The keys of `data` for a card's preprocessing."""
    view = card.preprocessing
    return {
        "image_size": view.size,
        "crop": view.crop,
        "mean": view.mean,
        "std": view.std,
        "interpolation": view.interpolation,
    }


def _set_up_student(config, student: dict, arg, from_scratch: dict) -> None:
    """Where a student's first weights come from, and the settings that go with them."""
    larger = arg.student not in ("", config.model.name)
    if arg.students == "scratch":
        student["train"]["epochs"] = from_scratch["epochs"]
        student["optim"] = {
            "warmup_epochs": from_scratch["warmup"],
            "decay_epochs": from_scratch["decay"],
            "learning_rate_per_256": from_scratch["rate"],
        }
        if larger:
            student["data"] = {"image_size": None}  # the network's own
        return
    if arg.students == "teacher":
        config.selftrain.student_init = "teacher"
        return
    config.selftrain.student_init = "init"
    own = arg.students
    if own == "init":
        if not larger:
            return
        own = _published(arg.init, config.model.name, arg.student)
    from ns_jax.weights import imported

    card = imported.card_of(own)
    if arg.student not in ("", card.architecture):
        raise InputError(f"student={arg.student}, but students={own} is {card.architecture}")
    student["model"]["name"] = card.architecture
    student["train"] |= {"init": own, "init_model": "", "new_head": True}
    student["data"] = _view_of(card)


def _published(init: str, network: str, student: str) -> str:
    """The published weights of the student's network from the family of the teacher's."""
    from ns_jax.weights import published

    short, larger = (name.removeprefix("efficientnet-") for name in (network, student))
    found = init.replace(f"efficientnet_{short}.", f"efficientnet_{larger}.")
    name = found.rpartition("/")[2]
    if not init.startswith("hf:") or found == init or name not in published.names():
        raise InputError(
            f"init={init} has no published weights of {student} beside it; name the student's own "
            "as students=FILE or students=hf:OWNER/NAME, or start it from scratch"
        )
    return found
