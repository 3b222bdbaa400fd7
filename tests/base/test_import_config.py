"""What changes the result is taken over from a GGUF, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.base.gguf_support import (
    HEAD,
    HIDDEN,
    INNER,
    KV_HEADS,
    LINEAR,
    YARN,
    biases,
    tensors_of,
    write_tiny,
)
from tuneserve.base import import_gguf
from tuneserve.base.config import checkpoint_config
from tuneserve.base.proof import ImportedOtherwiseError, check_ids
from tuneserve.base.rope import llama3_scaling, rope_scaling
from tuneserve.base.tokenizer import tokenizer_json
from tuneserve.base.weights import tensor_names
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import by_gguf_name
from tuneserve.gguf.architectures.llama import llama3_factors
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import GGUFFile

QKV = {"attn_q": HIDDEN, "attn_k": KV_HEADS * HEAD, "attn_v": KV_HEADS * HEAD}
MLP = {"ffn_gate": INNER, "ffn_up": INNER, "ffn_down": HIDDEN}
WINDOW = {"attention.sliding_window": 32}


def config_of(path: Path) -> dict[str, Any]:
    gguf = open_whole(path)
    architecture = by_gguf_name(gguf.architecture)
    config = checkpoint_config(gguf, architecture)
    tensor_names(gguf, architecture, config)
    return config


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"entries": LINEAR}, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (
            {"entries": {"rope.scale_linear": 4.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            {"entries": YARN},
            {
                "rope_scaling": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
                }
            },
        ),
        ({"tensors": biases(2, **QKV)}, {"attention_bias": True, "mlp_bias": False}),
        ({"tensors": biases(2, **MLP)}, {"attention_bias": False, "mlp_bias": True}),
        ({"architecture": "qwen3", "tensors": biases(2, **QKV)}, {"attention_bias": True}),
        (
            {"architecture": "gemma3", "entries": WINDOW | {"final_logit_softcapping": 2.0}},
            {"final_logit_softcapping": 2.0, "layer_types": ["sliding_attention"] * 2},
        ),
        (
            {
                "architecture": "gemma3",
                "entries": WINDOW | {"attention.sliding_window_pattern": 2},
            },
            {"layer_types": ["sliding_attention", "full_attention"]},
        ),
        ({"entries": {"expert_count": 0, "attention.sliding_window": 4096}}, {}),
    ],
)  # fmt: skip
def test_taken_over(
    demo: GGUFFile, tmp_path: Path, made: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = config_of(write_tiny(tmp_path / "x.gguf", demo, **made))
    assert {key: config[key] for key in expected} == expected
    assert ("rope_scaling" in config) == ("rope_scaling" in expected)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"entries": {"attention.scale": 0.3}}, "llama.attention.scale"),
        ({"entries": {"expert_count": 4}}, "llama.expert_count = 4"),
        ({"entries": {"never_heard_of": 1.5}}, "llama.never_heard_of"),
        ({"entries": {"attn_logit_softcapping": 50.0}}, "llama.attn_logit_softcapping"),
        ({"entries": {"rope.scaling.type": "longrope"}}, "longrope"),
        ({"entries": {"attention.value_length": 8}}, "value_length"),
        ({"entries": {"attention.head_count": 0}}, "sizes"),
        ({"entries": {"block_count": 600}}, "announces 600 layers and has 2"),
        ({"entries": {"block_count": 1}}, "announces 1 layers and has 2"),
        ({"without": ["blk.1.attn_q.weight"]}, "blk.1.attn_q.weight"),
        ({"without": ["output_norm.weight"]}, "output_norm.weight"),
        (
            {"tensors": {"token_embd.weight": np.zeros((200, HIDDEN), np.float32)}},
            "300 tokens, but 200 rows",
        ),
        (
            {"tensors": {"rope_freqs.weight": np.linspace(1, 9, HEAD // 2).astype(np.float32)}},
            "not of Llama 3's kind",
        ),
    ],
)
def test_refused_by_name(demo: GGUFFile, tmp_path: Path, made: dict[str, Any], told: str) -> None:
    path = write_tiny(tmp_path / "x.gguf", demo, **made)
    with pytest.raises(UsageError) as caught:
        config_of(path)
    assert told in caught.value.render()
    assert str(path) in caught.value.render()


@pytest.mark.parametrize(
    "parameters",
    [
        (32.0, 1.0, 4.0, 8192), (8.0, 1.0, 4.0, 8192), (8.0, 1.0, 8.0, 4096),
        (4.0, 1.0, 2.0, 1024), (16.0, 2.0, 4.0, 8192),
    ],
)  # fmt: skip
def test_llama3_factors_of_any_parameters(parameters: tuple[float, float, float, int]) -> None:
    names = (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    )  # fmt: skip
    factors = llama3_factors(dict(zip(names, parameters, strict=True)), 500000.0, 128)
    found = llama3_scaling(factors, 500000.0, 128)
    assert found is not None
    np.testing.assert_allclose(llama3_factors(found, 500000.0, 128), factors, rtol=1e-5)


def write_parts(demo: GGUFFile, folder: Path) -> list[Path]:
    every = list(tensors_of("llama", 2))
    first, second = every[:9], every[9:]
    return [
        write_tiny(
            folder / "m-00001-of-00002.gguf", demo, without=second, split=(0, 2, len(every))
        ),
        write_tiny(folder / "m-00002-of-00002.gguf", demo, without=first, split=(1, 2, len(every))),
    ]


def test_parts_are_read_together_whichever_is_named(demo: GGUFFile, tmp_path: Path) -> None:
    parts = write_parts(demo, tmp_path)
    for part in parts:
        assert set(open_whole(part).tensors) == set(tensors_of("llama", 2))


def test_a_part_without_the_others_is_refused(demo: GGUFFile, tmp_path: Path) -> None:
    first, second = write_parts(demo, tmp_path)
    alone = first.rename(tmp_path / "alone.gguf")
    with pytest.raises(UsageError, match="one of 2 parts"):
        open_whole(alone)
    with pytest.raises(UsageError, match="1 of the 2 parts") as caught:
        open_whole(second)
    assert "00001-of-00002" in caught.value.problems[0]
    second.rename(first)
    write_tiny(second, demo)
    with pytest.raises(UsageError, match=r"one of 2 parts|is not part"):
        open_whole(second)


def test_a_piece_of_a_file_is_told_how_to_join(demo: GGUFFile, tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "x.gguf", demo).read_bytes()
    piece = tmp_path / "x.gguf.part00"
    piece.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError) as caught:
        open_whole(piece)
    assert "cat x.gguf?* > x.gguf" in caught.value.hint


@pytest.mark.slow
def test_import_equals_llama_cpp_or_fails(
    demo: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at once; then with another scaling, which must not get a name."""
    source = write_tiny(
        tmp_path / "x.gguf", demo, architecture="gemma3", layers=7,
        entries=WINDOW | LINEAR | {"final_logit_softcapping": 2.0},
    )  # fmt: skip
    import_gguf(source, tmp_path / "whole")
    biased = write_tiny(tmp_path / "b.gguf", demo, tensors=biases(2, **QKV), entries=YARN)
    import_gguf(biased, tmp_path / "biased")
    assert not list((tmp_path / "biased").glob("tmp*"))

    def mistaken(*given: Any) -> dict[str, Any]:
        return {**rope_scaling(*given), "factor": 2.0}

    monkeypatch.setattr("tuneserve.base.config.rope_scaling", mistaken)
    with pytest.raises(ImportedOtherwiseError, match="something else"):
        import_gguf(biased, tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


def test_another_tokenizer_is_noticed(demo: GGUFFile, tmp_path: Path) -> None:
    content = tokenizer_json(demo)
    del content["model"]["merges"][1000:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ImportedOtherwiseError, match="gives other ids"):
        check_ids(demo, tmp_path)
