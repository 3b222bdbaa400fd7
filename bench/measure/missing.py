"""Ask an endpoint what the journal does not hold yet, and write down what it says."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.bench.measure.endpoint import ask_endpoint
from tuneserve.bench.measure.failures import Before
from tuneserve.bench.measure.journal import Journal
from tuneserve.chat.examples import Example
from tuneserve.console import progress
from tuneserve.settings import BenchSettings


def ask_missing(
    examples: Sequence[Example],
    settings: BenchSettings,
    journal: Journal,
    *,
    kind: str,
    model: str,
    label: str,
    unit: str,
) -> None:
    """Ask what of the measurements (`kind`, `model`) is missing, and what failed again. `label` and
    `unit` are for the progress. Raises what `ask_endpoint` raises."""
    wanted = {example.id: example for example in examples}
    known = {name for name in wanted if journal.has(kind, model, name)}
    failed = {name for name in known if "failed" in journal.get(kind, model, name)}
    todo = [example for name, example in wanted.items() if name in failed or name not in known]
    if not todo:
        return
    before = Before(len(known) - len(failed), failed)
    with progress(label, len(todo), unit=unit) as advance:
        for example, answer in ask_endpoint(todo, settings, before):
            journal.add(kind, model, example.id, answer)
            advance(1)
