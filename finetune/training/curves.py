"""The loss curves of a run as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.charts import LossCurves, loss_chart, page_style
from tuneserve.files import write_text
from tuneserve.finetune.training.losses import EVAL_LOSS, GENERAL_LOSS, perplexity_of

TEMPLATE = Path(__file__).with_name("curves.html.j2")


def logged_values(history: Sequence[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    """(step, value) of a quantity in the trainer's log; a step logged twice keeps the last."""
    found = {int(entry["step"]): float(entry[key]) for entry in history if key in entry}
    return sorted(found.items())


def loss_curves(history: Sequence[Mapping[str, float]], best_step: int | None) -> LossCurves:
    """The losses in the trainer's log; `best_step` is the one whose weights were kept."""
    return LossCurves(
        train=logged_values(history, "loss"),
        eval=logged_values(history, EVAL_LOSS),
        general=logged_values(history, GENERAL_LOSS),
        best_step=best_step,
    )


def write_curves_page(curves: LossCurves, path: Path, title: str) -> None:
    """Write train, eval and general loss over steps, as a chart and a table, to `path`."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        style=page_style(),
        chart=loss_chart(curves),
        perplexity=perplexity_of,
        **_table(curves),
    )
    write_text(path, page)


def _table(curves: LossCurves) -> dict[str, Any]:
    """What was evaluated, and for every evaluated step the losses in that order, None for one that
    was not measured then."""
    evaluated = {
        name: dict(curve)
        for name, curve in (("eval", curves.eval), ("general", curves.general))
        if curve
    }
    steps = sorted({step for curve in evaluated.values() for step in curve})
    rows = [(step, [curve.get(step) for curve in evaluated.values()]) for step in steps]
    return {"evaluated": list(evaluated), "rows": rows}
