"""What a desk says and keeps when its service is down, full, slow, strange, guarded, or lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.desk_services import GREETING, LONG, Play, desk_at, over, play
from tests.running_service import Service as Running
from tests.running_service import running, soon
from victorian.client.desk import writing as writing_module
from victorian.client.desk.notices import notice_of
from victorian.client.desk.service import Service
from victorian.client.desk.session import saved
from victorian.client.desk.writing import GOODBYE_SECONDS, Order, Writing
from victorian.client.failures import told_over_http
from victorian.config import AccessConfig, ServiceConfig
from victorian.service.keys import make_key

__all__ = ["play"]


class Clock:
    """A clock that stands still until a test moves it, and knows how often it was read."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.seconds

    def read_again(self) -> bool:
        """Wait until it has been read a few times more."""
        enough = self.reads + 2
        return soon(lambda: self.reads >= enough)


class TestTrouble:
    def test_a_connection_that_breaks_is_said_and_what_came_is_kept(self, play: Play) -> None:
        url, script = play(" a", " dark", "break")
        desk = desk_at(url)
        desk.write()
        assert over(desk)
        assert desk.manuscript.text == "It was a dark"
        assert desk.notice
        assert "What had come is kept: Continue goes on from there" in desk.notice.text
        assert desk.notice.away
        script.words = (" night", "complete")
        desk.write()
        assert over(desk)
        assert (desk.manuscript.text, desk.notice) == ("It was a dark night", None)

    def test_a_service_that_is_down_is_said_and_the_text_is_safe(self, free_port: Callable[[], int]) -> None:
        desk = desk_at(f"http://127.0.0.1:{free_port()}")
        desk.write()
        assert desk.job is None
        assert desk.notice
        assert "o service answers at" in desk.notice.text
        assert "The text is safe here" in desk.notice.text
        assert desk.manuscript.text == "It was"

    def test_a_full_one_says_when_to_try_again(self, play: Play) -> None:
        url, _ = play("overloaded")
        desk = desk_at(url)
        desk.write()
        assert over(desk)
        assert desk.notice
        assert desk.notice.text == "The service has no room just now: the queue is full. Try again in 30 seconds."

    @pytest.mark.parametrize("seconds", ["inf", "nan", "-5", "-inf", "Fri, 27 Nov 2026 20:00:00 GMT"])
    def test_one_that_says_no_time_is_tried_again_in_a_moment(self, seconds: str) -> None:
        body = b'{"error": {"message": "the queue is full", "type": "rate_limit_error", "code": "overloaded"}}'
        notice = notice_of(told_over_http(429, body, seconds))
        assert notice.text == "The service has no room just now: the queue is full. Try again in a moment."

    def test_one_of_another_version_says_so(self, play: Play) -> None:
        url, _ = play(" x", greeting=GREETING | {"protocol": 2})
        desk = desk_at(url)
        desk.write()
        assert over(desk)
        assert desk.notice
        assert "speaks version 2 of the protocol, not 1" in desk.notice.text

    def test_one_that_hangs_can_be_stopped_and_is_left(self, play: Play) -> None:
        url, script = play(" a", "hang")
        desk = desk_at(url)
        desk.write()
        assert soon(lambda: len(desk.live[1]) == 1)
        desk.stop()
        assert over(desk)
        assert desk.manuscript.text == "It was a"
        assert desk.notice is None
        assert soon(lambda: script.left == 1, GOODBYE_SECONDS)

    def test_one_that_does_not_even_greet_holds_nobody_who_stops(self, play: Play) -> None:
        url, _ = play(greeting=None)
        desk = desk_at(url)
        desk.write()
        assert desk.job
        (writing,) = desk.job.writings
        desk.stop()
        assert writing.wait(GOODBYE_SECONDS + 2)
        desk.look()
        desk.edit("It is")
        assert (desk.manuscript.text, desk.notice, desk.job) == ("It is", None, None)

    def test_one_that_asks_for_a_key_says_so_and_takes_it(
        self, toy_artifact: Path, free_port: Callable[[], int], tmp_path: Path
    ) -> None:
        secret, line = make_key("writer", ["generate"])
        file = tmp_path / "keys"
        file.touch(mode=0o600)
        file.write_text(line)
        config = ServiceConfig(access=AccessConfig(keys_file=str(file)))
        with running(toy_artifact, free_port(), config) as guarded:
            for wrong in (None, "vk-wrong", "no key\nat all"):
                desk = desk_at(guarded.url, key=wrong)
                desk.write()
                assert desk.notice
                assert "Enter it under Service" in desk.notice.text
            desk = desk_at(guarded.url, key=secret)
            desk.write()
            assert over(desk)
            assert desk.notice is None
            assert secret not in saved(desk.session)

    def test_too_much_memory_is_refused_before_anything_is_asked(self, service: Running) -> None:
        desk = desk_at(service.url)
        desk.memory = "Pip is a boy of the marshes. " * 20
        desk.write()
        assert desk.job is None
        assert desk.notice
        assert "have room: shorten it" in desk.notice.text

    def test_a_passage_ends_when_nobody_looks_at_it_any_more(
        self, service: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(writing_module, "monotonic", clock)
        writing = Writing(Service(url=service.url), Order("It was", LONG), left_seconds=8)
        for _ in range(3):
            clock.seconds += 5
            writing.seen()
            assert clock.read_again()
        assert not writing.ended
        clock.seconds += 9
        assert writing.wait(10)
        assert writing.abandoned
        assert service.idle()
