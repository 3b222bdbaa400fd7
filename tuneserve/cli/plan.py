"""`tuneserve plan`: how much memory and time a recipe will take, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuneserve.cli.common import config_option
from tuneserve.console import human_bytes, human_range, print_json, say, table
from tuneserve.memory import main_memory
from tuneserve.options import given_options, resolve_settings, settings_options
from tuneserve.settings import Recipe

if TYPE_CHECKING:
    from tuneserve.base import BaseConfig
    from tuneserve.finetune.timing.forecast import Forecast


@click.command("plan")
@config_option
@click.option(
    "--cpu/--gpu",
    default=None,
    help="Plan for training on a CPU, or on a GPU.  [what is here, and a GPU with --vram]",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    help="Time this machine for about ten seconds, to tell how long training takes.  [on]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
@settings_options("model", "data", "train", "convert", "serve")
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    cpu: bool | None,
    calibrate: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Tell the memory of training, merging and serving, and the time of training.

    The base needs no weights and no tokenizer: its config.json suffices, in a directory, as a file
    or of a hub id (then it alone is fetched). Settings that training refuses for this base are
    refused here too. Planned is for this machine's GPU, or for its CPU where there is none; with
    --vram for a GPU of that size, with the fastest way of keeping activations, the largest batch
    and the longest context that fit. GPU figures are torch's own; the CUDA context takes about half
    a GiB more.

    Where the examples are here: the tokens of an epoch and the steps, and the time they take, known
    from an earlier run of such a training on this machine or by timing it. Without the base's
    tokenizer their lengths are estimated from their characters.

    \b
    tuneserve plan --config examples/deepseek-r1-distill-llama-8b.toml --base ./my-8b --vram 12
    tuneserve plan --base ./config.json --file mine.jsonl
    """
    recipe = resolve_settings(context, recipe=config)
    from tuneserve.base import read_base_config
    from tuneserve.finetune.runtime.libraries import has_gpu

    named = "file" in given_options(context).get("data", {})
    base = read_base_config(recipe.model.base)
    by_default = cpu is None
    if cpu is None:
        cpu = not recipe.train.vram and not has_gpu()
    shown = look_ahead(
        recipe, base, device="cpu" if cpu else "cuda", calibrate=calibrate, named=named,
        by_default=by_default,
    )  # fmt: skip
    if as_json:
        print_json(shown)


def look_ahead(
    recipe: Recipe,
    base: BaseConfig,
    *,
    device: str,
    calibrate: bool,
    named: bool,
    by_default: bool = False,
) -> dict[str, Any]:
    """Show what a recipe takes, and return it as JSON. `device` is 'cuda' or 'cpu', and
    `by_default` says that nobody chose it; `named`: the user has named the data in this command.
    Raises UsageError for what training refuses."""
    from tuneserve.base.window import require_within_window, within_window
    from tuneserve.cli.planning import plan
    from tuneserve.convert.preflight.configuration import require_planned
    from tuneserve.finetune.memory.budget import with_precision_of_base
    from tuneserve.finetune.runtime.libraries import check_device, has_gpu
    from tuneserve.finetune.runtime.targets import planned_targets
    from tuneserve.finetune.timing.forecast import NoForecastError, forecast
    from tuneserve.model_shape import ModelShape
    from tuneserve.text_model import text_config

    check_device(device, recipe.train)
    require_planned(base, recipe.convert, spec=recipe.model.base)
    recipe = within_window(recipe, base.config)
    require_within_window(recipe, base.config, base.where)
    train, unknown = planned_targets(base, recipe.train)
    recipe = recipe.model_copy(update={"train": train})
    recipe = with_precision_of_base(recipe, base.config)
    shape = ModelShape.of(base.config, base.where)
    context_length = text_config(base.config).get("max_position_embeddings")
    work, left_out, strategy = None, "", None
    try:
        work, strategy = forecast(
            recipe, base, shape, device=device, calibrate=calibrate, named=named
        )
    except NoForecastError as reason:
        left_out = str(reason)
    found = plan(recipe, shape, device=device, model_context=context_length, strategy=strategy)
    if device == "cuda" and not has_gpu():
        vram = recipe.train.vram
        of = f" of {vram:g} GiB" if vram else ""
        say(f"planned for a GPU{of}, which this machine does not have: --cpu plans for its CPU")
    if device == "cpu" and by_default:
        say("planned for this machine's CPU: there is no GPU (--vram 12 plans for one of 12 GiB)")
    for title, parts in found.peaks.items():
        rows = [[name.replace("_", " "), human_bytes(size)] for name, size in parts.items()]
        table(title, ("part", "memory"), [*rows, ["in all", human_bytes(sum(parts.values()))]])
    room = _room(found.peaks) if device == "cpu" else []
    for line in [*unknown, *found.advice, *room]:
        say(line)
    shown = found.to_json()
    if work is None:
        say(f"time: left out, {left_out}")
        return {**shown, "left_out": left_out}
    _show(work)
    return {**shown, "work": work.to_json()}


def _room(peaks: dict[str, dict[str, int]]) -> list[str]:
    """Whether the stages of a plan for this machine's main memory fit into what is free of it."""
    needed, free = max(sum(parts.values()) for parts in peaks.values()), main_memory().available
    room = f"the {human_bytes(free)} of memory that are free here"
    if needed <= free:
        return [f"each of these fits into {room}"]
    return [f"{human_bytes(needed)} does NOT fit into {room}"]


def _show(work: Forecast) -> None:
    from tuneserve.finetune.tokens.estimated import CHARACTERS_A_TOKEN

    rates = ", ".join(f"{rate:g} of {script}" for script, rate in CHARACTERS_A_TOKEN.items())
    how = {
        "counted": "counted with the base's tokenizer",
        "estimated": f"estimated, without the base's tokenizer; characters a token: {rates}",
        "longest": "the longest allowed, for there are no examples here",
    }
    say(
        f"an epoch: {work.epoch_examples:,} examples, {work.epoch_tokens:,} tokens (lengths "
        f"{how[work.lengths]})"
    )
    say(f"training: {work.steps:,} steps, {work.tokens:,} tokens")
    if work.time is None:
        say(f"time: left out, {work.left_out}")
        return
    say(
        f"time: {human_range(*work.time.seconds)} for steps and evaluations, at about "
        f"{work.time.tokens_per_second:,.0f} tokens/s, by {work.time.known_from}; checks, loading "
        "and saving come on top"
    )
