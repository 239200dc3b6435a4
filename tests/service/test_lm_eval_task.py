"""Whole tasks of lm-eval by its own command, offline, against the service: every score is the engine's own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running_service import Service
from tests.service.test_lm_eval import likelihood
from victorian.config import SamplingParameters

TASKS = Path(__file__).parent / "last_words"


@pytest.mark.slow
def test_a_task_run_by_its_command_finds_what_the_engine_finds(
    service: Service, toy_artifact: Path, tmp_path: Path
) -> None:
    model = f"model=toy,base_url={service.url}/v1/completions,tokenizer={toy_artifact},max_length=64,num_concurrent=2"
    command = [
        str(Path(sys.executable).with_name("lm-eval")), "run", "--model", "local-completions", "--model_args", model,
        "--tasks", "last_words,next_words", "--include_path", str(TASKS), "--output_path", str(tmp_path / "out"),
        "--log_samples", "--batch_size", "3",
    ]  # fmt: skip
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OPENAI_API_KEY": "-",
    }
    run = subprocess.run(command, cwd=TASKS, env=os.environ | offline, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    [found] = [json.loads(file.read_text()) for file in (tmp_path / "out").rglob("results_*.json")]

    encode = service.engine.encoding.encode
    expected = []
    for sample in samples(tmp_path, "last_words"):
        before, after = sample["doc"]["beginning"], " " + sample["doc"]["end"]
        context, tokens = [*encode(before)], [*encode(before + after)]
        [[[logprob, is_greedy]]] = sample["resps"]
        expected.append(likelihood(service, context, [int(token) for token in tokens[len(context) :]]))
        assert float(logprob) == pytest.approx(expected[-1][0], abs=1e-4)
        assert str(is_greedy) == str(expected[-1][1])
    assert len(expected) == len((TASKS / "last_words.jsonl").read_text().splitlines())
    told = found["results"]["last_words"]
    mean = sum(logprob for logprob, _ in expected) / len(expected)
    assert told["perplexity,none"] == pytest.approx(math.exp(-mean), rel=1e-4)
    assert told["acc,none"] == sum(is_greedy for _, is_greedy in expected) / len(expected)

    for sample in samples(tmp_path, "next_words"):
        sampling = SamplingParameters(max_tokens=12, temperature=0, stop=(".",))
        events = service.engine.stream(service.engine.request(sample["doc"]["beginning"], sampling))
        assert sample["resps"] == [["".join(getattr(event, "text", "") for event in events)]]
    assert 0 <= found["results"]["next_words"]["exact_match,none"] <= 1


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """Each document of a task, with what the model said to it."""
    [file] = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]
