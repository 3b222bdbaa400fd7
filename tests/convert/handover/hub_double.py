"""A hub on this machine: the HTTP API that huggingface_hub uploads by, with LFS as storage."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_servers import answering

REGULAR_BYTES = 4096  # larger files go to LFS


@dataclass
class Hub:
    """What was uploaded: objects by their SHA-256, files of each repository, and how it was asked.
    `broken` uploads are answered by an error."""

    objects: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    uploads: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refuse: int = 0
    url: str = ""

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = self.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            data = self._body()
            digest = self.path.rpartition("/")[2]
            hub.objects[digest] = data
            hub.uploads.append(digest)
            self._answer({})

        def do_POST(self) -> None:
            hub.requests.append(self.path)
            hub.tokens.add(self.headers.get("Authorization"))
            body, path = self._body(), self.path.partition("?")[0]
            if hub.refuse:
                self._answer({"error": "not for you"}, hub.refuse)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
                files = json.loads(body)["files"]
                self._answer({"files": [
                    {"path": file["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if file["size"] > REGULAR_BYTES else "regular"}
                    for file in files
                ]})  # fmt: skip
            elif path.endswith("/info/lfs/objects/batch"):
                self._batch(json.loads(body)["objects"])
            elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
                hub.commit(found[1], [json.loads(line) for line in body.splitlines()])
                url = f"{hub.url}/{found[1]}/commit/1"
                self._answer({"success": True, "commitOid": "1", "commitUrl": url})
            else:
                self._answer({"error": "no such route"}, 404)

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in hub.repositories:
                self._answer({"url": f"{hub.url}/{name}"}, 409)
                return
            hub.repositories[name] = {}
            hub.private[name] = wanted.get("private", wanted.get("visibility") == "private")
            self._answer({"url": f"{hub.url}/{name}"})

        def _batch(self, objects: list[dict[str, Any]]) -> None:
            answered = []
            for one in objects:
                upload = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
                missing = one["oid"] not in hub.objects
                answered.append({**one, **({"actions": upload} if missing else {})})
            self._answer({"transfer": "basic", "objects": answered})

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    with answering(_handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
