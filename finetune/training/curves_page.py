"""The loss curves of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.curve import smoothed
from tuneserve.files import write_text
from tuneserve.finetune.training.curves import Points, points
from tuneserve.finetune.training.trainer import EVAL_LOSS, GENERAL_LOSS

_WIDTH, _HEIGHT = 900, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 25, 10, 45


@dataclass(frozen=True)
class _Curve:
    name: str
    label: str
    values: Points
    marked: bool = False


def write_curves_page(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Write train, eval and general loss over steps, as a chart and a table, to `path`."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("tuneserve.finetune.training", "."), autoescape=True
    )
    page = environment.get_template("curves.html.j2")
    write_text(path, page.render(title=title, exp=_perplexity, **_content(history)))


def _content(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    curves = [curve for curve in _curves(history) if curve.values]
    steps = [step for curve in curves for step, _ in curve.values] or [0]
    losses = [loss for curve in curves for _, loss in curve.values if math.isfinite(loss)] or [1.0]
    last, highest = max(max(steps), 1), max(losses) * 1.05 or 1.0

    def across(step: float) -> float:
        return round(_LEFT + step / last * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(loss: float) -> float:
        return round(_TOP + (1 - min(loss, highest) / highest) * (_HEIGHT - _TOP - _BOTTOM), 1)

    evaluated = [curve for curve in curves if curve.marked]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "levels": [{"place": down(v), "value": f"{v:g}"} for v in ticks(highest)],
        "steps": [{"place": across(v), "value": f"{v:g}"} for v in ticks(last)],
        "curves": [
            {
                "name": curve.name,
                "label": curve.label,
                "marked": curve.marked,
                "points": [
                    {"x": across(step), "y": down(loss), "step": step, "loss": loss}
                    for step, loss in curve.values
                    if math.isfinite(loss)
                ],
            }
            for curve in curves
        ],
        "evaluated": [curve.name for curve in evaluated],
        "rows": [
            {"step": step, "losses": [dict(curve.values).get(step) for curve in evaluated]}
            for step in sorted({step for curve in evaluated for step, _ in curve.values})
        ],
    }


def _curves(history: Sequence[Mapping[str, float]]) -> list[_Curve]:
    train = points(history, "loss")
    window = max(1, len(train) // 20)
    return [
        _Curve("step", "train, each step", train),
        _Curve("train", f"train, mean of {window} steps", smoothed(train, window)),
        _Curve("eval", "eval", points(history, EVAL_LOSS), marked=True),
        _Curve("general", "general", points(history, GENERAL_LOSS), marked=True),
    ]


def ticks(highest: float, wanted: int = 6) -> list[float]:
    """Round numbers from 0 up to `highest`, about `wanted` of them."""
    raw = highest / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    each = min((m * power for m in (1, 2, 5, 10) if m * power >= raw), default=10 * power)
    return [round(i * each, 10) for i in range(int(highest / each) + 1)]


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
