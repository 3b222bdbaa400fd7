"""The base model and its LoRA adapter, through Unsloth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.base.fast_tokenizer import load_fast_tokenizer
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import read_text
from tuneserve.finetune.runtime.libraries import Runtime, quiet
from tuneserve.settings import ModelSettings, TrainSettings

CHECKPOINTING: dict[str, bool | str] = {"unsloth": "unsloth", "true": True, "false": False}


def load_tokenizer(path: Path, settings: ModelSettings) -> Any:
    """The base's tokenizer as its tokenizer.json has it, with the recipe's chat template where it
    names one. Raises UsageError if there is none."""
    with quiet(errors_too=True):
        tokenizer = load_fast_tokenizer(path)
    if settings.chat_template is not None:
        tokenizer.chat_template = read_text(settings.chat_template, "chat template")
    return tokenizer


def load_base(
    runtime: Runtime,
    path: Path,
    settings: ModelSettings,
    checkpointing: str,
    *,
    four_bit: bool,
    offloaded: bool = False,
) -> tuple[Any, Any]:
    """The base model ready for an adapter, and its tokenizer with a token to pad batches with.

    `offloaded`: the token embeddings stay in main memory. Unsloth's own tokenizer is left alone:
    it is of the class that tokenizer_config.json names, and repaired.
    """
    check_loadable(path, runtime.device)
    with quiet(errors_too=True):
        model, _ = runtime.fast_model.from_pretrained(
            model_name=str(path),
            max_seq_length=settings.max_seq_length,
            dtype=runtime.dtype,
            load_in_4bit=four_bit,
            use_gradient_checkpointing=CHECKPOINTING[checkpointing],
            # Otherwise Unsloth decides by a reserve of its own.
            offload_embedding=offloaded,
            trust_remote_code=False,
        )
    tokenizer = load_tokenizer(path, settings)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked, so any token will do
    return model, tokenizer


def check_loadable(path: Path, device: str) -> None:
    """Raise UsageError for an architecture that the installed transformers does not have, or that
    Unsloth does not load on this kind of `device` ('cuda' or 'cpu')."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"transformers can't load this base: {str(error).splitlines()[0]}",
            where=str(path / "config.json"),
        ) from error
    if device == "cpu" and type(config) not in AutoModelForCausalLM._model_mapping:
        raise UsageError(
            f"Unsloth does not load {(config.architectures or [config.model_type])[0]} on a CPU",
            where=str(path / "config.json"),
            hint="Train it on a GPU.",
        )


def add_adapter(runtime: Runtime, model: Any, settings: TrainSettings) -> Any:
    """The model with a fresh LoRA adapter; only the adapter's weights (and biases) train."""
    extra: dict[str, Any] = {}
    if runtime.device == "cuda":
        extra["checkpoint_skip_layers"] = settings.kept_layers
    with quiet(errors_too=True):
        return runtime.fast_model.get_peft_model(
            model,
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            bias=settings.bias,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            modules_to_save=list(settings.modules_to_save) or None,
            use_gradient_checkpointing=CHECKPOINTING[settings.gradient_checkpointing],
            random_state=settings.seed,
            **extra,
        )


def trainable_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def check_finite(model: Any, where: str) -> None:
    """Raise TuneserveError if a trained weight is not a finite number."""
    broken = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and not bool(value.isfinite().all())
    ]
    if broken:
        raise TuneserveError(
            f"{len(broken)} of the adapter's tensors hold values that are no finite numbers "
            f"({broken[0]}): it is not saved",
            where=where,
            hint='Train with a lower learning_rate, or precision = "fp32".',
        )
