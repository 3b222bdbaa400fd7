"""The JSON files of a stranger's checkpoint: refused with a reason before a library reads them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import write_small_weights
from tuneserve.base.resolve import check_checkpoint
from tuneserve.base.tokenizer_trial import check_usable
from tuneserve.errors import UsageError
from tuneserve.model_files import DTYPES, check_config, json_object
from tuneserve.model_shape import ModelShape

_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 4,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}  # fmt: skip
_SPLIT = {"type": "Split", "pattern": {"Regex": r"\s+|\w+"}, "behavior": "Isolated"}
_ADDED: dict[str, Any] = {
    "id": 0, "content": "<s>", "special": True,
    **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
}  # fmt: skip
_TOKENIZER = {
    "version": "1.0", "added_tokens": [_ADDED],
    "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_SPLIT]},
    "model": {"type": "BPE", "vocab": {"a": 1, "b": 2, "ab": 3}, "merges": ["a b"]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint."""
    files = {
        "config.json": _CONFIG, "tokenizer.json": _TOKENIZER,
        "tokenizer_config.json": {"bos_token": "<s>", "chat_template": "{{ messages }}"},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    write_small_weights(tmp_path / "model.safetensors", layers=1)
    check_checkpoint(tmp_path)
    return tmp_path


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}},
        {"hidden_size": 2**40}, {"hidden_size": -1}, {"hidden_size": 0}, {"hidden_size": "64"},
        {"hidden_size": 64.5}, {"hidden_size": True}, {"hidden_size": [0]},
        {"num_hidden_layers": 2**31}, {"num_hidden_layers": 0}, {"num_attention_heads": 0},
        {"num_attention_heads": 3}, {"num_key_value_heads": 3},
        {"vocab_size": 10**30}, {"max_position_embeddings": 2**62},
        {"rms_norm_eps": float("nan")}, {"rope_theta": float("inf")}, {"rms_norm_eps": "x"},
        {"architectures": "LlamaForCausalLM"}, {"architectures": [1]},
        {"_attn_implementation": "someone/kernels"}, {"attn_implementation": "flash|a/b:c"},
        {"_attn_implementation_internal": ["sdpa"]}, {"_experts_implementation": "a/b"},
        {"text_config": {"x": [{"attn_implementation": {"": "sdpa", "y": "a/b"}}]}},
        {"deep": json.loads("[" * 40 + "]" * 40)},
        {"dtype": "load"}, {"torch_dtype": "save"}, {"dtype": "float99"}, {"dtype": 7},
        {"dtype": "__dict__"}, {"dtype": ["float32"]}, {"dtype": "torch.float16"},
        {"dtype": "auto"},
        {"dtype": {"": "float32", "text_config": "load"}}, {"vision_config": {"dtype": "int8"}},
        {"thinker_config": {"text_config": {"torch_dtype": "save"}}},
    ],
    ids=str,
)  # fmt: skip
def test_config(folder: Path, changed: dict[str, Any]) -> None:
    _change(folder / "config.json", lambda content: content.update(changed))
    for read in (check_checkpoint, ModelShape.read):
        with pytest.raises(UsageError, match=r"config\.json"):
            read(folder)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_types_of_weights_are_those_of_torch(folder: Path, name: str) -> None:
    assert isinstance(getattr(torch, name), torch.dtype)
    assert getattr(torch, name).is_floating_point
    given = {"torch_dtype": name, "dtype": {"": name}, "vision_config": {"dtype": None}}
    _change(folder / "config.json", lambda content: content.update(given))
    assert check_config(folder / "config.json")["torch_dtype"] == name


def test_code_that_transformers_has_itself_is_no_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    way = {"_attn_implementation": {"": "sdpa", "text_config": None}, "use_kernels": False}
    _change(folder / "config.json", lambda content: content.update(way))
    own = {"model_type": "phi3", "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
    check_checkpoint(folder)
    assert capsys.readouterr().err == ""
    _change(folder / "config.json", lambda content: content.update(own))
    for _ in range(2):
        check_checkpoint(folder)
    (note,) = capsys.readouterr().err.splitlines()  # once
    assert note.startswith(f"note: {folder / 'config.json'} names Python code")
    assert "configuration_phi3.Phi3Config" in note
    assert "is not run: transformers' own implementation" in note


_WORDPIECE = {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100, "vocab": {"a": 1},
}  # fmt: skip


def _replaced(content: str, pattern: str = "e") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _regex(expression: object) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}}


@pytest.mark.parametrize(
    "changed",
    [
        {"model": None}, {"model": []}, {"model": {"vocab": {}}}, {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": {"a": "1"}}}, {"model": {"vocab": {"a": 2**40}}},
        {"model": {"vocab": {"a": 1}, "merges": [1]}}, {"model": {"vocab": {"a": 1}, "merges": 3}},
        {"added_tokens": {"a": 1}}, {"added_tokens": [1]}, {"added_tokens": [{"content": "a"}]},
        {"added_tokens": [{**_ADDED, "id": 2**70}]}, {"normalizer": "NFC"},
        {"added_tokens": None}, {"added_tokens": [{**_ADDED, "special": 1}]},
        {"added_tokens": [{key: _ADDED[key] for key in _ADDED if key != "lstrip"}]},
        {"model": {"type": "BPE", "vocab": [["a", 0.0]]}},
        {"pre_tokenizer": [1]}, _regex("(a+)+b"), _regex("((x?){50})+"), _regex(["a"]),
        _regex("a" * 10_000), {"normalizer": _regex("(a|a)*b")["pre_tokenizer"]},
        {"model": {"vocab": {"a": 1, "b": 1}}},
        {"normalizer": {"type": "Sequence", "normalizers": [_replaced("e" * 10)] * 2}},
        {"normalizer": {"type": "Prepend", "prepend": "a" * 10_000}},
    ],
    ids=lambda changed: str(changed)[:60],
)  # fmt: skip
def test_tokenizer(folder: Path, changed: dict[str, Any]) -> None:
    _change(folder / "tokenizer.json", lambda content: content.update(changed))
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        check_checkpoint(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, {"chat_template": 3},
        {"bos_token": 3}, {"eos_token": ["a"]}, {"tokenizer_class": ["x"]}, {"padding_side": 1},
        {"model_max_length": "x"}, {"model_max_length": float("nan")}, {"truncation_side": "up"},
        {"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": 3},
    ],
    ids=str,
)  # fmt: skip
def test_tokenizer_config(folder: Path, changed: dict[str, Any]) -> None:
    _change(folder / "tokenizer_config.json", lambda content: content.update(changed))
    with pytest.raises(UsageError, match=r"tokenizer_config\.json"):
        check_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, '{"a": 1, "a": 2}', "\ud800"])
def test_what_is_no_object(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=name):
        check_checkpoint(folder)


def test_a_name_that_stands_twice_among_very_many_is_found_in_time() -> None:
    names = [f"token{number}" for number in range(200_000)]
    text = ", ".join(f'"{name}": 1' for name in [*names, names[-1]])
    before = time.process_time()
    with pytest.raises(UsageError, match="'token199999' stands in it twice"):
        json_object(f"{{{text}}}".encode(), "tokenizer.json")
    assert time.process_time() - before < 5  # each counted on its own takes minutes


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "ends"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "Precompiled"),
        ({"model": _WORDPIECE}, "UNK"),
        ({"pre_tokenizer": {"type": "None such"}}, "PreTokenizer"),
    ],
)
def test_a_tokenizer_that_ends_its_process_is_refused(
    tmp_path: Path, changed: dict[str, Any], reason: str | None
) -> None:
    path = tmp_path / "tokenizer.json"
    content = {**_TOKENIZER, "pre_tokenizer": None, **changed}
    path.write_text(json.dumps(content))
    if reason is None:
        check_usable(path)
        return
    with pytest.raises(UsageError, match=f"tokenizers library can't use it: .*{reason}"):
        check_usable(path)


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json", "LICENSE"])
def test_a_pipe_that_a_library_would_wait_for_is_refused(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    with pytest.raises(UsageError, match="holds what is no file") as caught:
        check_checkpoint(folder)
    assert caught.value.problems == [str(folder / name)]


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": [2] * 4096, "head_dim": 65536},
        {"hidden_size": [16], "head_dim": 8},
        {"num_attention_heads": 1 << 16},  # heads of no width
        {"num_hidden_layers": None},
        {"vocab_size": [4, 4]},
        {"num_experts": 4, "num_experts_per_tok": "many"},
        {"num_experts": 4, "first_k_dense_replace": 7},
        {"num_experts": 4, "interleave_moe_layer_step": -1},
        {"qk_nope_head_dim": 8},
    ],
    ids=str,
)
def test_sizes_that_nothing_can_be_reckoned_with(changed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="can't be planned"):
        ModelShape.of({**_CONFIG, **changed})
