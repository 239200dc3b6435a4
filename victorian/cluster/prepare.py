"""Ray Data: the work between books and shards, spread over the machines of a cluster."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
import ray.data

from victorian.cluster.session import session
from victorian.config import DataConfig
from victorian.errors import CorpusError, DataError, StorageError, VictorianError
from victorian.storage import open_storage
from victorian.tokens.manifest import Manifest, ShardEntry
from victorian.tokens.packing import Unit
from victorian.tokens.preparation import Prepared, PrepareRun, prepare_with
from victorian.tokens.progress import PrepareProgress
from victorian.tokens.units import Part, ShardPlan, cut_shard, tokenize_unit


def prepare(
    source: str,
    output: str,
    data: DataConfig,
    overwrite: bool = False,
    progress: Callable[[PrepareProgress], None] = lambda _: None,
    recipe: str = "",
) -> Prepared:
    """`tokens.preparation.prepare_with` on a cluster: in the session that there is, else in one of its own.

    Nothing is started for what needs no work: a mistake, or a data set that is there.

    Args:
        recipe: name of the recipe that the settings come from, for the report.
    """
    with ExitStack() as stack:
        workers = RayWorkers(lambda: stack.enter_context(session()))
        return prepare_with(workers, source, output, data, overwrite, progress, partial(_report, recipe))


def _report(recipe: str, manifest: Manifest, run: PrepareRun) -> str:
    """The page beside the shards, with what this cluster knows of itself."""
    # Tasks import this module, and need neither torch nor matplotlib: seconds of every worker process.
    from victorian.artifact import code_version
    from victorian.reports.corpus_report import Circumstances, render_corpus_report

    circumstances = Circumstances(
        recipe=recipe,
        nodes=sum(node["Alive"] for node in ray.nodes()),  # type: ignore[no-untyped-call]
        cores=int(ray.cluster_resources().get("CPU", 0)),  # type: ignore[no-untyped-call]
        version=code_version(),
        finished=datetime.now(UTC),
    )
    return render_corpus_report(manifest, run, circumstances)


class RayWorkers:
    """The tasks of a cluster, which `join` starts or finds; it is called before each kind of work."""

    def __init__(self, join: Callable[[], object]) -> None:
        self._join = join

    def tokenize(self, units: Sequence[Unit], output: str, data: DataConfig) -> Iterator[tuple[int, Part]]:
        self._join()
        # What is held out first: training books are compared with it, and wait until it is there.
        order = sorted(range(len(units)), key=lambda index: units[index].split == "train")
        rows = [{"index": index, "work": units[index].model_dump_json()} for index in order]
        work = partial(_work, _tokenize, output=output, settings=data.model_dump_json())
        return ((row["index"], Part.model_validate_json(row["made"])) for row in _spread(rows, work))

    def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[ShardEntry]:
        self._join()
        rows = [{"index": index, "work": plan.model_dump_json()} for index, plan in enumerate(plans)]
        work = partial(_work, _cut, output=output, settings="")
        return (ShardEntry.model_validate_json(row["made"]) for row in _spread(rows, work))


def _spread(rows: list[dict[str, Any]], work: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """A task for every row; the rows that come back, in any order.

    Tasks and not actors: Ray keeps worker processes between tasks, and each of them keeps its encoding.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # progress is told by whoever takes the rows
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(work, batch_size=1)
    for row in dataset.iter_rows():
        if row["problem"]:
            _raise_problem(row["problem"])
        yield row


def _work(make: Callable[[str, str, str], str], batch: Any, output: str, settings: str) -> Any:
    """One task.

    A problem of ours is returned and not raised: Ray Data hands on an exception's traceback, but not the exception.
    """
    made = problem = ""
    try:
        made = make(str(batch["work"][0]), output, settings)
    except VictorianError as error:
        problem = f"{type(error).__name__}:{error}"
    return {"index": [batch["index"][0]], "made": [made], "problem": [problem]}


def _tokenize(unit: str, output: str, settings: str) -> str:
    data = DataConfig.model_validate_json(settings)
    return tokenize_unit(Unit.model_validate_json(unit), open_storage(output), data).model_dump_json()


def _cut(plan: str, output: str, settings: str) -> str:
    return cut_shard(ShardPlan.model_validate_json(plan), open_storage(output)).model_dump_json()


def _raise_problem(problem: str) -> None:
    """The error that a task returned, as what it was."""
    name, _, message = problem.partition(":")
    kinds = {kind.__name__: kind for kind in (CorpusError, StorageError, DataError)}
    raise kinds.get(name, VictorianError)(message)
