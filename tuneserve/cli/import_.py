"""`tuneserve import`: GGUF to Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from tuneserve.console import print_json, say
from tuneserve.extras import require_extra


@click.command()
@click.argument("gguf", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DIRECTORY if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def command(gguf: Path, directory: Path, force: bool, as_json: bool) -> None:
    """Make a Hugging Face checkpoint DIRECTORY of a GGUF file.

    Weights are dequantized; tokenizer, special tokens and chat template are the file's own.

    \b
    tuneserve import model.gguf ./model
    """
    require_extra("convert", "importing a GGUF")
    from tuneserve.base import import_gguf

    made = import_gguf(gguf, directory, force=force)
    if as_json:
        print_json({"checkpoint": str(made)})
    else:
        say(f"checkpoint: {made}")
