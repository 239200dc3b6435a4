"""Who sent a request, and how many more they may send in this minute."""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from victorian.errors import AuthenticationError, OverloadedError
from victorian.service.keys import SCOPES, Key, Keyring

ANYONE = Key("anyone", frozenset(SCOPES), "")
"""Who everybody is where there are no keys."""


@dataclass(frozen=True)
class Spent:
    """What is left of a caller's minute after one more request."""

    allowed: bool
    limit: int
    """Requests in any minute."""
    left: int
    seconds: float
    """Until one more is let in."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As OpenAI's API tells it."""
        said = {"limit": f"{self.limit}", "remaining": f"{self.left}", "reset": f"{max(self.seconds, 0):.3f}s"}
        return [(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in said.items()]

    @property
    def retry_after(self) -> int:
        """Whole seconds, at least one."""
        return max(1, math.ceil(self.seconds))

    @property
    def refusal(self) -> str:
        return f"this key has made its {self.limit} requests of a minute: try again in {self.retry_after} seconds"


class Quota:
    """Requests that callers have made within a minute, counted in this process alone."""

    def __init__(self, per_minute: int | None) -> None:
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def spend(self, name: str) -> Spent | None:
        """Count a request, unless it is one too many; None where nothing is counted."""
        if self._item is None:
            return None
        allowed = await self._limiter.hit(self._item, name)
        window = await self._limiter.get_window_stats(self._item, name)
        return Spent(allowed, self._item.amount, window.remaining, window.reset_time - time.time())


@dataclass(frozen=True)
class Caller:
    """Whoever holds a connection. In `scope["state"]["caller"]` of every request that is not public."""

    key: Key
    keyring: Keyring
    quota: Quota

    @property
    def name(self) -> str:
        """The key's."""
        return self.key.name

    async def spend(self) -> None:
        """Count one more generation on an open connection.

        Raises:
            AuthenticationError: if the key has been taken back since.
            OverloadedError: if it has used up its minute.
        """
        if self.key is not ANYONE and not self.keyring.knows(self.key):
            raise AuthenticationError("this key has been taken back: ask the operator for another")
        spent = await self.quota.spend(self.name)
        if spent and not spent.allowed:
            raise OverloadedError(spent.refusal, code="rate_limited", retry_after_seconds=spent.retry_after)
