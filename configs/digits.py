"""Self-training on scikit-learn's 1,797 real digits with 5 labels a class; needs no download.

python -m ns_jax selftrain --config=configs/digits.py --workdir=runs/digits
"""

from configs import base
from ns_jax import config as config_lib


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(arg, role="selftrain")
    config = base.get_config()
    config.model.name = "efficientnet-nano"
    config.model.small_images = True
    config.model.bn_momentum = 0.9  # 0.99 does not settle in so few steps
    config.data.labelled = "digits:train"
    config.data.unlabelled = "digits:unlabelled"
    config.data.test = "digits:test"
    config.data.image_size = 16
    config.data.crop = "none"
    config.data.train_view = "pad"
    config.data.flip = False
    config.data.mean = (0.305, 0.305, 0.305)
    config.data.std = (0.376, 0.376, 0.376)
    config.randaugment.magnitude = 5.0
    config.randaugment.translate_pixels = 2.0
    config.randaugment.cutout_pixels = 2.0
    config.train.batch_size = 50
    config.train.epochs = 200.0
    config.train.log_every_steps = 50
    config.train.save_every_steps = 100
    config.loss.temperature = 0.5  # so short a training leaves the teacher underconfident
    config.optim.learning_rate_per_256 = 0.05
    config.optim.warmup_epochs = 20.0
    config.optim.decay_epochs = 3.0
    config.select.threshold = 0.3
    config.select.per_class = 80  # of about 115: the best of each class
    config.selftrain.iterations = 2
    config.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": {"train": {"unlabelled_ratio": 4.0}},
    }
    return config_lib.at_role(config, arg.role)
