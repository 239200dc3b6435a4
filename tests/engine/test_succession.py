"""Engines that follow each other: kernels that are compiled while torch answers, and models that are replaced."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_service import soon
from victorian.artifact import Artifact, read_artifact
from victorian.config import EngineConfig, SamplingParameters
from victorian.engine import compilation, succession
from victorian.engine.compilation import compiler, library, library_path, why_not
from victorian.engine.engine import Engine
from victorian.engine.mailbox import complete
from victorian.engine.request import Completed, Event, Failed
from victorian.engine.runner import NativeRunner, TorchRunner
from victorian.engine.succession import Succession, start
from victorian.errors import RequestError, ServiceError
from victorian.model.gpt2 import GPT

SHORT = SamplingParameters(max_tokens=20, seed=1)
LONG = SamplingParameters(max_tokens=3_000, seed=2)


@pytest.fixture(scope="module")
def artifact(toy_artifact: Path) -> Artifact:
    return read_artifact(str(toy_artifact))


def engine(artifact: Artifact, seed: int | None = None) -> Engine:
    """Over the artifact's model, or over one of other weights."""
    model = artifact.model
    if seed is not None:
        model = GPT(artifact.recipe.model).eval()
        model.initialize(seed)
    return Engine(model, artifact.encoding, EngineConfig(max_running=2))


class TestReplacing:
    @pytest.fixture
    def engines(self, artifact: Artifact) -> Iterator[Succession]:
        made = Succession(engine(artifact))
        yield made
        made.close()

    def test_a_stream_ends_on_the_weights_that_it_began_with(self, artifact: Artifact, engines: Succession) -> None:
        expected, _ = complete(engines, engines.request("It", LONG))
        events: list[Event] = []
        engines.submit(engines.request("It", LONG), events.append)
        assert soon(lambda: len(events) > 5)
        with engine(artifact, seed=9) as other:
            after = complete(other, other.request("It", SHORT))[0]
        newest = engine(artifact, seed=9)
        engines.replace(newest)
        assert complete(engines, engines.request("It", SHORT))[0] == after
        assert soon(lambda: isinstance(events[-1], Completed), seconds=60)
        assert "".join(event.text for event in events[:-1]) == expected  # type: ignore[union-attr]
        assert engines.active == 0

    def test_one_that_was_replaced_is_gone_when_its_streams_have_ended(self, artifact: Artifact) -> None:
        first = engine(artifact)
        engines = Succession(first)
        stream = engines.stream(engines.request("It", LONG))
        next(stream)
        engines.replace(engine(artifact, seed=9))
        with pytest.raises(ServiceError, match="has stopped"):
            first.submit(first.request("It", SHORT), lambda _: None)
        assert first.active == 1
        engines.cancel(first.request("unknown", SHORT).id)  # ids that no engine knows are ignored
        stream.close()  # type: ignore[attr-defined]
        assert soon(lambda: not first._thread.is_alive())
        assert engines.healthy
        engines.close()

    def test_a_request_that_was_made_for_another_network_is_refused(self, artifact: Artifact) -> None:
        small = artifact.recipe.model.model_copy(update={"context": 16})
        model = GPT(small).eval()
        model.initialize(0)
        engines = Succession(engine(artifact))
        request = engines.request([1] * 40, SHORT)
        engines.replace(Engine(model, artifact.encoding, EngineConfig(max_running=1)))
        with pytest.raises(ValueError, match="the prompt has 40 tokens, the model sees 16"):
            engines.submit(request, lambda _: None)
        engines.close()

    def test_at_no_moment_is_there_nobody_who_takes_requests(
        self, artifact: Artifact, engines: Succession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = engines._newest, engine(artifact)
        plain, newest_then = first.retire, []
        monkeypatch.setattr(first, "retire", lambda: (plain(), newest_then.append(engines._newest)))
        engines.replace(second)
        assert newest_then == [second]

    def test_an_id_that_is_under_way_on_an_earlier_engine_is_not_free(
        self, artifact: Artifact, engines: Succession
    ) -> None:
        events: list[Event] = []
        engines.submit(engines.request("It", LONG, "same"), events.append)
        engines.replace(engine(artifact))
        with pytest.raises(RequestError, match="'same' is under way already"):
            engines.submit(engines.request("It", SHORT, "same"), events.append)
        engines.cancel("same")
        assert soon(lambda: bool(events) and isinstance(events[-1], Completed))
        assert complete(engines, engines.request("It", SHORT, "same"))[1].reason == "length"

    def test_nothing_is_lost_while_engines_change(self, artifact: Artifact, engines: Succession) -> None:
        ends: list[Event] = []

        def note(event: Event) -> None:
            if isinstance(event, Completed | Failed):
                ends.append(event)

        def submit() -> None:
            for _ in range(40):
                engines.submit(engines.request("It", SHORT), note)
                assert soon(lambda: engines.active < 2)

        thread = threading.Thread(target=submit)
        thread.start()
        for _ in range(4):
            engines.replace(engine(artifact))
        thread.join()
        assert soon(lambda: len(ends) == 40)
        assert all(isinstance(end, Completed) and end.reason == "length" for end in ends)

    def test_closing_closes_them_all(self, artifact: Artifact) -> None:
        first, second, late = engine(artifact), engine(artifact), engine(artifact)
        engines = Succession(first)
        events: list[Event] = []
        engines.submit(engines.request("It", LONG), events.append)
        engines.replace(second)
        engines.close()
        assert isinstance(events[-1], Failed)
        engines.replace(late)
        assert not any(one._thread.is_alive() for one in (first, second, late))


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
class TestCompiling:
    @pytest.fixture(autouse=True)
    def empty_cache(self, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if (reason := why_not(artifact.recipe.model)) is not None:
            pytest.skip(reason)
        monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path))
        monkeypatch.setattr(compilation, "FLAGS", ("-O0", *compilation.FLAGS[1:]))  # a quarter of the time

    def test_torch_answers_until_the_kernels_are_compiled(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled = threading.Event()
        plain = succession.library
        monkeypatch.setattr(succession, "library", lambda: (plain(), compiled.wait(60))[0])
        engines = start(artifact.model, artifact.encoding, EngineConfig(max_running=2, precision="int8"))
        events: list[Event] = []
        engines.submit(engines.request("It", LONG), events.append)
        assert soon(lambda: len(events) > 5)
        first = engines._newest
        assert isinstance(first._forward.runner, TorchRunner)
        compiled.set()
        assert soon(lambda: engines._newest is not first, seconds=60)
        assert isinstance(engines._newest._forward.runner, NativeRunner)
        complete(engines, engines.request("It", SHORT))
        assert soon(lambda: isinstance(events[-1], Completed), seconds=60)  # by torch, to its end
        assert library_path().exists()
        engines.close()

    @pytest.mark.parametrize("share", [0, 0.5])
    def test_who_asks_for_the_kernels_waits_for_them(self, artifact: Artifact, share: float) -> None:
        library()
        made = library_path().read_bytes()
        library_path().unlink()  # which this process has loaded
        library_path().write_bytes(made[: int(share * len(made))])  # a copy that was cut off
        engines = start(artifact.model, artifact.encoding, EngineConfig(max_running=1, batch_invariant=True))
        assert isinstance(engines._newest._forward.runner, NativeRunner)
        engines.close()

    def test_without_a_place_for_them_torch_answers(
        self, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "file" / "cache"))
        engines = start(artifact.model, artifact.encoding, EngineConfig(max_running=1))
        assert isinstance(engines._newest._forward.runner, TorchRunner)
        assert "Not a directory" in caplog.text
        engines.close()

    def test_their_place_is_this_users_whatever_the_umask(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "new" / "cache"))
        before = os.umask(0o002)
        try:
            kernels = library_path().parent
        finally:
            os.umask(before)
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (kernels, kernels.parent)} == {0o700}

    def test_a_compiler_that_fails_leaves_torch_answering(
        self, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = tmp_path / "c++"
        broken.write_text("#!/bin/sh\necho no such architecture >&2\nexit 1\n")
        broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        engines = start(artifact.model, artifact.encoding, EngineConfig(max_running=1, precision="int8"))
        assert soon(lambda: "no such architecture" in caplog.text)
        assert complete(engines, engines.request("It", SHORT))[1].completion_tokens == 20
        engines.close()

    def test_kernels_that_come_too_late_are_closed(self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
        ready, loaded = threading.Event(), threading.Event()
        monkeypatch.setattr(succession, "library", lambda: ready.wait(60))
        monkeypatch.setattr(succession, "warm_up", lambda engine: (late.append(engine), loaded.set()))
        late: list[Engine] = []
        config = EngineConfig(max_running=1)
        monkeypatch.setattr(succession, "Engine", lambda *_: Engine(artifact.model, artifact.encoding, torch_alone))
        torch_alone = config.model_copy(update={"kernels": "torch"})
        engines = start(artifact.model, artifact.encoding, config)
        engines.retire()
        ready.set()
        assert loaded.wait(60)
        assert soon(lambda: not late[0]._thread.is_alive())
