"""What went wrong, in a writer's words: what it means for the text, and what to do."""

from dataclasses import dataclass
from typing import Literal

from victorian.errors import (
    AuthenticationError,
    OverloadedError,
    ReplicaLostError,
    RequestError,
    ServiceError,
    VictorianError,
)


@dataclass(frozen=True)
class Notice:
    kind: Literal["error", "warning", "info"]
    text: str
    away: bool = False
    """Whether the service is out of reach, so that it is worth looking whether it is back."""


def notice_of(error: VictorianError) -> Notice:
    """An error as it is shown. Its own words come from the service and are shown as text, never as markup."""
    why = str(error).rstrip(".")
    sentence = f"{why[:1].upper()}{why[1:]}" + ("" if why.endswith(("?", "!")) else ".")
    match error:
        case OverloadedError(retry_after_seconds=None):
            return Notice("warning", f"The service has no room just now: {why}. Try again in a moment.")
        case OverloadedError(retry_after_seconds=seconds):
            return Notice("warning", f"The service has no room just now: {why}. Try again in {_whole(seconds)}.")
        case AuthenticationError():
            return Notice(
                "error", f"The service lets nobody in without a key that it knows: {why}. Enter it under Service."
            )
        case RequestError():
            return Notice("error", f"The service cannot write this: {why}.")
        case ReplicaLostError():
            return Notice("warning", f"{sentence} What had come is kept: Continue goes on from there.", True)
        case ServiceError(code="unreachable" | "shutting_down"):
            return Notice("error", f"{sentence} The text is safe here.", True)
    return Notice("error", f"{sentence} The text is safe here.")


ABANDONED = Notice("info", "The passage was ended because the page was closed or asleep. Continue goes on from there.")
BACK = Notice("info", "The service is there again. Continue goes on from here.")


def _whole(seconds: float | None) -> str:
    whole = max(1, round(seconds or 0))
    return "a second" if whole == 1 else f"{whole} seconds"
