"""Undo and redo over many steps. A step is a change and not a copy, so a long book has a long history too."""

from collections import deque
from dataclasses import dataclass, field, replace

from victorian.client.desk.manuscript import Piece, Splice
from victorian.client.desk.passage import Passage
from victorian.config import SamplingParameters

MAX_STEPS = 1_000
"""What is older is forgotten."""


@dataclass(frozen=True)
class About:
    """What a desk is set to beside its text."""

    title: str
    memory: str
    note: str
    note_lines: int
    sampling: SamplingParameters


@dataclass(frozen=True)
class Step:
    """A change, and the passage whose tokens were known before and after it."""

    splice: Splice
    before: Passage | None = None
    after: Passage | None = None
    typed: bool = False
    """Whether the writer typed it, so that it may be one step with what is typed next."""
    about: tuple[About, About] | None = None
    """Before and after, where it changed more than the text."""


@dataclass
class History:
    done: deque[Step] = field(default_factory=lambda: deque(maxlen=MAX_STEPS))
    undone: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Note a step; what was undone before it is gone."""
        self.undone.clear()
        last = self.done[-1] if self.done else None
        if last and (joined := _as_one(last, step)):
            self.done[-1] = joined
        else:
            self.done.append(step)

    def undo(self) -> Step | None:
        """The step to take back, if there is one."""
        if not self.done:
            return None
        self.undone.append(self.done.pop())
        return self.undone[-1]

    def redo(self) -> Step | None:
        """The step to take again, if there is one."""
        if not self.undone:
            return None
        self.done.append(self.undone.pop())
        return self.done[-1]


def _as_one(last: Step, step: Step) -> Step | None:
    """Two steps as one: a writer who goes on typing where they were, within a paragraph."""
    before, now = last.splice, step.splice
    goes_on = now.start == before.end + before.growth and not now.removed
    if not (last.typed and step.typed and goes_on and before.added) or before.added[-1].text.endswith("\n"):
        return None
    text = "".join(piece.text for piece in before.added + now.added)
    return replace(step, splice=replace(before, added=(Piece(text, "writer"),)), before=last.before)
