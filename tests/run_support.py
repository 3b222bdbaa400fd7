"""Run directories for tests: a record that a run really left, with small files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuneserve.files import write_json
from tuneserve.run import RunDirectory

RECORD = Path(__file__).parent / "core" / "run-schema-0.json"


def write_run(name: str, **train: Any) -> None:
    """The run NAME in the folder of the runs; `train`: settings that differ from the record's."""
    run = RunDirectory.named(name)
    for step in (3, 6):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "optimizer.pt").write_bytes(bytes(1000))
    for path in (
        run.checkpoints / "fingerprint.json", run.adapter / "adapter_model.safetensors",
        run.data / "train.jsonl", run.gguf / f"{name}-Q4_K_M.gguf", run.gguf / "base-Q4_K_M.gguf",
        run.bench / "report.json", run.root / "tensorboard" / "events.out.tfevents.1700000000.host",
        run.root / "curves.html",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    record = json.loads(RECORD.read_text())
    record["name"] = name
    record["settings"]["train"] |= train
    write_json(run.record_path, record)
