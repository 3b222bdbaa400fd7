"""What the page shows of runs, as JSON with figures in words: they are formatted here, where the
terminal's are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import Field

from tuneserve.bench.result import BenchResult
from tuneserve.charts import Line, LossCurves, framed, lines, loss_chart, scale_over
from tuneserve.console import human_bytes, human_seconds
from tuneserve.convert.result import Check, ConvertOutput
from tuneserve.finetune.training.progress_file import FILE as PROGRESS_FILE
from tuneserve.finetune.training.progress_file import TrainingProgress, read_progress, thinned
from tuneserve.finetune.training.result import TrainResult
from tuneserve.locks import command_of, process_holding
from tuneserve.overview.run_detail import detail_of, shown_figure
from tuneserve.overview.run_files import holder_of
from tuneserve.overview.run_summary import RunSummary, summary_of
from tuneserve.run import STAGES, RunDirectory, all_runs
from tuneserve.ui.logs import log_names

POINTS = 400
"""Of a curve: as many as a screen can show."""


class ShownConversion(ConvertOutput):
    """What is shown of a conversion, of an earlier release's too."""

    verification: list[Check] = Field(default_factory=list)
    sample: str = ""


def run_rows() -> list[dict[str, Any]]:
    """A row for each run, the newest first."""
    return [_row(summary_of(run)) for run in all_runs()]


def _row(found: RunSummary) -> dict[str, Any]:
    base, tuned = (found.figures.get(f"accuracy_{model}") for model in ("base", "tuned"))
    right = "" if base is None or tuned is None else _right(base, tuned)
    if earlier := found.earlier_report:
        right = f"({_right(earlier.accuracy_base, earlier.accuracy_tuned)}, {earlier.of})"
    loss = found.figures.get("eval_loss")
    return {
        "name": found.name,
        "state": found.state,
        "created": found.created,
        "base": found.base,
        "data": found.data,
        "loss": "" if loss is None else f"{loss:.4f}",
        "right": right,
        "size": human_bytes(found.size_bytes),
        "spare": human_bytes(found.removable_bytes) if found.removable_bytes else "",
    }


def _right(base: float, tuned: float) -> str:
    return f"{100 * base:.1f} → {100 * tuned:.1f} %"


ReadProgress = Callable[[Path], TrainingProgress | None]


def run_view(run: RunDirectory, read: ReadProgress = read_progress) -> dict[str, Any]:
    """All that is told of one run; `read` reads how far its training is. Raises UsageError where
    there is none, TuneserveError where its record is damaged."""
    detail = detail_of(run)
    converted = run.finished("convert", ShownConversion)
    benched = run.finished("bench", BenchResult)
    training = _training(run, read)
    return {
        **_row(detail.summary),
        "path": detail.summary.path,
        "figures": [
            [name.removesuffix("_bytes").replace("_", " "), shown_figure(name, value)]
            for name, value in detail.summary.figures.items()
            if name not in _OF_TRAINING
        ],
        "changed": detail.changed,
        "parts": [
            [name, human_bytes(size)]
            for name, size in sorted(detail.parts_bytes.items(), key=lambda part: -part[1])
            if not name.startswith(".")
        ],
        "removable": [
            f"{part.path} ({human_bytes(part.size_bytes)}): {part.what}"
            for part in detail.removable
        ],
        "at_work": stage_at_work(run),
        "stages": list(run.read().stages),
        "logs": log_names(run),
        "checks": [asdict(check) for check in converted.verification] if converted else [],
        "gain": converted.gain.describe() if converted and converted.gain else "",
        "sample": converted.sample if converted else "",
        "ggufs": [
            [name, made.path, made.called, human_bytes(made.size_bytes)]
            for name, made in (("tuned", converted.tuned), ("base", converted.base))
        ]
        if converted
        else [],
        "bench": told_of_benchmark(benched) if benched else _earlier(detail.summary),
        "report": bool(benched or detail.summary.earlier_report)
        and (run.bench / "report.html").is_file(),
        **training,
    }


# Figures of a run that stand with its training.
_OF_TRAINING = {"steps", "tokens_per_second", "eval_loss_before", "eval_loss", "train_seconds"}


def told_of_benchmark(found: BenchResult) -> list[str]:
    """Its verdicts, and the cautions that they don't tell already."""
    verdicts = [found.verdict, found.forgetting]
    told = "\n".join(filter(None, verdicts))
    return [*verdicts, *(one for one in found.cautions if one not in told)]


def _earlier(found: RunSummary) -> list[str]:
    """What a benchmark of an earlier GGUF says, and of which."""
    earlier = found.earlier_report
    return [earlier.describe(found.name), earlier.verdict] if earlier else []


def stage_at_work(run: RunDirectory) -> str:
    """The stage that a process works on, 'other' if it can't be told which; '' if none does."""
    if holder_of(run) is None:
        return ""
    number = process_holding(run.lock)
    words = [] if number is None else command_of(number)
    return next((word for word in words if word in STAGES), "other")


def _training(run: RunDirectory, read: ReadProgress) -> dict[str, Any]:
    """How far the training is, and its charts: of the one that runs or stopped, or of the one that
    is done."""
    trained = run.finished("train", TrainResult)
    at_work = stage_at_work(run) == "train"
    progress = read(run.root / PROGRESS_FILE)
    if trained is not None and not at_work:
        losses = trained.losses
        curves = LossCurves(losses.train, losses.eval, losses.general, trained.steps.best)
    elif progress is not None:
        curves = progress.curves
    else:
        return {"training": {}, "charts": []}
    charts = [("Loss per answer token", _losses(curves))]
    if progress is not None:
        memory = [(step, size / 2**30) for step, size in progress.memory]
        charts += [
            ("Speed", _series(progress.rates, "tokens per second")),
            ("Memory", _series(memory, "GiB in use")),
        ]
    figures = progress.last.figures() if progress is not None else {}
    if not at_work:
        figures.pop("left", None)
    if trained is not None and not at_work:
        figures = {**_of_all_steps(trained, run), **_kept(figures)}
    told = progress.last if progress is not None else None
    return {
        "training": {
            "figures": list(figures.items()),
            "share": told.step / max(told.steps, 1) if told else 1.0,
            "evaluating": told.evaluating if told and at_work else "",
            "time": told.time if told else "",
        },
        "charts": [[title, chart] for title, chart in charts if chart],
    }


def _kept(figures: dict[str, str]) -> dict[str, str]:
    """Of the last step's figures those that tell something of a training that is done."""
    return {name: figures[name] for name in ("general loss", "memory") if name in figures}


def _of_all_steps(trained: TrainResult, run: RunDirectory) -> dict[str, str]:
    """What a training that is done came to."""
    steps, evaluated = trained.steps, [loss for _, loss in trained.losses.eval]
    found = {"steps": f"{steps.done:,} of {steps.planned:,}"}
    if trained.losses.train:
        found["loss, at the end"] = f"{trained.losses.train[-1][1]:.4f}"
    if evaluated:
        found["eval loss"] = f"{evaluated[0]:.4f} → {min(evaluated):.4f}"
    found["speed"] = f"{trained.tokens_per_second:,.0f} tokens/s"
    shown = human_seconds(trained.training_seconds + trained.evaluation_seconds)
    found["steps and evaluations"] = shown
    found["in all, with loading"] = human_seconds(run.read().stages["train"].seconds)
    return found


def _losses(curves: LossCurves) -> Markup:
    thin = replace(
        curves,
        train=thinned(curves.train, POINTS),
        eval=thinned(curves.eval, POINTS),
        general=thinned(curves.general, POINTS),
    )
    return loss_chart(thin) if thin.train or thin.eval else Markup()


def _series(points: Sequence[tuple[int, float]], what: str) -> Markup:
    """A curve from 0 up over the optimizer steps; nothing where there are no points."""
    thin = thinned(points, POINTS)
    if not thin:
        return Markup()
    x = replace(scale_over([0.0, *(float(step) for step, _ in thin)]), name="step ")
    y = scale_over([0.0, *(value for _, value in thin)])
    chart = lines(x, y, [Line(thin, "tuned")], f"{what}, by step")
    return framed([("tuned", what)], x, y, chart, "optimizer step")
