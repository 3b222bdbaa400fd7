"""A base of which config.json suffices: what `tuneserve plan` reads, with or without weights and
tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.base.config import checkpoint_config
from tuneserve.base.resolve import (
    DEMO,
    check_checkpoint,
    check_no_adapter,
    demo_gguf,
    hub_config,
    is_hub_id,
    resolve_base,
)
from tuneserve.base.tokenizer_trial import check_usable
from tuneserve.errors import UsageError
from tuneserve.extras import missing_packages
from tuneserve.gguf.architectures import by_gguf_name
from tuneserve.gguf.parts import open_whole
from tuneserve.model_files import check_config
from tuneserve.safetensors import weight_files

_SETTING = "model.base"


@dataclass(frozen=True)
class BaseConfig:
    """A base's config.json and where it stands; the folders that hold its weights and its tokenizer
    as far as they are here."""

    config: Mapping[str, Any]
    where: str
    weights: Path | None = None
    tokenizer: Path | None = None


def read_base_config(spec: str) -> BaseConfig:
    """The configuration of 'demo', a .gguf file, a checkpoint directory that may hold config.json
    alone, a config.json itself, or a hub id, of which config.json alone is fetched.

    What is there beside it is used. Raises UsageError where there is no such base, TuneserveError
    if the hub can't be reached.
    """
    path = Path(spec).expanduser()
    if spec == DEMO or spec.endswith(".gguf"):
        return _of_gguf(demo_gguf() if spec == DEMO else path, spec)
    if path.is_file():
        return BaseConfig(check_config(path), str(path))
    if path.is_dir():
        return _of_directory(path)
    if is_hub_id(spec):
        return _of_hub(spec)
    raise UsageError(
        "no such base model",
        where=f"{_SETTING} = {spec!r}",
        hint="Name a checkpoint directory, its config.json, a .gguf file, a hub id (owner/name) or "
        "'demo'.",
    )


def _of_hub(repository: str) -> BaseConfig:
    """Of a download that was cut off, only what is whole is used."""
    path = hub_config(repository, setting=_SETTING)
    if not path.is_file():
        raise UsageError(
            "the hub model has no config.json",
            where=f"{_SETTING} = {repository!r}",
            hint="Name the model that it was made of, or a file of it on this machine.",
        )
    folder = path.parent
    try:
        weights = folder if weight_files(folder) else None
    except UsageError:  # shards are missing: their names are not asked then
        weights = None
    return _whole_or_not(folder, weights)


def _whole_or_not(folder: Path, weights: Path | None) -> BaseConfig:
    """Raises UsageError for a whole checkpoint that training refuses."""
    path, tokenizer = folder / "config.json", _with_tokenizer(folder)
    if weights and tokenizer:
        check_checkpoint(folder)
        if not missing_packages("train"):
            check_usable(folder / "tokenizer.json")
    return BaseConfig(check_config(path), str(path), weights, tokenizer)


def _with_tokenizer(folder: Path) -> Path | None:
    return folder if (folder / "tokenizer.json").is_file() else None


def _of_directory(folder: Path) -> BaseConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(
            "no config.json is there",
            where=str(folder),
            hint="Planning needs a model's config.json: name the file, or the folder it is in.",
        )
    check_no_adapter(folder)
    return _whole_or_not(folder, folder if weight_files(folder) else None)


def _of_gguf(path: Path, spec: str) -> BaseConfig:
    """Imported as training does it; where what that takes is not installed, from its header."""
    if not missing_packages("convert"):
        checkpoint = resolve_base(spec).path
        config = checkpoint / "config.json"
        return BaseConfig(check_config(config), str(config), checkpoint, checkpoint)
    if not path.is_file():
        raise UsageError("no such file", where=f"{_SETTING} = {str(path)!r}")
    gguf = open_whole(path)
    return BaseConfig(checkpoint_config(gguf, by_gguf_name(gguf.architecture)), str(path))
