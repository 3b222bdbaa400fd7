"""What is wrong with a GGUF is named before llama.cpp opens it; what works is not refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.base.gguf_support import write_tiny
from tests.gguf.mutations import mutate
from tests.support import ModulePaths
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.hyperparameters import hyperparameter_problems
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import MOST_OBJECTS, GGUFFile
from tuneserve.gguf.validation import check_model


@pytest.fixture(scope="module")
def tiny(module_paths: ModulePaths, demo_gguf: Path) -> Path:
    return write_tiny(module_paths.mktemp("tiny") / "tiny.gguf", GGUFFile(demo_gguf))


def problems_of(path: Path, changes: dict[str, Any]) -> str:
    """With metadata changed as it would be read; '' where there are none."""
    file = open_whole(path)
    for key, value in changes.items():
        if value is None:
            del file.metadata[key], file.value_types[key]
        else:
            file.metadata[key] = value
            kinds = {list: 9, str: 8, float: 6}
            file.value_types[key] = kinds.get(type(value), 4)
    try:
        check_model(file)
    except UsageError as error:
        assert str(path) in error.render()
        return error.render()
    return ""


def test_working_models_pass(tiny: Path, demo_gguf: Path) -> None:
    check_model(open_whole(tiny))
    check_model(open_whole(demo_gguf))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("llama.block_count", 0, "must be 1 at least"),
        ("llama.block_count", 3, "lacks all tensors of 1 layers, the first of them blk.2"),
        ("llama.block_count", 1, "it has tensors of 1 layers more"),
        ("llama.block_count", 600, "512 layers at most"),
        ("llama.block_count", 2**31, "out of bounds"),
        ("llama.block_count", "2", "must be a whole number"),
        ("llama.context_length", 0, "must be 1 at least"),
        ("llama.attention.head_count", 0, "it has tensors of attention"),
        ("llama.attention.head_count", [4, 4, 4], "one for each of 2 layers"),
        ("llama.attention.head_count_kv", 3, "can't be shared out over 3 heads"),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, "NaN"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "not below 0"),
        ("llama.attention.layer_norm_rms_epsilon", "x", "must be a number"),
        ("llama.rope.freq_base", math.inf, "must be finite"),
        ("llama.rope.scaling.type", "spiral", "llama.cpp knows none, linear, yarn, longrope"),
        ("llama.expert_count", 4096, "takes 1024 at most"),
        ("llama.expert_count", 4, "expert_used_count is 0 of 4 experts"),
        ("llama.expert_used_count", 2, "expert_used_count is 2 of 0 experts"),
        ("llama.nextn_predict_layers", 3, "it has 2 layers"),
        ("general.architecture", ["llama"], "is no name"),
        ("general.type", "adapter", "--lora"),
        ("general.type", "mmproj", "part of a model that sees"),
        ("tokenizer.ggml.model", "none", "no vocabulary"),
        ("tokenizer.ggml.model", "llama", "of the 256 tokens of one byte are missing"),
        ("tokenizer.ggml.tokens", ["a"] * 300, "299 stand there twice, such as 'a'"),
        ("tokenizer.ggml.tokens", [1] * 300, "no list of texts"),
        ("tokenizer.ggml.token_type", [1] * 10, "10 values for 300 tokens"),
        ("tokenizer.ggml.token_type", [6] * 300, "is no token of one byte"),
        ("tokenizer.ggml.token_type", [7] * 300, "types that there are none of: 7 to 7"),
        ("tokenizer.ggml.scores", [math.nan] * 300, "NaN"),
        ("tokenizer.ggml.merges", ["ab"], "1 are no pairs, such as 'ab'"),
        ("tokenizer.ggml.bos_token_id", 300, "is 300 of 300 tokens"),
        ("tokenizer.ggml.eos_token_id", "x", "must be a token's number"),
        ("tokenizer.ggml.pre", 3, "must be a text"),
        ("tokenizer.chat_template", ["a"], "must be a text"),
    ],
)
def test_what_is_wrong_is_named(tiny: Path, key: str, value: Any, expected: str) -> None:
    assert expected in problems_of(tiny, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.head_count", [4, 4]),
        ("llama.attention.head_count_kv", [2, 0]),  # a layer without attention of its own
        ("llama.attention.layer_norm_rms_epsilon", 0.0),
        ("llama.rope.scaling.type", "none"),
        ("llama.expert_count", 0),
        ("llama.unknown_entry", [1.5, 2.5]),
        ("tokenizer.ggml.bos_token_id", 2**32 - 1),  # -1: none
        ("tokenizer.ggml.padding_token_id", 5000),  # llama.cpp leaves it out
        ("tokenizer.ggml.scores", [0.0] * 310),
        ("tokenizer.ggml.merges", None),
        ("tokenizer.chat_templates", ["tool_use"]),
        ("general.type", "model"),
    ],
)
def test_what_llama_cpp_takes_is_not_refused(tiny: Path, key: str, value: Any) -> None:
    assert problems_of(tiny, {key: value}) == ""


@pytest.mark.parametrize(
    ("architecture", "inner", "heads", "expected"),
    [
        ("jamba", 128, 4, ""),
        ("jamba", 0, 4, "jamba.ssm.inner_size is 0, and must be twice the embedding's 64"),
        ("mamba2", 96, 4, ""),
        ("mamba2", 96, 5, "can't be shared out by ssm.time_step_rank 5"),
    ],
)
def test_state_space_sizes(
    tiny: Path, architecture: str, inner: int, heads: int, expected: str
) -> None:
    sizes = {
        "general.architecture": architecture, f"{architecture}.embedding_length": 64,
        f"{architecture}.ssm.inner_size": inner, f"{architecture}.ssm.time_step_rank": heads,
    }  # fmt: skip
    file = open_whole(tiny)
    file.metadata |= sizes
    file.value_types |= dict.fromkeys(sizes, 4) | {"general.architecture": 8}
    problems = [*hyperparameter_problems(file)]
    assert expected in "".join(problems)
    assert bool(problems) == bool(expected)


def test_a_vocabulary_alone_may_lack_weights(tiny: Path) -> None:
    file = open_whole(tiny)
    file.tensors.clear()
    with pytest.raises(UsageError, match="can't be a working model") as caught:
        check_model(file)
    assert "it holds no tensors" in caught.value.problems
    check_model(file, weights=False)


def test_parts_are_one_model(tmp_path: Path, demo_gguf: Path) -> None:
    demo = GGUFFile(demo_gguf)
    for number in (0, 1):
        layer = f"blk.{number}."
        names = GGUFFile(write_tiny(tmp_path / "whole.gguf", demo)).tensors
        write_tiny(
            tmp_path / f"m-{number + 1:05d}-of-00002.gguf", demo, split=(number, 2, len(names)),
            without=[name for name in names if name.startswith(layer) or (number and "." not in
                     name.removesuffix(".weight"))],
        )  # fmt: skip
    check_model(open_whole(tmp_path / "m-00001-of-00002.gguf"))


def test_damage_of_every_kind_is_an_error(tiny: Path, tmp_path: Path) -> None:
    data, path, passed = tiny.read_bytes(), tmp_path / "mutant.gguf", 0
    for seed in range(110):
        path.write_bytes(mutate(data, seed))
        try:
            check_model(open_whole(path))
            passed += 1
        except TuneserveError as error:
            assert str(path) in error.render()
    assert 10 < passed < 80


def test_long_lists_of_numbers_stay_as_they_are(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "long.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_array("general.numbers", [0, 0, 0])
    writer.add_array("general.bytes", bytes(MOST_OBJECTS + 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    file = GGUFFile(path)
    assert file.get("general.numbers") == [0, 0, 0]
    assert isinstance(file.get("general.bytes"), np.ndarray)


@pytest.mark.parametrize(
    ("kind", "count"), [("STRING", "two"), ("INT32", -1), ("FLOAT32", 2.5), ("UINT64", 2**60)]
)
def test_a_number_of_parts_that_is_none(tmp_path: Path, kind: str, count: Any) -> None:
    import gguf

    paths = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for path in paths:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_key_value("split.count", count, gguf.GGUFValueType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with pytest.raises(UsageError, match=r"this is one of .* parts of a GGUF"):
        open_whole(paths[0])
