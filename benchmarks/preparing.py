"""Claim: `victorian prepare` makes shards about as fast as plain tiktoken encodes, in memory that does not grow.

Peer: tiktoken's `encode_ordinary_batch` over every core, and `encode_ordinary` on one thread, with the same ranks on
the same texts; only these calls are timed, not reading, not building the encoding, and nothing is written. Ours is
the whole command's work on a corpus in PG19's layout that is repeated, each copy with ids and a first line of its own:

- "bare": no cleaning, no selection, no comparison, so that both sides encode the same text. Its speed in steady state
  is that from the first finished unit of books to the last; the whole job, from finding books to the manifest, beside.
- "all on": the recipe's defaults, whole job. Speeds are of source text, since cleaning leaves fewer tokens.

Peak memory is the sum of all processes' proportional set sizes (PSS), Ray's included, read twice a second, with 1
copy of the corpus and with all; both in shards of the recipe `gpt2-124m`. With `--s3` one copy is also prepared into
that place, in turns with a local folder. Every run is a process of its own with a fresh output, in turns.

    .venv/bin/python benchmarks/preparing.py --corpus DIR [--copies 10] [--runs 3] [--s3 s3://bucket/prefix]
"""

import shutil
import statistics
import tempfile
import threading
import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import psutil
import tiktoken
import tyro
from measure import alone, in_turns, note, print_header, print_machine, print_row, ratios, spread
from tiktoken_ext.openai_public import r50k_pat_str

from victorian.config import CleaningConfig, DataConfig, SelectionConfig
from victorian.cores import cores
from victorian.corpus.sources import find_books, read_many
from victorian.recipes import GPT2_124M
from victorian.tokens.bpe import get_encoding

NOTHING = DataConfig(
    cleaning=CleaningConfig(
        boilerplate=False, transcriber_notes=False, damage=False, typography=False, join_lines=False
    ),
    selection=SelectionConfig(
        language=None, least_words=1, last_year=None, edition_similarity=None, held_out_overlap=None
    ),
)
BARE, ALL_ON, BATCH, ONE = "prepare, bare", "prepare, all on", "tiktoken, every core", "tiktoken, 1 thread"
SETTINGS = {BARE: NOTHING, ALL_ON: GPT2_124M.data}
MEGABYTE = 1e6


@dataclass
class Job:
    """What one process measured. Speeds are MB of source text a second."""

    bytes: int
    seconds: float
    """From finding books to the manifest; of the peer, in its calls alone."""
    tokens: int
    before: float = 0.0
    """Seconds before that: the start of Ray."""
    stages: dict[str, float] = field(default_factory=dict)
    first_unit: float = 0.0
    """Seconds until the first unit of books was done."""
    steady: float = 0.0
    """Tokens a second from the first unit to the last."""
    peak: int = 0
    """Bytes."""

    @property
    def speed(self) -> float:
        return self.bytes / MEGABYTE / self.seconds


def repeat(corpus: Path, copies: int, target: Path) -> None:
    """The corpus `copies` times, in PG19's layout."""
    lines = []
    metadata = (corpus / "metadata.csv").read_text().splitlines()
    for copy in range(copies):
        for split in ("train", "validation", "test"):
            (target / split).mkdir(parents=True, exist_ok=True)
            for path in (corpus / split).glob("*.txt"):
                (target / split / f"{path.stem}{copy:03d}.txt").write_text(f"Copy {copy}.\n{path.read_text()}")
        lines += [f"{line.partition(',')[0]}{copy:03d},{line.partition(',')[2]}" for line in metadata]
    (target / "metadata.csv").write_text("\n".join(lines) + "\n")


def prepare_job(corpus: str, side: str, output: str) -> Job:
    """The whole of `victorian prepare` in this process and those that Ray starts."""
    from victorian.cluster.session import session

    job = Job(bytes=sum(book.size for book in find_books(corpus).books), seconds=0, tokens=0)
    began = perf_counter()
    with watched(job), session():
        from victorian.cluster.prepare import RayWorkers
        from victorian.tokens.manifest import Manifest
        from victorian.tokens.preparation import PrepareRun, prepare_with
        from victorian.tokens.progress import PrepareProgress

        steps: list[tuple[float, int, int]] = []

        def progress(now: PrepareProgress) -> None:
            steps.append((perf_counter(), now.books, now.tokens))

        def note_stages(manifest: Manifest, run: PrepareRun) -> str:
            job.stages = dict(run.seconds)
            job.tokens = run.tokens_made
            return ""

        start = perf_counter()
        prepare_with(RayWorkers(lambda: None), corpus, output, SETTINGS[side], progress=progress, report=note_stages)
        job.seconds, job.before = perf_counter() - start, start - began
    units = [step for index, step in enumerate(steps) if not index or step[1] != steps[index - 1][1]]
    job.first_unit = units[0][0] - start
    if len(units) > 2:
        job.steady = (units[-1][2] - units[0][2]) / (units[-1][0] - units[0][0])
    return job


def encode_plainly(corpus: str, threads: int) -> Job:
    """tiktoken itself, built from the same ranks; a few books at a time."""
    ours = get_encoding(GPT2_124M.tokens.ranks)
    ranks = {ours.token_bytes(rank): rank for rank in range(ours.ranks)}
    encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    job = Job(bytes=0, seconds=0, tokens=0)
    books = find_books(corpus).books
    for start in range(0, len(books), 32):
        texts = [raw.decode() for _, raw in read_many(books[start : start + 32])]
        began = perf_counter()
        if threads == 1:
            encoded = [encoding.encode_ordinary(text) for text in texts]
        else:
            encoded = encoding.encode_ordinary_batch(texts, num_threads=threads)
        job.seconds += perf_counter() - began
        job.tokens += sum(map(len, encoded))
        job.bytes += sum(len(text.encode()) for text in texts)
    job.steady = job.tokens / job.seconds
    return job


class watched:
    """Reads the memory of this process and its descendants while the context lasts."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._done.wait(0.5):
            self._job.peak = max(self._job.peak, sum(map(_pss, [own, *own.children(recursive=True)])))


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def run(corpus: Path, side: str, s3: str | None = None) -> Job:
    """One run of one side in a process of its own."""
    if side in (BATCH, ONE):
        return alone(encode_plainly, str(corpus), cores() if side == BATCH else 1)
    if s3:
        return alone(prepare_job, str(corpus), side, f"{s3.rstrip('/')}/{uuid.uuid4().hex}")
    with tempfile.TemporaryDirectory(prefix="victorian-shards-") as output:
        return alone(prepare_job, str(corpus), side, output)


def print_speeds(found: dict[str, list[Job]]) -> None:
    """The table of a corpus in its copies."""
    first = found[BARE][0]
    print_header(
        f"{first.bytes / MEGABYTE:,.0f} MB, {first.tokens:,} tokens, median of {len(found[BARE])}",
        "seconds",
        "MB/s of source text",
        "tokens/s, steady",
        "times tiktoken on every core",
        "start of Ray, s",
        "first unit after, s",
        "peak memory, MB",
    )
    for side, jobs in found.items():
        bare = side == BARE
        ours, theirs = ([job.steady if bare else job.speed for job in jobs_of] for jobs_of in (jobs, found[BATCH]))
        whole = ratios([job.speed for job in jobs], [job.speed for job in found[BATCH]])
        print_row(
            side,
            f"{spread(job.seconds for job in jobs):.1f}",
            f"{spread(job.speed for job in jobs):.1f}",
            f"{spread(job.steady for job in jobs):,.0f}",
            f"{ratios(ours, theirs):.2f} steady, {whole:.2f} whole job" if bare else f"{whole:.2f}",
            f"{spread(job.before for job in jobs):.1f}" if side in SETTINGS else "",
            f"{spread(job.first_unit for job in jobs):.1f}" if side in SETTINGS else "",
            f"{spread(job.peak / MEGABYTE for job in jobs):,.0f}" if side in SETTINGS else "",
        )
    print_header("stage, seconds", *SETTINGS)
    for stage in found[BARE][0].stages:
        print_row(stage, *(f"{spread(job.stages[stage] for job in found[side]):.1f}" for side in SETTINGS))


def main(corpus: Path, copies: int = 10, runs: int = 3, s3: str | None = None, work: Path | None = None) -> None:
    """Measure `prepare` against tiktoken, in time and in memory.

    Args:
        corpus: A folder in PG19's layout.
        copies: How many times the corpus is repeated.
        runs: Runs of each side.
        s3: A place under s3:// that can be written, for the comparison with a local folder.
        work: Folder for the repeated corpus; by default a temporary one.
    """
    with tempfile.TemporaryDirectory(prefix="victorian-copies-", dir=work) as folder:
        once, many = Path(folder) / "1", Path(folder) / str(copies)
        note(f"writing the corpus once and {copies} times")
        repeat(corpus, 1, once)
        repeat(corpus, copies, many)
        found = in_turns({side: partial(run, many, side) for side in (BARE, BATCH, ALL_ON, ONE)}, runs)
        shutil.rmtree(many)
        small = in_turns({side: partial(run, once, side) for side in SETTINGS}, runs)
        stores = {"local": partial(run, once, ALL_ON), "S3": partial(run, once, ALL_ON, s3)} if s3 else {}
        places = in_turns(stores, runs) if stores else {}
    print_machine()
    print_speeds(found)
    print_header("peak memory, MB", "1 copy", f"{copies} copies", "ratio")
    for side in SETTINGS:
        one, all_of_them = ([job.peak / MEGABYTE for job in jobs[side]] for jobs in (small, found))
        print_row(side, f"{spread(one):,.0f}", f"{spread(all_of_them):,.0f}", f"{ratios(all_of_them, one):.2f}")
    if places:
        seconds = {place: [job.seconds for job in jobs] for place, jobs in places.items()}
        print_header("1 copy, all on, shards to", "seconds", "times local")
        for place, values in seconds.items():
            print_row(place, f"{spread(values):.1f}", f"{ratios(values, seconds['local']):.2f}")
    note(f"median whole job, all on: {statistics.median(job.seconds for job in found[ALL_ON]):.0f} s")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
