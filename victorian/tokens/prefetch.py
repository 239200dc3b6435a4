"""Batches that are ready before they are asked for: a background thread builds them a few steps ahead, in order.

Knows neither torch nor what a batch is. What comes out is what building each step in its turn would give: the thread
changes when a batch is built, and nothing else.
"""

import threading
from collections.abc import Callable
from queue import Empty, Queue
from typing import Generic, Self, TypeVar

BATCHES_AHEAD = 4

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """The batches of one step after another, built ahead while the context lasts.

    Args:
        build: the batch of a step; called in the thread, for one step at a time.
        first: the step to begin with.
        ahead: batches that wait ready at most, and one more is being built; with 0 there is no thread, and each batch
            is built when it is asked for.
    """

    def __init__(self, build: Callable[[int], T], first: int, ahead: int = BATCHES_AHEAD) -> None:
        self._build = build
        self._step = first
        self._ready: Queue[T | _Failure] = Queue(ahead)
        self._failure: _Failure | None = None
        self._closing = threading.Event()
        self._thread = (
            threading.Thread(target=self._work, args=(first,), name="batches", daemon=True) if ahead else None
        )
        if self._thread:
            self._thread.start()

    def next(self) -> T:
        """The batch of the next step; whatever building it raised is raised here, now and ever after."""
        assert not self._closing.is_set()
        if not self._thread:
            self._step += 1
            return self._build(self._step - 1)
        item = self._failure or self._ready.get()
        if isinstance(item, _Failure):
            self._failure = item
            raise item.error
        return item

    def close(self) -> None:
        """End the thread, after the batch that it is building; a second call does nothing."""
        self._closing.set()
        if self._thread:
            self._drop()
            self._thread.join()
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self, step: int) -> None:
        # Once it is closing, one more item is put at most, and `close` has made room for it.
        while not self._closing.is_set():
            try:
                item: T | _Failure = self._build(step)
            except BaseException as error:  # raised again in the thread that asks
                item = _Failure(error)
            self._ready.put(item)
            if isinstance(item, _Failure):
                return
            step += 1

    def _drop(self) -> None:
        try:
            while True:
                self._ready.get_nowait()
        except Empty:
            pass


class _Failure:
    """What building a batch raised, on its way to the thread that asks for it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
