"""The base model and its LoRA adapter, through Unsloth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneserve.base.fast_tokenizer import load_fast_tokenizer, save_fast_tokenizer
from tuneserve.base.loaded import all_weights_read
from tuneserve.chat.builtin_templates import chosen_template, default_template
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.runtime.libraries import Runtime, quiet
from tuneserve.settings import ModelSettings, TrainSettings

CHECKPOINTING: dict[str, bool | str] = {"unsloth": "unsloth", "true": True, "false": False}


def load_tokenizer(path: Path, settings: ModelSettings) -> Any:
    """The base's tokenizer as its tokenizer.json has it, with the recipe's chat template where it
    names one. Raises UsageError if there is none."""
    with quiet(errors_too=True):
        tokenizer = load_fast_tokenizer(path)
    if settings.chat_template is not None:
        tokenizer.chat_template = chosen_template(settings.chat_template, tokenizer.get_vocab())
    elif isinstance(named := tokenizer.chat_template, Mapping):
        tokenizer.chat_template = default_template(named, path) if named else None
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

    `offloaded`: the token embeddings stay in main memory.

    Raises UsageError if the checkpoint lacks weights, TuneserveError if the loaded model has other
    embeddings than the base.
    """
    config = check_loadable(path)
    if runtime.device == "cpu":
        _let_load(config.model_type, path)
    tokenizer = load_tokenizer(path, settings)
    with TemporaryDirectory() as folder, all_weights_read(path), quiet(errors_too=True):
        write_complete(tokenizer, Path(folder))
        model, _ = runtime.fast_model.from_pretrained(
            model_name=str(path),
            tokenizer_name=folder,
            max_seq_length=settings.max_seq_length,
            dtype=runtime.dtype,
            load_in_4bit=four_bit,
            use_gradient_checkpointing=CHECKPOINTING[checkpointing],
            # Otherwise Unsloth decides by a reserve of its own.
            offload_embedding=offloaded,
            trust_remote_code=False,
        )
    _mend(model)
    _check_rows(model, config, path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked, so any token will do
    return model, tokenizer


def write_complete(tokenizer: Any, folder: Path) -> None:
    """Write a copy of the tokenizer that Unsloth finds nothing to repair in.

    Given the base's own files it takes the class that tokenizer_config.json names, which may add
    a token (`LlamaTokenizerFast`: <unk>), and adds one itself where padding is the end token or
    none; then it gives the embeddings a row more, and the adapter fits no base any more. It also
    refuses chat templates that it can't rewrite. Padding is masked, so any token will do.
    """
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = None
    if copied.pad_token is None or copied.pad_token_id == copied.eos_token_id:
        ends = {copied.eos_token, copied.bos_token}
        marked = [token.content for token in copied.added_tokens_decoder.values()]
        texts = copied.convert_ids_to_tokens(range(min(len(copied), len(ends) + 1)))
        copied.pad_token = next(text for text in [*marked, *texts] if text not in ends)
    save_fast_tokenizer(copied, folder)


def _check_rows(model: Any, config: Any, path: Path) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    expected = config.get_text_config().vocab_size
    if rows != expected:
        raise TuneserveError(
            f"loaded with {rows} rows of token embeddings; the base has {expected}: the adapter "
            "would fit no base",
            where=str(path),
            hint="Train on a GGUF of the base.",
        )


def check_loadable(path: Path) -> Any:
    """The base's configuration. Raises UsageError for an architecture that the installed
    transformers does not have, or a value of another type than it reads."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, KeyError, StrictDataclassError) as error:
        told = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else ""
        raise UsageError(
            f"transformers can't load this base: {told or str(error).splitlines()[0]}",
            where=str(path / "config.json"),
        ) from error


def completed_config(config: Mapping[str, Any]) -> Any:
    """config.json's content with what transformers takes where it says nothing; None for an
    architecture that the installed transformers does not have."""
    from transformers import CONFIG_MAPPING

    name = config.get("model_type", "")
    return CONFIG_MAPPING[name].from_dict(dict(config)) if name in CONFIG_MAPPING else None


def _let_load(model_type: str, path: Path) -> None:
    """Without a GPU Unsloth asks AutoModelForCausalLM alone, which lacks some models with eyes
    (Mistral 3): their own class is entered there, as transformers has it for Gemma 3.

    Raises UsageError for a model that is neither.
    """
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type in causal:
        return
    own = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    if own is None:
        raise UsageError(
            f"transformers has no causal language model for '{model_type}'",
            where=str(path / "config.json"),
            hint="Choose a base that continues text.",
        )
    causal[model_type] = own


def _mend(model: Any) -> None:
    """Put right what the training libraries read from a model and some architectures have wrong.

    Losses are those of the answers alone: TRL adds a mixture's load-balancing loss by its config,
    also to evaluations, and can't compute it where the config has no `num_experts` (Granite).
    Llama 4's text model names as its body what only the whole model has.
    """
    config = model.config.get_text_config()
    for name, off in (("router_aux_loss_coef", 0.0), ("output_router_logits", False)):
        if hasattr(config, name):
            setattr(config, name, off)
    if model.base_model is model and hasattr(model, "model"):
        model.base_model_prefix = "model"


def add_adapter(runtime: Runtime, model: Any, settings: TrainSettings) -> Any:
    """The model with a fresh LoRA adapter; only the adapter's weights (and biases) train."""
    extra: dict[str, Any] = {}
    if runtime.device == "cuda":
        extra["checkpoint_skip_layers"] = settings.kept_layers
    if settings.last_layers:
        count = model.config.get_text_config().num_hidden_layers
        extra["layers_to_transform"] = list(range(count - settings.last_layers, count))
    with quiet(errors_too=True):
        adapted = runtime.fast_model.get_peft_model(
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
    if settings.last_layers and settings.gradient_checkpointing == "false":
        # Layers that are computed again need inputs that require a gradient; here the backward pass
        # ends at the first adapted layer.
        adapted.disable_input_require_grads()
    return adapted


def trainable_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def check_finite(weights: Mapping[str, Any], where: str) -> None:
    """Raise TuneserveError if a value of these trained weights is not a finite number."""
    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise TuneserveError(
            f"{len(broken)} of the adapter's tensors hold values that are no finite numbers "
            f"({broken[0]}): it is not saved",
            where=where,
            hint='Train with a lower learning_rate, or precision = "fp32".',
        )
