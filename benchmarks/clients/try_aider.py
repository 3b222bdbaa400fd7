"""aider: its command, which asks for a change of a file, and one question."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import checks
from checks import MODEL, QUESTION


def _aider(*options: str) -> None:
    """Run the command in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "greeting.py")
        source.write_text('print("hello")\n')
        # How long an answer may be; without it a model may write until the context is full.
        settings = Path(folder, "settings.yml")
        settings.write_text(
            f"- name: openai/{MODEL}\n  extra_params:\n    max_tokens: {checks.TOKENS}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "aider", "--model", f"openai/{MODEL}", "--no-git",
             "--yes-always", "--no-pretty",
             "--no-check-update", "--no-show-model-warnings", "--analytics-disable",
             "--no-show-release-notes", "--no-detect-urls", "--no-suggest-shell-commands",
             "--model-settings-file", str(settings), "--map-tokens", "0", *options, str(source)],
            cwd=folder, capture_output=True, text=True, timeout=300,
            env={**os.environ, "OPENAI_API_BASE": checks.V1, "OPENAI_API_KEY": checks.KEY},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-400:]
    # What it says after an answer, whole or cut off.
    assert "received" in done.stdout or "token limit" in done.stdout, done.stdout[-300:]
    assert "litellm." not in done.stdout, done.stdout[-300:]


def ask() -> None:
    _aider("--chat-mode", "ask", "--message", QUESTION)


def edit() -> None:
    """A small model's edit may not apply; the turn must come to an end."""
    _aider("--edit-format", "whole", "--message", "Greet Genoa instead.")


def edit_whole_answer() -> None:
    _aider("--no-stream", "--edit-format", "diff", "--message", "Greet Genoa instead.")


if __name__ == "__main__":
    checks.run("aider-chat", ask, edit, edit_whole_answer, name="aider")
