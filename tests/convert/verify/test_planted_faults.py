"""Every fault that was ever planted in a conversion is refused, each by the contract that names it.

A fault of the file alone is planted into one GGUF; a fault of the program's own tables into what
both files and the gate's expectations are made from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.verify.planted import (
    MODELS,
    TEMPLATE,
    Conversion,
    Metadata,
    changed,
    failed,
    failed_vocabulary,
    make_tokenizer,
    make_trained,
)
from tests.support import ModulePaths
from tuneserve.convert.gguf.model import ComputedTensor, GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile

pytestmark = pytest.mark.slow
PROBE, LONG = "llama.cpp = transformers", "llama.cpp = transformers, long text"


@pytest.fixture(scope="module")
def conversions(module_paths: ModulePaths) -> dict[str, Conversion]:
    tokenizer = make_tokenizer(module_paths.mktemp("tokenizer"))
    made = {}
    for name in MODELS:
        root = module_paths.mktemp(name)
        made[name] = Conversion(make_trained(root, name, tokenizer), root)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_right_conversion_passes(conversions: dict[str, Conversion], name: str) -> None:
    made = conversions[name]
    assert failed(made.written(made.trained.model(), made.trained.base_model())) == set()


def set_value(key: str, kind: str, value: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        assert key in metadata
        metadata[key] = (kind, value)

    return change


def drop(*keys: str) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        for key in keys:
            del metadata[key]

    return change


def edited(key: str, edit: Callable[[Any], Any]) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        kind, value = metadata[key]
        metadata[key] = (kind, edit(value))

    return change


def put(values: list[Any], place: int, value: Any) -> list[Any]:
    assert values[place] != value
    return [*values[:place], value, *values[place + 1 :]]


def exchanged(values: list[Any], one: int, other: int) -> list[Any]:
    return put(put(values, one, values[other]), other, values[one])


WITH_SYSTEM = TEMPLATE.replace("{{ m.role }}", "{{ 'user' if m.role == 'system' else m.role }}")
WITH_TOOLS = TEMPLATE.replace("Tools:", "tools:")
FIRST_TURN = TEMPLATE.replace("<|end|>\n", "<|end|>{% if loop.index < 4 %}\n{% endif %}")
WITHOUT_PROMPT = TEMPLATE.replace("<|im_start|>assistant\n{% endif %}", "{% endif %}")
TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
MERGES, SOURCE = "tokenizer.ggml.merges", "tokenizer.chat_template"
OF_THE_VOCABULARY: dict[str, tuple[Callable[[Metadata], None], str]] = {
    "pre-tokenizer of the same family": (
        set_value("tokenizer.ggml.pre", "string", "gpt-4o"), "token ids"),
    "pre-tokenizer with other digits": (
        set_value("tokenizer.ggml.pre", "string", "qwen2"), "token ids"),
    "half of the merges dropped": (edited(MERGES, lambda m: m[: len(m) // 2]), "tables of tokens"),
    "the last merge dropped": (edited(MERGES, lambda m: m[:-1]), "tables of tokens"),
    "two merges exchanged": (edited(MERGES, lambda m: exchanged(m, 3, 90)), "tables of tokens"),
    "a special token beyond the first 32": (
        edited(TOKENS, lambda t: put(t, 50, "<|other|>")), "tables of tokens"),
    "two special tokens exchanged": (
        edited(TOKENS, lambda t: exchanged(t, 45, 55)), "token ids"),
    "a control token as user-defined": (edited(TYPES, lambda t: put(t, 40, 4)), "tables of tokens"),
    "a plain token as control": (edited(TYPES, lambda t: put(t, 400, 3)), "tables of tokens"),
    "template with system prompts": (set_value(SOURCE, "string", WITH_SYSTEM), "chat template"),
    "template with tools": (set_value(SOURCE, "string", WITH_TOOLS), "chat template"),
    "template of long conversations": (set_value(SOURCE, "string", FIRST_TURN), "chat template"),
    "generation prompt lost": (set_value(SOURCE, "string", WITHOUT_PROMPT), "chat template"),
    "template lost": (drop(SOURCE), "chat template"),
    "BOS flag": (set_value("tokenizer.ggml.add_bos_token", "bool", True), "special tokens"),
    "another BOS": (set_value("tokenizer.ggml.bos_token_id", "uint32", 7), "special tokens"),
    "another end token": (set_value("tokenizer.ggml.eos_token_id", "uint32", 2), "special tokens"),
}  # fmt: skip


@pytest.mark.parametrize("fault", OF_THE_VOCABULARY)
def test_fault_of_the_vocabulary(
    conversions: dict[str, Conversion], fault: str, tmp_path: Path
) -> None:
    plant, contract = OF_THE_VOCABULARY[fault]
    model = conversions["llama"].trained.model()
    metadata = model.metadata("Q8_0")
    plant(metadata)
    path = tmp_path / "x.gguf"
    write_gguf(path, metadata, model.sources, model.choices("Q8_0"), threads=1)
    assert contract in failed_vocabulary(conversions["llama"].trained, path)


METADATA: dict[str, tuple[str, Callable[[Metadata], None], str]] = {
    "RoPE base": ("llama", set_value("llama.rope.freq_base", "float32", 490000.0), LONG),
    "norm's epsilon": (
        "llama", set_value("llama.attention.layer_norm_rms_epsilon", "float32", 1e-3), PROBE),
    "linear scaling lost": (
        "linear", drop("llama.rope.scaling.type", "llama.rope.scaling.factor"), PROBE),
    "yarn lost": (
        "qwen2", drop("qwen2.rope.scaling.type", "qwen2.rope.scaling.factor"), PROBE),
    "yarn's factor": ("qwen2", set_value("qwen2.rope.scaling.factor", "float32", 4.1), PROBE),
    "yarn's original context": (
        "qwen2", set_value("qwen2.rope.scaling.original_context_length", "uint32", 128), PROBE),
    "sliding window lost": (
        "gemma3", set_value("gemma3.attention.sliding_window", "uint32", 8192), LONG),
    "sliding window one shorter": (
        "gemma3", set_value("gemma3.attention.sliding_window", "uint32", 511), LONG),
    "RoPE base of the windows": (
        "gemma3", set_value("gemma3.rope.freq_base_swa", "float32", 20000.0), PROBE),
    "context length": ("llama", set_value("llama.context_length", "uint32", 4096), "metadata"),
}  # fmt: skip


@pytest.mark.parametrize("fault", METADATA)
def test_fault_of_the_metadata(conversions: dict[str, Conversion], fault: str) -> None:
    name, plant, contract = METADATA[fault]
    made = conversions[name]
    found = failed(made.written(made.trained.model(), made.trained.base_model(), metadata=plant))
    assert contract in found


@dataclass(frozen=True)
class Changed:
    """A source whose rows come out otherwise."""

    source: Any
    change: Callable[[Any, int], Any]

    @property
    def names(self) -> list[str]:
        return list(self.source.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.shape)

    def rows(self, start: int, stop: int) -> Any:
        return self.change(self.source.rows(start, stop).copy(), start)


def rows_zeroed(values: Any, start: int) -> Any:
    numbers = start + np.arange(len(values))
    values[(numbers >= 100) & (numbers < 200) & (numbers % 2 == 1)] = 0.0
    return values


def with_source(name: str, change: Callable[[Any, int], Any]) -> Callable[[GGUFModel], GGUFModel]:
    def plant(model: GGUFModel) -> GGUFModel:
        model.sources[name] = Changed(model.sources[name], change)  # type: ignore[assignment]
        return model

    return plant


def exchange(one: str, other: str) -> Callable[[GGUFModel], GGUFModel]:
    def plant(model: GGUFModel) -> GGUFModel:
        sources = model.sources
        sources[one], sources[other] = sources[other], sources[one]
        return model

    return plant


def without(*names: str) -> Callable[[GGUFModel], GGUFModel]:
    def plant(model: GGUFModel) -> GGUFModel:
        for name in names:
            del model.sources[name]
        return model

    return plant


def norms_by_name(model: GGUFModel) -> GGUFModel:
    table = dict(model.architecture.layer_tensors)
    table["attn_norm"], table["ffn_norm"] = table["ffn_norm"], table["attn_norm"]
    return changed(model, layer_tensors=table)


def ones(model: GGUFModel) -> GGUFModel:
    size = model.sources["rope_freqs.weight"].shape[0]
    model.sources["rope_freqs.weight"] = ComputedTensor(np.ones(size, np.float32))
    return model


BIASES = [f"blk.{layer}.attn_{part}.bias" for layer in range(3) for part in "qkv"]
# Planted into the tables from which files and expectations are made.
OF_THE_TABLES: dict[str, tuple[str, Callable[[GGUFModel], GGUFModel], str]] = {
    "Llama 3's RoPE factors dropped": ("llama", without("rope_freqs.weight"), PROBE),
    "Llama 3's RoPE factors all 1": ("llama", ones, PROBE),
    "biases lost": ("llama", without(*BIASES), "every row"),
    "rows of the embedding zeroed": (
        "llama", with_source("token_embd.weight", rows_zeroed), "every row"),
    "a tensor zeroed": (
        "llama", with_source("blk.1.ffn_up.weight", lambda v, _: 0 * v), "every row"),
    "a tensor's sign": ("llama", with_source("blk.1.ffn_up.weight", lambda v, _: -v), "every row"),
    "attn_norm of two layers exchanged": (
        "llama", exchange("blk.0.attn_norm.weight", "blk.2.attn_norm.weight"), "every row"),
    "attn_k of two layers exchanged": (
        "llama", exchange("blk.0.attn_k.weight", "blk.2.attn_k.weight"), "every row"),
    "the two norms of a layer by name": ("llama", norms_by_name, PROBE),
    "rows not in RoPE's order": ("llama", lambda m: changed(m, row_order={}), PROBE),
    "Gemma's +1 lost": ("gemma3", lambda m: changed(m, values={}), PROBE),
}  # fmt: skip


@pytest.mark.parametrize("fault", OF_THE_TABLES)
def test_fault_of_the_tables(conversions: dict[str, Conversion], fault: str) -> None:
    name, plant, contract = OF_THE_TABLES[fault]
    made = conversions[name]
    found = failed(made.written(plant(made.trained.model()), plant(made.trained.base_model())))
    assert contract in found


def test_a_value_that_is_no_number_is_never_written(conversions: dict[str, Conversion]) -> None:
    made = conversions["llama"]
    plant = with_source("blk.1.attn_norm.weight", lambda values, _: values * np.nan)
    with pytest.raises(TuneserveError, match=r"attn_norm\.weight: a weight is not a finite"):
        made.written(plant(made.trained.model()), plant(made.trained.base_model()))


def test_a_byte_that_changed_after_it_was_written(conversions: dict[str, Conversion]) -> None:
    made = conversions["llama"]
    candidate = made.written(made.trained.model(), made.trained.base_model())
    tensor = GGUFFile(candidate.tuned).tensor("blk.1.attn_q.weight")
    with candidate.tuned.open("r+b") as file:
        file.seek(tensor.offset + tensor.size // 2 + 3)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    assert "written as merged" in failed(candidate)


def half_rank(adapter: Adapter) -> None:
    adapter.changes = {
        name: dataclasses.replace(change, a=change.a[:2], b=change.b[:, :2])
        for name, change in adapter.changes.items()
    }


def one_alpha_doubled(adapter: Adapter) -> None:
    name = next(name for name in adapter.changes if "layers.2" in name)
    change = adapter.changes[name]
    adapter.changes[name] = dataclasses.replace(change, scale=2 * change.scale)


@pytest.mark.parametrize("plant", [half_rank, one_alpha_doubled])
def test_fault_of_the_merge(
    conversions: dict[str, Conversion], plant: Callable[[Adapter], None]
) -> None:
    made = conversions["llama"]
    adapter = Adapter(made.trained.adapter)
    plant(adapter)
    merged = MergedCheckpoint(made.trained.base, adapter)
    model = GGUFModel(merged, made.trained.adapter, name="tuned")
    assert "merged = adapter on base" in failed(made.written(model, made.trained.base_model()))
