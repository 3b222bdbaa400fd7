"""What `model.base` may name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tuneserve.base import resolve_base
from tuneserve.base.resolve import check_checkpoint, short_name
from tuneserve.errors import UsageError


def test_demo_is_imported_once(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path))
    first = resolve_base("demo")
    assert (first.name, first.spec) == ("SmolLM2-135M-Instruct", "demo")
    check_checkpoint(first.path)
    stamp = (first.path / "model.safetensors").stat().st_mtime_ns
    second = resolve_base(str(gguf))
    assert second.path == first.path
    assert (second.path / "model.safetensors").stat().st_mtime_ns == stamp


def test_two_that_need_the_same_base_do_not_spoil_it(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two commands that are started together with an empty cache."""
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve_base, ["demo", str(gguf)])
    assert first.path == second.path
    check_checkpoint(first.path)


def test_directory_is_checked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        resolve_base(str(tmp_path))
    assert [p.split()[1] for p in caught.value.problems] == ["tokenizer.json", "model.safetensors,"]


@pytest.mark.parametrize("spec", ["no such thing", "/not/here", "./nowhere"])
def test_nonsense_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="no such base model"):
        resolve_base(spec)


def test_missing_gguf_is_refused() -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve_base("absent.gguf")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M"),
        ("m-Q4_K_M.gguf", "m"),
        ("plain.gguf", "plain"),
        ("m-Q4_K_M-00002-of-00003.gguf", "m"),
        ("m-00001-of-00003.gguf", "m"),
    ],
)
def test_short_name_has_no_quantization(file: str, name: str) -> None:
    assert short_name(Path(file)) == name


def test_an_adapter_in_the_folder_is_refused(tmp_path: Path) -> None:
    """transformers would load it, or the base that it names, instead of what lies there."""
    for name in ("config.json", "tokenizer.json", "model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"adapter_config\.json: holds an adapter"):
        check_checkpoint(tmp_path)


def test_a_hub_model_is_fetched_without_weights_of_other_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    def fetched(_: str, **given: Any) -> str:
        given.pop("local_files_only", None)
        files = ["config.json", "model-00001-of-00002.safetensors", "consolidated.safetensors",
                 "adapter_model.safetensors", "original/model.safetensors", "x.bin"]  # fmt: skip
        kept = list(filter_repo_objects(files, **given))
        assert kept == ["config.json", "model-00001-of-00002.safetensors"]
        return str(demo.path)

    demo = resolve_base("demo")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert resolve_base("owner/name").path == demo.path
