"""API keys: how one is made, who holds it, and what it opens. Knows no HTTP.

A key is 256 random bits, and what is kept of it is its SHA-256. A slow hash, as passwords need one, would protect
nothing here: it makes each guess dearer, and of 2**256 keys nobody guesses one. It would cost every request its time.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from victorian.errors import ConfigError

Scope = Literal["generate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

LOOK_SECONDS = 2.0
"""A change of the file is noticed by the first request that comes so long after the last look."""
MAX_FILE_BYTES = 1 << 20
MAX_KEYS = 1000
"""Each request is compared with all of them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMES = "1 to 64 letters, digits and any of . _ -, beginning with none of these"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A key by its holder's name."""

    name: str
    scopes: frozenset[Scope]
    digest: str = field(repr=False)
    """Hexadecimal."""


def make_key(name: str, scopes: Sequence[Scope]) -> tuple[str, str]:
    """A new key, which is kept nowhere, and the line that lets a service know it.

    Raises:
        ConfigError: if nobody can be called so, or there are no scopes.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a name of {_NAMES}, got {name!r}")
    if not scopes:
        raise ConfigError(f"a key without scopes opens nothing: give some of {', '.join(SCOPES)}")
    secret = f"vk-{secrets.token_urlsafe(32)}"
    return secret, f"{name} {','.join(scopes)} sha256:{_digest(secret)}"


def read_keys(text: str, where: str) -> tuple[Key, ...]:
    """The keys of lines `NAME SCOPE[,SCOPE] sha256:HEX`; empty lines and what follows a `#` mean nothing.

    Raises:
        ConfigError: for a line that is none; it tells the line's number and not what stands there.
    """
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        expected = f"{where}, line {number}: expected `NAME SCOPES sha256:HEX` as `victorian key` prints it"
        if len(words) != 3:
            raise ConfigError(f"{expected}, got {len(words)} words")
        name, listed, digest = words
        scopes: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in listed.split(","))
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{expected}; a name has {_NAMES}")
        if not set(listed.split(",")) <= set(SCOPES):
            raise ConfigError(f"{expected}; scopes are {', '.join(SCOPES)}, with a comma between two")
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{expected}; the hash is no SHA-256 in 64 small hexadecimal digits")
        if name in keys:
            raise ConfigError(f"{where}, line {number}: {name} has a key already: give this one another name")
        keys[name] = Key(name, scopes, digest.removeprefix("sha256:"))
    if len(keys) > MAX_KEYS:
        raise ConfigError(f"{where} holds {len(keys)} keys, and {MAX_KEYS} is the limit")
    return tuple(keys.values())


class Keyring:
    """The keys of a service: those of a file, which may change while it runs, and those of the environment."""

    def __init__(self, file: str | None = None, more: str | None = None) -> None:
        """Read both.

        Args:
            file: path of the keys' file.
            more: lines of such a file; a `;` ends one too.

        Raises:
            ConfigError: if the file cannot be read, if others than its owner may write it, or a line is no key.
        """
        self._file = file
        self._more = read_keys((more or "").replace(";", "\n"), "VICTORIAN_KEYS")
        self._version: tuple[int, ...] = ()
        self._looked = time.monotonic()
        self._keys = self._more
        self.on = file is not None or bool(self._more)
        """Whether keys are asked for at all."""
        self._read()

    def find(self, secret: str) -> Key | None:
        """Whose key this is; None if it is nobody's."""
        self._look()
        digest = _digest(secret)
        found = None
        for key in self._keys:  # to the end, found or not: how long it takes says nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def knows(self, key: Key) -> bool:
        """Whether a key that was found once has not been taken back since."""
        self._look()
        return key in self._keys

    def _look(self) -> None:
        """Read the file again if it has changed. One that cannot be understood changes nothing and is complained of."""
        if self._file is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            self._read()
        except ConfigError as error:
            _log.error("the keys are those that were read before: %s", error)

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            with open(self._file, "rb") as file:
                now = os.fstat(file.fileno())
                version = (now.st_mtime_ns, now.st_size, now.st_ino, now.st_mode)
                if version == self._version:
                    return
                if now.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise ConfigError(f"others could add keys to {self._file}: `chmod go-w {self._file}`")
                text = file.read(MAX_FILE_BYTES + 1)
            if len(text) > MAX_FILE_BYTES:
                raise ConfigError(f"{self._file} has more than {MAX_FILE_BYTES} bytes: it is no file of keys")
            keys = read_keys(text.decode(), self._file)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"the keys in {self._file} cannot be read: {reason}") from error
        if both := {key.name for key in keys} & {key.name for key in self._more}:
            raise ConfigError(f"{self._file} and VICTORIAN_KEYS both have a key for {min(both)}")
        self._keys = (*keys, *self._more)
        self._version = version


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
