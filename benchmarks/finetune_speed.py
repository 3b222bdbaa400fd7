"""Tokens per second and peak memory of a training step: ours, bare Unsloth, transformers + PEFT.

All three take the same steps on the same random tokens at full length, so the difference is what
the training loop and its kernels cost. Each case runs in a process of its own, `--repeats` times,
in turn, so that a slow spell of the machine does not fall on one of them. A step's time is the
median over the steps after `--warmup`.

    python benchmarks/finetune_speed.py --base DIR --four-bit --batch 2 --length 2048
    python benchmarks/finetune_speed.py --base DIR --length 128 --checkpointing false   # on a CPU
    python benchmarks/finetune_speed.py --make-base DIR [--shape 8b] [--tokenizer DIR]

The last writes a model of Llama-8B's shape with random weights (a GPU makes it in half a minute):
speed and memory do not depend on what the weights are. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = ("ours", "unsloth", "peft")
ATTENTION_ONLY = ("q_proj", "v_proj")
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    options = parse()
    if options.make_base:
        make_base(options.make_base, options.vocabulary, options.tokenizer)
    elif options.kind:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--kind", choices=KINDS, help="measure one, here in this process")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which to compare")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--attention-only", action="store_true", help="adapters on q and v alone")
    parser.add_argument("--four-bit", action="store_true")
    parser.add_argument("--checkpointing", choices=("unsloth", "true", "false"), default="unsloth")
    parser.add_argument("--precision", default="auto", help="of ours: auto, bf16 or fp32")
    parser.add_argument("--packing", choices=("auto", "true", "false"), default="auto")
    parser.add_argument("--make-base", type=Path, metavar="DIR")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--tokenizer", type=Path, help="checkpoint whose tokenizer to copy")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> None:
    """Every kind in turn, `repeats` times over; median and range of each."""
    kinds = options.kinds.split(",")
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for repeat in range(options.repeats):
        for kind in kinds:
            result = in_a_process(kind)
            found[kind].append(result)
            print(f"run {repeat + 1}, {kind}: {result}", file=sys.stderr, flush=True)
    print(f"{'':10} {'tokens/s':>22} {'step':>9} {'peak':>10} {'loss':>7}")
    summary = {}
    for kind, runs in found.items():
        rates = sorted(run["tokens_per_second"] for run in runs)
        rate = statistics.median(rates)
        step = statistics.median(run["step_seconds"] for run in runs)
        peak = max(run["peak_bytes"] for run in runs)
        summary[kind] = {"tokens_per_second": rate, "step_seconds": step, "peak_bytes": peak}
        spread = f"({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(
            f"{kind:10} {rate:>9,.0f} {spread:>12} {step:>8.3f}s {peak / 2**30:>6.2f} GiB "
            f"{runs[-1]['last_loss']:>7.3f}"
        )
    if {"ours", "unsloth"} <= set(summary):
        cost = summary["ours"]["step_seconds"] / summary["unsloth"]["step_seconds"] - 1
        summary["our_loop_costs"] = round(cost, 4)
        print(f"our loop costs {cost:+.1%} of bare Unsloth's step")
    print(json.dumps({"options": public(options), "runs": found, "summary": summary}))


def in_a_process(kind: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{kind} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def public(options: argparse.Namespace) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train with one kind in this process; the figures of its steps."""
    run = {"ours": run_ours, "unsloth": run_unsloth, "peft": run_peft}[options.kind]
    with tempfile.TemporaryDirectory() as directory:
        ends, losses = run(options, directory)
    return figures(options, ends, losses)


def figures(options: argparse.Namespace, ends: list[float], losses: list[float]) -> dict[str, Any]:
    """The median step after the warm-up, and the process's peak memory."""
    steps = [after - before for before, after in itertools.pairwise(ends)]
    step = statistics.median(steps[options.warmup - 1 :])
    tokens = options.batch * options.accumulation * options.length
    return {
        "step_seconds": round(step, 5),
        "tokens_per_second": round(tokens / step, 1),
        "peak_bytes": peak_bytes(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def peak_bytes() -> int:
    """Peak on the GPU (reserved by torch's allocator), or resident memory on a CPU."""
    from tuneserve.finetune.runtime.libraries import peak_memory

    peak = peak_memory()
    return peak.get("gpu_bytes", peak["resident_bytes"])


def random_examples(options: argparse.Namespace) -> list[list[int]]:
    """As many examples as the steps need; ids below 10,000 exist in every vocabulary."""
    count = options.batch * options.accumulation * options.steps
    source = random.Random(0)
    return [[source.randrange(10, 10_000) for _ in range(options.length)] for _ in range(count)]


def targets(options: argparse.Namespace) -> tuple[str, ...]:
    return ATTENTION_ONLY if options.attention_only else SEVEN


def timer() -> Any:
    """A callback that notes when each step ends; its loss is known then, so the device is done."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.losses: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                self.ends.append(time.perf_counter())
                self.losses.append(logs["loss"])

    return Timer()


def run_ours(options: argparse.Namespace, directory: str) -> tuple[list[float], list[float]]:
    from tuneserve.finetune.runtime.libraries import load_runtime
    from tuneserve.finetune.runtime.model import add_adapter, load_base
    from tuneserve.settings import ModelSettings

    model_settings = ModelSettings(base=str(options.base), max_seq_length=options.length)
    settings = our_settings(options)
    runtime = load_runtime(options.precision)
    model, tokenizer = load_base(
        runtime, options.base, model_settings, options.checkpointing, four_bit=options.four_bit
    )
    model = add_adapter(runtime, model, settings)
    return our_steps(runtime, model, tokenizer, options, directory)


def our_settings(options: argparse.Namespace) -> Any:
    from tuneserve.settings import TrainSettings

    return TrainSettings(
        r=options.rank,
        target_modules=targets(options),
        gradient_checkpointing=options.checkpointing,
        batch_size=options.batch,
        gradient_accumulation=options.accumulation,
        max_steps=options.steps,
        evaluations=0,
        packing=options.packing,
    )


def our_steps(
    runtime: Any, model: Any, tokenizer: Any, options: argparse.Namespace, directory: str
) -> tuple[list[float], list[float]]:
    """Our loop as `tuneserve train` runs it, with panel and TensorBoard log, on a loaded model."""
    from tuneserve.finetune.memory.schedule import plan_steps
    from tuneserve.finetune.runtime.libraries import quiet
    from tuneserve.finetune.tokens.encoder import Encoded
    from tuneserve.finetune.tokens.epoch import EpochSampler, Stream
    from tuneserve.finetune.training.callbacks import (
        ProgressCallback,
        StoppingCallback,
        StopSignal,
    )
    from tuneserve.finetune.training.event_log import EventLog
    from tuneserve.finetune.training.progress import progress_display
    from tuneserve.finetune.training.trainer import build_trainer

    settings = our_settings(options)
    examples = [Encoded(ids, list(ids), len(ids), 0) for ids in random_examples(options)]
    clock = timer()
    logger = EventLog(Path(directory) / "tensorboard", None)
    with progress_display(options.steps, "benchmark") as display, logger:
        progress = ProgressCallback(display, logger)
        stopping = StoppingCallback(
            StopSignal(),
            patience=3,
            max_general_rise=0.0,
            checkpoint_seconds=600,
            keep_checkpoints=2,
        )
        once_each = Stream(tuple((place,) for place in range(len(examples))), len(examples))
        trainer = build_trainer(
            runtime, model, tokenizer, settings, plan_steps(settings, len(examples)),
            examples, EpochSampler([once_each], settings.seed), [],
            checkpoints=Path(directory), fresh=True, callbacks=[progress, stopping, clock],
        )  # fmt: skip
        progress.trainer = trainer
        with quiet():
            trainer.train()
    return clock.ends, clock.losses


def run_unsloth(options: argparse.Namespace, directory: str) -> tuple[list[float], list[float]]:
    """What Unsloth's own notebooks do, on the same tokens."""
    from unsloth import FastLanguageModel

    checkpointing: Any = {"unsloth": "unsloth", "true": True, "false": False}
    checkpointing = checkpointing[options.checkpointing]
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(options.base), max_seq_length=options.length, load_in_4bit=options.four_bit,
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=options.rank, lora_alpha=16, lora_dropout=0, bias="none",
        target_modules=list(targets(options)), use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return unsloth_steps(model, tokenizer, options, directory)


def unsloth_steps(
    model: Any, tokenizer: Any, options: argparse.Namespace, directory: str
) -> tuple[list[float], list[float]]:
    """The loop of Unsloth's notebooks on a loaded model."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from unsloth import is_bfloat16_supported

    rows = random_examples(options)
    cuda = torch.cuda.is_available()
    clock = timer()
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        args=SFTConfig(
            **common(options, directory),
            bf16=is_bfloat16_supported(),
            fp16=cuda and not is_bfloat16_supported(),
            optim="adamw_8bit" if cuda else "adamw_torch_fused",
            gradient_checkpointing=options.checkpointing != "false",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
        callbacks=[clock],
    )
    trainer.train()
    return clock.ends, clock.losses


def run_peft(options: argparse.Namespace, directory: str) -> tuple[list[float], list[float]]:
    """transformers' Trainer with PEFT and, for 4 bits, bitsandbytes."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        BitsAndBytesConfig,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        options.base, dtype=torch.bfloat16, device_map="cuda" if cuda else "cpu",
        quantization_config=quantization if options.four_bit else None,
    )  # fmt: skip
    checkpointing = options.checkpointing != "false"
    if options.four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    elif checkpointing:
        model.enable_input_require_grads()
    model.config.use_cache = False
    lora = LoraConfig(
        r=options.rank, lora_alpha=16, target_modules=list(targets(options)), task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    rows = random_examples(options)
    clock = timer()
    trainer = Trainer(
        model=model,
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        data_collator=default_data_collator,
        args=TrainingArguments(
            **common(options, directory),
            bf16=True,
            optim="adamw_8bit" if cuda else "adamw_torch_fused",
            gradient_checkpointing=checkpointing,
            use_cpu=not cuda,
        ),
        callbacks=[clock],
    )
    trainer.train()
    return clock.ends, clock.losses


def common(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Arguments that are the same in all three."""
    return {
        "output_dir": directory,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulation,
        "learning_rate": 2e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3407,
    }


def make_base(directory: Path, vocabulary: int, tokenizer: Path | None) -> None:
    """Write a checkpoint of Llama-8B's shape with random weights in bf16 (16 GB)."""
    import torch
    from convert_8b import copy_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131_072,
        rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    if tokenizer is not None:
        copy_tokenizer(tokenizer, directory)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {directory}")


if __name__ == "__main__":
    main()
