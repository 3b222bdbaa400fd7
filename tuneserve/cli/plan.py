"""`tuneserve plan`: how much memory a recipe will take, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path

import click

from tuneserve.cli.common import config_option
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.options import resolve_settings, settings_options


@click.command("plan")
@config_option
@click.option("--cpu", is_flag=True, help="Plan for training on a CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
@settings_options("model", "train", "convert", "serve")
@click.pass_context
def command(
    context: click.Context, /, config: Path | None, cpu: bool, as_json: bool, **_: object
) -> None:
    """Tell the memory of training, merging and serving before any weights are loaded.

    Settings that training refuses for this base are refused here too. With --vram also the fastest
    way of keeping activations, the largest batch and the longest context that fit. GPU figures are
    torch's own; the CUDA context takes about half a GiB more.

    \b
    tuneserve plan --config examples/deepseek-r1-distill-llama-8b.toml --base ./my-8b --vram 12
    """
    recipe = resolve_settings(context, recipe=config)
    from tuneserve.base import resolve_base
    from tuneserve.cli.planning import plan
    from tuneserve.finetune.memory.budget import with_precision_of_base
    from tuneserve.finetune.runtime.libraries import check_device
    from tuneserve.finetune.runtime.targets import with_targets
    from tuneserve.model_shape import ModelShape

    checkpoint = resolve_base(recipe.model.base).path
    device = "cpu" if cpu else "cuda"
    check_device(device, recipe.train)
    recipe = recipe.model_copy(update={"train": with_targets(checkpoint, recipe.train)})
    found = plan(
        with_precision_of_base(recipe, checkpoint), ModelShape.read(checkpoint), device=device
    )
    for title, parts in found.peaks.items():
        rows = [[name, human_bytes(size)] for name, size in parts.items()]
        table(title, ("part", "memory"), [*rows, ["in all", human_bytes(sum(parts.values()))]])
    for line in found.advice:
        say(line)
    if as_json:
        print_json(found.to_json())
