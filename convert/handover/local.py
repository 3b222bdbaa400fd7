"""A tuned GGUF where programs on this machine look for it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

from tuneserve.convert.handover.files import HandedFile
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import atomic_path, clear_leftovers, home_directory, write_text

LM_STUDIO = Path(".lmstudio") / "models"


PRESETS = Path(".lmstudio") / "config-presets"


def to_lm_studio(
    gguf: HandedFile,
    *,
    publisher: str,
    name: str,
    models: Path | None = None,
    force: bool = False,
) -> Path:
    """Put the GGUF where LM Studio lists models, `models`/publisher/name/file.gguf (default: its
    folder in the home directory); returns its path there. A hard link where the file system
    allows, else a copy.

    Raises OutputExistsError if there is another file (unless `force`).
    """
    for part in (publisher, name):
        if not re.fullmatch(r"[\w][\w.-]*", part):
            raise UsageError("a name of letters, digits, '.', '_' and '-' is needed", where=part)
    models = home_directory() / LM_STUDIO if models is None else models
    target = models / publisher / name / gguf.path.name
    if os.path.lexists(target):  # a link that leads nowhere too
        if target.exists() and target.samefile(gguf.path):
            clear_leftovers(target.parent)
            return target
        if not force:
            raise OutputExistsError(target)
        if target.is_dir():
            raise UsageError("is a directory, and a file is to be written", where=str(target))
    with atomic_path(target) as temporary:
        try:
            os.link(gguf.path, temporary)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            shutil.copyfile(gguf.path, temporary)
    return target


def write_preset(
    name: str, system: str, *, presets: Path | None = None, force: bool = False
) -> Path:
    """Write LM Studio's preset `name` with a system prompt into `presets` (default: its folder in
    the home directory); returns the file.

    Raises OutputExistsError if there is another file (unless `force`).
    """
    presets = home_directory() / PRESETS if presets is None else presets
    target = presets / f"{name}.preset.json"
    prompt = {"key": "llm.prediction.systemPrompt", "value": system}
    preset = {
        "identifier": f"@local:{name}",
        "name": name,
        "changed": False,
        "operation": {"fields": [prompt]},
        "load": {"fields": []},
    }
    text = json.dumps(preset, indent=2, ensure_ascii=False) + "\n"
    if os.path.lexists(target) and not force:
        if target.is_file() and target.read_text("utf-8", "replace") == text:
            return target
        raise OutputExistsError(target)
    write_text(target, text)
    return target
