"""A running server on the demo model, shared by the tests that talk to one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.replies import Replies
from tests.support import RunningServer, running_server


@pytest.fixture(scope="session")
def server(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The demo model as 'demo', eight slots."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(
        log, str(demo_gguf), "--name", "demo", "--ctx", "4096", "--max-body", "100000"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Any:
    """The openai client, pointed at the server."""
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def start_server() -> Callable[..., Any]:
    """`with start_server(log, *arguments) as running:` for tests that need their own."""
    return running_server


INVOCATION = "\nCheck the answer:"


def write_lora(
    path: Path,
    *,
    seed: int,
    invocation: Sequence[int] = (),
    layers: int = 30,
    shape: tuple[int, int] = (576, 1536),
) -> Path:
    """An adapter of rank 4 with large random weights on `ffn_down` (of this shape; by default the
    demo model's): it visibly changes what the model says. With an `invocation` sequence it is an
    activated one."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 64.0)
    if invocation:
        writer.add_key_value(
            "adapter.alora.invocation_tokens",
            [*invocation],
            gguf.GGUFValueType.ARRAY,
            gguf.GGUFValueType.UINT32,
        )
    random = np.random.default_rng(seed)
    rows, columns = shape
    for block in range(layers):
        name = f"blk.{block}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", random.normal(0, 0.1, (4, columns)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", random.normal(0, 0.1, (rows, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def lora_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that visibly changes what the model says."""
    return write_lora(tmp_path_factory.mktemp("lora") / "loud.gguf", seed=0)


@pytest.fixture(scope="session")
def other_lora_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return write_lora(tmp_path_factory.mktemp("lora") / "other.gguf", seed=1)


@pytest.fixture(scope="session")
def activated_lora_gguf(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An activated adapter (aLoRA), invoked by the tokens of INVOCATION."""
    from tuneserve.llama import LlamaModel

    with LlamaModel(demo_gguf) as model:
        invocation = model.tokenize(INVOCATION)
    path = tmp_path_factory.mktemp("lora") / "activated.gguf"
    return write_lora(path, seed=2, invocation=invocation)


@pytest.fixture
def replies() -> type[Replies]:
    return type("Replies", (Replies,), {"asked": []})


@pytest.fixture
def address(replies: type[Replies]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), replies)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()
