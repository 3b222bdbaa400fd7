"""A run in short, out of its record: for `ls`, `show`, `compare` and `ui`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tuneserve.bench.compare.earlier import EarlierReport, earlier_report
from tuneserve.bench.result import BenchResult
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import TuneserveError
from tuneserve.finetune.training.checkpoints import has_checkpoints
from tuneserve.finetune.training.result import TrainResult
from tuneserve.foreign import check_plain
from tuneserve.overview.run_files import holder_of, removable_of, size_of
from tuneserve.records import Record
from tuneserve.run import RunDirectory


class RunSummary(Record):
    """A run: what it was made of, how far it came, its figures and sizes in bytes.

    `figures` are by name, in the unit that the name says; those of stages that did not run are not
    there. `earlier_report`: a benchmark that is of another GGUF than the run's. `removable_bytes`:
    of what `tuneserve clean` would offer.
    """

    name: str
    path: str
    state: str
    created: str = ""
    base: str = ""
    data: list[str] = Field(default_factory=list)
    figures: dict[str, float] = Field(default_factory=dict)
    verdict: str = ""
    earlier_report: EarlierReport | None = None
    size_bytes: int
    removable_bytes: int = 0


def summary_of(run: RunDirectory) -> RunSummary:
    """The run in short; one whose record can't be read has that as its state."""
    size = size_of(run.root)
    try:
        run.check_there()
        check_plain(run.root)
        record = run.read()
        trained = run.finished("train", TrainResult, record=record)
        converted = run.finished("convert", ConvertOutput, record=record)
        benched = run.finished("bench", BenchResult, record=record)
    except TuneserveError as error:
        return RunSummary(
            name=run.name, path=str(run.root), state=f"can't be read: {error.message}",
            size_bytes=size,
        )  # fmt: skip
    figures: dict[str, float] = {}
    if trained is not None:
        figures |= _of_training(trained)
        figures["train_seconds"] = record.stages["train"].seconds
    if converted is not None:
        figures["gguf_bytes"] = converted.tuned.size_bytes
        if converted.gain is not None and converted.gain.share is not None:
            figures["gain_kept"] = converted.gain.share
    if benched is not None:
        figures |= {
            "accuracy_base": benched.accuracy.base,
            "accuracy_tuned": benched.accuracy.tuned,
            "perplexity_base": benched.perplexity.base,
            "perplexity_tuned": benched.perplexity.tuned,
            "prompts": benched.prompts,
        }
    settings = record.settings
    data: dict[str, Any] = settings.get("data", {})
    return RunSummary(
        name=run.name,
        path=str(run.root),
        state=_state(run, list(record.stages)),
        created=record.created,
        base=trained.base.spec if trained else str(settings.get("model", {}).get("base", "")),
        data=[str(data["file"]), *map(str, _listed(data.get("more")))] if "file" in data else [],
        figures=figures,
        verdict=benched.verdict if benched is not None else "",
        earlier_report=earlier_report(run, record),
        size_bytes=size,
        removable_bytes=sum(part.size_bytes for part in removable_of(run, record=record)),
    )


def _listed(value: Any) -> list[Any]:
    """Of a record that was damaged a list may be anything."""
    return value if isinstance(value, list) else []


def _of_training(trained: TrainResult) -> dict[str, float]:
    figures: dict[str, float] = {
        **{f"examples_{part}": count for part, count in trained.examples.items()},
        "steps": trained.steps.done,
        "tokens_per_second": trained.tokens_per_second,
    }
    if trained.losses.eval:
        figures["eval_loss_before"] = trained.losses.eval[0][1]
        figures["eval_loss"] = min(loss for _, loss in trained.losses.eval)
    return figures


_DONE = {"train": "trained", "convert": "converted", "bench": "benched"}


def _state(run: RunDirectory, stages: list[str]) -> str:
    holder = holder_of(run)
    if holder is not None:
        return f"at work: {holder}"
    done = ", ".join(said for stage, said in _DONE.items() if stage in stages)
    if done:
        return done if run.adapter.is_dir() else f"{done}, adapter removed"
    return "training stopped, goes on" if has_checkpoints(run.checkpoints) else "begun"
