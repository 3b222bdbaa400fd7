"""`tuneserve convert`: adapter to verified GGUF."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuneserve.cli.common import allow_code_option, later_stage_settings, select_run, stage_options
from tuneserve.console import human_bytes, percent, print_json, say, table
from tuneserve.extras import leave_out, require_extra
from tuneserve.options import settings_options

if TYPE_CHECKING:
    from tuneserve.convert.result import AdapterResult, Check, ConvertResult

WORTH_SHOWING = 0.9  # tensors that keep less of their update are shown
WORST_SHOWN = 5


@click.command()
@stage_options
@allow_code_option
@click.option(
    "--adapter-only",
    is_flag=True,
    help="Write the adapter as a GGUF of its own, for a server whose base serves many adapters.",
)
@settings_options("convert", "tracking")
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    run_name: str | None,
    force: bool,
    skip_done: bool,
    as_json: bool,
    adapter_only: bool,
    **_: Any,
) -> None:
    """Merge the adapter into its base, quantize both, and verify the result.

    \b
    tuneserve convert --run sentiment
    tuneserve convert --run sentiment --quantization Q8_0
    tuneserve convert --run sentiment --adapter-only
    """
    require_extra("convert", "conversion")
    if "transformers" not in sys.modules:  # which looks for it once, as it is imported
        leave_out("torchvision")
    run = select_run(run_name, config).require()
    recipe = later_stage_settings(context, run, config, "convert", "tracking")
    if chosen := recipe.convert.model_dump(mode="json", exclude_defaults=True):
        # Those of the run's last conversion are among them.
        say("convert: " + ", ".join(f"{name} = {value}" for name, value in chosen.items()))
    if adapter_only:
        from tuneserve.convert.adapter_only import convert_adapter

        made = convert_adapter(run, recipe.convert, force=force, skip_done=skip_done)
        print_json(made.to_json()) if as_json else show_adapter(made)
        return
    from tuneserve.convert.upstream import convert_run
    from tuneserve.tracking import tracked

    with tracked(recipe, run, "convert") as tracking:
        result = convert_run(run, recipe.convert, force=force, skip_done=skip_done)
        run.save_settings(recipe)
        tracking.finish()
    if as_json:
        print_json(result.to_json())
    else:
        show(result)


def show(result: ConvertResult) -> None:
    """The result as tables on the terminal."""
    rows = [
        [name, made.path, made.quantization, human_bytes(made.size_bytes)]
        for name, made in (
            ("adapter on the base" if result.as_adapter else "tuned", result.tuned),
            ("base", result.base),
        )
    ]
    table("GGUFs", ["model", "file", "quantization", "size"], rows)
    say(f"  merged into {result.merged_into.path} ({result.merged_into.weights})")
    types = [[name, str(count)] for name, count in sorted(result.tensor_types.items())]
    table("Tensors by type", ["type", "tensors"], types)
    for change, count in result.fallbacks.items():
        say(f"  {count} tensors {change}: their rows are no multiple of the block of the first")
    if result.before_repair:
        say(f"  as plain {result.base.quantization}: {result.before_repair.describe()}")
    if mixture := result.base.mixture:
        say(f"  {result.base.quantization}, {mixture}")
    lost = [one for one in result.updates if one.kept < WORTH_SHOWING][:WORST_SHOWN]
    if lost:
        rows = [[one.name, one.type, percent(one.kept, 0)] for one in lost]
        table("Tensors that lose most of their update", ["tensor", "type", "kept"], rows)
    if result.mix:
        mix = result.mix
        say(
            f"  divergence on the answers that types were chosen by {mix.divergence:.2e}, Q4_K_M's "
            f"{mix.baseline_divergence:.2e}, at {percent(mix.bytes / mix.baseline_bytes)} of its "
            "size"
        )
    show_checks(result.verification)
    say(f"  sample answer: {result.sample!r}")


def show_adapter(result: AdapterResult) -> None:
    """The LoRA GGUF, how to serve it, and what was verified."""
    say(f"{result.path}: {human_bytes(result.size_bytes)}")
    say(f"  tuneserve serve {result.base} --lora NAME={result.path}")
    show_checks(result.verification)


def show_checks(checks: Sequence[Check]) -> None:
    say("Verified")
    for check in checks:
        say(f"  {check.contract}: {check.detail}")
