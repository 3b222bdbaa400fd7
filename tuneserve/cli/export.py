"""`tuneserve export`: a converted run for Ollama or LM Studio on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from tuneserve.cli.common import RUN_NAME
from tuneserve.console import say
from tuneserve.run import RunDirectory


@click.group()
def command() -> None:
    """Hand a converted run to another program on this machine."""


@command.command()
@click.argument("run_name", metavar="RUN", type=RUN_NAME)
@click.option("--publisher", default="tuneserve", show_default=True, help="First folder.")
@click.option("--name", default="", help="Second folder (default: the run's name).")
@click.option(
    "--models", type=click.Path(path_type=Path),
    help="LM Studio's folder of models (default: ~/.lmstudio/models).",
)  # fmt: skip
@click.option(
    "--presets", type=click.Path(path_type=Path),
    help="LM Studio's folder of presets (default: ~/.lmstudio/config-presets).",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace other files of these names.")
def lmstudio(
    run_name: str, publisher: str, name: str, models: Path | None, presets: Path | None, force: bool
) -> None:
    """Put the tuned GGUF where LM Studio lists models, and the system prompt that it was trained
    with, if any, into a preset.

    \b
    tuneserve export lmstudio sentiment
    """
    from tuneserve.convert.handover.files import handed_files
    from tuneserve.convert.handover.local import to_lm_studio, write_preset
    from tuneserve.errors import UsageError

    run = RunDirectory.named(run_name).require()
    tuned = handed_files(run)[0]
    if tuned.path == run.lora_gguf:
        raise UsageError(
            "this run is an adapter beside its base, which LM Studio does not load",
            where=str(run.root),
            hint="Convert it to a merged GGUF, or serve it: tuneserve serve --run NAME.",
        )
    name = name or run.name
    target = to_lm_studio(tuned, publisher=publisher, name=name, models=models, force=force)
    say(str(target))
    if run.system_prompt:
        preset = write_preset(name, run.system_prompt, presets=presets, force=force)
        say(f"{preset}: choose the preset '{name}' in LM Studio's chat with this model")


@command.command()
@click.argument("run_name", metavar="RUN", type=RUN_NAME)
def ollama(run_name: str) -> None:
    """Say how Ollama takes the tuned GGUF, by the Modelfile that convert wrote.

    \b
    tuneserve export ollama sentiment
    """
    from tuneserve.convert.handover.files import handed_files, tell_edited
    from tuneserve.convert.result import ConvertResult
    from tuneserve.errors import UsageError

    run = RunDirectory.named(run_name).require()
    files = handed_files(run)
    tell_edited([file for file in files if file.name == "Modelfile"])
    names = {file.name: file.path for file in files}
    if "Modelfile" not in names:
        if "Modelfile" in run.require_stage("convert", ConvertResult).handover:
            raise UsageError(
                "the Modelfile that convert wrote is gone", where=str(run.gguf),
                hint=f"tuneserve convert --run {run.name} --force writes it again.",
            )  # fmt: skip
        raise UsageError(
            "no Modelfile was written for this run: its chat template, or its system prompt, can't "
            "be said in Ollama's language",
            where=str(run.gguf),
            hint="Ollama does not read the chat template in a GGUF. Serve it with tuneserve serve "
            "or llama-server.",
        )
    say(f"ollama create {run.name} -f {names['Modelfile']}")
    say(f"ollama run {run.name}")
