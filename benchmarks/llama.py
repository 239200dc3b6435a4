"""Measures llama.cpp for `decode.py`, in an environment of its own that has llama-cpp-python and nothing of ours.

Its C interface is called as its own programs do: one batch holds a token of every stream, and each stream has its
cells of the cache. The likeliest token is found by numpy, which costs less than llama.cpp's own sampler.

    VENV/bin/python benchmarks/llama.py < JOB > ANSWER

JOB is JSON: {"model", "threads", "cases", "decode", "first_token", "prompts"}; ANSWER has figures for each case, and
under "logits" what stands after each of the prompts.
"""

import ctypes
import json
import sys
from time import perf_counter
from typing import Any

import llama_cpp as llama
import numpy as np
import numpy.typing as npt

CALLBACK = llama.llama_log_callback(lambda level, text, data: None)
CONTEXT = 2048


class Stage:
    """A model with room for some streams."""

    def __init__(self, model: str, threads: int, streams: int, each: int) -> None:
        """`each`: tokens that a stream may have."""
        llama.llama_log_set(CALLBACK, ctypes.c_void_p(0))
        self._model = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
        settings = llama.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = streams * -(-each // 256) * 256, streams
        settings.n_batch = max(CONTEXT, streams * 64)
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, settings)
        if not self._model or not self._context:
            raise SystemExit(f"llama.cpp cannot load {model}")
        self._batch = llama.llama_batch_init(settings.n_batch, 0, 1)
        self.tokens = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))

    def forget(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def read(self, pieces: list[list[int]], start: int) -> npt.NDArray[np.float32]:
        """Read as many tokens of each stream, the first at `start`; the logits after each stream's last."""
        batch, index, last = self._batch, 0, []
        for stream, piece in enumerate(pieces):
            for offset, token in enumerate(piece):
                batch.token[index], batch.pos[index] = token, start + offset
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, stream
                batch.logits[index] = offset == len(piece) - 1
                index += 1
            last.append(index - 1)
        batch.n_tokens = index
        if llama.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp could not read a batch")
        rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, at), (self.tokens,)) for at in last]
        return np.stack(rows)


def random_prompts(seed: int, streams: int, length: int, tokens: int) -> list[list[int]]:
    found: list[list[int]] = np.random.default_rng(seed).integers(0, tokens - 1, (streams, length)).tolist()
    return found


def decode(model: str, threads: int, streams: int, prompt: int, new: int) -> float:
    """New tokens of all streams a second, from when the prompts have been read."""
    stage = Stage(model, threads, streams, prompt + new)
    speed = 0.0
    for seed in range(2):  # the first is to warm up
        stage.forget()
        logits = stage.read(random_prompts(seed, streams, prompt, stage.tokens), 0)
        began = perf_counter()
        for step in range(new - 1):
            logits = stage.read([[int(token)] for token in logits.argmax(-1)], prompt + step)
        speed = streams * (new - 1) / (perf_counter() - began)
    return speed


def first_token(model: str, threads: int, length: int, more: int) -> tuple[float, float]:
    """Seconds to the first token after a prompt, and after `more` tokens that follow on it."""
    stage = Stage(model, threads, 1, length + more)
    first = again = 0.0
    for seed in range(2):
        stage.forget()
        [prompt] = random_prompts(seed, 1, length + more, stage.tokens)
        began = perf_counter()
        stage.read([prompt[:length]], 0).argmax()
        first = perf_counter() - began
        began = perf_counter()
        stage.read([prompt[length:]], length).argmax()
        again = perf_counter() - began
    return first, again


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    model, threads = job["model"], job["threads"]
    answer: dict[str, Any] = {}
    for case in job["cases"]:
        if case == "first-token":
            answer["first token of 1,500"], answer["20 more"] = first_token(model, threads, **job["first_token"])
        elif case != "logits":
            answer[case] = decode(model, threads, int(case.removeprefix("decode-")), **job["decode"])
    if job["prompts"]:
        stage = Stage(model, threads, 1, max(map(len, job["prompts"])))
        answer["logits"] = []
        for prompt in job["prompts"]:
            stage.forget()
            answer["logits"].append(stage.read([prompt], 0)[0].tolist())
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
