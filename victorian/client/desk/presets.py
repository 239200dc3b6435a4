"""Named ways to write, openings to start from, and what each parameter does to prose."""

from dataclasses import dataclass

from victorian.config import SamplingParameters

USUAL = SamplingParameters()

PRESETS = {
    "Cautious": SamplingParameters(temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.15),
    "Usual": USUAL,
    "Fanciful": SamplingParameters(temperature=1.6, top_k=100, top_p=0.98, min_p=0.02),
}
DRAWING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Parameters that a preset sets; length, seed and stop strings are left as they are."""


@dataclass(frozen=True)
class Knob:
    """How a parameter is put before a writer."""

    label: str
    prose: str
    """What it does to the prose, in a sentence."""
    step: float = 1


KNOBS = {
    "temperature": Knob("Temperature", "Low keeps to the likely word and soon to the dull one; high wanders.", 0.05),
    "top_k": Knob("Top-k", "Only so many words are thought of at each place: few make plain prose. 0 is off."),
    "top_p": Knob("Top-p", "The unlikely words are never thought of; 1 is off, and the strangest may come.", 0.01),
    "min_p": Knob("Min-p", "Where the next word is sure, odd ones are left out; where it is open, they stay.", 0.01),
    "repetition_penalty": Knob("Repetition penalty", "Words already used come less readily: fewer refrains.", 0.05),
    "max_tokens": Knob("Length", "Tokens that are written at most; a page of a novel has about 400.", 16),
    "seed": Knob("Seed", "The same text, settings and seed give the same passage; empty draws a new one each time."),
    "stop": Knob("Stop at", "Texts that end the passage where they would come, up to 4 of them, one a line."),
}

OPENINGS = {
    "A stormy night": "It was a dark and stormy night; the rain fell in torrents upon the moor, and",
    "A letter": "My dear Sister,\n\nYou will wonder at the date of this letter, and still more at the place from which",
    "An arrival": "Towards the close of a November afternoon, a travelling carriage drew up before the gate of",
    "A trial": "The court was so crowded that morning that when the prisoner was brought in,",
    "At sea": "CHAPTER I.\n\nWe had been eleven days out of Bristol when the captain, who was a silent man,",
    "By the fire": "“You have never told us,” said my aunt, drawing her chair nearer to the fire,",
}


def parameters_of(preset: str, now: SamplingParameters) -> SamplingParameters:
    """The settings that are made when a preset is chosen."""
    return now.model_copy(update={name: getattr(PRESETS[preset], name) for name in DRAWING})


def preset_of(parameters: SamplingParameters) -> str | None:
    """The preset that settings are, or None where they are the writer's own."""
    for name, preset in PRESETS.items():
        if all(getattr(parameters, knob) == getattr(preset, knob) for knob in DRAWING):
            return name
    return None
