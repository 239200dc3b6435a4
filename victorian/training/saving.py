"""Storing checkpoints beside training: one at a time, again where storage fails for a moment."""

import threading
import time
from collections.abc import Callable

from victorian.errors import StorageError, UnstoredError
from victorian.storage import Storage
from victorian.training.checkpoint import Snapshot

PAUSES = (1.0, 4.0, 15.0, 30.0)
"""Seconds before each further attempt at a checkpoint that could not be stored."""


class Saver:
    """Hands snapshots to a thread. `take` is called once the one before is stored, so two are never in memory."""

    def __init__(self, store: Callable[[Snapshot], None]) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Wait for the snapshot before, take this one, and store it in the background."""
        self.settle()
        snapshot = take()
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is being stored; raises what storing ended with."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, snapshot: Snapshot) -> None:
        try:
            self._store(snapshot)
        except BaseException as error:  # raised in the training thread, by the next call
            self._failure = error


Keep = Callable[[Snapshot], Callable[[], None] | None]
"""Stores what is to be kept beside a checkpoint; what is to be done when that is written."""


class Attempts:
    """Stores snapshots, each with some patience; knows the last that was stored.

    Args:
        resumed_at: step of the checkpoint that the run goes on from.
        before: called before each is written: what must be stored by then.
        keep: called with each before its checkpoint is written, which counts on what is kept of it; what it returns
            is called after.
    """

    def __init__(
        self,
        resumed_at: int = 0,
        before: Callable[[], None] = lambda: None,
        keep: Keep = lambda _: None,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._last = resumed_at
        self._before = before
        self._keep = keep
        self._pauses = pauses

    def write(self, snapshot: Snapshot, storage: Storage) -> None:
        """Write a snapshot.

        Raises:
            UnstoredError: if storage fails again and again, naming the last checkpoint that is whole.
        """
        step = snapshot.position.step
        kept, afterwards = False, None
        for pause in (*self._pauses, None):
            try:
                self._before()
                if not kept:  # once: what is whole is not begun again where there may be no room for it any more
                    afterwards = self._keep(snapshot)
                    kept = True
                snapshot.write(storage)
                if afterwards:
                    afterwards()
            except StorageError as error:
                if pause is None:
                    raise unstored(f"the checkpoint of step {step}", error, self._last) from error
                time.sleep(pause)
            else:
                self._last = step
                return


def unstored(what: str, error: StorageError, last: int) -> UnstoredError:
    """The error for what could not be stored with all patience; `last` is the step of the last whole checkpoint."""
    left = f"the last whole checkpoint is of step {last}" if last else "there is no whole checkpoint yet"
    return UnstoredError(
        f"{what} could not be stored ({error}); {left}: run the same command again when the storage answers"
    )
