"""Which doors of a machine a service may stand in: without keys, none but loopback, unless that was meant.

The application does not know who routes to it. Here it is asked for: of the command line before anything starts, of
Serve's controller in every replica, since only there both the address and that replica's keys are known.
"""

import ipaddress
from pathlib import Path

from victorian.config import ServiceConfig, service_keys
from victorian.errors import ConfigError
from victorian.service.keys import Keyring


def require_closed_doors(config: ServiceConfig, host: str | None) -> None:
    """Refuse to let other machines in without keys.

    Args:
        host: what Serve's proxy listens on; None where there is none.

    Raises:
        ConfigError: if they would be let in and nobody said so, or if the keys cannot be read.
    """
    keyring = Keyring(config.access.keys_file, service_keys())
    if host is None or _loopback(host) or keyring.on or config.access.open_to_anyone:
        return
    raise ConfigError(
        f"at {host} other machines reach this service and nothing asks them for a key: listen on 127.0.0.1, name a "
        "file of keys in access.keys_file (`victorian key` makes them), or set access.open_to_anyone"
    )


def proxy_host() -> str | None:
    """What the proxies of the running Serve listen on; None if they do not."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    host: str | None = client.http_config.host if client else None
    return host


def require_address(host: str, port: int) -> None:
    """Whether the running Serve listens where it was to: it never moves, and only warns of that.

    Raises:
        ConfigError: if it listens elsewhere, as it does where a cluster that was joined had one.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "it raises where Serve does not run"
    listens = client.http_config
    if (listens.host, listens.port) != (host, port):
        raise ConfigError(
            f"this cluster's Serve listens at {listens.host}:{listens.port} already and cannot be moved to "
            f"{host}:{port}: bring the model onto it with `serve deploy`, or end it with `serve shutdown` before"
        )


def with_absolute_paths(config: ServiceConfig) -> ServiceConfig:
    """The same for a replica, which has another working directory."""
    if config.access.keys_file is None:
        return config
    keys_file = str(Path(config.access.keys_file).expanduser().absolute())
    return config.model_copy(update={"access": config.access.model_copy(update={"keys_file": keys_file})})


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
