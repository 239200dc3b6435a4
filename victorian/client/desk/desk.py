"""One writer's desk: the manuscript, its history, and what the model is writing into it. Knows nothing of Streamlit.

All of it is used from one thread at a time; only a `Writing` has threads of its own.
"""

import secrets
from dataclasses import dataclass, replace
from typing import Literal

from victorian.client.desk.history import About, History, Step
from victorian.client.desk.manuscript import MAX_CHARACTERS, Manuscript, Piece, Splice, clean, pages
from victorian.client.desk.notices import ABANDONED, Notice, notice_of
from victorian.client.desk.passage import Passage, Token, chosen, text_of
from victorian.client.desk.prompt import Sight, sight
from victorian.client.desk.service import Service
from victorian.client.desk.session import Session
from victorian.client.desk.writing import Order, Writing
from victorian.config import SamplingParameters
from victorian.errors import VictorianError
from victorian.service.protocol import Tokenized

CACHED_TEXTS = 64
SEED_BITS = 53
"""Of a seed that is drawn here: as many as a browser counts without rounding, so that it can be typed again."""

Way = Literal["continue", "sentence", "retry"]


@dataclass
class Job:
    """What is being written, one passage or several to choose from."""

    base: int
    """Where it goes in the manuscript: what stands after that gives way to it."""
    kept: tuple[Token, ...]
    """Tokenized that stand before what is being written, and were chosen."""
    writings: list[Writing]
    choosing: bool = False

    @property
    def ended(self) -> bool:
        return all(writing.ended for writing in self.writings)

    @property
    def awaited(self) -> bool:
        """Whether it changes without the writer: one that has ended but is not in the manuscript yet does."""
        return not (self.choosing and self.ended)


class Desk:
    """The state of one open page.

    Attributes:
        epoch: changes whenever the text on the page became another otherwise than by being typed on that page.
        heard: the number of the last edit that was taken from the page.
        acted: the number of the last key of the page that was heeded.
        revision: changes with every change.
        window: where the page before the writer begins and ends in the manuscript.
        passage: the newest one whose tokens are known.
        job: what is being written, if anything is.
    """

    def __init__(self) -> None:
        self._service = Service()
        self._counted: dict[str, Tokenized] = {}
        self.sampling = SamplingParameters()
        self.title = self.memory = self.note = ""
        self.note_lines = 3
        self.manuscript = Manuscript()
        self.history = History()
        self.passage: Passage | None = None
        self.job: Job | None = None
        self.notice: Notice | None = None
        self.epoch = self.revision = 0
        self.heard = self.acted = 0
        self.window = (0, 0)

    @property
    def service(self) -> Service:
        """Where the model is that writes; another one counts tokens otherwise."""
        return self._service

    @service.setter
    def service(self, service: Service) -> None:
        self._service = service
        self._counted.clear()

    # What the writer does with the text.

    def edit(self, text: str) -> None:
        """Take what the writer left on the page."""
        text = clean(text)
        start, end = self.window
        if self.job or len(self.manuscript.text) - (end - start) + len(text) > MAX_CHARACTERS:
            self.epoch += 1  # the page shows again what stands in the manuscript
            if not self.job:
                self.notice = Notice(
                    "error", f"A manuscript can have {MAX_CHARACTERS:,} characters; this was not taken."
                )
            return
        if splice := self.manuscript.edit(start, end, text):
            self._change(splice, typed=True)
            self.window = (start, start + len(text))

    def replace_all(self, pieces: tuple[Piece, ...], passage: Passage | None = None) -> None:
        """Put another text in the place of this one, with a passage whose tokens are known; undo brings it back."""
        self._end_job()
        self._change(self.manuscript.splice(0, len(self.manuscript.text), pieces), passage)
        self.turn_to(len(self.manuscript.text))

    def undo(self) -> None:
        """Take the last step back; while something is written that is what has come of it, even if that is nothing."""
        if self.job and not self._end_job():
            return
        if step := self.history.undo():
            if step.about:  # what is left now is what redo comes back to
                self.history.undone[-1] = replace(step, about=(step.about[0], self.about))
                self.about = step.about[0]
            self._show(step.splice.inverse, step.before)

    def redo(self) -> None:
        """Take a step again; not while something is written, since what comes of that is the next step."""
        if self.job:
            return
        if step := self.history.redo():
            if step.about:
                self.history.done[-1] = replace(step, about=(self.about, step.about[1]))
                self.about = step.about[1]
            self._show(step.splice, step.after)

    def turn_to(self, position: int) -> None:
        """Show the page that a place in the manuscript is on."""
        found = pages(self.manuscript.text)
        self.window = next((page for page in found if position < page[1]), found[-1])
        self.epoch += 1

    # What the model does.

    @property
    def can_retry(self) -> bool:
        """Whether a passage of the model stands at the end."""
        return self.passage is not None and self.passage.end == len(self.manuscript.text)

    def write(self, way: Way = "continue") -> None:
        """Have the model go on, finish the sentence, or write its last passage anew."""
        parameters = self.sampling
        base = self._end
        if way == "retry":
            if not (self.passage and self.can_retry):
                return
            base = self.passage.start
            parameters = parameters.model_copy(update={"seed": None})
        self._begin(base, (), [parameters], sentence=way == "sentence")

    def several(self, count: int) -> None:
        """Have several passages written from here, for the writer to choose one."""
        seed = self.sampling.seed
        seeds = [None if seed is None else (seed + number) % 2**63 for number in range(count)]
        self._begin(self._end, (), [self.sampling.model_copy(update={"seed": seed}) for seed in seeds], choosing=True)

    def take(self, number: int) -> None:
        """Choose one of several passages; if it is being written, it goes on."""
        if self.job and self.job.choosing and number < len(self.job.writings):
            for other in self.job.writings:
                if other is not self.job.writings[number]:
                    other.stop()
            self.job = Job(self.job.base, self.job.kept, [self.job.writings[number]])
            self.look()

    def choose(self, index: int, alternative: int) -> None:
        """Put an alternative in the place of a token of the passage, and go on from there."""
        base, tokens = self.live
        if base is None or (self.job and self.job.choosing):
            return
        try:
            kept = chosen(tokens, index, alternative)
        except IndexError:  # the page was a moment behind
            return
        self._end_job()
        self._begin(base, kept, [self.sampling.model_copy(update={"seed": None})])

    def stop(self) -> None:
        """End what is being written; what has come stays."""
        for writing in self.job.writings if self.job else ():
            writing.stop()

    def dismiss(self) -> None:
        """End what is being written and drop it."""
        self.stop()
        if self.job:
            self.job = None
            self.turn_to(len(self.manuscript.text))

    def look(self) -> None:
        """See what has come, and put a passage that has ended into the manuscript. To be called again and again."""
        if not self.job:
            return
        for writing in self.job.writings:
            writing.seen()
        if self.job.ended and not self.job.choosing:
            self._finish(self.job)

    @property
    def live(self) -> tuple[int | None, tuple[Token, ...]]:
        """Where the tokens begin that can be chosen from, and these: of what is being written, else of the passage."""
        if self.job:
            return self.job.base, self.job.kept + tuple(() if self.job.choosing else self.job.writings[0].tokens)
        return (self.passage.start, self.passage.tokens) if self.passage else (None, ())

    def sight(self, text: str | None = None) -> Sight:
        """What the model sees of a text, by default of the manuscript; raises what the service says."""
        seen = self.manuscript.text[: self._end] if text is None else text

        def tokenize(part: str) -> Tokenized:
            if part not in self._counted:
                if len(self._counted) >= CACHED_TEXTS:
                    self._counted.pop(next(iter(self._counted)))
                self._counted[part] = self.service.hasty_client.tokenize(part, self.service.model)
            return self._counted[part]

        return sight(seen, self.memory, self.note, self.note_lines, self.sampling.max_tokens, tokenize)

    # Saving.

    @property
    def session(self) -> Session:
        return Session.of(
            self.manuscript,
            self.passage,
            title=self.title,
            memory=self.memory,
            note=self.note,
            note_lines=self.note_lines,
            sampling=self.sampling,
        )

    def open(self, session: Session) -> None:
        """Go on with a saved session; undo brings back what was there."""
        before = self.about
        self.replace_all(session.manuscript.pieces, session.last.passage if session.last else None)
        self.about = About(session.title, session.memory, session.note, session.note_lines, session.sampling)
        self.history.done[-1] = replace(self.history.done[-1], about=(before, self.about))

    @property
    def about(self) -> About:
        """What it is set to beside the text."""
        return About(self.title, self.memory, self.note, self.note_lines, self.sampling)

    @about.setter
    def about(self, about: About) -> None:
        self.title, self.memory, self.note = about.title, about.memory, about.note
        self.note_lines, self.sampling = about.note_lines, about.sampling

    @property
    def _end(self) -> int:
        """Where the model goes on: before spaces at the end, since its words bring their own."""
        return len(self.manuscript.text.rstrip(" "))

    def _begin(
        self,
        base: int,
        kept: tuple[Token, ...],
        several: list[SamplingParameters],
        sentence: bool = False,
        choosing: bool = False,
    ) -> None:
        self.dismiss()
        self.notice = None
        try:
            seen = self.sight(self.manuscript.text[:base] + text_of(kept))
        except VictorianError as error:
            self.notice = notice_of(error)
            return
        orders = []
        for parameters in several:
            seed = secrets.randbits(SEED_BITS) if parameters.seed is None else parameters.seed
            orders.append(
                Order(seen.prompt, parameters.model_copy(update={"keep_tokens": seen.memory, "seed": seed}), sentence)
            )
        self.job = Job(base, kept, [Writing(self.service, order) for order in orders], choosing)
        self.turn_to(len(self.manuscript.text))

    def _end_job(self) -> bool:
        """End what is being written; what has come of one passage becomes a step. Whether it did."""
        steps = self.revision
        self.stop()
        if self.job and not self.job.choosing:
            self._finish(self.job)
        self.dismiss()
        return self.revision > steps

    def _finish(self, job: Job) -> None:
        writing = job.writings[0]
        self.job = None
        if writing.error:
            self.notice = notice_of(writing.error)
        elif writing.abandoned:
            self.notice = ABANDONED
        tokens = job.kept + tuple(writing.tokens)
        if not (text := text_of(tokens)):
            self.turn_to(len(self.manuscript.text))
            return
        splice = self.manuscript.splice(job.base, len(self.manuscript.text), (Piece(text, "model"),))
        self._change(splice, Passage(job.base, tokens, writing.complete, writing.first_seconds, writing.sentence_over))
        self.turn_to(len(self.manuscript.text))

    def _change(self, splice: Splice, passage: Passage | None = None, typed: bool = False) -> None:
        before = self.passage
        after = passage or (before.after(splice) if before else None)
        self.history.add(Step(splice, before, after, typed))
        self.manuscript, self.passage = self.manuscript.after(splice), after
        self.revision += 1

    def _show(self, splice: Splice, passage: Passage | None) -> None:
        """A step that was undone or done again."""
        self.manuscript, self.passage = self.manuscript.after(splice), passage
        self.revision += 1
        self.turn_to(max(splice.start, splice.end + splice.growth - 1))
