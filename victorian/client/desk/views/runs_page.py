"""Training runs: their loss curves as they stand, and the reports that were written of them."""

from pathlib import Path

import streamlit as st
from pydantic import ConfigDict, ValidationError

from victorian.client.desk.views.widgets import literally
from victorian.config import Section

FOLDER = "runs"
METRICS, REPORT, CHART = "metrics.jsonl", "report.html", "loss.png"
MAX_BYTES = 64 * 2**20
MAX_RUNS = 200
POINTS = 500

# Its lines are no pictures by themselves, as those of `st.line_chart` are, which nothing names.
CHART_SHAPE = {
    "mark": {"type": "line", "aria": False, "tooltip": True},
    "encoding": {
        "x": {"field": "step", "type": "quantitative", "title": "step", "axis": {"format": "d", "tickMinStep": 1}},
        "y": {"field": "loss", "type": "quantitative", "title": "loss, nats a token", "scale": {"zero": False}},
        "color": {"field": "of", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
    },
}


class Step(Section):
    """Of a line of `metrics.jsonl`, what is drawn."""

    model_config = ConfigDict(extra="ignore")

    step: int
    loss: float
    validation_loss: float | None = None


def runs_page() -> None:
    st.title("Training runs", anchor=False)
    folder = Path(
        st.text_input("Folder of runs", FOLDER, key="runs_folder", help="On the machine that this page runs on.")
    )
    found = runs(folder)
    if not found:
        st.info(literally(f"No run has been recorded in {folder}. `victorian demo` and `victorian train` write some."))
        return
    name = st.selectbox("Run", [str(run.relative_to(folder)) for run in found], key="run")
    run = folder / (name or found[0].name)
    steps, problem = read_steps(run / METRICS)
    if problem:
        st.error(literally(problem))
    if steps:
        _curves(steps)
    _report(run)


def runs(folder: Path) -> list[Path]:
    """Folders with a record, those that were written last first."""
    try:
        records = [path for path in folder.glob(f"*/{METRICS}") if path.is_file()][:MAX_RUNS]
        own = [folder / METRICS] if (folder / METRICS).is_file() else []
        return [path.parent for path in sorted(own + records, key=lambda path: path.stat().st_mtime, reverse=True)]
    except (OSError, ValueError):
        return []


def read_steps(path: Path) -> tuple[list[Step], str | None]:
    """The steps of a run, and in words what is wrong with its record, if anything is."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return [], f"{path.name} has more than {MAX_BYTES:,} bytes: too many to draw here"
        lines = path.read_text("utf-8").split("\n")  # a sample may hold line ends that are not JSON's
    except (OSError, UnicodeDecodeError) as error:
        return [], f"{path.name} cannot be read: {error}"
    steps: list[Step] = []
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(Step.model_validate_json(line))
        except ValidationError:
            if number < len(lines):  # the last may be in the middle of being written
                return steps, f"line {number} of {path.name} is no record of a step: what stands before it is shown"
    return steps, None


def _curves(steps: list[Step]) -> None:
    last = steps[-1]
    judged = [step for step in steps if step.validation_loss is not None]
    with st.container(horizontal=True, gap="large"):
        st.metric("Steps", f"{last.step:,}")
        st.metric("Training loss", f"{last.loss:.3f}")
        if judged:
            st.metric("Validation loss", f"{judged[-1].validation_loss:.3f}")
    every = max(1, len(steps) // POINTS)
    drawn = [step for n, step in enumerate(steps) if n % every == 0 or step.validation_loss is not None]
    # A row for each value: a line that has holes between its points would not be drawn.
    rows = [(s.step, s.loss, "training") for s in drawn]
    rows += [(s.step, s.validation_loss, "validation") for s in judged if s.validation_loss is not None]
    data = dict(zip(("step", "loss", "of"), zip(*rows, strict=True), strict=True))
    said = f"Losses of {last.step:,} steps, from {steps[0].loss:.3f} to {last.loss:.3f} in training."
    st.vega_lite_chart(data, CHART_SHAPE, alt=said)
    with st.expander("The same as a table"):
        st.dataframe([step.model_dump() for step in judged or steps[-20:]], hide_index=True)


def _report(run: Path) -> None:
    report, chart = run / REPORT, run / CHART
    if chart.is_file():
        st.image(str(chart), caption="Losses, as drawn when the run ended.", output_format="PNG")
    if report.is_file() and report.stat().st_size <= MAX_BYTES:
        text = report.read_text("utf-8", errors="replace")
        st.download_button(
            "Report",
            text,
            f"{run.name}-report.html",
            "text/html",
            key="report",
            on_click="ignore",
            icon=":material/download:",
        )
        frame = st.components.v2.component("victorian.report", html=_FRAME, css=_FRAME_CSS, js=_FRAME_SCRIPT)
        frame(key="report_frame", data={"html": text, "title": f"Report of {run.name}"})


_FRAME = '<iframe sandbox="" referrerpolicy="no-referrer"></iframe>'
_FRAME_CSS = """
iframe { width: 100%; height: 70vh; border: 1px solid var(--st-border-color); border-radius: 6px; background: white; }
"""
# Whoever wrote the report: sandboxed, it runs no script, and the policy lets it ask no host.
_FRAME_SCRIPT = """
export default function ({ data, parentElement }) {
  const frame = parentElement.querySelector("iframe");
  if (frame.title === data.title) return;
  const rules = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
  const policy = `<meta http-equiv="Content-Security-Policy" content="${rules}">`;
  frame.title = data.title;
  frame.srcdoc = policy + data.html;
}
"""
