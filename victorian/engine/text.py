"""A stream of tokens as a stream of text: characters come whole, and stop strings never show. Knows no torch."""

import codecs

from victorian.tokens.bpe import Encoding


class TextStream:
    """The text of one generation, a token at a time.

    Tokens are bytes, and a character may be split over several of them: text is held back until it is whole. So is
    text that may be the beginning of a stop string: with the stop string "the end", " the e" waits for what follows.

    Attributes:
        stopped: whether a stop string has been met; no text comes after that.
    """

    def __init__(self, encoding: Encoding, stop: tuple[str, ...]) -> None:
        self._encoding = encoding
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that may be shown after this token."""
        return self._release(self._decoder.decode(self._encoding.token_bytes(token)))

    def flush(self) -> str:
        """What was held back, once no token follows; an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        shown = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            shown, self._held = shown + self._held, ""
        return shown

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return new
        text = self._held + new
        # Of several stop strings the one that is complete first counts, wherever the borders of tokens fall.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
