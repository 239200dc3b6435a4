"""What HTTP and WebSocket share: prompts, how large things may be, and what was used."""

from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from victorian.config import Section

MAX_MESSAGE_BYTES = 1 << 20
MAX_HEADER_BYTES = 16_384
MAX_PROMPT_CHARACTERS = 200_000
MAX_PROMPT_TOKENS = 65_536


def _whole(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no character and has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected Unicode text, got half of a surrogate pair at character {error.start}") from error
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_whole)]
TokenIds = Annotated[
    list[Annotated[int, Field(strict=True, ge=0)]], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]
Prompt = Annotated[
    Annotated[Text, Tag("text")] | Annotated[TokenIds, Tag("ids")],
    Discriminator(lambda value: "ids" if isinstance(value, list) else "text"),
]


class Usage(Section):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
