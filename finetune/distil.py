"""The base model in torch, made to speak: for answers on a GPU that only torch can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.libraries import quiet
from tuneserve.finetune.self_distillation import Asked, Sampling, end_tokens, generate
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.settings import ModelSettings

_BATCH = 24


def answers_by_torch(
    path: Path,
    settings: ModelSettings,
    encoder: Encoder,
    asked: Sequence[Asked],
    sampling: Sampling,
    answered: Callable[[int], None],
) -> list[list[int] | None]:
    """The answers' ids without their end tokens, None for one that did not come to its end;
    `answered` is told after each batch how many it had."""
    import torch

    model = load_speaker(path, settings)
    torch.manual_seed(sampling.seed)
    ends = end_tokens(encoder)
    found: list[list[int] | None] = []
    for start in range(0, len(asked), _BATCH):
        # The model's own distribution: no top-k, no top-p, no penalty, whatever its files say.
        answers = generate(
            model, encoder, [one.prompt for one in asked[start : start + _BATCH]],
            do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0,
            repetition_penalty=1.0, max_new_tokens=sampling.max_tokens,
        )  # fmt: skip
        found += [ids[:-1] if ids and ids[-1] in ends else None for ids in answers]
        answered(len(answers))
    return found


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
