"""Ways to train that must come to the same losses, and ways that must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow

SEEN = sum(6 + 4 * (number % 5) for number in range(12))
SHARED = {"prefix_sharing": "true"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "again": {},
    "other seed": {"seed": 1},
    "accumulated": {"batch_size": 1, "gradient_accumulation": 4},
    "two at a time": {"batch_size": 2, "gradient_accumulation": 2},
    "packed": {"packing": "true"},
    "shared": SHARED,
    "shared, two at a time": {**SHARED, "batch_size": 2, "gradient_accumulation": 2},
    "shared, checkpointed": {**SHARED, "gradient_checkpointing": "true"},
    "shared and packed": {**SHARED, "packing": "true"},
    "shared dora": {**SHARED, "use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "shared head": {**SHARED, "modules_to_save": ["lm_head"]},
    "shared whole": {**SHARED, "modules_to_save": ["embed_tokens"]},
    "checkpointed": {"gradient_checkpointing": "true"},
    "last": {"last_layers": 2},
    "last, checkpointed": {"last_layers": 2, "gradient_checkpointing": "true"},
    "last, shared": {"last_layers": 2, **SHARED},
    "last, whole": {"last_layers": 2, "modules_to_save": ["embed_tokens"]},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "loraplus": {"loraplus_ratio": 16.0},
    "neftune": {"neftune_alpha": 5.0},
    "whole": {"modules_to_save": ["embed_tokens"]},
    "decay": {"weight_decay": 1.0, "learning_rate": 5e-2},
    "no decay": {"weight_decay": 0.0, "learning_rate": 5e-2},
    "polynomial": {"scheduler": "polynomial"},
    "slow polynomial": {"scheduler": "polynomial", "learning_rate": 1e-8},
    "warm": {"warmup_fraction": 0.5},
    "inverse_sqrt": {"scheduler": "inverse_sqrt"},
    "restarts": {"scheduler": "cosine_with_restarts"},
}


@pytest.fixture(scope="module")
def found(demo_base: Path) -> dict[str, dict[str, Any]]:
    return trained(demo_base, VARIANTS, "small")


def trained(base: Path, variants: dict[str, Any], *options: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("variants.py")), str(base),
         json.dumps(variants), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return result


def same(found: dict[str, dict[str, Any]], one: str, other: str) -> bool:
    return bool(found[one]["losses"] == pytest.approx(found[other]["losses"], abs=1e-4))


@pytest.mark.parametrize(
    ("way", "other"),
    [
        ("again", "plain"),
        ("accumulated", "plain"),
        ("two at a time", "plain"),
        ("packed", "plain"),
        ("checkpointed", "plain"),
        ("last, checkpointed", "last"),
        ("last, shared", "last"),
        ("shared", "plain"),
        ("shared, two at a time", "plain"),
        ("shared, checkpointed", "plain"),
        ("shared and packed", "plain"),
        ("shared dora", "dora"),
        ("shared whole", "whole"),
        ("shared head", "head"),
    ],
)
def test_ways_to_compute_the_same_steps_have_the_same_losses(
    found: dict[str, dict[str, Any]], way: str, other: str
) -> None:
    assert len(found[other]["losses"]) == 3
    assert same(found, way, other)


def test_shared_beginnings_are_computed_once(found: dict[str, dict[str, Any]]) -> None:
    for way, of in (("shared", "plain"), ("shared, two at a time", "two at a time")):
        assert found[way]["seen"] == found[of]["seen"] == SEEN
        assert found[way]["computed"] < 0.8 * found[of]["computed"]
    assert max(found["shared"]["difference"]) < 1e-5
    assert max(found["shared dora"]["difference"]) < 1e-5


def test_a_real_base_learns_the_same_where_beginnings_are_shared(demo_base: Path) -> None:
    given = {"max_steps": 20, "learning_rate": 5e-4}
    found = trained(demo_base, {"plain": given, "shared": {**given, **SHARED}})
    assert len(found["plain"]["losses"]) == 20
    assert found["plain"]["losses"][-1] < 0.9 * found["plain"]["losses"][0]
    assert same(found, "shared", "plain")
    assert max(found["shared"]["difference"]) < 1e-5
    assert found["shared"]["computed"] < 0.8 * found["plain"]["computed"]


@pytest.mark.parametrize("way", ["other seed", "rslora", "loraplus", "neftune"])
def test_settings_that_change_training_change_the_losses(
    found: dict[str, dict[str, Any]], way: str
) -> None:
    assert not same(found, way, "plain")


def test_every_schedule_steps_at_a_rate_of_its_own(found: dict[str, dict[str, Any]]) -> None:
    for schedule in ("polynomial", "slow polynomial", "inverse_sqrt", "restarts"):
        assert len(found[schedule]["losses"]) == 3
    assert not same(found, "polynomial", "inverse_sqrt")


def test_the_warm_up_reaches_the_optimizer(found: dict[str, dict[str, Any]]) -> None:
    # Two steps of three warm up, the third is at the peak.
    assert found["warm"]["steps"] == pytest.approx([5e-3 / 3, 2 * 5e-3 / 3, 5e-3])
    assert found["plain"]["steps"][0] == pytest.approx(5e-3)


def test_weight_decay_reaches_the_optimizer(found: dict[str, dict[str, Any]]) -> None:
    assert not same(found, "decay", "no decay")


def test_what_trains_is_what_was_asked_for(found: dict[str, dict[str, Any]]) -> None:
    assert found["plain"]["kinds"] == ["lora_A", "lora_B"]
    assert found["dora"]["kinds"] == ["lora_A", "lora_B", "magnitude"]
    assert found["whole"]["kinds"] == ["lora_A", "lora_B", "modules_to_save"]
    assert found["loraplus"]["rates"] == pytest.approx([5e-3, 80e-3])


def test_of_the_last_layers_alone_only_they_are_computed_backward(
    found: dict[str, dict[str, Any]],
) -> None:
    assert found["plain"]["adapted"] == found["plain"]["backward"] == [0, 1, 2, 3]
    for way in ("last", "last, shared"):
        assert found[way]["adapted"] == found[way]["backward"] == [2, 3], way
    for way in ("last, checkpointed", "last, whole"):
        assert found[way]["adapted"] == [2, 3]
        assert found[way]["backward"] == [0, 1, 2, 3]
    assert not same(found, "last", "plain")
