"""The base model loaded to speak, and its answers to general questions collected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.general import Question, Sampling, answer_questions
from finetune.mask import Encoder
from finetune.model import load_tokenizer
from finetune.runtime import quiet
from tuneserve.base import resolve_base
from tuneserve.console import progress, say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.settings import ModelSettings


def make_general(
    settings: ModelSettings, questions: Sequence[Question], sampling: Sampling
) -> list[dict[str, str]]:
    """Examples {group, instruction, output}: the base's own answers to the questions.

    Raises UsageError if the base can't be had, TuneserveError if no answer came to its end.
    """
    base = resolve_base(settings.base)
    encoder = Encoder(load_tokenizer(base.path, settings), max_length=1 << 30)
    say(f"base model: {base.name}; {len(questions) * sampling.samples:,} answers")
    model = load_speaker(base.path, settings)
    total = len(questions) * sampling.samples
    with progress("answering", total, unit="answers") as advance, quiet(errors_too=False):
        examples = list(answer_questions(model, encoder, questions, sampling, advance))
    if not examples:
        raise TuneserveError(
            f"none of {total} answers came to its end within {sampling.max_tokens} tokens",
            where=base.name,
            hint="Raise --max-tokens; reasoning models need thousands.",
        )
    return examples


def load_speaker(path: Path, settings: ModelSettings) -> Any:
    """The base as transformers loads it, ready to generate, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_gpu = torch.cuda.is_available()
    if settings.load_in_4bit and not on_gpu:
        raise UsageError("4-bit needs a GPU", where="model.load_in_4bit")
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    with quiet(errors_too=True):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            quantization_config=four_bit if settings.load_in_4bit else None,
            device_map="auto" if on_gpu else None,
            trust_remote_code=False,
        )
    return model.eval()
