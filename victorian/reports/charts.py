"""Small charts as pieces of SVG that take their colours, and their letters, from the page they stand in.

matplotlib's object interface draws; colours are named by custom properties of the page's stylesheet, so that one
chart is right in light and in dark. Words stay words. The same numbers give the same bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from victorian.reports.numerals import readable_bytes, short

WIDTH = 380
"""Of every chart, in its own units: about the pixels of a telephone, so that letters are never drawn too small."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
"""Of curves in one chart, by their order; the page's legend draws them again."""

# Stand-ins: matplotlib knows no custom properties, so these are replaced in what it writes.
MUTED, LINE, KEPT, LEFT_OUT, PAPER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
LINES = ("#101112", "#131415", "#161718", "#191a1b", "#1c1d1e", "#1f2021")
_PROPERTIES = {
    **{colour: f"var(--line-{number})" for number, colour in enumerate(LINES)},
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    KEPT: "var(--kept)",
    LEFT_OUT: "var(--left-out)",
    PAPER: "var(--paper)",
}

_NEEDLESS = re.compile(
    r"""
    <metadata>.*?</metadata> | <style.*?</style> | <defs>\s*</defs>  # the style would hold for the whole page
    | <g[ ]id="[^"]*"/> | (?<=<g)[ ]id="[^"]*"                       # the same in every chart, and ids come once
    | [ ]font-family:[^;]*; | [ ]transform="rotate\(-0[^"]*"
    | (?<=\n)[ ]+
    """,
    re.DOTALL | re.VERBOSE,
)
"""Parts of matplotlib's SVG that do nothing in a page, or harm."""


@dataclass(frozen=True)
class Chart:
    """What stands inside an `<svg>` element of this size, and what to read out to those who cannot see it."""

    width: int
    height: int
    body: Markup
    alt: str


@dataclass(frozen=True)
class Column:
    """A column from `left` to `right` on the horizontal axis; what was left out stands on top of what was kept."""

    left: float
    right: float
    kept: float
    left_out: float = 0.0


@dataclass(frozen=True)
class Line:
    """A curve. `marked` ones show their points."""

    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False


def draw_rows(name: str, rows: Sequence[tuple[str, int]], alt: str) -> Chart:
    """Bars that lie, one a row from the top down, each with its label and its number."""
    figure = _figure(height=34 + 25 * len(rows))
    axes = figure.add_subplot()
    at = range(len(rows))
    bars = axes.barh(at, [value for _, value in rows], height=0.62, color=LEFT_OUT)
    axes.bar_label(bars, [f"{value:,}" for _, value in rows], padding=4, color=MUTED, fontsize=9)
    axes.set_yticks(at, [label for label, _ in rows], parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(NullLocator())
    _plain(axes, baseline="left")
    return _chart(name, figure, alt)


def draw_columns(name: str, columns: Sequence[Column], ticks: Sequence[tuple[float, str]], alt: str) -> Chart:
    """Columns that stand side by side, with a label at each tick."""
    figure, axes = _standing(columns)
    axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks], parse_math=False)
    return _chart(name, figure, alt)


def draw_log_histogram(name: str, columns: Sequence[Column], alt: str) -> Chart:
    """Columns over a logarithmic axis of bytes."""
    figure, axes = _standing(columns)
    axes.set_xscale("log")
    axes.set_xlim(columns[0].left, columns[-1].right)
    wide = columns[-1].right / columns[0].left > 500
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 3.3), numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable_bytes(value)))
    return _chart(name, figure, alt)


def draw_lines(name: str, lines: Sequence[Line], x_label: str, alt: str) -> Chart:
    """Curves over one axis, each with a dash of its own, so that they are told apart without colour."""
    figure = _figure(height=240)
    axes = figure.add_subplot()
    for number, line in enumerate(lines):
        style = DASHES[number % len(DASHES)]
        colour = LINES[number % len(LINES)]
        marker = "o" if line.marked else None
        axes.plot(line.x, line.y, color=colour, linestyle=style, linewidth=1.4, marker=marker, markersize=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    axes.yaxis.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    _plain(axes, baseline="bottom")
    return _chart(name, figure, alt)


def _standing(columns: Sequence[Column]) -> tuple[Figure, Axes]:
    """Columns over an axis of whole numbers that begins at zero."""
    figure = _figure(height=220)
    axes = figure.add_subplot()
    lefts, widths = [c.left for c in columns], [c.right - c.left for c in columns]
    kept = [c.kept for c in columns]
    axes.bar(lefts, kept, widths, align="edge", color=KEPT, edgecolor=PAPER, linewidth=0.7)
    if any(left_out := [c.left_out for c in columns]):
        axes.bar(lefts, left_out, widths, kept, align="edge", color=LEFT_OUT, edgecolor=PAPER, linewidth=0.7)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)
    _plain(axes, baseline="bottom")
    return figure, axes


def _figure(height: int) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=3 / 72)
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout=layout)
    figure.patch.set_visible(False)
    return figure


def _plain(axes: Axes, baseline: str) -> None:
    """Nothing but what has to be read."""
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.spines[baseline].set(visible=True, color=LINE)
    axes.tick_params(length=0, pad=5, labelsize=9, labelcolor=MUTED)


def _chart(name: str, figure: Figure, alt: str) -> Chart:
    """The figure as markup; ids in it depend on `name`, as many charts stand in one page."""
    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # no figure has these of its own
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    whole = re.search(r"<svg[^>]*>(.*)</svg>", text.getvalue(), re.DOTALL)
    assert whole, "matplotlib wrote no <svg>"
    body = re.sub(_NEEDLESS, "", whole[1])
    for colour, named in _PROPERTIES.items():
        body = body.replace(colour, named)
    width, height = (round(float(side) * 72) for side in figure.get_size_inches())
    return Chart(width=width, height=height, body=Markup(body), alt=alt)
