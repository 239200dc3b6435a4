"""The desk's page of training runs: what is found, drawn, and said of what is damaged."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from victorian.client.desk.views.runs_page import read_steps, runs


def show_runs() -> None:
    """The harness runs the body of a function, without what stands around it."""
    from victorian.client.desk.views.runs_page import runs_page

    runs_page()


class TestRuns:
    def test_a_run_is_found_and_its_losses_are_drawn(self, toy_artifact: Path) -> None:
        folder = toy_artifact.parent.parent
        assert runs(folder) == [toy_artifact.parent]
        steps, problem = read_steps(toy_artifact.parent / "metrics.jsonl")
        assert (len(steps), problem) == (12, None)
        page = AppTest.from_function(show_runs, default_timeout=30).run()
        page.text_input(key="runs_folder").set_value(str(folder)).run()
        assert not page.exception
        assert "12" in [metric.value for metric in page.metric]

    def test_where_there_is_none_it_says_so(self, tmp_path: Path) -> None:
        page = AppTest.from_function(show_runs, default_timeout=30).run()
        for nowhere in (str(tmp_path), "\0", "/proc/1/root", "x" * 5000):
            page.text_input(key="runs_folder").set_value(nowhere).run()
            assert not page.exception
            assert "No run has been recorded" in page.info[0].value

    def test_a_damaged_record_is_shown_up_to_the_damage(self, tmp_path: Path) -> None:
        file = tmp_path / "metrics.jsonl"
        good = '{"step": 1, "loss": 2.5}\n'
        file.write_text(good + "<script>\n" + good)
        assert [len(read_steps(file)[0]), read_steps(file)[1]] == [
            1,
            "line 2 of metrics.jsonl is no record of a step: what stands before it is shown",
        ]
        file.write_text(good + '{"step": 2, "lo')
        assert (len(read_steps(file)[0]), read_steps(file)[1]) == (1, None)
        file.write_text(good + '{"step": 2, "loss": 2.4, "sample": "a\u2028b\u2029c\x85d"}\n' + good)
        assert (len(read_steps(file)[0]), read_steps(file)[1]) == (3, None)
        file.write_bytes(b"\xff\xfe")
        assert "cannot be read" in (read_steps(file)[1] or "")
