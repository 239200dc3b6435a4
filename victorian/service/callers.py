"""Who sent a request, and how many more they may send in this minute, and of how many tokens."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from victorian.config import AccessConfig
from victorian.engine.request import Request
from victorian.errors import AuthenticationError, OverloadedError, RequestError
from victorian.service.keys import SCOPES, Key, Keyring

ANYONE = Key("anyone", frozenset(SCOPES), "")
"""Who everybody is where there are no keys."""


@dataclass(frozen=True)
class Spent:
    """What is left of a caller's minute after it was to pay for something."""

    what: Literal["requests", "tokens"]
    allowed: bool
    limit: int
    """Of them in any minute."""
    left: int
    seconds: float
    """Until there is more; if this was refused, until it is let in."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As OpenAI's API tells it."""
        said = {"limit": f"{self.limit}", "remaining": f"{self.left}", "reset": f"{max(self.seconds, 0):.3f}s"}
        return [(f"x-ratelimit-{name}-{self.what}".encode(), value.encode()) for name, value in said.items()]

    @property
    def retry_after(self) -> int:
        """Whole seconds, at least one."""
        return max(1, math.ceil(self.seconds))

    @property
    def refusal(self) -> str:
        spent = (
            f"has made its {self.limit} requests of a minute"
            if self.what == "requests"
            else f"has {self.left} of its {self.limit} tokens of a minute left, which is too few for this"
        )
        return f"this key {spent}: try again in {self.retry_after} seconds"


class Quota:
    """Requests that callers have made within a minute, and their tokens, counted in this process alone."""

    def __init__(self, config: AccessConfig) -> None:
        self._requests = _a_minute(config.requests_per_minute)
        self._tokens = _a_minute(config.tokens_per_minute)
        self._storage = MemoryStorage()
        self._exact = MovingWindowRateLimiter(self._storage)
        # The other keeps an entry for each token; this one two numbers, and takes the minute before this one as even.
        self._even = SlidingWindowCounterRateLimiter(self._storage)

    async def spend(self, name: str) -> Spent | None:
        """Count a request, unless it is one too many; None where nothing is counted."""
        if self._requests is None:
            return None
        allowed = await self._exact.hit(self._requests, name)
        window = await self._exact.get_window_stats(self._requests, name)
        seconds = window.reset_time - time.time()
        return Spent("requests", allowed, self._requests.amount, window.remaining, seconds)

    async def spend_tokens(self, name: str, count: int) -> Spent | None:
        """Count tokens, unless they are too many; None where nothing is counted.

        Raises:
            RequestError: if no minute has so many.
        """
        if self._tokens is None:
            return None
        most = self._tokens.amount
        if count > most:
            message = f"this asks for {count} tokens, prompt included, and a key has {most} a minute: ask for fewer"
            raise RequestError(message, "max_tokens")
        allowed = await self._even.hit(self._tokens, "tokens", name, cost=count)
        window = await self._even.get_window_stats(self._tokens, "tokens", name)
        seconds = window.reset_time - time.time() if allowed else await self._until_room(name, count)
        return Spent("tokens", allowed, most, window.remaining, seconds)

    async def _until_room(self, name: str, count: int) -> float:
        """Seconds until so many tokens are let in, if nobody else asks."""
        assert self._tokens is not None
        minute, room = self._tokens.get_expiry(), self._tokens.amount - count
        key = self._tokens.key_for("tokens", name)
        before, left, now, _ = await self._storage.get_sliding_window(key, minute)
        if before and now <= room:  # what was spent in the minute before fades until this one ends
            return left - (room - now) * minute / before
        rest = minute - time.time() % minute
        return rest + minute * (1 - room / now)


def _a_minute(most: int | None) -> RateLimitItemPerMinute | None:
    return RateLimitItemPerMinute(most) if most else None


def price(requests: Sequence[Request], choices: int, max_tokens: int) -> int:
    """Tokens that requests are paid for with when they come: each prompt once, and all that may be generated.

    Args:
        choices: of each prompt, which stand side by side.
    """
    return sum(len(request.prompt) for request in requests[::choices]) + max_tokens * len(requests)


@dataclass(frozen=True)
class Caller:
    """Whoever holds a connection. In `scope["state"]["caller"]` of every request that is not public."""

    key: Key
    keyring: Keyring
    quota: Quota
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """What an answer over HTTP says of limits."""

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

    async def spend_tokens(self, count: int) -> None:
        """Count the tokens of a request, which are not given back if fewer are generated.

        Raises:
            OverloadedError: if its minute has not so many left.
            RequestError: if no minute has so many.
        """
        spent = await self.quota.spend_tokens(self.name, count)
        if spent is None:
            return
        self.headers.extend(spent.headers)
        if not spent.allowed:
            raise OverloadedError(spent.refusal, code="rate_limited", retry_after_seconds=spent.retry_after)
