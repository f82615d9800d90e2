"""Self-training on your own images, from directories.

    python -m ns_jax selftrain --config=configs/folder.py --workdir=runs/mine \\
        --config.data.labelled=folder:LABELLED --config.data.unlabelled=folder:UNLABELLED \\
        --config.data.test=folder:TEST

LABELLED and TEST hold a sub-folder for each class; UNLABELLED holds images, in sub-folders or not.
The argument chooses the networks and the image size: `configs/folder.py:model=efficientnet-b2`,
`...:student=efficientnet-b4` for a student larger than its teacher, `...:small=true` for images of
about 32 pixels.
"""

from configs import base
from ns_jax import config as config_lib


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(
        arg, role="selftrain", model="efficientnet-b0", student="", small=False
    )
    config = base.get_config()
    config.model.name = arg.model
    config.model.small_images = arg.small
    config.train.batch_size = 32
    config.train.epochs = 100.0
    config.train.save_every_steps = 500
    config.train.log_every_steps = 50
    config.optim.ema_decay = 0.999  # 0.9999 looks back further than a short run has steps
    config.optim.decay_epochs = 1.5
    config.randaugment.magnitude = 10.0
    config.select.per_class = 0  # every class gets as many rows as the largest one
    if arg.small:  # few images too, most likely: the digits' settings
        config.data.image_size = 32
        config.data.crop = "none"
        config.data.train_view = "pad"
        config.randaugment.magnitude = 5.0
        config.randaugment.translate_pixels = 4.0
        config.randaugment.cutout_pixels = 4.0
        config.model.bn_momentum = 0.9  # 0.99 does not settle in a few hundred steps
        config.train.epochs = 300.0
        config.optim.decay_epochs = 4.5
        config.optim.warmup_epochs = 20.0
        config.optim.learning_rate_per_256 = 0.05
        config.loss.temperature = 0.5
    config.selftrain.iterations = 2
    config.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": {
            "model": {"name": arg.student or arg.model},
            "train": {"unlabelled_ratio": 3.0},
        },
    }
    return config_lib.at_role(config, arg.role)
