"""Speed and memory of training an 8B model on a GPU, all in one command of a few minutes.

A checkpoint of the Llama-8B shape with random weights (speed and memory do not depend on what they
are) is trained for a few steps in the ways that are to be compared. Every part is a process of its
own; a part that loads one base trains it several times, ours and bare Unsloth in turn.

    caps       `speed = "auto"` on a card of 8 to 24 GiB (another process holds the rest), beside
               bare Unsloth's defaults (2 x 4 accumulated), in turn on the smallest
    four_bit   bare Unsloth and ours at 2 x 2,048, three runs each; and the memory plan
    sixteen    `speed = "auto"` where the plan takes a 16-bit base
    peft       transformers + PEFT + bitsandbytes at 2 x 2,048
    step_down  memory that runs out in the first step
    compiled   padded batches, which Unsloth compiles layer by layer, and where the time goes

    python benchmarks/finetune_gpu.py --base DIR --tokenizer DIR --seconds 540 [--parts a,b]

Prints one JSON object a line, as soon as it is known; a part that the time left does not allow is
named in a line too.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import finetune_speed as speed
from ballast import Card
from recipe_8b import write_instructions

# Parts in the order in which they are run, with the least time in seconds that each is given.
PARTS = {
    "caps": 150, "four_bit": 150, "sixteen": 60, "peft": 50, "step_down": 60, "compiled": 100,
}  # fmt: skip
CAPS = (8, 12, 16, 24, 80)
# Bare Unsloth's notebooks: two examples at a time, four times per step.
EFFECTIVE = {"batch": 2, "accumulation": 4}
LENGTH = 2048


def main() -> int:
    options = parse()
    if options.part:
        globals()[f"part_{options.part}"](options)
        return 0
    started = time.monotonic()
    if not (options.base / "config.json").exists():
        speed.make_base(options.base, speed.parse([]).vocabulary, options.tokenizer)
        tell("base", seconds=round(time.monotonic() - started, 1))
    failed = 0
    for part in options.parts.split(","):
        left = options.seconds - (time.monotonic() - started)
        if left < PARTS[part]:
            tell(part, skipped=f"{left:.0f} s left")
            continue
        failed += run_part(part, options, left)
    tell("end", seconds=round(time.monotonic() - started, 1), failed=failed)
    return min(failed, 1)


def parse() -> Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="checkpoint whose tokenizer to copy")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--part", choices=tuple(PARTS), help="run one, here in this process")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all parts")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--length", type=int, default=LENGTH)
    options = parser.parse_args()
    options.base = options.base.resolve()
    return options


def run_part(part: str, options: Namespace, seconds: float) -> int:
    """Run a part in a process of its own; its lines appear as it prints them. Returns failures."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        try:
            code = subprocess.run(command, stderr=errors, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            errors.seek(0)
            tell(part, failed=code, stderr=errors.read()[-1500:])
    tell(part, part_seconds=round(time.monotonic() - started, 1))
    return int(code != 0)


def tell(part: str, **figures: Any) -> None:
    print(json.dumps({"part": part, **figures}), flush=True)


# What is measured


def case(options: Namespace, **changes: Any) -> Namespace:
    """Options of one training: those of finetune_speed, with changes."""
    base = speed.parse(["--base", str(options.base)])
    fixed = {"length": options.length, "steps": options.steps, "warmup": 2, "four_bit": True}
    return Namespace(**{**vars(base), **fixed, **changes})


class Model:
    """A base with an adapter that is trained again and again, by our loop or bare Unsloth's."""

    def __init__(
        self, options: Namespace, *, four_bit: bool, cap: float = 0.0, offloaded: bool = False
    ) -> None:
        from tuneserve.finetune.runtime.libraries import load_runtime
        from tuneserve.finetune.runtime.model import add_adapter, load_base
        from tuneserve.settings import ModelSettings

        started = time.monotonic()
        self.runtime = load_runtime()
        self.limit(cap)
        first = case(options, four_bit=four_bit)
        settings = ModelSettings(base=str(options.base), max_seq_length=options.length)
        model, self.tokenizer = load_base(
            self.runtime, options.base, settings, "unsloth", four_bit=four_bit,
            offloaded=offloaded,
        )  # fmt: skip
        self.model = add_adapter(self.runtime, model, speed.our_settings(first))
        self.load_seconds = round(time.monotonic() - started, 1)

    def limit(self, cap: float) -> None:
        """Let torch have `cap` GiB at most; 0: all there is."""
        torch = self.runtime.torch
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, (cap or 1e6) * 2**30 / total))

    def keep(self, layers: int) -> None:
        """Let exactly so many layers keep their activations, whatever was kept before."""
        if self.runtime.device != "cuda":
            return
        import unsloth_zoo.gradient_checkpointing as offloading
        from unsloth.models._utils import find_decoder_layers, skip_checkpointing

        for layer in find_decoder_layers(self.model):
            layer.__dict__.pop("_unsloth_skip_checkpoint", None)
        skip_checkpointing(self.model, layers)
        # Offloading counted the layers in its first step; it has to count again.
        offloading.FIRST_PASS, offloading.LAST_GC_INDEX = True, 0

    def offload(self, wanted: bool) -> None:
        """Let the token embeddings wait in main memory, or bring them back."""
        if self.runtime.device != "cuda":
            return
        from unsloth.models.vision import offload_input_embedding, restore_input_embedding

        offloaded = self.model.get_input_embeddings().weight.device.type == "cpu"
        if wanted and not offloaded:
            offload_input_embedding(self.model)
        elif offloaded and not wanted:
            restore_input_embedding(self.model)

    def train(self, kind: str, options: Namespace) -> dict[str, Any]:
        """Steps of `kind` ('ours' or 'unsloth'): time, tokens per second, peak."""
        from tuneserve.finetune.runtime.libraries import free_memory, quiet

        free_memory(self.runtime)
        with tempfile.TemporaryDirectory() as directory, quiet():
            if kind == "ours":
                ends, losses = speed.our_steps(
                    self.runtime, self.model, self.tokenizer, options, directory
                )
            else:
                ends, losses = speed.unsloth_steps(self.model, self.tokenizer, options, directory)
        found = speed.figures(options, ends, losses)
        gc.collect()
        return {**found, **self.allocated()}

    def allocated(self) -> dict[str, int]:
        """Peak of what torch had allocated; its allocator reserves somewhat more."""
        torch = self.runtime.torch
        if not torch.cuda.is_available():
            return {}
        return {"allocated_bytes": int(torch.cuda.max_memory_allocated())}


def planned(options: Namespace, cap: float) -> Any:
    """What `speed = "auto"` chooses for a card of `cap` GiB."""
    from tuneserve.finetune.memory.model import RESERVED_GIB
    from tuneserve.finetune.memory.search import search_strategy
    from tuneserve.memory import GIB
    from tuneserve.model_shape import ModelShape
    from tuneserve.settings import Recipe, TrainSettings

    train = TrainSettings(
        batch_size=EFFECTIVE["batch"], gradient_accumulation=EFFECTIVE["accumulation"]
    )
    return search_strategy(
        ModelShape.read(options.base), Recipe(train=train), [options.length] * 8,
        available=(cap - RESERVED_GIB) * GIB, device="cuda",
    )  # fmt: skip


def at_cap(model: Model, options: Namespace, part: str, cap: float) -> None:
    """Train as chosen for a card of `cap` GiB, with torch held to it."""
    strategy = planned(options, cap)
    model.limit(cap)
    decisions = strategy.decisions
    model.keep(decisions.kept_layers)
    model.offload(decisions.offload_embeddings)
    chosen = case(
        options, batch=decisions.batch_size, accumulation=decisions.gradient_accumulation,
        steps=4, warmup=1, four_bit=decisions.load_in_4bit,
    )  # fmt: skip
    tell(
        part, measured="cap", cap=cap, chosen=strategy.describe(),
        planned_bytes=strategy.memory.total,
        **model.train("ours", chosen),
    )  # fmt: skip
    model.limit(0)


def against_plan(
    model: Model, options: Namespace, part: str, *, four_bit: bool, batch: int, length: int,
    kept: int,
) -> None:  # fmt: skip
    """Peak of a step beside what the plan says."""
    from tuneserve.finetune.memory.model import training_memory
    from tuneserve.model_shape import ModelShape
    from tuneserve.settings import TrainSettings

    plan = training_memory(
        ModelShape.read(options.base), TrainSettings(), tokens=batch * length, four_bit=four_bit,
        device="cuda", checkpointing="unsloth", kept_layers=kept,
    ).total  # fmt: skip
    model.keep(kept)
    found = model.train(
        "ours", case(options, four_bit=four_bit, batch=batch, length=length, steps=3, warmup=1)
    )
    tell(
        part, measured="plan", four_bit=four_bit, batch=batch, length=length, kept_layers=kept,
        planned_bytes=plan, off=round(found["peak_bytes"] / plan - 1, 4), **found,
    )  # fmt: skip


# Parts


def part_caps(options: Namespace) -> None:
    smallest, *larger = [cap for cap in CAPS if planned(options, cap).decisions.load_in_4bit]
    card = Card()
    with card.of(smallest):
        strategy = planned(options, smallest)
        model = Model(
            options, four_bit=True, cap=smallest, offloaded=strategy.decisions.offload_embeddings
        )
        tell("caps", load_seconds=model.load_seconds, load_peak=speed.peak_bytes())
        model.train("ours", case(options, batch=1, steps=2, warmup=1))  # kernels are compiled
        for _ in range(options.repeats):
            at_cap(model, options, "caps", smallest)
            bare_steps(model, options, "caps", smallest)
    bare_steps(model, options, "caps", 0)
    for cap in larger:
        with card.of(cap):
            at_cap(model, options, "caps", cap)
        free_everything()
    for offloaded in (False, True, False, True):
        model.keep(0)
        model.offload(offloaded)
        taken = model.train("ours", case(options, batch=2, steps=6))
        tell("caps", measured="embeddings", offloaded=offloaded, **taken)


def bare_steps(model: Model, options: Namespace, part: str, cap: float) -> None:
    """Bare Unsloth's defaults at the same effective batch."""
    model.limit(cap)
    model.keep(0)
    model.offload(False)
    bare = case(options, **EFFECTIVE, steps=4, warmup=1)
    tell(part, measured="bare", cap=cap, **model.train("unsloth", bare))
    model.limit(0)


def part_four_bit(options: Namespace) -> None:
    model = Model(options, four_bit=True)
    model.train("ours", case(options, steps=2, warmup=1))  # kernels are compiled
    loops(model, options)
    whole = options.length
    for batch, length, kept in ((8, whole, 0), (8, whole // 2, 0), (2, whole, 32), (1, whole, 16)):
        against_plan(
            model, options, "four_bit", four_bit=True, batch=batch, length=length, kept=kept
        )


def loops(model: Model, options: Namespace) -> None:
    """Ours and bare Unsloth's loop in turn, on the same loaded model."""
    steps: dict[str, list[float]] = {"ours": [], "unsloth": []}
    for repeat in range(options.repeats):
        for kind, taken in steps.items():
            found = model.train(kind, case(options, batch=2))
            taken.append(found["step_seconds"])
            tell("four_bit", measured="loop", kind=kind, run=repeat, **found)
    ours, bare = (statistics.median(steps[kind]) for kind in ("ours", "unsloth"))
    tell("four_bit", measured="loop cost", our_loop_costs=round(ours / bare - 1, 4))


def part_sixteen(options: Namespace) -> None:
    caps = [cap for cap in CAPS if not planned(options, cap).decisions.load_in_4bit]
    model = Model(options, four_bit=False)
    tell("sixteen", load_seconds=model.load_seconds)
    model.train("ours", case(options, steps=2, warmup=1))
    for cap in caps:
        at_cap(model, options, "sixteen", cap)
    for batch, kept in ((2, 32), (2, 0)):
        against_plan(
            model, options, "sixteen", four_bit=False, batch=batch, length=options.length, kept=kept
        )


def part_peft(options: Namespace) -> None:
    for repeat in range(options.repeats):
        with contextlib.redirect_stdout(sys.stderr):
            found = speed.measure(case(options, kind="peft", batch=2))
        tell("peft", run=repeat, **found)
        free_everything()


def free_everything() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def part_step_down(options: Namespace) -> None:
    """A plan that is too large on purpose: torch gets less than what training was promised."""
    from tuneserve.finetune.runtime.libraries import peak_memory
    from tuneserve.finetune.training import loop as steps
    from tuneserve.finetune.training.stage import train
    from tuneserve.run import RunDirectory
    from tuneserve.settings import Recipe

    def give_less(runtime: Any, vram: float) -> None:
        total = runtime.torch.cuda.get_device_properties(0).total_memory
        runtime.torch.cuda.set_per_process_memory_fraction(0.8 * vram * 2**30 / total)

    setattr(steps, "limit_memory", give_less)  # noqa: B010 - a name that steps imports
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        write_instructions(Path("data/train.jsonl"))
        recipe = Recipe.model_validate(
            {
                "model": {"base": str(options.base), "load_in_4bit": True},
                "data": {"file": "data/train.jsonl"},
                "train": {"vram": 16, "max_steps": 2, "evaluations": 0, "batch_size": 2},
            }
        )
        result = train(recipe, RunDirectory.named("down"))
    assert result is not None
    tell("step_down", plan=result.memory_plan.to_json(), peak=peak_memory())


def part_compiled(options: Namespace) -> None:
    """Is a padded batch, which Unsloth compiles layer by layer, faster? And where the time goes."""
    model = Model(options, four_bit=True)
    tell("compiled", load_seconds=model.load_seconds, torch=model.runtime.torch.__version__)
    for packing in ("true", "false"):
        for kept in (0, 32):
            model.keep(kept)
            started = time.monotonic()
            found = model.train("ours", case(options, batch=2, packing=packing, steps=6, warmup=3))
            seconds = round(time.monotonic() - started, 1)
            tell("compiled", packing=packing, kept_layers=kept, all_seconds=seconds, **found)
        if packing == "true":
            tell("compiled", profile=profiled(model, options))


def profiled(model: Model, options: Namespace) -> list[list[Any]]:
    """[kernel, milliseconds, calls] of the kernels that took longest in three steps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        model.train("ours", case(options, batch=2, packing="true", steps=3, warmup=1))
    kernels = sorted(trace.key_averages(), key=lambda k: -k.self_device_time_total)[:30]
    return [[k.key[:90], round(k.self_device_time_total / 1000, 2), k.count] for k in kernels]


if __name__ == "__main__":
    sys.exit(main())
