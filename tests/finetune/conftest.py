"""Fixtures of the finetune tests: the demo base, its tokenizer, small example files."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneserve.base import resolve_base
from tuneserve.files import cache_directory

WriteLines = Callable[..., Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write records (or raw lines) to a JSONL file: `write_lines({...}, 'not json')`."""

    def write(*records: Any, name: str = "examples.jsonl") -> Path:
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def demo_base() -> Path:
    return resolve_base("demo").path


@pytest.fixture(scope="session")
def demo_tokenizer(demo_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_base)


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
