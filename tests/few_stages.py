"""configs/digits.py for processes of their own: pico, which ends after three stages of seven.

What it compiles it compiles in a third of the time, and is a training, a labelling and a selection
like any other. The fixture `few_stages` is the same for a test's own process.
"""

from configs import digits
from ns_jax.models import efficientnet


def get_config(arg: str = ""):
    efficientnet.STAGES = efficientnet.STAGES[:3]
    config = digits.get_config(arg)
    config.model.name = "efficientnet-pico"
    return config
