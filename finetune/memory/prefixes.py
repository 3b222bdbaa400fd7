"""Whether the shared beginnings of a batch's examples are computed once: where it saves enough, and
the model computes nothing that the others of a batch would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tuneserve.console import percent
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.flex_tree import ARCHITECTURES, UNIT
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.runtime.model import completed_config
from tuneserve.finetune.tokens.epoch import TrainingSet
from tuneserve.finetune.tokens.families import families_of
from tuneserve.finetune.tokens.sharing import RowCosts, Sharing
from tuneserve.model_shape import ModelShape
from tuneserve.settings import TrainSettings

# oneDNN keeps buffers for every shape it meets, so on a CPU lengths are multiples of this.
CPU_PADDING = 16
# What has to be saved at least, as a share of the plain way's cost, to do it another way.
_LEAST_SAVED = 0.1
# An operation of attention takes this many times as long as one of a projection: its matrices are
# narrow, and the softmax passes over every pair of tokens.
_ATTENTION_FACTOR = 3.0
# Where `auto` shares. (On a CPU oneDNN makes kernels in bf16 for each length of a row, and what
# that costs is not known yet; FlexAttention's kernels are for GPUs that compute in bf16.)
_MEASURED = (("cpu", "fp32"), ("cuda", "bf16"))
_DROPOUTS = (
    "attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop",
    "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "dropout",
)  # fmt: skip
_ROPE_BY_LENGTH = ("dynamic", "longrope")
_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def plan_sharing(
    settings: TrainSettings, runtime: Runtime, config: Mapping[str, Any], training_set: TrainingSet
) -> tuple[Sharing | None, str]:
    """How training shares beginnings (None: not at all), and what to say about it ('': nothing).
    `config`: config.json's content.

    Raises UsageError where the settings ask for it and it can't be.
    """
    wanted = settings.prefix_sharing == "true"
    if settings.prefix_sharing == "false":
        return None, ""
    if not wanted and (runtime.device, runtime.precision) not in _MEASURED:
        return None, ""
    on_gpu = runtime.device == "cuda"
    costs = RowCosts(_pair_cost(config), UNIT if on_gpu else CPU_PADDING, padding_free=on_gpu)
    sharing = Sharing(
        training_set.encoded, training_set.sampler, settings.examples_per_step, settings.seed, costs
    )
    # A GPU may compute a whole step's examples at a time.
    size = settings.batch_size
    if on_gpu and settings.speed == "auto":
        size = settings.examples_per_step
    found = sharing.computed(size)
    if families := families_of(training_set.encoded, settings.examples_per_step):
        together = replace(sharing, families=families)
        gathered = together.computed(size)
        if gathered.cost < (1 - _LEAST_SAVED) * found.cost:
            sharing, found = together, gathered
    saved = found.saved
    if not wanted and saved < _LEAST_SAVED:
        return None, ""
    longest = max(len(example.input_ids) for example in training_set.encoded)
    known = completed_config(config)
    reason = obstacle(known, settings, longest) or (obstacle_on_gpu(known) if on_gpu else None)
    if reason is None:
        told = "what examples of a batch begin with is computed once: "
        told += f"{percent(saved, 0)} less to compute"
        return sharing, told + ("; examples that share most meet" if sharing.families else "")
    if wanted:
        raise UsageError(reason, where="train.prefix_sharing")
    more = f"{percent(saved, 0)} more to compute"
    return None, f"shared beginnings are computed each time ({more}): {reason}"


def obstacle(config: Any, settings: TrainSettings, longest: int) -> str | None:
    """Why examples of up to `longest` tokens can't share what this model computes of their
    beginnings; None if nothing is known that speaks against it."""
    if settings.shard:
        return "each process has but a part of the base (shard)"
    if settings.dropout or settings.neftune_alpha:
        return "dropout and NEFTune draw their noise for each example anew"
    if config is None:
        return "the installed transformers does not have this base's architecture"
    text = config.get_text_config()
    dropout = [name for name in _DROPOUTS if getattr(text, name, None)]
    if dropout:
        return f"this base trains with dropout ({dropout[0]})"
    others = set(getattr(text, "layer_types", None) or ()) - _ATTENTION_LAYERS
    if others:
        return f"this base has layers that are no attention ({', '.join(sorted(others))})"
    windows = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(text, "use_sliding_window", True) is False:
        windows = windows[1:]
    shortest = min((window for window in windows if window), default=longest)
    if shortest < longest:
        return f"this base's attention sees {shortest} tokens, and examples have up to {longest}"
    return None


def obstacle_on_gpu(config: Any) -> str | None:
    """Why attention on a GPU takes no tree for this model; None if nothing is known against it."""
    text = config.get_text_config()
    if text.model_type not in ARCHITECTURES:
        return f"Unsloth's attention takes none for {text.model_type} on a GPU"
    if getattr(text, "attn_logit_softcapping", None):
        return "this base caps its attention's scores"
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in _ROPE_BY_LENGTH:
        return f"this base's {rope['rope_type']} RoPE depends on how long a row is"
    return None


def _pair_cost(config: Mapping[str, Any]) -> float:
    """What attention over a pair of tokens costs, in units of what a token costs elsewhere."""
    try:
        shape = ModelShape.of(config)
    except UsageError:
        return 1e-3  # about that of a small model: it is the larger, the narrower a model is
    per_pair = 2 * shape.query * shape.layers
    return _ATTENTION_FACTOR * per_pair / shape.projection_parameters
