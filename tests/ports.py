"""Ports for what tests start."""

import random
import socket

RANGE = range(20_000, 32_000)
"""Above those of Ray's workers, below those that the system gives to whoever connects: one of these would now and then
be taken before the process that it was chosen for listens on it."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on, all different."""
    found: list[socket.socket] = []
    try:
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            probe = socket.socket()
            found.append(probe)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.pop().close()
            if len(found) == count:
                return [int(probe.getsockname()[1]) for probe in found]
    finally:
        for probe in found:
            probe.close()
    raise AssertionError(f"there are no {count} ports left")
