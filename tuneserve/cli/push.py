"""`tuneserve push`: a converted run into a repository on a hub."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.extras import require_extra
from tuneserve.run import RunDirectory


@click.command()
@click.argument("run_name", metavar="RUN", type=RUN_NAME)
@click.option("--to", "repository", required=True, help="The repository: owner/name.")
@click.option("--public", is_flag=True, help="A repository that is made is open to everybody.")
@click.option("--with-base", is_flag=True, help="Send the GGUF of the base too.")
@click.option("--message", default="", help="The commit's message.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent; the network is not used.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def command(
    run_name: str,
    repository: str,
    public: bool,
    with_base: bool,
    message: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send GGUF, card, adapter and importance matrix to a model repository.

    GGUFs and adapter must be those that run.json describes; a card or Modelfile that you edited is
    sent as it is. A base that is a folder here is not named in the adapter's configuration, and a
    card lists what is sent. A new repository is private. The token is HF_TOKEN, or what
    `hf auth login` kept; HF_ENDPOINT names another hub.

    \b
    tuneserve push sentiment --to me/sentiment-GGUF --dry-run
    tuneserve push sentiment --to me/sentiment-GGUF
    """
    from tuneserve.convert.handover.files import SUMS, handed_files, sums_of, tell_edited
    from tuneserve.convert.handover.hub import check_repository, push
    from tuneserve.convert.handover.published import published

    check_repository(repository)
    run = RunDirectory.named(run_name).require()
    files = handed_files(run, with_base=with_base)
    tell_edited(files)
    files = published(run, files)
    sizes = {file.name: file.size for file in files} | {SUMS: len(sums_of(files))}
    if not as_json:
        rows = [[name, human_bytes(size)] for name, size in sizes.items()]
        table(f"{repository}: {human_bytes(sum(sizes.values()))}", ["file", "size"], rows)
    url = None
    if not dry_run:
        require_extra("convert", "a push")
        url = push(
            files, repository, private=not public, message=message or f"Add {run.name} (tuneserve)"
        )
    if as_json:
        edited = [file.name for file in files if file.edited]
        print_json({"repository": repository, "files": sizes, "edited": edited, "commit": url})
    else:
        say(f"sent: {url}" if url else "dry run: nothing was sent")
