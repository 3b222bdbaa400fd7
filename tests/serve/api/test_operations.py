"""Adapters, embeddings, token counts, metrics, logs, TLS and limits of one well-equipped server."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.support import ModulePaths, own_certificate
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.api.middleware import KeyRing
from tuneserve.serve.engine import Engine, EngineError, SamplingParams, UnavailableError
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

CHAT = {
    "messages": [{"role": "user", "content": "What is 1+1?"}],
    "temperature": 0,
    "max_tokens": 12,
}


@pytest.fixture(scope="module")
def equipped(
    start_server: Any, demo_gguf: Path, lora_gguf: Path, module_paths: ModulePaths
) -> Iterator[Any]:
    log = module_paths.mktemp("equipped") / "log"
    options = [
        "--name", "base", "--lora", f"loud={lora_gguf}", "--embeddings", "--log", "json",
        "--ctx", "2048", "--cors-origins", "https://page.example",
    ]  # fmt: skip
    with start_server(log, str(demo_gguf), *options) as running:
        yield running


@pytest.fixture(scope="module")
def http(equipped: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=equipped.url, timeout=120) as client:
        yield client


def log_entries(equipped: Any) -> list[dict[str, Any]]:
    entries = map(json.loads, equipped.output().splitlines())
    return [entry for entry in entries if "message" not in entry]


def entry_of(equipped: Any, answer: httpx.Response) -> dict[str, Any]:
    """The log entry of an answer; it is written after the answer was sent."""
    deadline = time.monotonic() + 20
    while True:
        for entry in log_entries(equipped):
            if entry["request_id"] == answer.headers["x-request-id"]:
                return entry
        assert time.monotonic() < deadline, "no log entry"
        time.sleep(0.05)


def test_base_and_adapter_are_models_that_answer_side_by_side(http: httpx.Client) -> None:
    cards = http.get("/v1/models").json()["data"]
    assert [(card["id"], card["root"]) for card in cards] == [("base", None), ("loud", "base")]

    def ask(model: str) -> str:
        answer = http.post("/v1/chat/completions", json={**CHAT, "model": model}).json()
        assert answer["model"] == model
        return str(answer["choices"][0]["message"]["content"])

    alone = {model: ask(model) for model in ("base", "loud")}
    assert "2" in alone["base"]
    assert alone["loud"] != alone["base"]
    together: dict[tuple[str, int], str] = {}

    def remember(model: str, number: int) -> None:
        together[model, number] = ask(model)

    threads = [
        threading.Thread(target=remember, args=(model, number))
        for number in range(3)
        for model in ("base", "loud")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(together["base", number] == alone["base"] for number in range(3))
    assert all(together["loud", number] != alone["base"] for number in range(3))


def test_an_adapters_prefix_is_not_the_bases(demo_gguf: Path, lora_gguf: Path) -> None:
    settings = ServeSettings(ctx=512, slots=2, threads=1)
    with Engine(demo_gguf, settings, adapters={"loud": lora_gguf}) as engine:
        ids = engine.model.tokenize("The capital of France is the city of")
        one = SamplingParams(temperature=0.0, max_tokens=4)
        first = engine.generate([ids], one)[0]
        other = engine.generate([ids], one, adapter="loud")[0]
        again = engine.generate([ids], one, adapter="loud")[0]
        assert first.cached_tokens == other.cached_tokens == 0
        assert again.cached_tokens == len(ids) - 1
        assert first.tokens != other.tokens == again.tokens
        with pytest.raises(EngineError, match="no adapter"):
            engine.submit(ids, one, adapter="nope")


def test_an_adapter_may_belong_to_the_model(demo_gguf: Path, lora_gguf: Path) -> None:
    settings = ServeSettings(ctx=512, slots=2, threads=1, embeddings=True)
    one = SamplingParams(temperature=0.0, max_tokens=4)
    with Engine(demo_gguf, settings, adapters={"loud": lora_gguf}) as engine:
        ids = engine.model.tokenize("The capital of France is the city of")
        base, loud = (engine.generate([ids], one, adapter=name)[0] for name in (None, "loud"))
        plain = engine.embed([ids]).result()
    with Engine(demo_gguf, settings, lora=lora_gguf) as engine:
        assert engine.generate([ids], one)[0].tokens == loud.tokens != base.tokens
        assert engine.embed([ids]).result() != plain


def test_what_is_no_adapter_is_named(demo_gguf: Path, tuneserve: Any) -> None:
    with pytest.raises(TuneserveError, match="can't load this adapter"):
        Engine(demo_gguf, ServeSettings(threads=1), adapters={"x": demo_gguf})
    for lora, word in (("x", "NAME=PATH"), ("m=nowhere.gguf", "is taken")):
        done = tuneserve("serve", str(demo_gguf), "--name", "m", "--lora", lora)
        assert done.returncode == 2
        assert word in done.stderr


def test_embeddings_are_unit_vectors_that_know_what_is_alike(equipped: Any) -> None:
    client = openai.OpenAI(base_url=f"{equipped.url}/v1", api_key="none")
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "Stocks fell 3% in Tokyo."]
    answer = client.embeddings.create(model="base", input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 576)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    plain = client.embeddings.create(model="base", input=texts[0], encoding_format="float")
    assert np.allclose(plain.data[0].embedding, vectors[0], atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.embeddings.create(model="base", input="word " * 3000)


def test_embeddings_are_off_unless_asked_for(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="--embeddings"):
        client.embeddings.create(model="demo", input="x")


def test_tokens_are_counted_and_come_back_as_text(http: httpx.Client) -> None:
    text = "Grüße, 東京! <|im_end|>"
    tokens = http.post("/tokenize", json={"content": text}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == 2048
    back = http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back == {"content": text}
    counted = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()["count"]
    asked = http.post("/v1/chat/completions", json=CHAT).json()["usage"]["prompt_tokens"]
    assert counted == asked
    assert http.post("/tokenize", json={}).status_code == 400


def test_metrics_count_requests_and_tokens(http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])

    before = value("tuneserve_generated_tokens_total")
    answer = http.post("/v1/chat/completions", json=CHAT).json()
    assert value("tuneserve_generated_tokens_total") == (
        before + answer["usage"]["completion_tokens"]
    )
    assert value("tuneserve_running") == value("tuneserve_waiting") == 0
    assert value("tuneserve_kv_cells ") == 2048
    http.get("/nowhere")
    assert value('tuneserve_requests_total{path="unknown",status="404"}') >= 1


def test_metrics_know_the_adapters(http: httpx.Client, lora_gguf: Path) -> None:
    def values() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        found = [line.rsplit(" ", 1) for line in lines if line.startswith("tuneserve_adapter")]
        return {name: float(value) for name, value in found}

    before = values()
    http.post("/v1/chat/completions", json={**CHAT, "model": "loud", "n": 2})
    asked = 'tuneserve_adapter_requests_total{adapter="loud"}'
    assert values() == {
        "tuneserve_adapters": 1,
        "tuneserve_adapter_bytes": lora_gguf.stat().st_size,
        asked: before[asked] + 2,
    }


def test_the_log_has_ids_and_figures_but_no_prompts(http: httpx.Client, equipped: Any) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    entry = entry_of(equipped, answer)
    assert (entry["path"], entry["status"]) == ("/v1/chat/completions", 200)
    assert (entry["finish"], entry["tokens"]) == ("stop", 11)
    assert entry["seconds"] >= entry["first_token_seconds"] > 0
    assert "What is" not in json.dumps(log_entries(equipped))
    assert entry_of(equipped, http.get("/a%0Ab{}"))["status"] == 404


def test_only_named_origins_get_cors(http: httpx.Client) -> None:
    def allowed(origin: str) -> Any:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization, x-stainless-lang"
        answer = http.options("/v1/models", headers=asked)
        assert answer.is_success is (origin == "https://page.example")
        return answer.headers.get("access-control-allow-origin")

    assert allowed("https://page.example") == "https://page.example"
    assert allowed("https://other.example") is None
    answer = http.get("/v1/models", headers={"Origin": "https://page.example"})
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


def test_tls(start_server: Any, tuneserve: Any, demo_gguf: Path, tmp_path: Path) -> None:
    cert, key = own_certificate(tmp_path)
    options = ["--tls-cert", str(cert), "--tls-key", str(key)]
    with start_server(tmp_path / "log", str(demo_gguf), *options) as running:
        assert running.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{running.url}/health", verify=trusted).json() == {"status": "ok"}
    half = tuneserve("serve", str(demo_gguf), "--tls-cert", str(cert))
    assert (half.returncode, "belong together" in half.stderr) == (2, True)
    swapped = tuneserve("serve", str(demo_gguf), "--tls-cert", str(key), "--tls-key", str(cert))
    assert (swapped.returncode, "not a usable TLS" in swapped.stderr) == (2, True)


def test_prompts_are_not_asked_for_in_a_log_without_them(demo_gguf: Path, tuneserve: Any) -> None:
    for log in ("line", "off"):
        done = tuneserve("serve", str(demo_gguf), "--log-prompts", "--log", log)
        assert done.returncode == 2
        assert "--log json" in done.stderr


def test_keys_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("old\n")
    ring = KeyRing(path)
    assert ring.accepts(b"old")
    path.write_text("new\nother\n")
    assert ring.accepts(b"new")
    assert not ring.accepts(b"old")
    path.write_text("# nothing\n")
    assert ring.accepts(b"new"), "a file without keys leaves the former ones in force"
    path.unlink()
    assert ring.accepts(b"other")
    with pytest.raises(UsageError):
        KeyRing(path)


def test_waiting_and_answering_have_limits(demo_gguf: Path) -> None:
    settings = ServeSettings(ctx=2048, slots=1, threads=1, queue_seconds=1, answer_seconds=3)
    with Engine(demo_gguf, settings) as engine:
        ids = engine.model.tokenize("Once upon a time")
        endless = SamplingParams(temperature=0.0, logit_bias={2: -100.0, 0: -100.0})
        started = time.monotonic()
        long = engine.submit(ids, endless)
        waiting = engine.submit(ids, endless)
        with pytest.raises(UnavailableError, match="no slot"):
            waiting.result(30)
        done = long.result(30)
        assert done.finish_reason == "length"
        assert 3 <= time.monotonic() - started < 20


def test_a_stream_that_waited_in_vain_gets_a_status(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    body = {
        "prompt": "Once", "stream": True, "max_tokens": 900, "temperature": 0,
        "logit_bias": {"2": -100, "0": -100},
    }  # fmt: skip
    options = ["--slots", "1", "--ctx", "1024", "--queue-seconds", "1"]
    with start_server(tmp_path / "log", str(demo_gguf), *options) as running:
        url = f"{running.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=60) as long:
            lines = long.iter_lines()
            assert next(lines)
            waited = httpx.post(url, json=body, timeout=60)
        assert waited.status_code == 503
        assert waited.headers["retry-after"]
        assert waited.json()["error"]["code"] == "unavailable"
