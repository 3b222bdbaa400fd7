"""The data as the model will see it: what `tuneserve preview --json` finds, in a process of its
own, since tokenizers load libraries that this one does without."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from pathlib import Path
from typing import Any

from tuneserve.changes import with_defaults
from tuneserve.child import own_module
from tuneserve.errors import TuneserveError
from tuneserve.files import write_text
from tuneserve.finetune.data.notes import Note
from tuneserve.recipe_text import recipe_text
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe
from tuneserve.ui.logs import last_words
from tuneserve.visible import visible

LONGEST_SECONDS = 600.0
SECTIONS = ("model", "data")


def data_settings(run: RunDirectory) -> Recipe:
    """The base and the data that a run was made with."""
    saved = with_defaults(run.saved_settings())
    return Recipe.model_validate({name: saved[name] for name in SECTIONS if name in saved})


class Previews:
    """Makes one preview at a time; who asks meanwhile waits."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def make(self, recipe: Recipe, examples: int) -> dict[str, Any]:
        """What the command finds of the recipe's base and data, with a typical example of so many
        kinds; what would stop a training is in `refusal`. Raises TuneserveError with what it says
        where it can't read them."""
        async with self._turn:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "preview.toml"
                tables = recipe.model_dump(
                    mode="json", include=set(SECTIONS), exclude_defaults=True
                )
                write_text(path, recipe_text(tables, {}, "What is shown."), synced=False)
                words = ["preview", "--config", str(path), "--examples", str(examples), "--json"]
                code, told, said = await _ended(own_module("tuneserve", *words, with_parent=False))
        try:
            found: dict[str, Any] = json.loads(told)
        except ValueError:
            raise TuneserveError(
                last_words(said) or f"the preview failed (exit code {code})"
            ) from None
        found["refusal"] = last_words(said) if code else ""
        found["notes"] = [Note.model_validate(note).line() for note in found["notes"]]
        for example in found["shown"]:
            for piece in example["pieces"]:
                piece["text"] = visible(piece["text"])
        return found


async def _ended(command: list[str]) -> tuple[int, str, str]:
    """A command's exit code, stdout and stderr. It is ended with this call."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            told, said = await process.communicate()
    except TimeoutError:
        raise TuneserveError(f"the preview took longer than {LONGEST_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, told.decode(errors="replace"), said.decode(errors="replace")
