"""tests/few_stages.py with one stage, whose training waits after its third step at a file.

NS_JAX_TEST_HOLD names the file, beside which each process leaves `held.INDEX`. So a test may end it
there, whenever the machine gets to it. A notice ends the wait as well. No bit depends on it.
"""

import itertools
import os
import pathlib
import time

from ns_jax.models import efficientnet
from ns_jax.parallel import preemption, processes
from tests import few_stages

STEP = 3


def get_config(arg: str = ""):
    if hold := os.environ.get("NS_JAX_TEST_HOLD"):
        _hold_while_there_is(pathlib.Path(hold))
    config = few_stages.get_config(arg)
    efficientnet.STAGES = efficientnet.STAGES[:1]
    return config


def _hold_while_there_is(file: pathlib.Path) -> None:
    calls, leave = itertools.count(1), processes.leave_after_this_step

    def wait_and_leave() -> bool:
        number = next(calls)
        if number == STEP and file.exists():
            (file.parent / f"held.{processes.index()}").touch()
            while file.exists() and not preemption.noticed():
                time.sleep(0.05)
        if number > STEP and file.exists():
            time.sleep(0.3)  # for the processes to agree on a step within this training
        return leave()

    processes.leave_after_this_step = wait_and_leave
