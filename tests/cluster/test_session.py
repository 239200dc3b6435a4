"""A process that ends its part in a cluster."""

import sys

import pytest

from tests.cluster.conftest import Head

pytestmark = pytest.mark.cluster

# `shutdown` says how long ago the last handle of an actor went.
DRIVER = """
import time
from victorian.cluster.session import session

with session():
    import ray

    @ray.remote(num_cpus=0)
    class Helper:
        def help(self) -> str:
            return "helped"

    plainly = ray.shutdown
    def shutdown() -> None:
        print(time.monotonic() - dropped)
        plainly()
    ray.shutdown = shutdown

    helper = Helper.remote()
    assert ray.get(helper.help.remote()) == "helped"
    del helper
    dropped = time.monotonic()
"""


def test_what_ray_has_yet_to_answer_is_answered_before_a_driver_leaves(head: Head) -> None:
    done = head.run(sys.executable, "-c", DRIVER, cwd=head.folder)
    assert done.returncode == 0, done.stderr
    # A thread of Ray's that comes after the end is an end by SIGSEGV: it has time enough on a busy machine.
    assert float(done.stdout) > 0.2
