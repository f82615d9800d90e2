"""Process INDEX of two, at COORDINATOR, between one training and the next."""

import sys
import time

from ns_jax.parallel import preemption

preemption.block_sigterm()
preemption.start_watcher(60.0)

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")

from ns_jax.parallel import processes  # noqa: E402

processes.connect(sys.argv[1], 2, int(sys.argv[2]), False)
with preemption.deferred():
    for _ in range(300):
        processes.leave_after_this_step()
    print("between", flush=True)
    time.sleep(3)
    for step in range(1, 21):
        if processes.leave_after_this_step():
            print("leaves", step, flush=True)
            preemption.leave()
        time.sleep(0.2)
