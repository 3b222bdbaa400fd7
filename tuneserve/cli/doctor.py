"""`tuneserve doctor`: what was found, what is missing, what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import config_option
from tuneserve.console import print_json
from tuneserve.findings import Diagnosis, Finding, show_findings
from tuneserve.options import resolve_settings
from tuneserve.run import runs_directory

if TYPE_CHECKING:
    from tuneserve.chat.examples import Example


@click.command("doctor")
@click.option("--base", help="Base model: can what is trained on it be converted?")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
@click.pass_context
def command(context: click.Context, /, base: str | None, config: Path | None, as_json: bool) -> int:
    """Show what was found, what is missing and what to do.

    Of this machine and what is installed; with --base or --config of a base model, or of a recipe
    with its data: can these examples be trained on, and all that a conversion to GGUF would meet
    and that takes no trained weights. Exit code 1 if something that every stage needs is missing,
    or if training or conversion would fail.

    \b
    tuneserve doctor
    tuneserve doctor --base ./my-model --config mine.toml
    """
    if base is None and config is None:
        from tuneserve.cli.diagnose import diagnose

        found = diagnose()
    else:
        found = _of_base(context, base, config)
    if as_json:
        print_json(asdict(found))
    else:
        show_findings(found.findings)
    return 0 if found.ready else 1


def _of_base(context: click.Context, base: str | None, config: Path | None) -> Diagnosis:
    from tuneserve.base import read_base_config, resolve_base
    from tuneserve.convert.preflight import check_apart

    recipe = resolve_settings(context, recipe=config)
    spec = recipe.model.base if base is None else base
    examples: list[Example] = []
    of_examples: list[Finding] = []
    if config is not None:
        from tuneserve.finetune.data.prepare import prepare_examples
        from tuneserve.finetune.timing.forecast import check_examples

        examples = prepare_examples(recipe.data).split.examples()
        of_examples = [check_examples(recipe, read_base_config(spec))]
    found = check_apart(recipe, resolve_base(spec), examples, place=runs_directory())
    return Diagnosis.of([*of_examples, *found])
