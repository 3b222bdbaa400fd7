"""Bases that the training libraries don't train as they are: a model whose body is looked up under
another name, mixtures with a loss of their own, a model with eyes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.convert.gguf.test_dense import make_dense
from tests.convert.gguf.test_experts import MIXTURES, make_mixture
from tests.finetune.training.variants import encoded
from tests.support import ROOT, ModulePaths

pytestmark = pytest.mark.slow

FAMILIES = ("llama4", "granite-moe", "olmoe", "mistral-3-shell")
# Other logits, attention and positions; and what a mask alone does not keep apart:
# windows shorter than the examples, convolutions, recurrent layers.
SHARING = (*FAMILIES, "gemma", "granite", "cohere", "phi-4-mini", "deepseek-v2")
NOT_SHARING = ("olmo3", "lfm2", "qwen3.5")


@pytest.fixture(scope="module")
def bases(demo_base: Path, module_paths: ModulePaths) -> dict[str, Path]:
    folder = module_paths.mktemp("families")
    return {
        name: (make_mixture if name in MIXTURES else make_dense)(folder / name, name, demo_base)
        for name in SHARING + NOT_SHARING
    }


@pytest.fixture(scope="module")
def trained(bases: dict[str, Path]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("families.py")), *map(str, bases.values())],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[str(base)] for name, base in bases.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_the_answers_and_falls(
    bases: dict[str, Path], trained: dict[str, dict[str, Any]], name: str
) -> None:
    first, second = trained[name]["apart"]
    assert first == pytest.approx(answer_loss(bases[name]), abs=1e-4)
    assert second < first


@pytest.mark.parametrize("name", SHARING)
def test_beginnings_can_be_shared(trained: dict[str, dict[str, Any]], name: str) -> None:
    found = trained[name]
    assert max(found["difference"]) < 1e-4
    assert found["shared"] == pytest.approx(found["apart"], abs=1e-4)


@pytest.mark.parametrize("name", NOT_SHARING)
def test_a_model_that_computes_something_else_is_found_out(
    trained: dict[str, dict[str, Any]], name: str
) -> None:
    difference = trained[name]["difference"]
    assert isinstance(difference, str) or not max(difference) < 1e-3


def answer_loss(base: Path) -> float:
    """transformers' cross-entropy (nats an answer token) of the examples, one at a time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    shell = hasattr(AutoConfig.from_pretrained(base), "vision_config")
    auto = AutoModelForImageTextToText if shell else AutoModelForCausalLM
    model = auto.from_pretrained(base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for example in encoded():
            labels = torch.tensor(example.labels[1:])
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += int((labels >= 0).sum())
    return total / count
