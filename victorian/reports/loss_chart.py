"""The losses of a run as a picture."""

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from victorian.training.monitors import StepRecord

LOSS_CHART = "loss.png"


def draw_losses(records: list[StepRecord], title: str) -> bytes:
    """A PNG of training and validation loss over the tokens seen."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    tokens = [record.tokens / 1e6 for record in records]
    axes.plot(tokens, [record.loss for record in records], color="#9db4c0", linewidth=1, label="training, each step")
    judged = [record for record in records if record.validation_loss is not None]
    if judged:
        axes.plot(
            [record.tokens / 1e6 for record in judged],
            [record.validation_loss or 0.0 for record in judged],
            color="#7a2e39",
            marker="o",
            markersize=3.5,
            label=f"validation, {judged[-1].validation_loss:.3f} at the end",
        )
    axes.set_title(title, loc="left")
    axes.set_xlabel("million tokens")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
