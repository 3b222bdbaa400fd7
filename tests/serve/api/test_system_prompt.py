"""What a model was trained with as a system prompt stands before conversations that have none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ModulePaths
from tuneserve.chat.template import ChatTemplate
from tuneserve.gguf.system_prompt import write_with_system_prompt
from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.service import Service
from tuneserve.serve.server import told_system_prompts
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

TRAINED = "Answer with one digit."
OF_ADAPTER = "Shout."
USER = {"role": "user", "content": "What is 1+1?"}
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
OWN = SYSTEM.format("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
"""What the demo model's template says where there is no system message."""


@pytest.fixture(scope="module")
def tuned_gguf(demo_gguf: Path, module_paths: ModulePaths) -> Path:
    path = module_paths.mktemp("tuned") / "tuned.gguf"
    write_with_system_prompt(demo_gguf, path, TRAINED)
    return path


@pytest.fixture(scope="module")
def service(
    tuned_gguf: Path, lora_gguf: Path, other_lora_gguf: Path, module_paths: ModulePaths
) -> Iterator[Service]:
    shouting = module_paths.mktemp("adapter") / "shouting.gguf"
    write_with_system_prompt(lora_gguf, shouting, OF_ADAPTER)
    settings = ServeSettings(ctx=512, slots=1, threads=1, log="off")
    adapters = {"shouting": shouting, "plain": other_lora_gguf}
    service = Service(tuned_gguf, "tuned", settings, adapters=adapters)
    yield service
    service.close()


def ask(service: Service, path: str, body: dict[str, Any] | None = None) -> Any:
    app = create_app(service)

    async def answer() -> httpx.Response:
        service.bridge.attach(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            if body is None:
                return await client.get(path)
            return await client.post(path, json=body, timeout=60)

    found = asyncio.run(answer())
    assert found.status_code == 200, found.text
    return found.json()


def prompt(service: Service, *messages: dict[str, Any], **more: Any) -> str:
    return str(ask(service, "/apply-template", {"messages": messages, **more})["prompt"])


def test_it_stands_before_a_conversation_without_one(service: Service) -> None:
    rest = "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(service, USER) == SYSTEM.format(TRAINED) + rest
    assert prompt(service, USER, model="tuned") == SYSTEM.format(TRAINED) + rest
    assert prompt(service, USER, model="shouting") == SYSTEM.format(OF_ADAPTER) + rest
    assert prompt(service, USER, model="plain") == OWN + rest


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("own", ["Be kind.", ""])
def test_a_clients_own_is_the_only_one(service: Service, role: str, own: str) -> None:
    text = prompt(service, {"role": role, "content": own}, USER)
    assert text.startswith(SYSTEM.format(own))
    assert TRAINED not in text
    late = prompt(service, USER, {"role": role, "content": own}, USER)
    assert TRAINED not in late


def test_the_setting_replaces_it_or_switches_it_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = service.settings
    given = settings.model_copy(update={"system": "Be slow."})
    monkeypatch.setattr(service, "settings", given)
    assert prompt(service, USER).startswith(SYSTEM.format("Be slow."))
    assert prompt(service, USER, model="plain").startswith(SYSTEM.format("Be slow."))
    monkeypatch.setattr(service, "settings", settings.model_copy(update={"system": ""}))
    assert prompt(service, USER).startswith(OWN)
    assert list(told_system_prompts(service)) == []


def test_answers_begin_with_it_in_every_api(service: Service) -> None:
    """Each counts the tokens of the prompt that it renders."""
    ids = ask(service, "/tokenize", {"messages": [USER]})["count"]
    own = ask(service, "/tokenize", {"messages": [USER], "model": "plain"})["count"]
    assert ids != own
    chat = {"messages": [USER], "max_tokens": 1, "temperature": 0}
    done = ask(service, "/v1/chat/completions", chat)
    assert done["usage"]["prompt_tokens"] == ids
    other = {"model": "tuned", "input": "What is 1+1?", "max_output_tokens": 16}
    assert ask(service, "/v1/responses", other)["usage"]["input_tokens"] == ids
    counted = {"model": "tuned", "messages": [USER]}
    assert ask(service, "/v1/messages/count_tokens", counted)["input_tokens"] == ids
    message = ask(service, "/v1/messages", {**counted, "max_tokens": 1})
    usage = message["usage"]
    assert usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0) == ids


def test_a_template_without_system_messages_has_it_in_the_users(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in training, where it is put there too."""
    source = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}"
        "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    monkeypatch.setattr(service, "template", ChatTemplate(source))
    assert prompt(service, USER) == f"<user>{TRAINED}\n\nWhat is 1+1?<assistant>"


def test_it_is_told(service: Service) -> None:
    assert ask(service, "/props")["system_prompt"] == TRAINED
    cards = {one["id"]: one["system_prompt"] for one in ask(service, "/v1/models")["data"]}
    assert cards == {"tuned": TRAINED, "shouting": OF_ADAPTER, "plain": ""}
    assert ask(service, "/v1/models/shouting")["system_prompt"] == OF_ADAPTER
    first, second = told_system_prompts(service)
    assert first.startswith(f"system prompt of 'tuned' where a request has none: {TRAINED}")
    assert OF_ADAPTER in second


def test_an_adapter_of_the_model_itself_says_it(
    demo_gguf: Path, lora_gguf: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "own.gguf"
    write_with_system_prompt(lora_gguf, lora, OF_ADAPTER)
    settings = ServeSettings(ctx=256, slots=1, threads=1, log="off")
    service = Service(demo_gguf, "run", settings, lora=lora)
    try:
        assert service.system_prompt("run") == OF_ADAPTER
    finally:
        service.close()
