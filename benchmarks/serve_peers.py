"""Servers that speak the OpenAI API, as processes: ours and the ones it is measured against.

All are started on the same GGUF with the same context, slots, threads, cache type and GPU layers:

- `tuneserve`;
- `llama-server`, and the same with `-bs` (it samples in llama.cpp's backend);
- `llama_cpp.server`, which answers one request at a time;
- llama-cpp-python's `examples/server/server.py` (in its source package), which batches.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
"""Numbers of llama.cpp's types, which its Python servers take."""


@dataclass
class Peer:
    """A server: how it is started, where it answers. `one_at_a_time`: it serves no two requests
    together, so more rounds of many clients tell nothing new. `memory`: of the GPU, in MiB."""

    name: str
    command: list[str]
    port: int
    health: str = "/health"
    reports_usage: bool = True
    one_at_a_time: bool = False
    memory: int = 0


@dataclass
class Setting:
    """What all servers are started with."""

    threads: int
    ctx: int
    slots: int
    gpu_layers: str
    cache_type: str = "q8_0"


@dataclass
class Programs:
    """Where the peers are; what is None is not measured, nor whose name is in `without`. `python`
    has llama_cpp.server's extra packages, and websockets and safetensors for the example."""

    llama_server: Path | None = None
    example_server: Path | None = None
    stock: bool = False
    python: str = sys.executable
    without: tuple[str, ...] = ()


def ours(model: Path, setting: Setting, *more: str) -> Peer:
    port = free_port()
    command = [
        sys.executable, "-m", "tuneserve", "serve", str(model), "--name", "model",
        "--port", str(port), "--threads", str(setting.threads), "--ctx", str(setting.ctx),
        "--slots", str(setting.slots), "--cache-type-k", setting.cache_type,
        "--cache-type-v", setting.cache_type, "--gpu-layers", setting.gpu_layers, *more,
    ]  # fmt: skip
    return Peer("tuneserve", command, port)


def others(model: Path, setting: Setting, programs: Programs, folder: Path) -> list[Peer]:
    """The peers that `programs` names. The example's configuration is written into `folder`."""
    # None has a word for auto; as many layers as there are is what auto must choose.
    layers = "999" if setting.gpu_layers == "auto" else setting.gpu_layers
    found = []
    if programs.llama_server:
        found += [
            _llama_server(model, setting, layers, programs.llama_server),
            _llama_server(model, setting, layers, programs.llama_server, "-bs"),
        ]
    if programs.example_server:
        found.append(_example(model, setting, layers, programs, folder))
    if programs.stock:
        found.append(_stock(model, setting, layers, programs))
    return [peer for peer in found if peer.name not in programs.without]


def _llama_server(model: Path, setting: Setting, layers: str, program: Path, *more: str) -> Peer:
    port, threads = free_port(), str(setting.threads)
    command = [
        str(program), "-m", str(model), "--alias", "model", "--port", str(port),
        "-t", threads, "-tb", threads, "-c", str(setting.ctx), "-np", str(setting.slots),
        "-kvu", "-fa", "on", "-ctk", setting.cache_type, "-ctv", setting.cache_type,
        "-ngl", layers, "--no-warmup", *more,
    ]  # fmt: skip
    return Peer(" ".join(("llama-server", *more)), command, port)


def _stock(model: Path, setting: Setting, layers: str, programs: Programs) -> Peer:
    port, threads, number = free_port(), str(setting.threads), str(CACHE_TYPES[setting.cache_type])
    command = [
        programs.python, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port),
        "--model_alias", "model", "--n_threads", threads, "--n_threads_batch", threads,
        "--n_ctx", str(setting.ctx), "--flash_attn", "true", "--type_k", number,
        "--type_v", number, "--n_gpu_layers", layers, "--interrupt_requests", "false",
    ]  # fmt: skip
    return Peer(
        "llama_cpp.server", command, port, "/v1/models", reports_usage=False, one_at_a_time=True
    )


def _example(model: Path, setting: Setting, layers: str, programs: Programs, folder: Path) -> Peer:
    port, number = free_port(), CACHE_TYPES[setting.cache_type]
    configuration = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {
            "path": str(model), "alias": "model", "n_gpu_layers": int(layers),
            "n_ctx": setting.ctx, "n_seq_max": setting.slots, "kv_unified": True,
            "threads": setting.threads, "threads_batch": setting.threads, "flash_attn": True,
            "type_k": number, "type_v": number, "store_logits": False,
        },
    }  # fmt: skip
    path = folder / "example-server.json"
    path.write_text(json.dumps(configuration))
    command = [programs.python, str(programs.example_server), "-C", str(path)]
    return Peer("examples/server", command, port, "/healthz", reports_usage=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(peer: Peer, log: Path) -> Iterator[int]:
    """The process id of the server, ready to answer; it is ended when the block is left."""
    with started(peer, log) as process:
        wait_until_ready(peer, process, log)
        yield process.pid


@contextmanager
def all_running(peers: list[Peer], logs: Path) -> Iterator[dict[str, int]]:
    """Start one after the other; the process ids by name of those that are ready, each with the
    GPU memory it took (`peer.memory`). A peer that can't start is left out; ours must."""
    with contextlib.ExitStack() as stack:
        ready = {}
        for peer in peers:
            log = logs / f"{peer.name.replace('/', '-').replace(' ', '')}.log"
            before = gpu_memory_mib()
            process = stack.enter_context(started(peer, log))
            try:
                wait_until_ready(peer, process, log)
            except SystemExit as error:
                if peer.name == "tuneserve":
                    raise
                print(f"left out: {error}", file=sys.stderr, flush=True)
            else:
                peer.memory = gpu_memory_mib() - before
                ready[peer.name] = process.pid
        yield ready


@contextmanager
def started(peer: Peer, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server, starting; it is ended when the block is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(peer.command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}{peer.health}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{peer.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def gpu_memory_mib() -> int:
    """Memory in use on all GPUs; 0 without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(int(line) for line in done.stdout.split())
