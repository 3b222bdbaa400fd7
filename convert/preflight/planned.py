"""What a base's config.json alone tells of a conversion: what `tuneserve plan` refuses before the
whole check of a training would."""

from __future__ import annotations

from tuneserve.base import BaseConfig
from tuneserve.convert.merge.config import CheckpointConfig, read_config
from tuneserve.convert.preflight.apart import refuse
from tuneserve.convert.route import uses_converter
from tuneserve.errors import UsageError
from tuneserve.findings import Finding
from tuneserve.gguf.architectures import ARCHITECTURES, by_hf_name
from tuneserve.gguf.architectures.computed import check_computed
from tuneserve.gguf.architectures.table import Config
from tuneserve.settings import ConvertSettings
from tuneserve.text_model import text_config


def require_planned(base: BaseConfig, settings: ConvertSettings, *, spec: str) -> None:
    """Raise UsageError, as a training does at its start, for a base whose architecture, activation,
    RoPE scaling or stored weights can't be converted. `spec`: what the user calls it.

    Of a config.json without weights, which a user may have cut down to the sizes, an architecture
    that is not known and entries that are not there are no reason.
    """
    if not settings.preflight:
        return
    names = base.config.get("architectures") or [""]
    architecture = str(names[0])
    known = any(architecture in one.hf_names for one in ARCHITECTURES)
    if not known and base.weights is None:
        return
    where, step = spec, "converter" if settings.converter else "architecture"
    try:
        if uses_converter(architecture, settings, where=where):
            return
        step = "configuration"
        config: Config = text_config(base.config)
        if base.weights is not None:
            config = read_config(base.weights)
        _check_config(architecture, config)
    except UsageError as error:
        shown = error.message if error.where in ("", where) else f"{error.where}: {error.message}"
        refuse([Finding(step, "refused", shown, error.hint)], spec)


def _check_config(name: str, config: Config) -> None:
    """Raises UsageError; for an entry that is missing only in the configuration of a checkpoint."""
    try:
        architecture = by_hf_name(name, config)
        check_computed(architecture, config)
        architecture.to_metadata(config)
    except KeyError:
        assert not isinstance(config, CheckpointConfig)
