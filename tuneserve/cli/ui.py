"""`tuneserve ui`: the runs on a local page."""

from __future__ import annotations

import click

PORT = 8090


@click.command("ui")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True,
    help="Port on 127.0.0.1; 0 = any free one.",
)  # fmt: skip
@click.option(
    "--allowed-hosts", multiple=True, metavar="HOST",
    help="A further name that the page is reached under, such as a proxy's (host, host:port, "
    "*.domain); may be repeated.",
)  # fmt: skip
def command(port: int, allowed_hosts: tuple[str, ...]) -> None:
    """Show the runs on a local page: state, figures, a training live, logs; start and stop stages.

    Looking needs nothing but this machine. Whatever starts, stops or writes needs the token in the
    address that is shown here. The page is served to this machine alone; from another one:
    ssh -L 8090:127.0.0.1:8090 HOST. What was started goes on when the page's server ends.

    \b
    tuneserve ui
    tuneserve ui --port 0
    """
    from tuneserve.ui.server import run_ui

    run_ui(port, allowed_hosts)
