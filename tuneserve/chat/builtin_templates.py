"""Which chat template a base has: the one that [model] chat_template names, one of those that come
along or a file; or of several of its own the default."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cache
from pathlib import Path

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.files import read_text

_FOLDER = Path(__file__).parent / "templates"
NAMES = ("chatml", "alpaca", "instruction")
LARGEST_TEMPLATE = 4 << 20
"""Bytes."""
# Special tokens that a template writes; the others end an answer with the base's own end token.
_NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>")}


def chosen_template(setting: Path, vocabulary: Container[str]) -> str:
    """The Jinja source that a file holds, or that comes along under that name.

    `vocabulary` holds the texts of the base's tokens. Raises UsageError for a file that can't be
    read, and for a template whose special tokens the base does not have.
    """
    name = str(setting)
    if setting.exists() or name not in NAMES:
        what = f"chat template (those that come along: {', '.join(NAMES)})"
        return read_text(setting, what, most=LARGEST_TEMPLATE)
    lacking = [token for token in _NEEDED.get(name, ()) if token not in vocabulary]
    if lacking:
        raise UsageError(
            f"{name} needs {' and '.join(lacking)}, which this base's vocabulary does not have",
            where="model.chat_template",
            hint="Take alpaca or instruction: they end an answer with the base's own end token.",
        )
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def default_template(templates: Mapping[str, str], path: Path) -> str:
    """The default of the named templates of the base at `path`, which a server without a choice
    takes; says so once. Raises UsageError where none has that name."""
    names = ", ".join(sorted(templates))
    if "default" not in templates:
        raise UsageError(
            f"this base has chat templates of other names ({names}), and no default",
            where=str(path),
            hint="Name a Jinja file in [model] chat_template.",
        )
    if len(templates) > 1:
        _tell(f"chat template: the default of this base's ({names})")
    return templates["default"]


@cache
def _tell(line: str) -> None:
    say(line)
