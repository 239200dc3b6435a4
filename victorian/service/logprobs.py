"""Log-probabilities in the form of OpenAI's completions API, in which tokens go by their text."""

import codecs
from collections.abc import Iterable

from victorian.engine.request import Scored, TokenEvent
from victorian.service.protocol import Logprobs
from victorian.tokens.bpe import END_OF_TEXT, Encoding


def token_name(encoding: Encoding, token: int) -> str:
    """The text of a token, another for each: `bytes:\\xe2\\x80` where its bytes are no whole characters."""
    if token == encoding.end_of_text:
        return END_OF_TEXT
    data = encoding.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def text_of(encoding: Encoding, tokens: Iterable[int]) -> str:
    """The text that some tokens stand for; the end of a text stands for none, as in what the engine writes."""
    return b"".join(encoding.token_bytes(token) for token in tokens).decode(errors="replace")


class LogprobsWriter:
    """Names scored tokens and counts the characters before them.

    Args:
        characters: that stand before the first.
    """

    def __init__(self, encoding: Encoding, characters: int) -> None:
        self._encoding = encoding
        self._characters = characters
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, scores: Iterable[Scored | TokenEvent]) -> Logprobs:
        """What there is to say about the next tokens of a text."""
        found = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for score in scores:
            name = token_name(self._encoding, score.token)
            found.tokens.append(name)
            found.token_logprobs.append(score.logprob)
            found.text_offset.append(self._characters)
            self._characters += len(self._decoder.decode(self._encoding.token_bytes(score.token)))
            if score.logprob is None:
                found.top_logprobs.append(None)
            else:
                top = {token_name(self._encoding, token): logprob for token, logprob in score.likeliest}
                found.top_logprobs.append(top | {name: score.logprob})
        return found


def extend(whole: Logprobs, piece: Logprobs) -> None:
    """Put what is said of the next piece of a text to what was said of it so far."""
    whole.tokens.extend(piece.tokens)
    whole.token_logprobs.extend(piece.token_logprobs)
    whole.top_logprobs.extend(piece.top_logprobs)
    whole.text_offset.extend(piece.text_offset)
