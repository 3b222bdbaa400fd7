"""Adapters over HTTP: vLLM's paths, with keys of their own."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.serve.conftest import INVOCATION
from tests.support import ModulePaths, Runner
from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.service import Service
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
ADMIN, KEY = "admin-secret", "user-secret"


@pytest.fixture(scope="module")
def folder(module_paths: ModulePaths) -> Path:
    folder = module_paths.mktemp("served")
    (folder / "admin").write_text(f"{ADMIN}\n")
    (folder / "keys").write_text(f"{KEY}\n")
    (folder / "adapters" / "later").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def service(demo_gguf: Path, folder: Path, lora_gguf: Path) -> Iterator[Service]:
    settings = ServeSettings(
        ctx=512, slots=2, threads=1, log="off",
        adapter_dir=folder / "adapters", admin_key_file=folder / "admin",
        api_key_file=folder / "keys",
    )  # fmt: skip
    shutil.copy(lora_gguf, folder / "adapters" / "later" / "loud.gguf")
    service = Service(demo_gguf, "demo", settings)
    yield service
    service.close()


def ask(
    service: Service, app: FastAPI, path: str, body: dict[str, Any] | None, key: str
) -> httpx.Response:
    async def send() -> httpx.Response:
        service.bridge.attach(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=60
        ) as client:
            return await (client.post(path, json=body) if body is not None else client.get(path))

    return asyncio.run(send())


def test_an_adapter_is_loaded_answers_and_is_unloaded(service: Service) -> None:
    app = create_app(service)

    def load(**body: object) -> httpx.Response:
        return ask(service, app, "/v1/load_lora_adapter", body, ADMIN)

    def unload(**body: object) -> httpx.Response:
        return ask(service, app, "/v1/unload_lora_adapter", body, ADMIN)

    def chat(model: str) -> httpx.Response:
        return ask(service, app, "/v1/chat/completions", {**CHAT, "model": model}, KEY)

    assert chat("loud").status_code == 404
    done = load(lora_name="loud", lora_path="later/loud.gguf")
    assert (done.status_code, done.text) == (
        200, "Success: LoRA adapter 'loud' added successfully.",
    )  # fmt: skip
    cards = ask(service, app, "/v1/models", None, KEY).json()["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in cards] == [
        ("demo", None, None), ("loud", "demo", "demo"),
    ]  # fmt: skip
    base, loud = (chat(model).json()["choices"][0]["message"] for model in ("demo", "loud"))
    assert base != loud
    again = load(lora_name="loud", lora_path="later/loud.gguf")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "adapter_exists")
    assert load(
        lora_name="loud", lora_path="later/loud.gguf", load_inplace=True
    ).status_code == 200  # fmt: skip
    done = unload(lora_name="loud", lora_int_id=None)
    assert (done.status_code, done.text) == (
        200, "Success: LoRA adapter 'loud' removed successfully.",
    )  # fmt: skip
    assert chat("loud").status_code == 404
    gone = unload(lora_name="loud")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "adapter_not_found")


@pytest.mark.parametrize(
    ("name", "path", "param"),
    [
        ("x", "../admin", "lora_path"),
        ("x", "/etc/passwd", "lora_path"),
        ("x", "nowhere.gguf", "lora_path"),
        ("x", "a\0b", "lora_path"),
        ("x", "text.gguf", "lora_path"),
        ("demo", "later/loud.gguf", "lora_name"),
        ("a b", "later/loud.gguf", "lora_name"),
        ("", "later/loud.gguf", "lora_name"),
    ],
)
def test_what_can_not_be_loaded_is_told_without_the_servers_paths(
    service: Service, folder: Path, name: str, path: str, param: str
) -> None:
    (folder / "adapters" / "text.gguf").write_text("hello")
    body = {"lora_name": name, "lora_path": path}
    refused = ask(service, create_app(service), "/v1/load_lora_adapter", body, ADMIN)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert str(folder) not in refused.text


def test_the_directory_is_watched(service: Service, folder: Path, lora_gguf: Path) -> None:
    file = folder / "adapters" / "dropped.gguf"
    shutil.copy(lora_gguf, file)
    for there in (True, False):
        deadline = time.monotonic() + 20
        while ("dropped" in service.names) is not there:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        file.unlink(missing_ok=True)


def test_the_keys_of_admins_and_users_are_not_each_others(service: Service) -> None:
    app = create_app(service)
    body = {"lora_name": "x", "lora_path": "later/loud.gguf"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        for key in (KEY, "", "x"):
            refused = ask(service, app, path, body, key)
            assert refused.status_code == 401
            assert "admin key" in refused.json()["error"]["message"]
    assert ask(service, app, "/v1/models", None, ADMIN).status_code == 401


def test_without_an_admin_key_the_paths_are_not_there(service: Service) -> None:
    settings = service.settings
    service.settings = settings.model_copy(update={"admin_key_file": None})
    try:
        app = create_app(service)
        body = {"lora_name": "x", "lora_path": "later/loud.gguf"}
        assert ask(service, app, "/v1/load_lora_adapter", body, ADMIN).status_code == 401
        assert ask(service, app, "/v1/load_lora_adapter", body, KEY).status_code == 404
        assert "/v1/load_lora_adapter" not in json.dumps(app.openapi())
    finally:
        service.settings = settings


def test_settings_that_load_nothing_are_refused(
    tuneserve: Runner, demo_gguf: Path, folder: Path
) -> None:
    done = tuneserve("serve", str(demo_gguf), "--admin-key-file", str(folder / "admin"))
    assert done.returncode == 2
    assert "Add --adapter-dir DIR." in done.stderr
    done = tuneserve("serve", str(demo_gguf), "--adapter-dir", str(folder / "nothing"))
    assert done.returncode == 2
    assert "no such directory" in done.stderr


def test_adapters_are_chosen_in_llama_servers_way(service: Service) -> None:
    app = create_app(service)

    def post(body: Any, key: str = ADMIN) -> httpx.Response:
        return ask(service, app, "/lora-adapters", body, key)

    def answer(**fields: object) -> httpx.Response:
        return ask(service, app, "/v1/chat/completions", {**CHAT, **fields}, KEY)

    assert ask(service, app, "/lora-adapters", None, KEY).json() == []
    ask(service, app, "/v1/load_lora_adapter",
        {"lora_name": "loud", "lora_path": "later/loud.gguf"}, ADMIN)  # fmt: skip
    (listed,) = ask(service, app, "/lora-adapters", None, KEY).json()
    number = listed.pop("id")
    assert listed == {
        "name": "loud", "path": "loud.gguf", "scale": 0.0, "task_name": "", "prompt_prefix": "",
    }  # fmt: skip
    on, off = [{"id": number, "scale": 1}], [{"id": number, "scale": 0.0}]
    assert answer().json()["model"] == answer(lora=off).json()["model"] == "demo"
    assert (
        answer(lora=on).json()["model"] == answer(lora=on, model="loud").json()["model"] == "loud"
    )
    assert answer(lora=[]).json()["model"] == "demo"
    for lora, code in (
        ([{"id": number, "scale": 0.5}], "unsupported_value"),
        ([{"id": number + 1, "scale": 1}], "adapter_not_found"),
        ([*on, *off], "unsupported_value"),
        ([{"id": number}], None),
        ([{"id": str(number), "scale": 1}], None),
        ([{"id": number, "scale": True}], None),
    ):
        refused = answer(lora=lora)
        assert refused.status_code == 400, lora
        assert refused.json()["error"]["param"].startswith("lora")
        if code is not None:
            assert refused.json()["error"]["code"] == code
    assert answer(lora=off, model="loud").json()["error"]["param"] == "lora"
    for key in (KEY, ""):
        assert post(on, key).status_code == 401
    assert post([{"id": number, "scale": 2}]).status_code == 400
    assert post(on).json() == {"success": True}
    assert ask(service, app, "/lora-adapters", None, KEY).json()[0]["scale"] == 1.0
    assert answer().json()["model"] == "loud"
    assert answer(model="demo").json()["model"] == "demo"
    ask(service, app, "/v1/unload_lora_adapter", {"lora_name": "loud"}, ADMIN)
    assert answer().json()["model"] == "demo"


def test_an_adapter_that_is_not_invoked_is_told(
    service: Service, folder: Path, activated_lora_gguf: Path
) -> None:
    shutil.copy(activated_lora_gguf, folder / "adapters" / "later" / "check.gguf")
    app = create_app(service)

    def complete(*prompts: str) -> httpx.Response:
        body = {"model": "check", "prompt": list(prompts), "max_tokens": 2, "temperature": 0}
        return ask(service, app, "/v1/completions", body, KEY)

    ask(service, app, "/v1/load_lora_adapter",
        {"lora_name": "check", "lora_path": "later/check.gguf"}, ADMIN)  # fmt: skip
    (listed,) = ask(service, app, "/lora-adapters", None, KEY).json()
    assert listed["alora_invocation_string"] == INVOCATION
    assert "X-Tuneserve-Inactive" not in complete(f"Rome.{INVOCATION} yes").headers
    assert complete("Rome.").headers["X-Tuneserve-Inactive"] == "check"
    both = complete("Rome.", f"Rome.{INVOCATION}").headers["X-Tuneserve-Inactive"]
    assert both == "check (1 of 2 answers)"
    service.settings = service.settings.model_copy(update={"strict": True})
    try:
        refused = complete("Rome.").json()["error"]
        assert (refused["code"], refused["param"]) == ("adapter_inactive", "prompt")
    finally:
        service.settings = service.settings.model_copy(update={"strict": False})
    ask(service, app, "/v1/unload_lora_adapter", {"lora_name": "check"}, ADMIN)
