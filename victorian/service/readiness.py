"""Whether the models of a service work: a token that came lately proves it, whoever asked for it.

A model that gave none for a while is asked for one, with a limit on the time and before everybody who waits, so a full
house is no excuse. However many ask whether a service is ready, a model is asked for one token at a time. Anybody may
ask, so what is said of a model that is not names no exception: that stands in the log, where the engine has put it.
"""

import asyncio
from contextlib import aclosing
from time import perf_counter

from victorian.config import ObservationConfig, SamplingParameters
from victorian.engine.request import Completed, Failed
from victorian.engine.succession import Succession
from victorian.errors import OverloadedError, RequestError, ServiceError
from victorian.service.models import DRAINING, Models

PROBE = "readiness"
"""The id of the request; a second one is refused by the engine while the first hangs in it."""

PRIORITY = 1_000_000

STOPPED = "its engine has stopped"


class Readiness:
    """Asks models for tokens. Used on one event loop."""

    def __init__(self, models: Models, config: ObservationConfig) -> None:
        self._models = models
        self._every = config.probe_seconds
        self._limit = config.probe_timeout_seconds
        self._probes: dict[Succession, asyncio.Task[str | None]] = {}
        self._failures: dict[Succession, tuple[float, str]] = {}
        """What the last probe of a model met, and when."""

    async def troubles(self) -> dict[str, str]:
        """What is wrong with which model; empty if the service can be used. Waits for a probe only if nothing is known.

        A model that is broken is known to be at once.
        """
        served = self._models.all()
        if self._models.draining:
            return {"": DRAINING}
        if not served:
            return {"": "no model is loaded yet"}
        found = await asyncio.gather(*(self._trouble(one.engine, 2 * self._every) for one in served))
        return {one.name: trouble for one, trouble in zip(served, found, strict=True) if trouble}

    async def refresh(self) -> None:
        """Ask every model that gave no token for a while; to be called again and again."""
        engines = [one.engine for one in self._models.all()]
        self._failures = {engine: failure for engine, failure in self._failures.items() if engine in engines}
        await asyncio.gather(*(self._probe(one) for one in engines if one.healthy and _age(one) > self._every))

    async def _trouble(self, engine: Succession, patience: float) -> str | None:
        if not engine.healthy:
            return STOPPED
        if _age(engine) <= patience:
            return None
        at, failure = self._failures.get(engine, (0.0, ""))
        if failure and perf_counter() - at < self._limit + patience:
            return failure
        return await self._probe(engine)

    async def _probe(self, engine: Succession) -> str | None:
        """What keeps a model from generating a token, if anything does; joins the probe under way if there is one."""
        task = self._probes.get(engine)
        if task is None:
            task = self._probes[engine] = asyncio.create_task(self._generate(engine))
            task.add_done_callback(lambda _: self._probes.pop(engine))
        return await asyncio.shield(task)

    async def _generate(self, engine: Succession) -> str | None:
        trouble = await self._first_token(engine)
        if trouble is None or _age(engine) <= self._every:  # others had their tokens meanwhile
            self._failures.pop(engine, None)
            return None
        self._failures[engine] = perf_counter(), trouble
        return trouble

    async def _first_token(self, engine: Succession) -> str | None:
        try:
            greedy = SamplingParameters(max_tokens=1, temperature=0)
            request = engine.request([], greedy, PROBE, priority=PRIORITY, deadline_seconds=self._limit)
            async with asyncio.timeout(self._limit), aclosing(engine.stream_async(request)) as stream:
                async for events in stream:
                    match events[-1]:
                        case Completed(reason=reason):
                            return None if reason != "cancelled" else "its test was cancelled"
                        case Failed(code=code) if code != "deadline_exceeded":
                            return STOPPED if not engine.healthy else "it failed to generate a token"
                        case Failed():
                            return f"no token came within {self._limit:g} s"
        except TimeoutError:
            return f"no token came within {self._limit:g} s"
        except OverloadedError:
            return f"no token came for {_age(engine):.0f} s, and the queue is full"
        except RequestError:  # an earlier probe is still in there
            return f"no token came for {_age(engine):.0f} s"
        except ServiceError:
            return STOPPED
        raise AssertionError("a stream ends with Completed or Failed")


def beyond_repair(models: Models, config: ObservationConfig) -> str | None:
    """Why this process had better be replaced, if so: one that is merely not ready may recover. Waits for nothing."""
    if not models.healthy:
        return "an engine has stopped"
    hanging = [one.name for one in models.all() if _hangs(one.engine, config)]
    return f"no token came for {config.hang_seconds:g} s from {', '.join(hanging)}" if hanging else None


def stuck(models: Models, config: ObservationConfig) -> bool:
    """Whether a model hangs, and no other has anything to end: it is no use to wait for this process."""
    hanging = [one.engine.active for one in models.all() if _hangs(one.engine, config)]
    return bool(hanging) and models.active == sum(hanging)


def _hangs(engine: Succession, config: ObservationConfig) -> bool:
    return _age(engine) > config.probe_seconds + config.hang_seconds


def _age(engine: Succession) -> float:
    """Seconds since a model last gave a token."""
    return perf_counter() - engine.load.last_token
