"""CIFAR-10 or -100 with some of its 50,000 training images labelled and the others as the pool.

    tfds build cifar10 --file_format=array_record        (once, where TensorFlow is installed)
    python -m ns_jax selftrain --config=configs/cifar.py:classes=10,labelled=4000 --workdir=runs/c10

Not a setting of the paper: SVHN's recipe with mirroring and CIFAR's own mean and std. No result of
it has been measured here.
"""

from configs import base, svhn
from ns_jax import config as config_lib

MEAN = {10: (0.4914, 0.4822, 0.4465), 100: (0.5071, 0.4865, 0.4409)}
STD = {10: (0.2470, 0.2435, 0.2616), 100: (0.2673, 0.2564, 0.2762)}


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(arg, role="selftrain", classes=10, labelled=4000)
    if arg.classes not in MEAN:
        raise ValueError(f"config argument classes={arg.classes}; known: 10, 100")
    if not 0 < arg.labelled < 50_000:
        raise ValueError(f"config argument labelled={arg.labelled}; it must be in 1..49999")
    config = svhn.get_config()
    name = f"tfds:cifar{arg.classes}"
    config.data.labelled = f"{name}:train[:{arg.labelled}]"
    config.data.unlabelled = f"{name}:train[{arg.labelled}:]"
    config.data.test = f"{name}:test"
    config.data.flip = True
    config.data.mean = MEAN[arg.classes]
    config.data.std = STD[arg.classes]
    config.train.epochs = 109_474 * config.train.batch_size / arg.labelled  # SVHN's steps
    config.optim.decay_epochs = base.get_config().optim.decay_epochs * config.train.epochs / 350
    config.optim.warmup_epochs = config.train.epochs / 40
    config.select.per_class = 0  # as many rows of each class as the largest has
    return config_lib.at_role(config, arg.role)
