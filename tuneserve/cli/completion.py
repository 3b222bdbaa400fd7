"""`tuneserve completion`: commands, options and runs on Tab."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from tuneserve.console import print_text, say
from tuneserve.errors import UsageError
from tuneserve.files import home_directory
from tuneserve.outputs import write_output

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_TUNESERVE_COMPLETE"
_OF_ZSH = "Add to ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)"


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Write it where the shell looks for it.")
def command(shell: str | None, install: bool) -> None:
    """Print the script that completes tuneserve's commands, options and runs on Tab.

    SHELL is the one in $SHELL where none is named. A script of your own is never replaced.

    \b
    tuneserve completion --install
    tuneserve completion zsh > ~/.zfunc/_tuneserve
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name)
    if kind is None or name not in SHELLS:
        raise UsageError(
            f"the shell is {name!r}" if name else "the shell is not known ($SHELL is not set)",
            where="completion",
            hint="Name one: tuneserve completion bash, zsh or fish.",
        )
    from tuneserve.cli import cli

    script = kind(cli, {}, "tuneserve", VARIABLE).source().lstrip()
    if not install:
        print_text(script)
        return
    target = place_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_output(target, script, script.splitlines()[0])
    say(f"completion: {target}")
    say(f"{_OF_ZSH}; then open a new shell" if name == "zsh" else "Open a new shell.")


def place_of(shell: str) -> Path:
    """Where a shell looks for a program's completion."""
    home = home_directory()
    if shell == "bash":
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        return data / "bash-completion" / "completions" / "tuneserve"
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "tuneserve.fish"
    return home / ".zfunc" / "_tuneserve"
