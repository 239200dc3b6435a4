"""What a step computes: reads through the network, tokens out of its logits.

Nothing but the cache is changed, so a step that fails is taken again, one request at a time, to find whose fault it
was.
"""

import logging
from collections.abc import Sequence as Items
from typing import NamedTuple

from victorian.engine.request import Scored
from victorian.engine.runner import Runner
from victorian.engine.sampling import Sampler
from victorian.engine.scheduler import Read

logger = logging.getLogger(__name__)


class BrokenNetworkError(Exception):
    """The network serves nobody, whoever asks."""


class Outcome(NamedTuple):
    """Of one read: tokens of the prompt that were looked up, and a token where one was drawn."""

    scores: tuple[Scored, ...]
    drawn: Scored | None


class Forward:
    """A network and a sampler."""

    def __init__(self, runner: Runner, sampler: Sampler) -> None:
        self.runner = runner
        self.sampler = sampler

    def compute(self, reads: Items[Read]) -> list[Outcome | Exception]:
        """What comes of each read, or what went wrong with it.

        Raises:
            BrokenNetworkError: if several were to be read, and none can.
        """
        try:
            return self._together(reads)
        except Exception as error:
            if len(reads) == 1:
                return [error]
            logger.exception("a step of %d requests failed; they are read one at a time", len(reads))
        alone = [self.compute([read])[0] for read in reads]
        if all(isinstance(outcome, Exception) for outcome in alone):
            raise BrokenNetworkError(f"no request can be read: {alone[0]}")
        return alone

    def _together(self, reads: Items[Read]) -> list[Outcome | Exception]:
        logits = self.runner.run(reads)
        scores: list[tuple[Scored, ...]] = []
        last = []  # rows after which a token is drawn
        row = 0
        for read in reads:
            looked_up: tuple[Scored, ...] = ()
            if places := read.scored:
                prompt, count = read.sequence.request.prompt, read.sequence.request.prompt_logprobs or 0
                rows = logits[row : row + len(places)]
                looked_up = tuple(
                    self.sampler.score(one, prompt[place + 1], count) for one, place in zip(rows, places, strict=True)
                )
                row += len(places)
            scores.append(looked_up)
            if read.draws:
                last.append(row)
                row += 1
        drawing = [read.sequence for read in reads if read.draws]
        drawn = iter(self.sampler.sample(logits if len(last) == row else logits[last], drawing) if drawing else [])
        outcomes: list[Outcome | Exception] = []
        for read, looked in zip(reads, scores, strict=True):
            token = next(drawn) if read.draws else None
            outcomes.append(token if isinstance(token, Exception) else Outcome(looked, token))
        return outcomes
