"""Train a few steps in several ways, in a process of its own; print each way's losses as JSON.

    python variants.py BASE '{"plain": {}, "packed": {"packing": "true"}}' [small]

`small`: a narrow model with the base's tokenizer stands for the base.

Unsloth changes torch, transformers and PEFT when it is imported, so this can't be done in the
process that runs the tests. Everything is computed in fp32: ways that do the same have the same
losses to five digits.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLES = 12
LAYER = re.compile(r"\.layers\.(\d+)\.")
COMMON = {
    "r": 4, "batch_size": 4, "max_steps": 3, "evaluations": 0, "learning_rate": 5e-3,
    "gradient_checkpointing": "false", "warmup_fraction": 0.0,
}  # fmt: skip


def main(base: Path, variants: dict[str, dict[str, Any]], *, small: bool) -> None:
    from tuneserve.finetune.runtime.libraries import load_runtime

    runtime = load_runtime("fp32")
    with tempfile.TemporaryDirectory() as directory:
        trained = make_small(base, Path(directory)) if small else base
        found = {name: losses(runtime, trained, given) for name, given in variants.items()}
    print(json.dumps(found))


def make_small(base: Path, directory: Path) -> Path:
    """A Llama of four narrow layers with the base's tokenizer: its steps take no time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def losses(runtime: Any, base: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Loss and learning rate of each step, what trained, and the peak rates of the groups."""
    from tuneserve.finetune.memory.schedule import plan_steps
    from tuneserve.finetune.runtime.libraries import quiet
    from tuneserve.finetune.runtime.model import add_adapter, load_base
    from tuneserve.finetune.runtime.packing import check_apart
    from tuneserve.finetune.tokens.epoch import EpochSampler, Stream
    from tuneserve.finetune.tokens.sharing import RowCosts, Sharing
    from tuneserve.finetune.training.callbacks import ProgressCallback
    from tuneserve.finetune.training.prefix_sharing import first_difference
    from tuneserve.finetune.training.progress import progress_display
    from tuneserve.finetune.training.trainer import build_trainer
    from tuneserve.settings import ModelSettings, TrainSettings

    settings = TrainSettings.model_validate({**COMMON, **given})
    model, tokenizer = load_base(runtime, base, ModelSettings(), "false", four_bit=False)
    model = add_adapter(runtime, model, settings)
    if settings.packing == "true":
        check_apart(runtime, model)
    examples = encoded()
    once_each = Stream(tuple((place,) for place in range(EXAMPLES)), EXAMPLES)
    epochs = EpochSampler([once_each], settings.seed)
    sharing = None
    if settings.prefix_sharing == "true":
        costs = RowCosts(pair=1e-3, unit=16)
        sharing = Sharing(examples, epochs, settings.examples_per_step, settings.seed, costs)
    with tempfile.TemporaryDirectory() as directory, progress_display(3, "variants") as display:
        progress = ProgressCallback(display, None)
        trainer = build_trainer(
            runtime, model, tokenizer, settings, plan_steps(settings, EXAMPLES), examples,
            epochs, [], checkpoints=Path(directory), fresh=True, callbacks=[progress],
            sharing=sharing,
        )  # fmt: skip
        progress.trainer = trainer
        computed = count_computed(trainer)
        backward = layers_backward(trainer)
        difference = first_difference(trainer) if sharing else None
        computed.clear()
        with quiet():
            trainer.train()
    history = trainer.state.log_history
    rates = [group["initial_lr"] for group in trainer.optimizer.param_groups if group["params"]]
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "computed": sum(computed),
        "seen": int(trainer.tokens_seen),
        "difference": [difference.loss, difference.gradient] if difference else None,
        "rates": rates,
        "backward": sorted(backward),
        "adapted": sorted({int(found[1]) for name in trained if (found := LAYER.search(name))}),
        "steps": [entry["learning_rate"] for entry in history if "loss" in entry],
        "kinds": sorted({kind for kind in ("lora_A", "lora_B", "magnitude", "modules_to_save")
                         if any(kind in name for name in trained)}),
    }  # fmt: skip


def count_computed(trainer: Any) -> list[int]:
    """The tokens that each pass through the model computes, padding included, as they come."""
    counted: list[int] = []
    embeddings = trainer.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, given, __: counted.append(given[0].numel()))
    return counted


def layers_backward(trainer: Any) -> set[int]:
    """The layers that are computed backward, as training meets them."""
    met: set[int] = set()

    def look(number: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if trainer.model.training and hidden.requires_grad:
            met.add(number)

    for name, module in trainer.model.named_modules():
        found = LAYER.search(f"{name}.")
        if found and found.end() == len(name) + 1:
            module.register_forward_hook(
                lambda _, __, output, number=int(found[1]): look(number, output)
            )
    return met


def encoded() -> list[Any]:
    """Random tokens of quite different lengths; the second half of each is the answer. What comes
    before it begins alike, up to three tokens and up to all of it but the last one."""
    from tuneserve.finetune.tokens.encoder import IGNORED, Encoded

    source = random.Random(1)
    common = [source.randrange(10, 10_000) for _ in range(12)]
    made = []
    for number in range(EXAMPLES):
        length = 6 + 4 * (number % 5)
        ids = [source.randrange(10, 10_000) for _ in range(length)]
        begin = length // 2 - 1 if number % 2 else min(3, length // 2 - 1)
        ids[:begin] = common[:begin]
        answer = ids[length // 2 :]
        made.append(Encoded(ids, [IGNORED] * (length // 2) + answer, length, 0))
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), small=sys.argv[3:] == ["small"])
