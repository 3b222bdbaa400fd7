"""A checkpoint that transformers loads has all of the model's weights: what is missing it makes up
at random, and says so in a warning alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError


@contextmanager
def all_weights_read(checkpoint: Path) -> Iterator[None]:
    """Ask for the loading report of every model that the block loads by `from_pretrained`, whoever
    calls it. Raises UsageError naming the weights that the `checkpoint` lacks."""
    from transformers import PreTrainedModel

    former = PreTrainedModel.__dict__["from_pretrained"]
    missing: set[str] = set()

    def with_report(cls: type, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        model, report = former.__func__(cls, *arguments, output_loading_info=True, **options)
        missing.update(report["missing_keys"])
        return (model, report) if wanted else model

    PreTrainedModel.from_pretrained = classmethod(with_report)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = former
    if missing:
        raise UsageError(
            f"{len(missing)} weights of this model are not in its checkpoint, and would be made up",
            where=str(checkpoint),
            problems=sorted(missing),
            hint="Download or make it again; an index names the files that belong together.",
        )
