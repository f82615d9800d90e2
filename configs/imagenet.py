"""The paper's ImageNet recipes: one network with itself as teacher, or a chain of networks.

    tfds build imagenet2012 --file_format=array_record        (once, where TensorFlow is installed)
    python -m ns_jax selftrain --config=configs/imagenet.py:model=b3 --workdir=runs/b3 \\
        --config.data.unlabelled='wds:/data/pool/*.tar'

`model` is b0 to b7 or l0 to l2; `chain=paper` is B7 -> L2 -> L2 -> L2 with 14, 14 and 28 unlabelled
images for each labelled one, `chain=v1` the first version's B7 -> B7 -> L0 -> L1 -> L2 -> L2, B7
being its own student first. An L2 that teaches a smaller network:
`model=b3 --config.selftrain.teacher=runs/l2/iteration_3/finetune`.
`batch=official` is the official scripts' 4,096 labelled images a step, `batch=paper` 2,048. `role`
picks one training: teacher, student or finetune.

In the paper a small network filters and balances the pool once, and every teacher of the chain only
labels again what it kept, copies and all. `filter=CHECKPOINT` names that network (a B0, as far as
is known) and sets `selftrain.filter`: `chain=paper,filter=runs/b0/iteration_1`. Without it each
teacher labels, and chooses from, the whole pool.

Known of the fine-tune at 800 pixels: the last L2 has it, of 1.5 epochs. Not known: whether an L2
that teaches had it before it labelled. Here such a teacher labels as it was trained, at 475 pixels;
`finetune=all` gives every L0 to L2 its fine-tune, from which it then labels.

The paper's pool of 300 million images is not public: any pool of photographs takes its place. Not
reproduced here. What the scripts do not have (L0 to L2 and all of a chain) is the paper's text.
L2's mesh and remat are what `plan` found fastest for a v3-2048; the other networks' fit the slices
that docs/plan.md lists, and were not compared with others.
"""

import dataclasses

from configs import base
from ns_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network as a student; its teacher's training is the same without unlabelled images."""

    ratio: float  # unlabelled images for each labelled one
    train_ratio: int  # as officially: times 350 epochs over the labelled images
    magnitude: float | None  # of RandAugment; None: without
    fsdp: int = 1
    remat: str = "full"
    finetune_size: int | None = None  # pixels


RECIPES = {
    "b0": Recipe(1.0, 2, None),
    "b1": Recipe(3.0, 2, None),
    "b2": Recipe(3.0, 2, 6.0),
    "b3": Recipe(3.0, 2, 12.0),
    "b4": Recipe(3.0, 2, 15.0),
    "b5": Recipe(3.0, 1, 18.0),
    "b6": Recipe(3.0, 1, 24.0),
    "b7": Recipe(3.0, 1, 27.0),
    "l0": Recipe(3.0, 1, 27.0, 8, "full", 600),
    "l1": Recipe(3.0, 1, 27.0, 8, "full", 600),
    "l2": Recipe(14.0, 1, 27.0, 8, "full,full,depthwise,depthwise,convs,convs,convs", 800),
}
# The official code multiplies the whole number of steps: 2 x 109,474, one less than of 700 epochs.
EPOCHS = {1: 350.0, 2: 699.997}
CHAINS = {  # network and ratio of each iteration; the first is the teacher
    "paper": (("b7", 0.0), ("l2", 14.0), ("l2", 14.0), ("l2", 28.0)),
    "v1": (("b7", 0.0), ("b7", 3.0), ("l0", 3.0), ("l1", 3.0), ("l2", 3.0), ("l2", 3.0)),
}
BATCHES = {"official": 4096, "paper": 2048}


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(
        arg, role="selftrain", model="b0", chain="", batch="", filter="", finetune="last"
    )
    for name, known in (
        ("model", RECIPES),
        ("chain", ("", *CHAINS)),
        ("batch", ("", *BATCHES)),
        ("finetune", ("last", "all")),
    ):
        if arg[name] not in known:
            names = ", ".join(filter(None, known))
            raise ValueError(f"config argument {name}={arg[name]}; known: {names}")
    large = arg.chain or arg.model.startswith("l")
    config = base.get_config()
    config.data.labelled = "tfds:imagenet2012:train"
    config.data.test = "tfds:imagenet2012:validation"
    config.data.interpolation = "bicubic_tf"
    config.model.dtype = "bfloat16"
    config.train.batch_size = BATCHES[arg.batch or ("paper" if large else "official")]
    config.label.batch_size = 16_384  # 8 images a core of v3-2048
    chain = CHAINS.get(arg.chain, ((arg.model, 0.0), (arg.model, RECIPES[arg.model].ratio)))
    config.selftrain.iterations = len(chain) - 1
    config.selftrain.filter = arg.filter
    config.selftrain.overrides = {
        f"iteration_{k}": _iteration(
            name, ratio, tuned=arg.finetune == "all" or k == len(chain) - 1
        )
        for k, (name, ratio) in enumerate(chain)
    }
    return config_lib.at_role(config, arg.role)


def _iteration(name: str, ratio: float, tuned: bool) -> dict:
    """What an iteration with this network and ratio differs in."""
    recipe = RECIPES[name]
    # 28:1 on 2,048 cores: of an image a core, every second one counts (official sample_prob).
    sample_prob = 0.5 if ratio == 28 else 1.0
    changes = {
        "model": {"name": f"efficientnet-{name}", "remat": recipe.remat},
        "mesh": {"fsdp": recipe.fsdp},
        "train": {
            "epochs": EPOCHS[recipe.train_ratio],
            "unlabelled_ratio": ratio,
            "sample_prob": sample_prob,
        },
        "optim": {"decay_epochs": 2.4 * recipe.train_ratio},
        "randaugment": (
            {"num_layers": 0} if recipe.magnitude is None else {"magnitude": recipe.magnitude}
        ),
    }
    if tuned and recipe.finetune_size:
        changes["finetune"] = {"epochs": 1.5, "image_size": recipe.finetune_size, "remat": "full"}
    return changes
