"""How many CPU cores this process may use. Beside `device.py`, and not in it, for processes that do without torch."""

import math
import os
from pathlib import Path


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores that this process may use: those it may run on, or the share of time that its container has of them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # "200000 100000" is two cores' time, "max 100000" no limit
        most, period = quota.read_text().split()
        return max(1, min(allowed, math.ceil(int(most) / int(period))))
    except (OSError, ValueError):
        return allowed
