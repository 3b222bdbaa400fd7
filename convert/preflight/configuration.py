"""What a base's config.json alone tells of a conversion: the beginning of the whole check, and what
`tuneserve plan` refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tuneserve.base import BaseConfig
from tuneserve.convert.merge.config import CheckpointConfig, read_config
from tuneserve.convert.preflight.apart import refuse
from tuneserve.convert.route import uses_converter
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.findings import Finding
from tuneserve.gguf.architectures import ARCHITECTURES, by_hf_name
from tuneserve.gguf.architectures.computed import check_computed
from tuneserve.gguf.architectures.table import Config
from tuneserve.settings import ConvertSettings
from tuneserve.text_model import text_config

Value = TypeVar("Value")
ODD_VALUES = (TypeError, ValueError, ArithmeticError, IndexError, AttributeError)
"""What reading an entry raises that is a text, a list or infinite where a number has to be."""


def tried(
    found: list[Finding], name: str, work: Callable[[], Value], where: str,
    folder: Path | None = None,
) -> Value | None:  # fmt: skip
    """The result of `work`; None, and a finding that says why, where it raises an error. `where`:
    the base, which `folder` stands for."""
    try:
        return work()
    except TuneserveError as error:
        place = error.where.replace(str(folder), where) if folder else error.where
        shown = f"{place}: {error.message}" if place and place != where else error.message
        if error.problems:
            more = len(error.problems) - 3
            shown += ": " + "; ".join(error.problems[:3]) + (f" … (+{more})" if more > 0 else "")
        found.append(Finding(name, "refused", shown, error.hint))
        return None


def check_configuration(
    found: list[Finding], architecture: str, config: Config, settings: ConvertSettings, where: str
) -> bool | None:
    """Is a base of this architecture and configuration left to the converter? None, and a finding,
    for one that can't be converted."""
    by_converter = tried(
        found, "converter" if settings.converter else "architecture",
        lambda: uses_converter(architecture, settings, where=where), where,
    )  # fmt: skip
    if by_converter is False:
        computed = tried(found, "configuration", lambda: _computed(architecture, config), where)
        return None if computed is None else False
    return by_converter


def _computed(name: str, config: Config) -> bool:
    """True. Raises UsageError; for an entry that is missing only in the configuration of a
    checkpoint: one without weights may be cut down to the sizes."""
    try:
        architecture = by_hf_name(name, config)
        # What the tokenizer's loading reads too, which would fail without a word of the key.
        check_computed(architecture, config)
        architecture.to_metadata(config)
    except KeyError:
        assert not isinstance(config, CheckpointConfig)
    except ODD_VALUES as error:
        raise UsageError(
            f"entries of another form than this architecture's: {error}", where="config.json",
            hint="Download it again, or ask who made it.",
        ) from error  # fmt: skip
    return True


def require_planned(base: BaseConfig, settings: ConvertSettings, *, spec: str) -> None:
    """Raise UsageError, as a training does at its start, for a base whose architecture, activation,
    RoPE scaling or stored weights can't be converted. `spec`: what the user calls it.

    Of a config.json without weights an architecture that is not known is no reason.
    """
    if not settings.preflight:
        return
    names = base.config.get("architectures") or [""]
    architecture = str(names[0])
    known = any(architecture in one.hf_names for one in ARCHITECTURES)
    if not known and base.weights is None:
        return
    config: Config = text_config(base.config)
    if base.weights is not None:
        config = read_config(base.weights)
    found: list[Finding] = []
    check_configuration(found, architecture, config, settings, spec)
    refuse(found, spec)
