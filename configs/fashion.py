"""Self-training on Fashion-MNIST: 70,000 photographs of clothes, of which 20 a class keep a label.

    apt-get install dataset-fashion-mnist        (Debian, Ubuntu; 31 MB)
    python -m ns_jax selftrain --config=configs/fashion.py --workdir=runs/fashion

20,000 of the other training images are the pool; all 10,000 test images are tested. Of the same
files elsewhere: `configs/fashion.py:dir=/data/fashion`. Settings were chosen on seed 100, which no
table reports.
"""

from configs import base
from ns_jax import config as config_lib
from ns_jax.data.formats import idx


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(arg, role="selftrain", dir=idx.FASHION_MNIST)
    config = base.get_config()
    config.model.name = "efficientnet-nano"
    config.model.small_images = True
    config.model.bn_momentum = 0.9  # 0.99 does not settle in so few steps
    config.data.labelled = f"few:idx:{arg.dir}:train"
    config.data.unlabelled = f"rest:idx:{arg.dir}:train"
    config.data.test = f"idx:{arg.dir}:test"
    config.data.labels_per_class = 20
    config.data.rest_limit = 20_000
    config.data.image_size = 28
    config.data.crop = "none"
    config.data.train_view = "pad"
    config.data.flip = True
    config.data.mean = (0.286, 0.286, 0.286)
    config.data.std = (0.353, 0.353, 0.353)
    config.randaugment.magnitude = 5.0
    config.randaugment.translate_pixels = 4.0
    config.randaugment.cutout_pixels = 4.0
    config.train.batch_size = 50
    config.train.epochs = 200.0
    config.train.log_every_steps = 50
    config.train.save_every_steps = 500
    config.loss.temperature = 0.5  # at 1.0 student 1 of seed 100 stayed at its teacher
    config.optim.learning_rate_per_256 = 0.05
    config.optim.warmup_epochs = 20.0
    config.optim.decay_epochs = 3.0
    config.select.threshold = 0.5
    config.select.per_class = 1000  # of about 2,000: the best of each class
    config.selftrain.iterations = 2
    config.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": {
            "train": {"unlabelled_ratio": 4.0, "epochs": 100.0},
            "optim": {"decay_epochs": 1.5, "warmup_epochs": 10.0},
        },
    }
    return config_lib.at_role(config, arg.role)
