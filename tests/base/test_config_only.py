"""A base of which config.json suffices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import SMALL_TOKENIZER, write_small_weights
from tuneserve.base import config_only, read_base_config
from tuneserve.errors import TuneserveError, UsageError

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of a hub whose cache has what is in `folder`."""
    calls: list[dict[str, Any]] = []

    def snapshot(repository: str, **given: Any) -> str:
        calls.append(given)
        if given.get("local_files_only") and not (folder / "config.json").is_file():
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError(repository)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return calls


def test_what_lies_beside_the_configuration_is_found(folder: Path) -> None:
    found = read_base_config(str(folder))
    assert (found.config, found.weights, found.tokenizer) == (CONFIG, None, None)
    write_small_weights(folder / "model.safetensors")
    assert read_base_config(str(folder)).weights == folder
    (folder / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
    )
    found = read_base_config(str(folder))
    assert (found.weights, found.tokenizer) == (folder, folder)
    assert read_base_config(str(folder / "config.json")).weights is None


def test_damaged_files_of_a_whole_checkpoint_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
    )
    (folder / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        read_base_config(str(folder))


def test_a_tokenizer_that_the_library_can_not_use_is_refused(folder: Path) -> None:
    write_small_weights(folder / "model.safetensors")
    tokenizer: dict[str, Any] = dict(SMALL_TOKENIZER)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_base_config(str(folder)).weights == folder
    nameless = {"id": "none such", "type_id": 0}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": nameless}], "pair": [],
        "special_tokens": {},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match=r"tokenizer\.json: the tokenizers library can't use it"):
        read_base_config(str(folder))


def test_weights_that_are_a_device_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"model\.safetensors: is no file"):
        read_base_config(str(folder))


def test_an_adapter_is_no_base(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter"):
        read_base_config(str(folder))


def test_of_a_hub_model_the_configuration_alone_is_fetched(
    folder: Path, hub: list[dict[str, Any]]
) -> None:
    (folder / "config.json").unlink()
    found = read_base_config("owner/name")
    assert found.config == CONFIG
    assert [call.get("allow_patterns") for call in hub] == [None, ["config.json"]]
    assert hub[0]["local_files_only"]
    hub.clear()
    assert read_base_config("owner/name").config == CONFIG
    assert [call["local_files_only"] for call in hub] == [True]


def test_a_hub_download_that_was_cut_off_is_a_configuration(
    folder: Path, hub: list[dict[str, Any]]
) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.json").write_text("{}")
    found = read_base_config("owner/name")
    assert (found.weights, found.tokenizer) == (None, folder)


def test_a_hub_that_is_not_reached_is_one_error() -> None:
    with pytest.raises(TuneserveError, match=r"owner/name.*can't be downloaded") as caught:
        read_base_config("owner/name")
    assert "Check the name and the network" in caught.value.hint


def test_a_gguf_is_read_by_its_header_where_it_can_not_be_imported(
    demo_gguf: Path, demo_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = read_base_config("demo")
    assert imported.weights == imported.tokenizer == demo_base
    monkeypatch.setattr(config_only, "missing_packages", lambda extra: ["torch"])
    for spec in ("demo", str(demo_gguf)):
        found = read_base_config(spec)
        assert found.config == imported.config
        assert found.weights is None
    with pytest.raises(UsageError, match="no such file"):
        read_base_config("nowhere.gguf")
