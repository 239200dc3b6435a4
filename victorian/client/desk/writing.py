"""A generation that goes on beside the page, on a thread of its own.

Streamlit runs its page from top to bottom at every touch and ends a run that is under way, so a run must not be what a
passage hangs on. Nor does Streamlit tell when a tab is closed: whoever looks at a writing says so with `seen`, and one
that nobody has looked at for a while leaves the service.
"""

import threading
from dataclasses import dataclass
from time import monotonic

from victorian.client.desk.manuscript import clean
from victorian.client.desk.passage import Token, shortened, text_of
from victorian.client.desk.sentences import sentence_end
from victorian.client.desk.service import Service
from victorian.client.generation import Prompt
from victorian.client.streams import Stream
from victorian.config import SamplingParameters
from victorian.errors import VictorianError
from victorian.service.protocol import Complete

ALTERNATIVES = 5
LEFT_SECONDS = 8.0
"""After so long without a look, the tab is taken for closed; a hidden one looks once a second."""
GOODBYE_SECONDS = 2.0
"""How long a service may take to end what it was asked to end."""


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    prompt: Prompt
    parameters: SamplingParameters
    sentence: bool = False
    """Whether it ends with the first sentence that does."""


class Writing:
    """A generation under way.

    Attributes:
        tokens: what has come; grows on another thread.
        complete: how it ended, where the service said so.
        error: why it broke off, if it did.
        sentence_over: whether it ended with the sentence that it was asked to finish.
        abandoned: whether it was ended because nobody looked any more.
        first_seconds: from asking to the first token, as it was here; None until then.
    """

    def __init__(self, service: Service, order: Order, left_seconds: float = LEFT_SECONDS) -> None:
        self.tokens: list[Token] = []
        self.complete: Complete | None = None
        self.error: VictorianError | None = None
        self.sentence_over = False
        self.abandoned = False
        self.first_seconds: float | None = None
        self._service = service
        self._order = order
        self._left_seconds = left_seconds
        self._began = self._seen = monotonic()
        self._stopped_at: float | None = None
        self._carriage = False
        self._stream: Stream | None = None
        self._over = threading.Event()
        self._begun = threading.Event()
        for work in (self._write, self._watch):
            threading.Thread(target=work, name="victorian-desk", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._over.is_set()

    @property
    def text(self) -> str:
        return text_of(list(self.tokens))

    @property
    def tokens_per_second(self) -> float:
        """So far, of the tokens after the first; 0 where there are none."""
        if self.complete:
            return self.complete.timings.tokens_per_second
        if self.first_seconds is None or self.ended:
            return 0.0
        return max(0, len(self.tokens) - 1) / max(monotonic() - self._began - self.first_seconds, 1e-6)

    def seen(self) -> None:
        """Say that somebody looks."""
        self._seen = monotonic()

    def stop(self) -> None:
        """Ask for an early end; what has come stays."""
        if self._stopped_at is None:
            self._stopped_at = monotonic()
            if self._stream:
                self._stream.cancel()

    def begun(self, seconds: float) -> bool:
        """Whether something has come of it within some seconds: a token, or its end."""
        return self._begun.wait(seconds)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within some seconds."""
        return self._over.wait(seconds)

    def _write(self) -> None:
        order = self._order
        try:
            asking = self._service.client.stream(
                order.prompt, order.parameters, model=self._service.model, alternatives=ALTERNATIVES
            )
            with asking as stream:
                self._stream = stream
                if self._stopped_at is not None:
                    return
                for message in stream.tokens():
                    if self._over.is_set():
                        return  # nobody waits for it any more
                    if self.sentence_over:
                        continue  # the service writes a token or two more before it hears of it
                    self.first_seconds = self.first_seconds or monotonic() - self._began
                    self.tokens.append(Token.of(message, self._cleaned(message.text)))
                    self._begun.set()
                    if order.sentence:
                        self._end_with_sentence()
                self.complete = stream.complete
        except VictorianError as error:
            # A service that is left for its silence breaks off; that is no news to whoever stopped it.
            self.error = None if self._stopped_at is not None else error
        finally:
            self._over.set()
            self._begun.set()

    def _cleaned(self, text: str) -> str:
        """A token's text as it goes into the manuscript; a line end of two characters can come as two tokens."""
        whole = text[1:] if self._carriage and text.startswith("\n") else text
        self._carriage = text.endswith("\r") or (self._carriage and not text)
        return clean(whole)

    def _end_with_sentence(self) -> None:
        end = sentence_end(self.text)
        if end is not None:
            self.tokens[:] = shortened(self.tokens, end)
            self.sentence_over = True
            self.stop()

    def _watch(self) -> None:
        """End it when nobody looks, and leave a service that does not end it."""
        while not self._over.wait(0.2):
            if monotonic() - self._seen > self._left_seconds and self._stopped_at is None:
                self.abandoned = True
                self.stop()
            if self._stopped_at is not None and monotonic() - self._stopped_at > GOODBYE_SECONDS:
                self._over.set()  # first: where the service has not even greeted there is no stream to close yet
                self._begun.set()
                if self._stream:
                    self._stream.close()
