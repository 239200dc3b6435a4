"""A process that ends its part in a cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import BIN, Head
from tests.running_service import soon

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


def test_a_process_told_to_end_while_ray_starts_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from victorian.cluster.session import session\nwith session():\n    input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        own = psutil.Process(process.pid)
        assert soon(lambda: bool(own.children()), seconds=60)
        started = own.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not psutil.wait_procs(started, timeout=30)[1]


def test_what_ray_has_yet_to_answer_is_answered_before_a_driver_leaves(head: Head) -> None:
    done = head.run(sys.executable, "-c", DRIVER, cwd=head.folder)
    assert done.returncode == 0, done.stderr
    # A thread of Ray's that comes after the end is an end by SIGSEGV: it has time enough on a busy machine.
    assert float(done.stdout) > 0.2


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_gone_is_told_at_once(scheme: str, free_port: Callable[[], int], tmp_path: Path) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    command = [str(BIN / "victorian"), "prepare", "sample", "--output", str(tmp_path / "data")]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"RAY_ADDRESS is '{address}', where no cluster answers: nothing listens there" in done.stderr
