"""Hardware and libraries that can't do what is asked. Unsloth itself is imported by no test: it
changes torch for all others, and there is no old GPU here."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.runtime import libraries
from tuneserve.finetune.runtime.libraries import Runtime, check_hardware, has_gpu, load_runtime
from tuneserve.settings import TrainSettings


def checked(device: str, *, bf16: bool, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    unsloth: Any = ModuleType("unsloth")
    unsloth.is_bfloat16_supported = lambda: bf16
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    check_hardware(Runtime(None, None, device, "fp32"), TrainSettings.model_validate(given))


@pytest.mark.parametrize(
    ("device", "bf16", "given", "message", "where"),
    [
        (
            "cuda",
            False,
            {"precision": "bf16"},
            "this hardware does not compute in bf16",
            "precision",
        ),
        (
            "cpu",
            False,
            {"precision": "bf16"},
            "this hardware does not compute in bf16",
            "precision",
        ),
        ("cpu", True, {"precision": "fp16"}, "fp16 needs a GPU; a CPU takes bf16", "precision"),
        ("cpu", True, {"optimizer": "adamw_8bit"}, "the 8-bit optimizer needs a GPU", "optimizer"),
    ],
)
def test_settings_that_the_hardware_can_not_honour(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    bf16: bool,
    given: dict[str, str],
    message: str,
    where: str,
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        checked(device, bf16=bf16, monkeypatch=monkeypatch, **given)
    assert caught.value.where == f"train.{where}"


@pytest.mark.parametrize(
    ("device", "bf16", "given"),
    [
        ("cuda", True, {"precision": "bf16", "optimizer": "adamw_8bit"}),
        ("cuda", False, {"precision": "fp16"}),
        ("cpu", False, {"precision": "fp32"}),
        ("cpu", False, {}),
    ],
)
def test_settings_that_it_can(
    monkeypatch: pytest.MonkeyPatch, device: str, bf16: bool, given: dict[str, str]
) -> None:
    checked(device, bf16=bf16, monkeypatch=monkeypatch, **given)


def test_without_a_driver_torch_is_not_imported_to_ask_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its import takes seconds, and a setting that needs a GPU is refused before."""
    torch: Any = ModuleType("torch")
    torch.__spec__ = ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(libraries, "_DRIVERS", (tmp_path / "driver",))
    assert not has_gpu()
    (tmp_path / "driver").touch()
    torch.cuda = SimpleNamespace(is_available=lambda: False)
    assert not has_gpu()
    torch.cuda.is_available = lambda: True
    assert has_gpu()


@pytest.mark.parametrize("kind", ["ImportError", "NotImplementedError", "RuntimeError"])
def test_unsloth_that_can_not_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "unsloth.py").write_text(f"raise {kind}('no accelerator')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path))
    for name in ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_DISABLE_STATISTICS"):
        monkeypatch.setenv(name, "as it was")
    with pytest.raises(TuneserveError, match="Unsloth can't be used here: no accel") as caught:
        load_runtime()
    assert "`tuneserve doctor` says what is installed" in caught.value.hint
    assert caught.value.exit_code == 1
