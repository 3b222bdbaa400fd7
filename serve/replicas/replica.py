"""What runs in a replica's process: the server, as it is ordered on stdin (JSON). When it takes
requests it writes a line to stdout: the names that it serves, and whether it answers chats."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tuneserve.console import print_json, say
from tuneserve.errors import TuneserveError, of_system
from tuneserve.json_log import log_as_json
from tuneserve.serve.api.replica import Replica
from tuneserve.serve.api.service import Service
from tuneserve.serve.server import serve
from tuneserve.settings import ServeSettings


class Order(NamedTuple):
    """The arguments of `tuneserve.serve.server.serve`."""

    model: Path
    name: str
    settings: ServeSettings
    adapters: dict[str, Path]
    lora: Path | None
    replica: Replica

    def written(self) -> bytes:
        told = {
            "model": str(self.model),
            "name": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "adapters": {name: str(path) for name, path in self.adapters.items()},
            "lora": str(self.lora) if self.lora else None,
            "replica": asdict(self.replica),
        }
        return json.dumps(told).encode()

    @classmethod
    def read(cls, told: dict[str, Any]) -> Order:
        return cls(
            Path(told["model"]),
            told["name"],
            ServeSettings.model_validate(told["settings"]),
            {name: Path(path) for name, path in told["adapters"].items()},
            Path(told["lora"]) if told["lora"] else None,
            Replica(**told["replica"]),
        )


def main() -> None:
    """Exit codes as the command's."""
    order = Order.read(json.load(sys.stdin))
    if order.settings.log == "json":
        log_as_json()

    def ready(service: Service) -> None:
        print_json({"names": list(service.names), "chats": service.template is not None})

    try:
        serve(
            order.model, order.name, order.settings, adapters=order.adapters, lora=order.lora,
            replica=order.replica, on_ready=ready,
        )  # fmt: skip
    except TuneserveError as error:
        say(f"error: {error.render()}", lines=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        say(f"error: {of_system(error).render()}", lines=True)
        sys.exit(TuneserveError.exit_code)


if __name__ == "__main__":
    main()
