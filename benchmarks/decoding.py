"""Claim: the engine decodes GPT-2 of 124M parameters faster than `transformers` does on the same CPU.

Peer: `GPT2LMHeadModel.generate` with its key-value cache, in the same number type, on the same threads, with the same
random weights, which it gets through `model/huggingface.py`. 32 prompt tokens, 128 new ones, the likeliest token
always: `top_k=1` for ours, `do_sample=False` with as many tokens at least as at most for theirs. Many streams are as
many requests at once for ours and one batch for theirs. Each engine is a process of its own, in turns; it generates
once to warm up and once for the clock, which runs from handing in the prompts to the last token.

    .venv/bin/python benchmarks/decoding.py [--runs 5] [--streams 1 16]
"""

import queue
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
import tyro
from measure import alone, in_turns, print_header, print_machine, print_row, ratios, spread

from victorian.config import EngineConfig, SamplingParameters
from victorian.device import DTYPES, use_threads
from victorian.engine.engine import Engine
from victorian.engine.request import Completed, Event, TokenEvent
from victorian.model.gpt2 import GPT
from victorian.model.huggingface import to_config, to_hugging_face
from victorian.recipes import GPT2_124M
from victorian.tokens.bpe import get_encoding

PROMPT_TOKENS = 32
NEW_TOKENS = 128
LIKELIEST = SamplingParameters(temperature=1, top_k=1, top_p=1, repetition_penalty=1, max_tokens=NEW_TOKENS, seed=0)
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class DecodingRun:
    """What one process measured."""

    tokens_per_second: float
    """New tokens of all streams, over the seconds from the prompts to the last token."""
    tokens: list[list[int]]
    """What was generated, by stream."""


def random_model() -> GPT:
    """The recipe's network with the same random weights every time."""
    model = GPT(GPT2_124M.model)
    model.initialize(seed=0)
    return model.eval()


def prompts(streams: int) -> list[list[int]]:
    """Random ids, the same every time."""
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = torch.randint(GPT2_124M.tokens.ranks, (streams, PROMPT_TOKENS), generator=generator).tolist()
    return ids


def decode_with_ours(precision: str, streams: int) -> DecodingRun:
    """Our engine, `streams` requests at once."""
    config = EngineConfig.model_validate({"max_running": streams, "precision": precision})
    with Engine(random_model(), get_encoding(GPT2_124M.tokens.ranks), config) as engine:
        _complete_all(engine, prompts(streams))
        began = perf_counter()
        tokens = _complete_all(engine, prompts(streams))
        return DecodingRun(streams * NEW_TOKENS / (perf_counter() - began), tokens)


def _complete_all(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens that follow each prompt."""
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()

    def deliver(stream: int, event: Event) -> None:
        events.put((stream, event))

    for stream, prompt in enumerate(prompts):
        engine.submit(engine.request(prompt, LIKELIEST), partial(deliver, stream))
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = 0
    while ended < len(prompts):
        stream, event = events.get()
        if isinstance(event, TokenEvent):
            tokens[stream].append(event.token)
        elif isinstance(event, Completed) and event.completion_tokens == NEW_TOKENS:
            ended += 1
        else:
            raise SystemExit(f"expected {NEW_TOKENS} tokens, got {event}")
    return tokens


def decode_with_transformers(precision: str, streams: int) -> DecodingRun:
    """transformers' `generate`, one batch of `streams` rows."""
    from transformers import GPT2Config, GPT2LMHeadModel

    use_threads()
    end_of_text = get_encoding(GPT2_124M.tokens.ranks).end_of_text
    model = GPT2LMHeadModel(GPT2Config(**to_config(GPT2_124M.model, end_of_text)))
    missing, unexpected = model.load_state_dict(to_hugging_face(random_model().state_dict()), strict=False)
    if unexpected or set(missing) != {"lm_head.weight"}:  # the head is tied to the embedding
        raise SystemExit(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model = model.to(DTYPES[precision]).eval()  # type: ignore[arg-type]  # their wrapper of `to` hides its signature
    ids = torch.tensor(prompts(streams))

    def generate() -> list[list[int]]:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=end_of_text,
        )
        new: list[list[int]] = output[:, PROMPT_TOKENS:].tolist()
        return new

    generate()
    began = perf_counter()
    tokens = generate()
    seconds = perf_counter() - began
    assert all(len(stream) == NEW_TOKENS for stream in tokens)
    return DecodingRun(streams * NEW_TOKENS / seconds, tokens)


ENGINES = {"ours": decode_with_ours, "transformers": decode_with_transformers}


def main(runs: int = 5, streams: tuple[int, ...] = (1, 16)) -> None:
    """Measure decoding against transformers.

    Args:
        runs: Runs of each engine, number type and number of streams.
        streams: Numbers of streams to decode side by side.
    """
    cases = [(name, precision, count) for count in streams for precision in PRECISIONS for name in ENGINES]
    sides = {
        f"{name} {precision}, streams: {count}": partial(alone, ENGINES[name], precision, count)
        for name, precision, count in cases
    }
    found = dict(zip(cases, in_turns(sides, runs).values(), strict=True))
    speeds = {case: [run.tokens_per_second for run in results] for case, results in found.items()}
    print_machine()
    shape = f"{random_model().parameter_count() / 1e6:.0f}M parameters, {PROMPT_TOKENS} + {NEW_TOKENS} tokens"
    print_header(f"{shape}, median of {runs}", "number type", "streams", "tokens/s", "times transformers")
    for (name, precision, count), values in speeds.items():
        ratio = ratios(values, speeds["transformers", precision, count]) if name == "ours" else ""
        print_row(name, precision, count, f"{spread(values):.1f}", f"{ratio:.2f}" if ratio else "")
    for count in streams:
        pairs = zip(*(found[name, "fp32", count][0].tokens for name in ENGINES), strict=True)
        agreed = [_agreed(ours, theirs) for ours, theirs in pairs]
        print(f"\nStreams: {count}. In fp32 the first {min(agreed)} of {NEW_TOKENS} tokens are the same on both sides.")


def _agreed(ours: list[int], theirs: list[int]) -> int:
    """How many tokens two generations have in common before they part."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
