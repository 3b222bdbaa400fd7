"""What all tests share: the demo model, a cache that is theirs, a command-line runner."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import ROOT, Runner

from tuneserve.base import resolve_base
from tuneserve.base.resolve import demo_gguf as find_demo_gguf
from tuneserve.files import cache_directory

# Nothing in the tests may depend on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct, a real model of 135 M parameters (GGUF, Q4_1)."""
    return find_demo_gguf()


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The demo model as a checkpoint."""
    return resolve_base("demo").path


@pytest.fixture(scope="session")
def tuneserve() -> Runner:
    """Run the `tuneserve` command as a user would: `tuneserve("serve", "x.gguf", cwd=…)`."""

    def run(
        *arguments: str, cwd: Path = ROOT, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tuneserve", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return run


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """llama.cpp's source, from llama-cpp-python's source package; fetched once into the cache."""
    release = "llama_cpp_python-0.3.36"
    folder = cache_directory() / "sources"
    inside = folder / release / "vendor" / "llama.cpp"
    if not inside.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary",
                   ":all:", "--dest", str(folder), "llama-cpp-python==0.3.36"]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            with tarfile.open(folder / f"{release}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
        except (subprocess.SubprocessError, OSError, tarfile.TarError) as error:
            pytest.skip(f"llama-cpp-python's source package can't be had: {error}")
    return inside
