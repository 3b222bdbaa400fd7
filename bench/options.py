"""Settings as the command line options that give them."""

from __future__ import annotations

from tuneserve.settings import Section


def as_options(settings: Section) -> list[str]:
    """Options for every setting that is not the default."""
    words: list[str] = []
    default = type(settings)()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value == getattr(default, name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", text]
    return words
