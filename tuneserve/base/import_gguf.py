"""GGUF in, Hugging Face checkpoint out."""

from __future__ import annotations

import os
from pathlib import Path

from tuneserve.base.config import checkpoint_config, generation_config
from tuneserve.base.proof import check_imported
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.base.tokenizer_files import TOKENIZER_FILES
from tuneserve.base.weights import checkpoint_dtype, write_weights
from tuneserve.chat.template import ChatTemplate
from tuneserve.console import bytes_per_second, progress
from tuneserve.errors import OutputExistsError, TuneserveError, UsageError
from tuneserve.files import atomic_path, check_replaceable, write_json
from tuneserve.gguf.architectures import by_gguf_name
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.validation import check_model
from tuneserve.gguf.vocabulary import TEMPLATE
from tuneserve.llama.trial import check_loadable
from tuneserve.signals import ended_by_sigterm


def import_gguf(source: Path, target: Path, *, force: bool = False) -> Path:
    """Make a checkpoint directory of a GGUF: weights, config, tokenizer, chat template.

    `target` appears whole or not at all, and only if transformers computes from it what llama.cpp
    computes from the file. Raises UsageError if the GGUF is damaged or of a kind that isn't
    supported, ImportedOtherwiseError if the two differ, OutputExistsError if `target` exists and
    `force` is not given. With `force` it replaces a checkpoint; anything else there is a
    UsageError.
    """
    if os.path.lexists(target):  # a link that leads nowhere too
        _check_replaceable(target, force=force)
    gguf = open_whole(source)
    architecture = by_gguf_name(gguf.architecture)
    check_model(gguf)
    _check_template(gguf)
    # What can't be imported is refused by name, before llama.cpp is asked whether it loads it.
    config = checkpoint_config(gguf, architecture)
    check_loadable(gguf.path, checked=gguf)
    total = sum(tensor.n_elements for tensor in gguf.tensors.values())
    with ended_by_sigterm(), atomic_path(target) as directory:
        directory.mkdir()
        write_json(directory / "config.json", config)
        write_json(directory / "generation_config.json", generation_config(gguf))
        write_tokenizer(gguf, directory)
        size = total * (4 if checkpoint_dtype(gguf) == "F32" else 2)
        with progress(f"import {source.name}", size, rate=bytes_per_second) as advance:
            write_weights(
                gguf, architecture, config, directory / "model.safetensors", on_tensor=advance
            )
        check_imported(gguf, config, directory)
    return target


def _check_template(gguf: GGUFFile) -> None:
    if template := gguf.get(TEMPLATE):
        try:
            ChatTemplate(template).check()
        except TuneserveError as error:
            raise UsageError(
                f"{TEMPLATE}: {error.message}",
                where=str(gguf.path),
                hint="Download or make it again.",
            ) from error


_NUMBER = 5 * "[0-9]"
# Names as they are written: a longer one (tokenizer.json.bak) is the user's.
CHECKPOINT_FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    f"model-{_NUMBER}-of-{_NUMBER}.safetensors", *TOKENIZER_FILES,
)  # fmt: skip


def _check_replaceable(target: Path, *, force: bool) -> None:
    if not force:
        raise OutputExistsError(target)
    there = [path.name for path in target.iterdir()] if target.is_dir() else []
    if not target.is_dir() or (there and "config.json" not in there):
        raise UsageError(
            "is no checkpoint, and is not replaced by one",
            where=str(target),
            hint="Choose another name.",
        )
    check_replaceable(target, CHECKPOINT_FILES, what="checkpoint")
