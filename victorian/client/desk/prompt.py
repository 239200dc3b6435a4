"""What the model is given to read: memory in front, the end of the manuscript, a note a few lines before its end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from victorian.errors import RequestError
from victorian.service.protocol import MAX_PROMPT_CHARACTERS

CHARACTERS_A_TOKEN = 12
"""More than English prose has on any page: so much of the manuscript's end is looked at for each token of room."""


class Counted(Protocol):
    """A text in tokens, as the service's model reads it."""

    @property
    def tokens(self) -> list[int]: ...

    @property
    def max_model_len(self) -> int: ...


Tokenize = Callable[[str], Counted]


@dataclass(frozen=True)
class Sight:
    """What the model sees, in tokens."""

    prompt: list[int]
    context: int
    """Tokens that the model sees at once."""
    reserved: int
    """Of these, kept free for what it writes."""
    memory: int
    note: int
    text: int
    """Of the manuscript."""
    hidden: int
    """Characters of the manuscript's beginning, about, that are out of sight."""

    @property
    def left(self) -> int:
        """Tokens until the beginning of the manuscript goes out of sight."""
        return max(0, self.context - self.reserved - self.memory - self.note - self.text)


def sight(text: str, memory: str, note: str, note_lines: int, max_tokens: int, tokenize: Tokenize) -> Sight:
    """What the model sees of a manuscript.

    Args:
        memory: stands in front of everything.
        note: stands so many lines before the end.
        max_tokens: what will be written at most; room is left for it, though no more than a quarter of the context.

    Raises:
        RequestError: if memory or note leave no room for the text.
    """
    front = tokenize(memory.strip() + "\n\n" if memory.strip() else "")
    context = front.max_model_len
    noted = tokenize("[" + note.strip() + "]\n" if note.strip() else "").tokens
    if len(front.tokens) > context // 2:
        raise RequestError(f"the memory has {len(front.tokens)} tokens, {context // 2} have room: shorten it", "memory")
    reserved = min(max_tokens, context // 4)
    room = context - reserved - len(front.tokens) - len(noted)
    if room < context // 8:
        raise RequestError(f"memory and note leave no room for the text among {context} tokens: shorten them", "note")
    seen = text[-min(context * CHARACTERS_A_TOKEN, MAX_PROMPT_CHARACTERS) :]
    at = _lines_before_end(seen, note_lines) if noted else len(seen)
    before, after = tokenize(seen[:at]).tokens, tokenize(seen[at:]).tokens
    after = after[-room:]
    kept = before[max(0, len(before) - (room - len(after))) :]
    lost = len(before) - len(kept)
    hidden = len(text) - len(seen) + (round(at * lost / len(before)) if lost else 0)
    return Sight(
        prompt=front.tokens + kept + noted + after,
        context=context,
        reserved=reserved,
        memory=len(front.tokens),
        note=len(noted),
        text=len(kept) + len(after),
        hidden=hidden,
    )


def _lines_before_end(text: str, lines: int) -> int:
    """Where the last so many lines begin; empty ones do not count."""
    at = len(text)
    for _ in range(lines):
        at = text.rfind("\n", 0, len(text[:at].rstrip("\n"))) + 1
        if at == 0:
            break
    return at
