"""The `tuneserve` command: parses, calls the typed function that does the work, prints.

Each command lives in a module of its own and is imported when it is called, so that
`tuneserve --help` is immediate.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

import tuneserve
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError, of_system
from tuneserve.memory import ON_LINUX
from tuneserve.visible import Visible

COMMANDS = {
    "init": "Write a first recipe for your data and a base.",
    "preview": "Show the examples as the model will see them, and what is trained.",
    "plan": "Tell the memory and time a recipe takes, before anything is loaded.",
    "train": "Fine-tune the base model on your examples (LoRA, Unsloth).",
    "sweep": "Try other settings of a recipe, and keep the best by the held-out loss.",
    "convert": "Merge, quantize and verify: adapter to GGUF.",
    "serve": "Serve a GGUF behind an OpenAI-compatible API.",
    "chat": "Talk to a served model in the terminal.",
    "bench": "Does the tuned model beat the base? With error bars.",
    "ls": "List the runs: base, state, figures, size.",
    "ui": "Show runs and trainings on a local page; start and stop them.",
    "show": "Show a run: settings, figures, sizes, what can be removed.",
    "compare": "Show in which settings and results two runs differ.",
    "rm": "Remove runs: what tuneserve made in them, and nothing else.",
    "clean": "Remove what no run needs: old checkpoints, leftovers, caches.",
    "report": "Compare the benchmarks of several runs.",
    "perplexity": "Perplexity of a GGUF on a text, or its divergence from another.",
    "push": "Send a converted run to a repository on a hub.",
    "export": "Hand a converted run to Ollama or LM Studio.",
    "data": "Build example files, or check yours before a training.",
    "import": "Make a Hugging Face checkpoint of a GGUF.",
    "doctor": "Show what was found, what is missing and what to do.",
    "completion": "Complete commands, options and runs on Tab in your shell.",
}
MODULES = {"import": "import_"}


class LazyGroup(click.Group):
    """A group whose commands are imported on use; their one-line help is in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if sys.platform == "win32":  # files are locked as POSIX does it, in nearly all commands
            raise UsageError("does not run on Windows itself", hint=ON_LINUX)
        module = importlib.import_module(f"tuneserve.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing the commands."""
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=COMMANDS[name]) for name in names), *options]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from tuneserve.recipe import nearest

            ctx.fail(f"no such command '{args[0]}' ({nearest(args[0], list(COMMANDS))})")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tuneserve.__version__, prog_name="tuneserve")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Fine-tune, quantize, serve and measure a language model on your own machine.

    \b
    tuneserve train   --config examples/sentiment.toml
    tuneserve convert --run sentiment
    tuneserve serve   --run sentiment
    tuneserve bench   --run sentiment
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: 0 = done, 1 = failed, 2 = wrong usage, 130 = interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given or bool(os.environ.get("TUNESERVE_DEBUG"))
    # --debug is accepted anywhere on the line, not only before the command.
    given = [argument for argument in given if argument != "--debug"]
    if logging.lastResort is not None:  # what writes warnings where no logging is set up
        logging.lastResort.setFormatter(Visible())
    try:
        result: Any = cli.main(
            args=given, prog_name="tuneserve", standalone_mode=False, obj=tuple(given)
        )
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"), lines=True)
        sys.exit(error.exit_code)
    except TuneserveError as error:
        if debug:
            raise
        say(f"error: {error.render()}", lines=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # Without a number it is no refusal of the system's, but a library's own error.
        if debug or error.errno is None or isinstance(error, BrokenPipeError):
            raise
        say(f"error: {of_system(error).render()}", lines=True)
        sys.exit(TuneserveError.exit_code)
    except ModuleNotFoundError as error:
        # Commands ask for their extra before they start; what they don't foresee ends here.
        if debug or error.name is None or error.name.partition(".")[0] == "tuneserve":
            raise
        say(
            f"error: this needs the module '{error.name}', which is not installed: "
            "pip install 'tuneserve[all]'"
        )
        sys.exit(UsageError.exit_code)
    sys.exit(result if isinstance(result, int) else 0)
