"""`tuneserve chat`: talk to a served model in the terminal."""

from __future__ import annotations

import click

from tuneserve.errors import UsageError

# A text that goes on has no turn to end: few models end it before the context is full.
RAW_TOKENS = 256


@click.command()
@click.option(
    "--url",
    default="http://127.0.0.1:8080/v1",
    show_default=True,
    help="Address of an OpenAI-compatible API.",
)
@click.option("--model", help="Name of the model (default: the first one served).")
@click.option(
    "--api-key",
    envvar=["TUNESERVE_API_KEY", "OPENAI_API_KEY"],
    help="API key; better given as TUNESERVE_API_KEY or OPENAI_API_KEY.",
)
@click.option("--system", help="System prompt; '' for none (default: the server's).")
@click.option("--prompt", help="Ask this once, print the answer and end.")
@click.option(
    "--raw", is_flag=True, help="With --prompt: send the text as it is, without the chat template."
)
@click.option(
    "--temperature", type=click.FloatRange(0.0, 2.0), default=0.7, show_default=True,
    help="0 takes the most probable token.",
)  # fmt: skip
@click.option("--seed", type=int, help="Same seed, same answer.")
@click.option(
    "--markdown/--no-markdown", default=None,
    help="Show answers as Markdown on a terminal (default: unless --prompt is given).",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(min=1),
    help=f"Longest answer in tokens (default: the server's; with --raw {RAW_TOKENS}).",
)  # fmt: skip
def command(
    url: str,
    model: str | None,
    api_key: str | None,
    system: str | None,
    prompt: str | None,
    raw: bool,
    temperature: float,
    seed: int | None,
    max_tokens: int | None,
    markdown: bool | None,
) -> None:
    """Talk to a served model. /help lists the commands, /quit (or Ctrl-D) ends.

    Without a terminal, texts are read from stdin, one a line, and stdout has answers alone.

    \b
    tuneserve chat
    tuneserve chat --prompt "What is 1+1?"
    tuneserve chat < questions.txt > answers.txt
    tuneserve chat --prompt "1 + 1 =" --raw --max-tokens 8
    """
    if raw and prompt is None:
        raise UsageError("--raw needs --prompt")
    from tuneserve.serve.terminal_chat import Client, ask
    from tuneserve.serve.terminal_session import converse

    client = Client(
        url, model=model, api_key=api_key, temperature=temperature, seed=seed,
        max_tokens=max_tokens or (RAW_TOKENS if raw else None),
    )  # fmt: skip
    if prompt is None:
        converse(client, system=system, markdown=markdown is not False)
    else:
        ask(client, prompt, system=system, raw=raw, markdown=bool(markdown))
