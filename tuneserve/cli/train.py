"""`tuneserve train`: fine-tune the base model on your examples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import select_run, stage_options
from tuneserve.console import human_bytes, print_json, say
from tuneserve.extras import require_extra
from tuneserve.options import PREFLIGHT_SETTINGS, resolve_settings, settings_options

if TYPE_CHECKING:
    from tuneserve.convert.rounding import StoredWeights


@click.command("train")
@stage_options
@settings_options("model", "data", "train")
@settings_options("convert", only=PREFLIGHT_SETTINGS)
@settings_options("tracking")
@click.option("--nodes", type=click.IntRange(1), default=1, help="Machines that train together.")
@click.option(
    "--node-rank", type=click.IntRange(0), default=0, help="Which of them this one is, from 0."
)
@click.option("--rendezvous", default="", help="HOST:PORT of the first one, where they meet.")
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    run_name: str | None,
    force: bool,
    skip_done: bool,
    as_json: bool,
    nodes: int,
    node_rank: int,
    rendezvous: str,
    **_: object,
) -> None:
    """Fine-tune the base model on your examples (LoRA, Unsloth).

    What would fail the conversion afterwards (architecture, vocabulary, chat template, disk) is
    refused before anything is loaded. The adapter lands in runs/NAME/adapter, with the split, the
    curves and the figures beside it. A training that was stopped goes on where it was when the
    same command is given again, on any number of GPUs.

    \b
    tuneserve train --config examples/sentiment.toml
    tuneserve train --config mine.toml --gpus all
    tuneserve train --run mine --base ./my-model --file mine.jsonl --epochs 2
    """
    recipe = resolve_settings(context, recipe=config)
    run = select_run(run_name, config)
    require_extra("train", "training")
    from tuneserve.finetune.runtime.launch import Machines, launch, processes_wanted

    machines = Machines(nodes, node_rank, rendezvous)
    if processes := processes_wanted(recipe.train.gpus, machines):
        sys.exit(launch(context.find_root().obj, processes, machines))
    from tuneserve.convert.preflight.before_training import BeforeTraining
    from tuneserve.finetune.training.stage import train
    from tuneserve.overview.run_files import removable_of
    from tuneserve.tracking import tracked

    def stored_weights(base: Path) -> StoredWeights:
        from tuneserve.convert import rounding

        settings = recipe.convert
        return rounding.StoredWeights(base, settings.quantization, threads=settings.threads)

    with tracked(recipe, run, "train", anew=force) as tracking:
        result = train(
            recipe, run, force=force, skip_done=skip_done,
            preflight=BeforeTraining(run.root), stored_weights=stored_weights,
            scalars=tracking.scalars if tracking.active else None,
        )  # fmt: skip
        if result is None:  # of several processes only the first has one
            return
        tracking.finish()
    say(f"adapter: {run.adapter}")
    if spare := sum(part.size_bytes for part in removable_of(run)):
        say(f"checkpoints of {human_bytes(spare)} are needed no more: tuneserve clean {run.name}")
    say(f"next: tuneserve convert --run {run.name}")
    if as_json:
        print_json(result.to_json())
