"""Continues prompts with somebody else's engine, in a process of its own, since two sets of threads slow each other.

    python peer.py NAME < JOBS > ANSWERS

JOBS is a JSON list of {"model", "prompts", "new"}: a file or folder, lists of token ids (or texts, for llama.cpp),
tokens to add to each. An answer has for each prompt its [token, log-probability] pairs, the likeliest token always; a
null stands for a log-probability that could not be had.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

THREADS = 2

Answer = list[list[tuple[int, float | None]]]


def ctranslate2(model: str, prompts: list[list[int]], new: int) -> Answer:
    """CTranslate2 in float32, through its own converter, from a Hugging Face directory; a batch at a time."""
    import ctranslate2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        ctranslate2.converters.TransformersConverter(model).convert(folder, force=True)
        generator = ctranslate2.Generator(folder, device="cpu", compute_type="float32", intra_threads=THREADS)
        with open(f"{model}/vocab.json", encoding="utf-8") as file:
            names = {number: name for name, number in json.load(file).items()}
    answers: Answer = []
    for prompt in prompts:
        [result] = generator.generate_batch(
            [[names[token] for token in prompt]],
            max_length=new,
            sampling_topk=1,
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        tokens = result.sequences_ids[0]
        logits = np.array([np.array(row, np.float64).ravel() for row in result.logits[0][: len(tokens)]])
        totals = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
        answers.append([(t, float(row[t] - total)) for t, row, total in zip(tokens, logits, totals, strict=True)])
    return answers


def llama_cpp(model: str, prompts: Sequence[list[int] | str], new: int) -> Answer:
    """llama.cpp with a cache in float32, from a GGUF file; a prompt at a time, as ids or as text."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx = max(map(len, prompts)) + new  # bytes of a text are more than its tokens
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = THREADS
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(settings)
    answers: Answer = []
    for prompt in prompts:
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "n_probs": 1, "cache_prompt": False}
        found = server.handle_completions(asked | {"return_tokens": True, "verbose": True})
        tokens = found["__verbose"]["tokens"]
        logprobs = [step["logprob"] for step in found["choices"][0]["logprobs"]["content"]]
        if len(logprobs) < len(tokens):  # it reports none for tokens that are a part of a character
            logprobs = [None] * len(tokens)
        answers.append(list(zip(tokens, logprobs, strict=True)))
    return answers


PEERS = {"ctranslate2": ctranslate2, "llama.cpp": llama_cpp}


def main(name: str) -> None:
    jobs: list[dict[str, Any]] = json.load(sys.stdin)
    answers = [PEERS[name](**job) for job in jobs]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
