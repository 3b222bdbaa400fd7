"""Names that tests import; fixtures are in conftest.py."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuneserve.chat.prompt import encode_text, special_tokens_of, template_arguments, template_of
from tuneserve.chat.template import Message
from tuneserve.llama import LlamaModel
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

ROOT = Path(__file__).resolve().parent.parent

Runner = Callable[..., subprocess.CompletedProcess[str]]


class ModulePaths:
    """Directories for one test module: removed once its last test has run, for a training or a
    converted model takes up to a gigabyte, and a small disk holds few of them."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._made: list[Path] = []

    def mktemp(self, name: str) -> Path:
        """A new directory whose name begins with `name`."""
        self._made.append(self._factory.mktemp(name))
        return self._made[-1]

    def remove(self) -> None:
        """Remove every directory made here; files that a test has removed are not missed."""
        for directory in self._made:
            shutil.rmtree(directory, ignore_errors=True)


def prompt_ids(model: LlamaModel, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to where the model's own template has it answer."""
    template = template_of(model)
    protect = special_tokens_of(model).protect
    arguments = template_arguments(template, [protect(message) for message in messages])
    return encode_text(model, template.render(add_generation_prompt=True, **arguments))


LLAMA_LAYER = {
    "self_attn.q_proj": (4, 4), "self_attn.k_proj": (2, 4), "self_attn.v_proj": (2, 4),
    "self_attn.o_proj": (4, 4), "mlp.gate_proj": (8, 4), "mlp.up_proj": (8, 4),
    "mlp.down_proj": (4, 8), "input_layernorm": (4,), "post_attention_layernorm": (4,),
}  # fmt: skip


SMALL_TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}


def write_small_weights(
    path: Path, layer: Mapping[str, tuple[int, ...]] = LLAMA_LAYER, *, layers: int = 2
) -> Path:
    """The weights of a tiny tied model, all zero."""
    shapes = {"model.embed_tokens": (6, 4), "model.norm": (4,)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    specs = [TensorSpec(f"{name}.weight", "F32", shape) for name, shape in shapes.items()]
    with SafetensorsWriter(path, specs) as writer:
        for spec in specs:
            writer.write(spec.name, [bytes(spec.size_bytes)])
    return path


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that has signed itself, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout",
         str(key), "-out", str(cert), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@dataclass
class RunningServer:
    """A `tuneserve serve` process that is listening."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def output(self) -> str:
        return self.log.read_text()

    def stop(self, *, signal_number: int = signal.SIGTERM, timeout: float = 30) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout)


@contextmanager
def running_server(
    log: Path, *arguments: str, wait: float = 60, port: str = "0"
) -> Iterator[RunningServer]:
    """Start `tuneserve serve …` on a free port, or this one; it is ended when the block is left."""
    command = [sys.executable, "-m", "tuneserve", "serve", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "--port", port, "--threads", "1"],
            cwd=ROOT,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        yield RunningServer(process, _listening_url(process, log, wait), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _listening_url(process: subprocess.Popen[str], log: Path, wait: float) -> str:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        # In a JSON log a replica's message stands behind its name.
        listens = r'^(?:\{"time": "[^"]+", "message": ")?listening on (http\S+)'
        if found := re.search(listens, log.read_text(), re.MULTILINE):
            return found.group(1)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
