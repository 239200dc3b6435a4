"""What is read from the environment, but for the device's and Ray's own."""

import os
import re
from pathlib import Path

from pydantic import Field

from victorian.config.section import Section
from victorian.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where a service is looked for unless VICTORIAN_URL or a flag says otherwise."""

DEFAULT_CACHE = "~/.cache/victorian"
DEFAULT_CACHE_BYTES = 64 * 2**30


def service_url() -> str:
    """The service that clients talk to: VICTORIAN_URL, else this machine's port 8000."""
    return os.environ.get("VICTORIAN_URL", DEFAULT_URL)


def client_key() -> str | None:
    """The key that clients send: VICTORIAN_API_KEY, if it is set."""
    return os.environ.get("VICTORIAN_API_KEY") or None


def service_keys() -> str | None:
    """Keys that a service knows beside those of its file: VICTORIAN_KEYS, lines of such a file; `;` ends one too."""
    return os.environ.get("VICTORIAN_KEYS") or None


class CacheSettings(Section):
    """Where a machine keeps the shards that it has fetched from an object store."""

    folder: Path
    """Absolute, on a disk of the machine itself: a cache is shared by its processes and not with other machines."""
    max_bytes: int = Field(ge=1)
    """Bytes that the cache may hold."""


def make_private(folder: Path) -> None:
    """Make a folder that this user alone can enter, with what is missing above it, whatever the umask; or find it."""
    if not folder.parent.exists():
        make_private(folder.parent)  # `mkdir` would give those above it to the group, where the umask does
    folder.mkdir(mode=0o700, exist_ok=True)


def cache_settings() -> CacheSettings:
    """VICTORIAN_CACHE, else `~/.cache/victorian`, and VICTORIAN_CACHE_BYTES, else 64 GiB; ConfigError for bad ones."""
    folder = Path(os.environ.get("VICTORIAN_CACHE") or DEFAULT_CACHE)
    size = os.environ.get("VICTORIAN_CACHE_BYTES") or str(DEFAULT_CACHE_BYTES)
    try:
        folder = folder.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{folder} has no home to stand in: set VICTORIAN_CACHE to an absolute folder") from error
    if not folder.is_absolute():
        raise ConfigError(f"expected an absolute folder in VICTORIAN_CACHE, got {str(folder)!r}")
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", size):
        raise ConfigError(f"expected a number of bytes in VICTORIAN_CACHE_BYTES, such as 68719476736, got {size!r}")
    return CacheSettings(folder=folder, max_bytes=int(size))
