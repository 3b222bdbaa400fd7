"""Another base to merge the adapter into than the one it was trained on: of the same model."""

from __future__ import annotations

from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.text_model import plain_config, text_config


def check_merge_base(trained: Path, other: Path) -> None:
    """Raise UsageError if the checkpoint `other` is of another kind of model than `trained`, the
    base that was trained on. Where that is gone, the losses that training recorded must do."""
    kinds = [
        plain_config(text_config(read_json(path))).get("model_type")
        for path in (trained / "config.json", other / "config.json")
        if path.is_file()
    ]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise UsageError(
            f"a model of type {kinds[1]!r}; the adapter belongs to one of type {kinds[0]!r} "
            f"({trained})",
            where=f"merge_base = {other}",
            hint="Name the 16-bit checkpoint of the model that was trained on.",
        )
