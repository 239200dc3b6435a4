"""The whole way in one command: books, tokens, training, artifact, service, prose.

Each stage is skipped where its result is there and whole. What is started here ends here.
"""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from types import FrameType

import httpx2
from rich.console import Console

from victorian.artifact import artifact_uri, check_beginning, find_artifact, read_record
from victorian.client import Client
from victorian.cluster.session import session
from victorian.config import ModelsConfig, ModelSource, Recipe, SamplingParameters, ServiceConfig
from victorian.corpus.book import BookReference
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.corpus.sources import SAMPLE, find_books, fingerprint
from victorian.errors import ServiceError
from victorian.reports.loss_chart import LOSS_CHART
from victorian.reports.progress import clock, live_line, watch_preparing, watch_training
from victorian.reports.run_report import write_charts
from victorian.storage import sha256

HOST = "127.0.0.1"
PROMPT = "The old house stood"
PASSAGE = SamplingParameters(temperature=0.8, max_tokens=220, seed=1837)
"""Cooler than the default: a model of a few minutes is sure of little."""

PAGE_SECONDS = 120
"""In which the writing desk has to answer."""


def demo(corpus: str, recipe: Recipe, output: str, init_from: str | None, once: bool, port: int, app_port: int) -> None:
    """Run the stages, stream one passage, and unless `once` is given leave service and page up until Ctrl-C.

    Args:
        init_from: artifact whose weights training begins with; None begins from nothing.

    Raises:
        VictorianError: whatever a stage says.
    """
    console = Console()
    stages = Stages(console)
    if port == app_port and not once:
        raise ServiceError(f"service and page cannot share port {port}: choose another --app-port")
    for wanted in [port] if once else [port, app_port]:
        require_free_port(HOST, wanted)
    if init_from:
        check_beginning(recipe, find_artifact(init_from))
    books = find_books(corpus, recipe.selection.missing_texts).books
    stages.done("corpus", f"{len(books)} books" + (" of our own pastiche" if corpus == SAMPLE else ""))
    with terminating_like_interrupt(), session():
        stages.done("Ray", "a cluster on this machine")
        artifact = train_on_corpus(corpus, books, recipe, output, init_from, stages)
        from victorian.cluster import serve

        models = ModelsConfig(models=(ModelSource(artifact=artifact),))
        serve.start(ServiceConfig(), models, HOST, port)
        try:
            stages.done("service", f"http://localhost:{port}")
            url = f"http://{HOST}:{port}"
            read_passage(url, console)
            stages.done("first passage", "streamed over the WebSocket")
            if once:
                return
            with streamlit_page(url, app_port):
                desk = f"http://localhost:{app_port}"
                console.print(f"\nThe service is at http://localhost:{port}, the writing desk at {desk}.")
                console.print("Ctrl-C ends both.")
                wait_for_interrupt()
        finally:
            serve.stop()


def train_on_corpus(
    corpus: str, books: Sequence[BookReference], recipe: Recipe, output: str, init_from: str | None, stages: "Stages"
) -> str:
    """Corpus to artifact; returns the artifact."""
    from victorian.cluster.prepare import prepare
    from victorian.cluster.train import Options, train_run

    name = re.sub(r"[^a-z0-9]+", "-", Path(corpus).resolve().name.lower()).strip("-") or SAMPLE
    origin = find_artifact(init_from) if init_from else None
    beginning = ""
    if origin:
        record = read_record(origin)
        beginning = record.model_dump_json()
        stages.done("weights", f"{init_from}, trained on {record.tokens:,} tokens")
    # Names carry a hash of what the result depends on: another corpus or recipe never meets an old folder.
    identity = corpus_identity(books)
    data = f"{output}/data/{name}-{sha256((identity + recipe.data.model_dump_json()).encode())[:8]}"
    with live_line(stages.console, "tokens") as show:
        prepared = prepare(corpus, data, recipe.data, progress=watch_preparing(show), recipe=recipe.name)
    train = prepared.manifest.splits["train"]
    stages.done("tokens", f"{train.tokens:,} for training, in {data}", prepared.reused)

    run = f"{output}/runs/{recipe.name}-{name}-{sha256((identity + recipe.model_dump_json() + beginning).encode())[:8]}"
    with live_line(stages.console, "training") as show:
        result = train_run(recipe, data, run, Options(init_from=origin), watch=watch_training(show))
    record = result.record
    judged = f", validation {record.validation_loss:.3f}" if record.validation_loss is not None else ""
    words = f"{record.step} steps in {clock(record.seconds)}, {record.tokens:,} tokens, loss {record.loss:.3f}{judged}"
    stages.done("training", words, result.reused)
    if record.tokens > 4 * train.tokens:
        stages.note(
            f"each training token was read {record.tokens / train.tokens:.0f} times: the model will recite more than "
            "it invents; a larger corpus helps"
        )
    write_charts(run, f"{recipe.name} on {name}")
    stages.done("artifact", f"{artifact_uri(run)}, losses in {run}/{LOSS_CHART}", result.reused)
    return result.artifact


def corpus_identity(books: Sequence[BookReference]) -> str:
    """What the tokens of some books depend on beside the recipe: the books, and how this version cleans them."""
    return f"{fingerprint(books)} {CLEANING_VERSION}"


class Stages:
    """Tells what is done, and when."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = perf_counter()

    def done(self, stage: str, words: str, reused: bool = False) -> None:
        at = f"[{clock(perf_counter() - self._began)}]"
        again = " (reused: it was there and whole)" if reused else ""
        self.console.print(f"{at} {stage}: {words}{again}", highlight=False, markup=False, soft_wrap=True)

    def note(self, words: str) -> None:
        self.console.print(f"       note: {words}", highlight=False, markup=False, soft_wrap=True)


def read_passage(url: str, console: Console) -> None:
    """Stream one passage to the terminal."""
    console.print(f"\n{PROMPT}", end="", style="dim", highlight=False)
    with Client(url) as client:
        stream = client.stream(PROMPT, PASSAGE)
        for piece in stream:
            console.file.write(piece)
            console.file.flush()
    assert stream.complete is not None
    console.print(f"\n\n({stream.complete.timings.tokens_per_second:,.0f} tokens/s)", style="dim", highlight=False)


def require_free_port(host: str, port: int) -> None:
    """ServiceError if something listens there already, or nothing can: port 0 would be any, and nobody told which."""
    if not 1 <= port <= 65535:
        raise ServiceError(f"expected a port from 1 to 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServiceError(f"cannot listen on {host}:{port}: {error.strerror}") from error
            message = f"port {port} of {host} is taken: end what listens there, or choose another"
            raise ServiceError(message) from error


@contextmanager
def streamlit_page(url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The Streamlit page as a process of its own, for as long as the context lasts; it answers when that begins.

    Raises:
        ServiceError: if it does not.
    """
    script = Path(__file__).parent / "client" / "streamlit_app.py"
    options = {
        "server.address": HOST,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), *flags],
        env={**os.environ, "VICTORIAN_URL": url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends the page in order
    )
    try:
        until = monotonic() + PAGE_SECONDS
        while not _answers(f"http://{HOST}:{port}/_stcore/health"):
            if process.poll() is not None:
                raise ServiceError(f"the page ended by itself with code {process.returncode}")
            if monotonic() > until:
                raise ServiceError(f"the page did not answer within {PAGE_SECONDS} s")
            sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


@contextmanager
def terminating_like_interrupt() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end this process as Ctrl-C does: what it started is ended with it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_interrupt() -> None:
    """Return when Ctrl-C is pressed, or the process is asked to end."""
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return
