"""guidellm: its benchmark command over chat and over text completions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checks
from checks import MODEL


def _benchmark(request_format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).with_name("guidellm")), "run",
            "--backend", f"kind=openai_http,target={checks.URL},model={MODEL},"
            f"request_format={request_format},api_key={checks.KEY}",
            "--tokenizer", f"kind=huggingface_auto,model={os.environ['TUNESERVE_TOKENIZER']}",
            "--profile", "kind=concurrent,streams=2",
            "--constraint", "kind=max_requests,count=4",
            "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
            "--output", f"kind=json,path={folder}/report.json", "--disable-progress",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, (done.stderr or done.stdout)[-400:]
        report: Any = json.loads(Path(folder, "report.json").read_text())
    made = report["benchmarks"][0]["metrics"]["request_totals"]
    assert made["successful"] >= 4, f"requests {made}"


def chat() -> None:
    _benchmark("/v1/chat/completions")


def text_completion() -> None:
    _benchmark("/v1/completions")


if __name__ == "__main__":
    checks.run("guidellm", chat, text_completion)
