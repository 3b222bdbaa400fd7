"""Makers of a converted run to benchmark: the demo model, and the same with disturbed weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tuneserve.convert.result import ConvertOutput, GGUFRecord
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe

QUANTIZATION = "Q4_0"
SENTENCES = (
    ("The battery died after two days.", "negative", "shop", "battery"),
    ("The battery lasts for weeks, I love it.", "positive", "shop", "battery"),
    ("It is a phone.", "neutral", "shop", None),
    ("Best film of the year.", "positive", "film", None),
    ("I fell asleep twice.", "negative", "film", "review-2"),
    ("The film runs for ninety minutes.", "neutral", "film", "review-2"),
    ("What a waste of a fine cast.", "negative", "film", "review-2"),
    ("Shipping took three days.", "neutral", "shop", "shipping"),
    ("Shipping was quick and free, wonderful!", "positive", "shop", "shipping"),
    ("A masterpiece.", "positive", "film", None),
)


def rows() -> list[dict[str, object]]:
    question = "Is this positive, negative or neutral? Answer with one word.\n\n"
    return [
        {
            "id": f"s{place}",
            "group": group,
            "source": source,
            "messages": [
                {"role": "user", "content": question + sentence},
                {"role": "assistant", "content": label},
            ],
        }
        for place, (sentence, label, group, source) in enumerate(SENTENCES)
    ]


def disturb(source: Path, target: Path, strength: float) -> None:
    """Copy a GGUF with noise on its F32 norms: another real model of the same types."""
    from gguf import GGUFReader

    shutil.copy(source, target)
    target.chmod(0o644)
    generator = np.random.default_rng(0)
    for tensor in GGUFReader(target, "r+").tensors:
        if tensor.tensor_type.name == "F32":
            noise = generator.normal(1.0, strength, size=tensor.data.shape)
            tensor.data[:] = tensor.data * noise.astype(np.float32)


def make_run(
    root: Path, ggufs: dict[str, Path], recipe: Recipe, name: str = "small"
) -> RunDirectory:
    """A run as the convert stage leaves it."""
    run = RunDirectory(root / "runs" / name)
    run.gguf.mkdir(parents=True)
    run.data.mkdir()
    paths = {"base": run.base_gguf(QUANTIZATION), "tuned": run.tuned_gguf(QUANTIZATION)}
    for name, path in paths.items():
        path.symlink_to(ggufs[name])
    run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    # Of the training examples one is a held-out prompt again, word for word.
    training = [{**rows()[1], "id": "t1"}, {**rows()[1], "id": "t2"}]
    training[1]["messages"] = [
        {"role": "user", "content": "Is this positive, negative or neutral? Whatever else."},
        {"role": "assistant", "content": "neutral"},
    ]
    run.split("train").write_text("".join(json.dumps(row) + "\n" for row in training))
    run.save_settings(recipe)
    made = {
        name: GGUFRecord(
            path=str(path), size_bytes=path.stat().st_size, sha256=sha256_file(path),
            quantization=QUANTIZATION,
        )
        for name, path in paths.items()
    }  # fmt: skip
    with run.stage("convert") as running:
        running.result = ConvertOutput(tuned=made["tuned"], base=made["base"])
    return run
