"""Engines one after the other, as one: a model is replaced, or its kernels, and nobody's stream changes midway."""

import logging
import subprocess
import threading
from collections.abc import Sequence

from victorian.config import EngineConfig, SamplingParameters
from victorian.device import pick_device
from victorian.engine.compilation import library, library_path, why_not
from victorian.engine.engine import Engine, under_way
from victorian.engine.mailbox import Streams, warm_up
from victorian.engine.request import Deliver, Load, Request
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT
from victorian.tokens.bpe import Encoding

logger = logging.getLogger(__name__)


class Succession(Streams):
    """The newest engine gets the new requests; one that was replaced ends those that it has, and is gone.

    Can be used from any thread, as an engine can. `close` closes them all.
    """

    def __init__(self, engine: Engine) -> None:
        self._changing = threading.Lock()
        self._newest = engine
        self._earlier: list[Engine] = []
        self._closed = self._retired = False
        self.max_unread, self.turns = engine.max_unread, engine.turns

    def replace(self, engine: Engine) -> None:
        """New requests go to this engine from now on; after `retire` or `close` it is closed instead."""
        with self._changing:
            if not (self._closed or self._retired):
                self._earlier = [one for one in (*self._earlier, self._newest) if one.active]
                replaced, self._newest = self._newest, engine
                replaced.retire()
                return
        engine.close()

    @property
    def encoding(self) -> Encoding:
        return self._newest.encoding

    @property
    def context(self) -> int:
        return self._newest.context

    @property
    def healthy(self) -> bool:
        """Whether new requests are taken."""
        with self._changing:  # one that gives way just now is not what is asked about
            return self._newest.healthy

    @property
    def load(self) -> Load:
        """Requests of all; cache and last token of the newest, which is what new requests meet."""
        with self._changing:
            loads = [one.load for one in (self._newest, *self._earlier)]
        running, waiting = sum(one.running for one in loads), sum(one.waiting for one in loads)
        return Load(running, waiting, loads[0].cache_usage, loads[0].last_token)

    @property
    def active(self) -> int:
        """Requests that have not ended."""
        with self._changing:
            return self._newest.active + sum(one.active for one in self._earlier)

    def request(
        self,
        prompt: str | list[int],
        sampling: SamplingParameters,
        request_id: str | None = None,
        *,
        priority: int = 0,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Request:
        """As `Engine.request`."""
        return self._newest.request(
            prompt,
            sampling,
            request_id,
            priority=priority,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            deadline_seconds=deadline_seconds,
        )

    def require_room(self, count: int = 1) -> None:
        """As `Engine.require_room`, of the newest."""
        with self._changing:
            self._newest.require_room(count)

    def submit_all(self, requests: Sequence[tuple[Request, Deliver]]) -> None:
        """As `Engine.submit_all`, to the newest."""
        with self._changing:  # an engine that is chosen may not be replaced before it has the requests
            for request, _ in requests:
                if any(one.has(request.id) for one in self._earlier):
                    raise under_way(request.id)
            self._newest.submit_all(requests)

    def cancel(self, request_id: str) -> None:
        """As `Engine.cancel`, wherever the request is."""
        with self._changing:
            engines = (self._newest, *self._earlier)
        for engine in engines:
            engine.cancel(request_id)

    def retire(self) -> None:
        """Take no new requests; those under way go on to their ends."""
        with self._changing:
            self._retired = True
            self._newest.retire()

    def close(self) -> None:
        """Stop every engine after the step under way; what has not ended fails."""
        with self._changing:
            self._closed = True
            engines = (self._newest, *self._earlier)
        for engine in engines:
            engine.close()


def start(model: GPT, encoding: Encoding, config: EngineConfig) -> Succession:
    """An engine that answers at once: by torch until the kernels of this machine are compiled, which it needs once.

    int8 is bf16 until then. Where only the kernels will do, as `kernels` and `batch_invariant` can say, it waits.
    """
    meanwhile = config.kernels == "auto" and not config.batch_invariant and pick_device().type == "cpu"
    if not meanwhile or why_not(model.config) is not None or not _to_be_compiled():
        return Succession(Engine(model, encoding, config))
    precision = "bf16" if config.precision == "int8" else config.precision
    first = config.model_copy(update={"kernels": "torch", "precision": precision})
    engines = Succession(Engine(model, encoding, first))

    def compile_and_replace() -> None:
        try:
            library()
            engine = Engine(model, encoding, config)
            try:
                warm_up(engine)
            except BaseException:
                engine.close()
                raise
        except Exception as error:  # whatever it was, torch goes on
            logger.exception("the engine stays with torch, which is slower: %s", error)
        else:
            engines.replace(engine)
            logger.info("the engine's kernels are compiled: new requests use them")

    logger.info("compiling the engine's kernels; torch answers until they are ready")
    threading.Thread(target=compile_and_replace, name="kernels", daemon=True).start()
    return engines


def _to_be_compiled() -> bool:
    """Whether the kernels are not there yet and there is a place for them; whoever needs them says if there is none."""
    try:
        return not library_path().exists()
    except (ConfigError, OSError, subprocess.SubprocessError):
        return False
