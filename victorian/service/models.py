"""The models of a service, by the names that clients use. They can be replaced while it runs."""

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from victorian.artifact import find_artifact, read_artifact
from victorian.config import EngineConfig, ModelsConfig
from victorian.engine.mailbox import warm_up
from victorian.engine.request import Event, Load, Request
from victorian.engine.succession import Succession, start
from victorian.errors import ConfigError, RequestError, ServiceError
from victorian.service.logs import fields
from victorian.service.observation import Observer

logger = logging.getLogger(__name__)

DRAINING = "the service is being stopped and takes nothing new"


@dataclass(frozen=True)
class Served:
    """A model by its name."""

    name: str
    created: int
    """When it was trained, in seconds since 1970."""
    engine: Succession
    artifact: str = ""
    """Where it came from."""
    observer: Observer | None = None
    """Sees its requests."""

    def streams(self, requests: Sequence[Request]) -> list[AsyncGenerator[list[Event], None]]:
        """Submit requests, all or none; each one's events, together those that came together.

        Every way into the service leads through here.

        Raises:
            As `Engine.submit_all` does, at once.
        """
        if self.observer is None:
            return self.engine.streams_async(requests)
        return self.observer.streams(self.name, self.engine, requests)


class Models:
    """What is served; the first is meant where a client names none."""

    def __init__(self, served: Iterable[Served] = ()) -> None:
        self._served = {one.name: one for one in served}
        self._leaving: list[Served] = []
        self._observer: Observer | None = None
        self._loading = threading.Lock()
        self._watchers: set[Callable[[], None]] = set()
        self.leaving = False
        """Whether others serve from now on: who holds a socket should connect to them."""
        self.draining = False
        """Whether nothing new is taken, here or by others; what is under way goes on."""
        self.unanswered = 0
        """Requests over HTTP and generations on sockets that were taken, and not all of whose answer has been sent.

        Not what is `active`: an engine is done with a text that its client still reads.
        """

    def watch(self, changed: Callable[[], None]) -> None:
        """Have a function called, on any thread, when what is served has changed; until `unwatch`."""
        self._watchers.add(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        self._watchers.discard(changed)

    def _tell(self) -> None:
        for changed in tuple(self._watchers):
            changed()

    def observe(self, observer: Observer) -> None:
        """Have every request of every model seen, from now on."""
        with self._loading:
            self._observer = observer
            self._served = {name: replace(one, observer=observer) for name, one in self._served.items()}

    def refuse(self, error: Exception, model: str = "") -> None:
        """As `Observer.refuse`, if there is one."""
        if self._observer:
            self._observer.refuse(error, model)

    @property
    def only(self) -> Served | None:
        """The model that is meant whatever a request says, if there is but one."""
        return next(iter(self._served.values())) if len(self._served) == 1 and not self.draining else None

    def find(self, name: str | None) -> Served:
        """The model of that name, or the first.

        Raises:
            RequestError: if there is none of that name.
            ServiceError: if there are none at all, or nothing new is taken.
        """
        if self.draining:
            raise ServiceError(DRAINING, "shutting_down")
        if not self._served:
            raise ServiceError("no model is loaded yet: try again later", "not_ready")
        if name is None:
            return next(iter(self._served.values()))
        found = self._served.get(name or "")
        if found is None:
            message = f"no model is called {name!r}; this service has {', '.join(self._served)}"
            raise RequestError(message, "model", code="model_not_found")
        return found

    @contextmanager
    def answering(self, name: str | None) -> Iterator[Served]:
        """As `find`, and what that model is asked for is unanswered for as long as the block.

        To be used on the event loop alone.
        """
        self.unanswered += 1  # before `find` looks whether another thread drains, which then reads how many there are
        try:
            yield self.find(name)
        finally:
            self.unanswered -= 1

    def successor(self, name: str | None, served: Served, refusal: ServiceError) -> Served:
        """The model that has replaced one which was found by that name, and has refused what was prepared for it.

        Raises:
            ServiceError: the refusal, if none has; or as `find` does.
            RequestError: as `find` does.
        """
        found = self.find(name)
        if found is served:
            raise refusal
        return found

    def all(self) -> list[Served]:
        return list(self._served.values())

    def cancel(self, request_id: str) -> None:
        """Stop a request, whichever model has it."""
        for one in (*self._served.values(), *self._leaving):
            one.engine.cancel(request_id)

    @property
    def loads(self) -> dict[str, Load]:
        """How busy each is, with what still runs on models that it has replaced."""
        found = {one.name: one.engine.load for one in self._served.values()}
        for old in self._leaving:
            if (newer := found.get(old.name)) and (load := old.engine.load):
                running, waiting = newer.running + load.running, newer.waiting + load.waiting
                found[old.name] = replace(newer, running=running, waiting=waiting)
        return found

    def leave(self) -> None:
        """Have sockets closed once their generations have ended; requests over HTTP are still taken."""
        self.leaving = True
        self._tell()

    def drain(self) -> None:
        """Take nothing new, for good; what is under way goes on to its end."""
        self.draining = True
        self.leave()

    def load(self, config: ModelsConfig, engine: EngineConfig) -> None:
        """Serve what the configuration says from now on, and nothing else. Takes seconds.

        What is served already, from the same place, goes on. All is loaded before anything changes.

        Raises:
            ArtifactError: if one is not there; nothing has changed then.
            ConfigError: if two have one name, or an engine does not fit this machine.
        """
        with self._loading:
            begun: list[Succession] = []
            served: dict[str, Served] = {}
            try:
                for source in config.models:
                    place = find_artifact(source.artifact)
                    artifact = read_artifact(place)
                    name = source.name or artifact.recipe.name
                    if name in served:
                        raise ConfigError(f"two models are called {name!r}: give one of them another name")
                    known = self._served.get(name)
                    if known and (known.artifact, known.created) == (place, int(artifact.record.finished.timestamp())):
                        served[name] = known
                        continue
                    began = time.perf_counter()
                    begun.append(start(artifact.model, artifact.encoding, engine))
                    warm_up(begun[-1])
                    created = int(artifact.record.finished.timestamp())
                    served[name] = Served(name, created, begun[-1], place, self._observer)
                    seconds = round(time.perf_counter() - began, 3)
                    logger.info("model loaded", extra=fields(model=name, artifact=place, seconds=seconds))
            except BaseException:
                for one in begun:
                    one.close()
                raise
            gone = [one for one in self._served.values() if one not in served.values()]
            self._leaving = [*self._leaving, *gone]
            self._served = served
            for old in gone:
                old.engine.retire()
            self._leaving = [one for one in self._leaving if one.engine.active]
            if gone:
                logger.info("models replaced", extra=fields(models=list(served), gone=len(gone)))
            self._tell()

    @property
    def healthy(self) -> bool:
        """Whether there are models, and all of them take requests."""
        return bool(self._served) and all(one.engine.healthy for one in self._served.values())

    @property
    def active(self) -> int:
        """Requests that have not ended."""
        return sum(one.engine.active for one in (*self._served.values(), *self._leaving))

    def close(self) -> None:
        """Stop every engine; what has not ended fails."""
        self.leave()
        for one in (*self._served.values(), *self._leaving):
            one.engine.close()
