"""What a service writes about itself: a line an event, as JSON for programs or as text for eyes.

Events go through `logging` to the loggers under `victorian`; their particulars are the record's `fields`.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from pydantic import ValidationError

from victorian.config import ObservationConfig

QUOTING = ValidationError, UnicodeError
"""Errors whose messages quote what they were about, which may be somebody's text."""


REFUSED = "refused"
"""The `status` of whoever was turned away."""
REFUSALS_A_SECOND = 10
"""Lines about refusals that are written; a crowd that is turned away would write nothing but these."""


def fields(**particulars: object) -> dict[str, dict[str, object]]:
    """The `extra` of an event: what it was about, less what is None."""
    return {"fields": {name: value for name, value in particulars.items() if value is not None}}


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, what it was about, and the traceback if there is one.

    Args:
        texts: whether the messages of errors may quote texts.
    """

    def __init__(self, texts: bool = False) -> None:
        super().__init__()
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.entry(record), ensure_ascii=False, default=str)

    def entry(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the line says."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name}
        entry |= getattr(record, "fields", {})
        if record.exc_info and (error := record.exc_info[1]):
            entry["error"] = type(error).__name__
            entry["traceback"] = self._traceback(error)
        return entry

    def _traceback(self, error: BaseException) -> str:
        chain: list[BaseException] = []
        one: BaseException | None = error
        while one and one not in chain:
            chain.append(one)
            one = one.__cause__ or one.__context__
        if not self._texts and any(isinstance(one, QUOTING) for one in chain):
            return "".join(traceback.format_tb(error.__traceback__))
        return "".join(traceback.format_exception(error))


class Lines(JsonLines):
    """The same for eyes; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        entry = self.entry(record)
        trace = entry.pop("traceback", None)
        first = [str(entry.pop(name)) for name in ("time", "level", "event")]
        first = [word if word.isprintable() else json.dumps(word, ensure_ascii=False) for word in first]
        particulars = [f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in entry.items()]
        return " ".join([*first, *particulars]) + (f"\n{trace.rstrip()}" if trace else "")


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines; of refusals so many a second, and with the next line of any kind how many were left out."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._second = 0
        self._refusals = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Under the handler's lock."""
        if (second := int(record.created)) != self._second:
            left_out = self._refusals - REFUSALS_A_SECOND
            self._second, self._refusals = second, 0
            if left_out > 0:
                particulars = fields(status=REFUSED, left_out=left_out)
                more = logging.makeLogRecord(
                    {"name": __name__, "levelname": "WARNING", "msg": "more requests refused", **particulars}
                )
                super().emit(more)
        if getattr(record, "fields", {}).get("status") == REFUSED:
            self._refusals += 1
            if self._refusals > REFUSALS_A_SECOND:
                return
        super().emit(record)


def write_logs(config: ObservationConfig, stream: TextIO | None = None) -> logging.Handler:
    """Write what happens from now on, to stderr unless said otherwise. For whoever owns the process, once.

    Returns:
        The handler, which `logging.getLogger("victorian").removeHandler` takes off again.
    """
    handler = Handler(stream or sys.stderr)
    handler.setFormatter((JsonLines if config.log_format == "json" else Lines)(config.log_texts))
    logger = logging.getLogger("victorian")
    logger.setLevel(config.log_level.upper())
    logger.addHandler(handler)
    logger.propagate = False
    return handler
