"""The base's tokenizer as training will save it, and as llama.cpp reads it out of a GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuneserve.base.fast_tokenizer import save_fast_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import template_of
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.preflight.template import check_probes
from tuneserve.convert.verify.verify import vocabulary_checks
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.findings import Finding, Status
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.llama import LlamaModel
from tuneserve.settings import DataSettings, ModelSettings

_NO_TOKENIZER = (
    "llama.cpp would read other tokens than training: choose another base, or a GGUF of this one "
    "as the base."
)


def save_tokenizer(base: Path, settings: ModelSettings, folder: Path) -> Any:
    """Write tokenizer and template into `folder` as training saves them with the adapter; returns
    the tokenizer."""
    tokenizer = load_tokenizer(base, settings)
    save_fast_tokenizer(tokenizer, folder)
    return tokenizer


def write_vocabulary(model: GGUFModel, path: Path) -> Path:
    """A GGUF of all metadata and no tensors: what llama.cpp takes for a vocabulary."""
    write_gguf(path, model.metadata("F16"), {}, [], threads=1)
    return path


def check_vocabulary(
    gguf: Path, tokenizer: Path, examples: Sequence[Example], data: DataSettings
) -> Iterator[Finding]:
    """Token ids, special tokens and chat template of a GGUF against the saved tokenizer's."""
    trainer = TrainerTokenizer(tokenizer, thoughts=data.thoughts)
    for check in vocabulary_checks(gguf, trainer, examples):
        status: Status = "ok" if check.passed else "refused"
        advice = "" if check.passed else _NO_TOKENIZER
        if check.contract != "chat template" or examples:
            yield Finding(check.contract, status, check.detail, advice)
    with LlamaModel(gguf, vocab_only=True) as vocabulary:
        if not vocabulary.metadata("tokenizer.chat_template"):
            yield Finding(
                "template", "note", "the base has none: it learns texts without a prompt only",
                "Set [model] chat_template to chatml, alpaca, instruction or a Jinja file.",
            )  # fmt: skip
            return
        yield check_probes(trainer, template_of(vocabulary))
