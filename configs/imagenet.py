"""The paper's ImageNet setting, as far as its official scripts give it, for one network.

    tfds build imagenet2012 --file_format=array_record        (once, where TensorFlow is installed)
    python -m ns_jax selftrain --config=configs/imagenet.py:model=b3 --workdir=runs/b3 \\
        --config.data.unlabelled='wds:/data/pool/*.tar'

The paper's pool of 300 million images is not public: any pool of photographs takes its place. The
teacher is a network of the student's size. Not reproduced here.
"""

from configs import base
from ns_jax import config as config_lib

# network: unlabelled images for each labelled one, passes over the labelled images (and the
# epochs between two decays of the learning rate), magnitude of RandAugment (None: without)
STUDENTS = {
    "b0": (1.0, 700.0, None),
    "b1": (3.0, 700.0, None),
    "b2": (3.0, 700.0, 6.0),
    "b3": (3.0, 700.0, 12.0),
    "b4": (3.0, 700.0, 15.0),
    "b5": (3.0, 350.0, 18.0),
    "b6": (3.0, 350.0, 24.0),
    "b7": (3.0, 350.0, 27.0),
}


def get_config(arg: str = ""):
    arg = config_lib.parse_arg(arg, role="selftrain", model="b0")
    if arg.model not in STUDENTS:
        raise ValueError(f"config argument model={arg.model}; known: {', '.join(STUDENTS)}")
    ratio, epochs, magnitude = STUDENTS[arg.model]
    config = base.get_config()
    config.model.name = f"efficientnet-{arg.model}"
    config.data.labelled = "tfds:imagenet2012:train"
    config.data.test = "tfds:imagenet2012:validation"
    config.data.interpolation = "bicubic_tf"
    config.train.batch_size = 4096
    config.train.epochs = epochs
    config.optim.decay_epochs = 2.4 * epochs / 350
    if magnitude is None:
        config.randaugment.num_layers = 0
    else:
        config.randaugment.magnitude = magnitude
    config.selftrain.iterations = 1
    config.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": {"train": {"unlabelled_ratio": ratio}},
    }
    return config_lib.at_role(config, arg.role)
