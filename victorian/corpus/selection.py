"""Which books are kept. A book that is not gets a reason, which the manifest records."""

from typing import Literal

Reason = Literal["empty"]


def reason_to_drop(text: str) -> Reason | None:
    """Why a cleaned text cannot be used, or None for one that can."""
    return None if text.strip() else "empty"
