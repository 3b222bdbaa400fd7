"""Chat templates that come along, for bases that have none: by name or by file in [model]
chat_template."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.files import read_text

_FOLDER = Path(__file__).parent / "templates"
NAMES = ("chatml", "alpaca", "instruction")
# Special tokens that a template writes; the others end an answer with the base's own end token.
_NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>")}


def chosen_template(setting: Path, vocabulary: Container[str]) -> str:
    """The Jinja source that a file holds, or that comes along under that name.

    `vocabulary` holds the texts of the base's tokens. Raises UsageError for a file that can't be
    read, and for a template whose special tokens the base does not have.
    """
    name = str(setting)
    if setting.exists() or name not in NAMES:
        return read_text(setting, f"chat template (those that come along: {', '.join(NAMES)})")
    lacking = [token for token in _NEEDED.get(name, ()) if token not in vocabulary]
    if lacking:
        raise UsageError(
            f"{name} needs {' and '.join(lacking)}, which this base's vocabulary does not have",
            where="model.chat_template",
            hint="Take alpaca or instruction: they end an answer with the base's own end token.",
        )
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
