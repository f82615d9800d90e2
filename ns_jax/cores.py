"""The processor cores that this process may use."""

import os


def count() -> int:
    """All of the machine's; from Python 3.13 on those that this process is allowed."""
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1
