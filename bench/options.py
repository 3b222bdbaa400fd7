"""Settings as the command line options that give them."""

from __future__ import annotations

from collections.abc import Mapping

from tuneserve.settings import BenchSettings, Section, ServeSettings

# Where and for whom a server listens and what it logs; the benchmark starts its own.
_NOT_FOLLOWED = {
    "host", "port", "api_key_file", "tls_cert", "tls_key", "cors_origins", "log", "log_prompts",
}  # fmt: skip
SERVED = {
    name: f"serve_{name}" if name in BenchSettings.model_fields else name
    for name in ServeSettings.model_fields
    if name not in _NOT_FOLLOWED
}
"""The serve settings that a benchmark follows, with their option's name in `tuneserve bench`."""


def as_options(
    settings: Section, *others: Section, named: Mapping[str, str] | None = None
) -> list[str]:
    """Options for every setting that is not the default, or not what it is in one of the `others`.

    `named` gives the settings there are options for, with their names (default: all, their own).
    """
    words: list[str] = []
    for name, option in (named or {name: name for name in type(settings).model_fields}).items():
        value = getattr(settings, name)
        if all(value == getattr(other, name) for other in (type(settings)(), *others)):
            continue
        flag = option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", text]
    return words
