"""Claim: a load generator that knows nothing of us drives the completions API, and all of its requests are served.

Peer: guidellm 0.8.1, which wants other versions than we do: it gets an environment of its own in a temporary folder,
on top of this one's, so that two dozen small packages are all that is loaded. Its prompts are made of the words of a
tokenizer, which is that of the model's artifact; nothing is asked of a hub.

Needs a service that answers (`victorian serve`). The figures are guidellm's: medians over the requests, and output
tokens of all streams over the wall time.

    .venv/bin/python benchmarks/load.py [--url URL] [--artifact runs] [--streams 1 4 16] [--requests 64]
"""

import json
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import tyro
from measure import note, print_header, print_machine, print_row

from victorian.artifact import find_artifact
from victorian.client import Client

PEER = "guidellm==0.8.1"


def install(folder: Path) -> Path:
    """The peer's command, in an environment that finds what it lacks in ours."""
    venv.create(folder, with_pip=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "ours.pth").write_text("\n".join(site.getsitepackages()))
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    return folder / "bin" / "guidellm"


def measure(guidellm: Path, folder: Path, url: str, artifact: str, streams: int, **asked: int) -> dict[str, Any]:
    """What the peer found with some streams at once."""
    with Client(url) as client:
        model = client.models()[0]
    subprocess.run(
        [
            guidellm, "run", "--disable-console",
            "--backend", f"kind=openai_http,target={url},request_format=/v1/completions,model={model}",
            "--tokenizer", f"kind=hf_auto,model={artifact}",
            "--data", f"kind=synthetic_text,prompt_tokens={asked['prompt']},output_tokens={asked['output']}",
            "--profile", f"kind=concurrent,streams={streams}",
            "--constraint", f"kind=max_requests,count={asked['requests']}",
            "--output", "kind=json",
        ],
        check=True, cwd=folder, stdout=sys.stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "benchmarks.json").read_text())["benchmarks"][0]["metrics"]
    return found


def main(
    url: str = "http://127.0.0.1:8000",
    artifact: str = "runs",
    streams: tuple[int, ...] = (1, 4, 16),
    requests: int = 64,
    prompt: int = 24,
    output: int = 32,
) -> None:
    """Drive a service that runs.

    Args:
        url: Where it answers.
        artifact: The model directory that it serves, or a folder of runs whose newest is served.
        streams: Requests at once, one number a run.
        requests: Of each run.
        prompt: Tokens of a prompt.
        output: Tokens to generate; the end of a text does not end it.
    """
    place = find_artifact(artifact)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        note(f"installing {PEER}")
        guidellm = install(folder / "venv")
        print_machine()
        print_header("streams", "requests done", "failed", "first token, ms", "between tokens, ms", "output tokens/s")
        failed = 0
        for count in streams:
            found = measure(guidellm, folder, url, place, count, requests=requests, prompt=prompt, output=output)
            total = found["request_totals"]
            failed += total["errored"] + total["incomplete"]
            medians = [
                found[name]["successful"]["median"] for name in ("time_to_first_token_ms", "inter_token_latency_ms")
            ]
            speed = found["output_tokens_per_second"]["successful"]["mean"]
            print_row(
                count, total["successful"], total["errored"] + total["incomplete"],
                *(f"{median:.1f}" for median in medians), f"{speed:,.0f}",
            )  # fmt: skip
    if failed:
        raise SystemExit(f"{failed} requests did not come to their end")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
