"""Joins a running Ray cluster, or starts one inside this process.

Which it is, RAY_ADDRESS says (`ray job submit` sets it). A cluster that was started here ends with the session, and
with it every process it began. Token authentication is on unless RAY_AUTH_MODE says otherwise, since Ray's own ports
listen on every interface.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from victorian.cores import cores
from victorian.errors import ConfigError, VictorianError

OBJECT_STORE_BYTES = 300 * 1024 * 1024
"""Small, since tokens go through storage and not through Ray's object store."""

CONNECT_SECONDS = 10.0
"""How long a cluster's address may take to answer at all."""
SETTLE_SECONDS = 0.25
"""How long a session rests before it leaves its cluster.

When the last handle of an actor goes, as it does when training has just ended, this process answers the cluster from a
thread that Ray 2.60 does not wait for: it frees what the answer needs, and a thread that comes late ends the process
with SIGSEGV, and with it a run that was done (the same fault as in https://github.com/ray-project/ray/pull/61863).
"""

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # `ray.train.report` blocks until the controller's next round, every 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Ray lowers its workers to niceness 15: training and replies would wait for whatever else runs on the machine.
    "RAY_worker_niceness": "0",
    # Serve's controller looks around ten times a second by default, which with what it asks of others takes some
    # three hundredths of a core from the network.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # The log monitor would list its folder ten times a second, not twice; the dashboard measure itself every 5 seconds.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "1",
    "METRICS_RECORD_INTERVAL_S": "60",
    # Prints of workers would appear twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Keeps a warning off every worker without a GPU; the new behaviour is the one we want.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare_environment() -> None:
    """Set what Ray reads from the environment, where the user has not; must run before Ray is imported.

    Raises:
        ConfigError: if Ray has been imported without token authentication: it would start and then refuse itself.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ConfigError(
            "Ray was imported before its environment was set: call victorian.cluster.session.prepare_environment() "
            "first, or set RAY_AUTH_MODE=token"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in os.environ:
        _private_token(Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")))


def _private_token(path: Path) -> None:
    """Make sure of a token file that only its owner can read; Ray would write it for everybody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


@contextmanager
def session(join: bool = False) -> Iterator[None]:
    """A cluster to work on, for as long as the context lasts; within another session, that one.

    Args:
        join: take one that runs on this machine, where RAY_ADDRESS names none, and never start one.

    Raises:
        ConfigError: if there is none where one was to be.
    """
    prepare_environment()
    import ray  # reads the environment when it is imported

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or ("auto" if join else None)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            _require_listener(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            where = f"RAY_ADDRESS is {address!r}, where" if address != "auto" else "RAY_ADDRESS is not set, and here"
            raise ConfigError(f"{where} no cluster answers: {reason}") from error
    else:
        try:
            ray.init(
                address="local",
                num_cpus=max(2, cores()),  # a Train worker and its controller do not fit on one
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,  # without it Train and Serve log failed queries again and again
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except SystemExit as stop:  # while it starts, Ray takes SIGTERM for itself and exits with its bare number
            sys.exit(128 + signal.SIGTERM if stop.code == signal.SIGTERM else stop.code)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints a stack and aborts
        yield
    finally:
        time.sleep(SETTLE_SECONDS)
        ray.shutdown()


def _require_listener(address: str) -> None:
    """ConnectionError where nobody listens: Ray would try twenty times, half a minute each."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto", or a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nothing listens there: {error}") from error


@contextmanager
def own_errors() -> Iterator[None]:
    """Let an error of ours that a worker raised come out as itself, and not as what Ray wrapped around it."""
    try:
        yield
    except Exception as error:
        if ours := our_error(error):
            raise ours from None
        raise


def our_error(error: BaseException) -> VictorianError | None:
    """The error of ours that Ray wrapped on its way from a worker, if there is one behind `error`."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, VictorianError) and type(current).__module__ == VictorianError.__module__:
            return current
        failures = getattr(current, "worker_failures", None) or {}
        linked = [getattr(current, "cause", None), current.__cause__, current.__context__, *failures.values()]
        queue.extend(item for item in linked if isinstance(item, BaseException))
    return None
