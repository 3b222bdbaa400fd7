"""`tuneserve serve`: an OpenAI-compatible server for a run's model or any GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tuneserve.cli.common import RUN_NAME, config_option, later_stage_settings, select_run
from tuneserve.errors import UsageError
from tuneserve.json_log import log_as_json
from tuneserve.options import resolve_settings, settings_options
from tuneserve.settings import ServeSettings


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "-r",
    "--run",
    "run_name",
    type=RUN_NAME,
    help="Serve the tuned model of this run (default: the recipe's file name).",
)
@config_option
@click.option("--base", is_flag=True, help="Serve the run's base model instead of the tuned one.")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="NAME=PATH",
    help="Serve this LoRA adapter (GGUF) of the model under NAME too; may be repeated.",
)
@click.option("--name", help="Name of the model in the API (default: the run's or the file's).")
@settings_options("serve")
@click.pass_context
def command(
    context: click.Context,
    /,
    model: Path | None,
    run_name: str | None,
    config: Path | None,
    base: bool,
    loras: tuple[str, ...],
    name: str | None,
    **_: Any,
) -> None:
    """Serve a run's tuned model, or any GGUF, behind an OpenAI-compatible API.

    \b
    tuneserve serve --run sentiment
    tuneserve serve model.gguf --gpu-layers 20 --threads 16
    tuneserve serve model.gguf --replicas auto
    tuneserve serve base.gguf --lora polite=polite-lora.gguf --lora terse=terse-lora.gguf
    """
    if model is not None and (run_name is not None or base):
        raise UsageError("give a GGUF file or a run, not both")
    if model is not None:
        path, lora, found_name = model, None, model.stem
        settings = resolve_settings(context, recipe=config).serve
    else:
        path, lora, found_name, settings = _of_run(context, run_name, config, base=base)
    if settings.log == "json":
        log_as_json()
    served_name = name or found_name
    adapters = _adapters(loras, served_name)
    if settings.replicas != 1:
        from tuneserve.serve.replicas.supervisor import serve_replicas

        serve_replicas(path, served_name, settings, adapters=adapters, lora=lora)
        return
    from tuneserve.serve.server import serve

    serve(path, served_name, settings, adapters=adapters, lora=lora)


def _adapters(loras: tuple[str, ...], base_name: str) -> dict[str, Path]:
    """The adapters by name; names must differ, the base's included."""
    adapters: dict[str, Path] = {}
    for lora in loras:
        name, separator, path = lora.partition("=")
        if not separator or not name or not path:
            raise UsageError("expected NAME=PATH", where=f"--lora {lora}")
        if name in adapters or name == base_name:
            raise UsageError(f"the name '{name}' is taken", where=f"--lora {lora}")
        adapters[name] = Path(path)
    return adapters


def _of_run(
    context: click.Context, run_name: str | None, config: Path | None, *, base: bool
) -> tuple[Path, Path | None, str, ServeSettings]:
    """(GGUF, the LoRA GGUF that goes on it, model name, settings) of a converted run."""
    if run_name is None and config is None:
        raise UsageError("say what to serve: a GGUF file, --run NAME or --config RECIPE")
    run = select_run(run_name, config)
    from tuneserve.convert.result import ConvertOutput, verified_hash

    converted = run.require_stage("convert", ConvertOutput)
    settings = later_stage_settings(context, run, config, "serve").serve
    own_base = run.base_gguf(converted.base.quantization)
    if base or converted.as_adapter:
        verified_hash(own_base, converted.base, run)
    if base:
        return own_base, None, f"{run.name}-base", settings
    weights, lora = converted.files(run)
    verified_hash(lora or weights, converted.tuned, run)
    return weights, lora, run.name, settings
