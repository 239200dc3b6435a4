"""What tests share: small books, a data set, a trained toy artifact, free ports. Built once a session."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.ports import free_ports
from victorian.artifact import new_record, write_artifact
from victorian.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TokensConfig,
    TrainingConfig,
)
from victorian.device import use_threads
from victorian.storage import open_storage, sha256
from victorian.tokens.manifest import MANIFEST, Manifest, ShardEntry, read_manifest
from victorian.tokens.packing import Unit
from victorian.tokens.preparation import prepare_with
from victorian.tokens.stream import open_split
from victorian.tokens.units import Part, ShardPlan, cut_shard, tokenize_unit
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal
from victorian.training.worker import LocalWorker

pytest_plugins = ["tests.running_service", "tests.object_store", "tests.built_site"]

# The suite is the same every time; `pytest --hypothesis-profile=default` looks for new examples.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

# A shell that starts the suite in the background has it ignore Ctrl-C, and so would every command that it tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]

TOY = Recipe(
    name="toy",
    model=ModelConfig(layers=2, channels=32, heads=2, context=64, vocabulary=576, dropout=0.1),
    tokens=TokensConfig(ranks=512, tokens_per_shard=20_000),
    optimizer=OptimizerConfig(name="muon", learning_rate=3e-3),
    schedule=ScheduleConfig(warmup_steps=2),
    training=TrainingConfig(
        tokens_per_step=512,
        sequences_per_microbatch=4,
        steps=12,
        precision_cpu="fp32",
        validation_every_steps=5,
        validation_tokens=1024,
        checkpoint_every_steps=4,
    ),
)
"""A run of a second: small in every direction, with accumulation, dropout, validation and checkpoints in it."""


FAMILIES = {
    **dict.fromkeys(("test_deploy.py", "test_jobs.py", "test_kills.py", "test_train_kills.py"), "head"),
    **dict.fromkeys(
        ("test_prepare.py", "test_serve.py", "test_doors.py", "test_train.py", "test_checkpoints.py"), "ray_session"
    ),
}
"""Files whose tests share a cluster, which the process that has started it keeps."""
LONGEST = ("head", "tests/cluster/test_documents.py", "ray_session", "tests/test_demo.py", "tests/test_cli.py")
"""What is begun first, so that no process waits at the end for another that began with the longest last."""


def family(item: str) -> str:
    """The family of a test's file, or the file."""
    file = item.partition("::")[0]
    return FAMILIES.get(file.rpartition("/")[2], file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(family(item.nodeid), len(rank)))


class InFamilies(LoadScopeScheduling):  # type: ignore[misc]
    """Hands whole files to the processes that share the suite, and whole families of them."""

    def _split_scope(self, nodeid: str) -> str:
        return family(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> InFamilies:
    return InFamilies(config, log)


class PlainWorkers:
    """The work of a preparation in this process, without Ray; units are taken in the order that is asked for."""

    def __init__(self, order: Callable[[list[int]], list[int]] = lambda indexes: indexes) -> None:
        self._order = order
        self.tokenized: list[int] = []
        """Units whose parts were made, and not found."""

    def tokenize(self, units: Sequence[Unit], output: str, data: DataConfig) -> Iterator[tuple[int, Part]]:
        for index in self._order(list(range(len(units)))):
            part = tokenize_unit(units[index], open_storage(output), data)
            if not part.reused:
                self.tokenized.append(index)
            yield index, part

    def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[ShardEntry]:
        for index in self._order(list(range(len(plans)))):
            yield cut_shard(plans[index], open_storage(output))


def prepare_plainly(source: str, output: Path | str, data: DataConfig, unit_bytes: int = 50_000) -> Manifest:
    """Corpus to shards in this process: the same passes as Ray Data's, without Ray."""
    return prepare_with(PlainWorkers(), source, str(output), data, unit_bytes=unit_bytes).manifest


def train_plainly(recipe: Recipe, data: Path, run: Path) -> Path:
    """Data set to artifact in this process, without Ray; returns the artifact's folder."""
    use_threads()
    storage = open_storage(data)
    manifest = read_manifest(storage)
    trained = train(
        recipe,
        open_split(storage, manifest, "train"),
        open_split(storage, manifest, "validation"),
        LocalWorker(run),
        Extras(monitors=[Journal(open_storage(run))]),
    )
    at = trained.position
    digest = sha256(storage.read(MANIFEST))
    record = new_record(recipe, at.step, at.seconds, at.loss, at.validation_loss, digest)
    write_artifact(str(run / "artifact"), trained.model, recipe, record)
    return run / "artifact"


@pytest.fixture(scope="session")
def toy() -> Recipe:
    return TOY


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample books as shards of the toy recipe."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare_plainly("sample", folder, TOY.data)
    return folder


@pytest.fixture(scope="session")
def toy_artifact(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, trained for a second."""
    return train_plainly(TOY, toy_data, tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port of this machine that nothing listens on."""

    return lambda: free_ports(1)[0]


@pytest.fixture
def books(tmp_path: Path) -> Callable[..., Path]:
    """Writes a corpus in PG19's layout: `books(train={"1": "text"}, test={...})`."""

    def write(**splits: dict[str, str | bytes]) -> Path:
        root = tmp_path / "corpus"
        lines = []
        for split, texts in splits.items():
            (root / split).mkdir(parents=True, exist_ok=True)
            for book, text in texts.items():
                (root / split / f"{book}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
                lines.append(f'{book},"Title {book} by An Author",1860,http://example.org/{book}\n')
        (root / "metadata.csv").write_text("".join(lines))
        return root

    return write
