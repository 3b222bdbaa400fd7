"""The gate opens for a right conversion and names the contract that each planted fault breaks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.convert.convert_support import Trained, make_adapter, make_base, write_held_out
from tuneserve.chat.examples import read_split
from tuneserve.convert.gguf.model import CheckpointTensor, GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.result import Check
from tuneserve.convert.verify import Candidate, verify
from tuneserve.convert.verify.verify import vocabulary_checks
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.settings import ConvertSettings

SETTINGS = ConvertSettings(quantization="Q8_0")
Metadata = dict[str, tuple[str, Any]]


def write(
    model: GGUFModel,
    path: Path,
    quantization: str,
    change: Callable[[Metadata], None] = lambda _: None,
    sources: Mapping[str, Any] | None = None,
) -> Path:
    metadata = model.metadata(quantization)
    change(metadata)
    sources = sources or model.sources
    choices = [choice for choice in model.choices(quantization) if choice.name in sources]
    write_gguf(path, metadata, sources, choices, threads=2)
    return path


def candidate(
    trained: Trained,
    directory: Path,
    *,
    model: GGUFModel | None = None,
    expected: GGUFModel | None = None,
    change: Callable[[Metadata], None] = lambda _: None,
    sources: Mapping[str, Any] | None = None,
) -> Candidate:
    """The files as `convert` makes them, with a fault in the tuned one."""
    model = model or trained.model()
    base_model = trained.base_model()
    return Candidate(
        tuned=write(model, directory / "tuned.gguf", "Q8_0", change, sources),
        model=expected or model,
        adapter=trained.adapter,
        held_out=trained.held_out,
        base=write(base_model, directory / "base.gguf", "Q8_0"),
        base_model=base_model,
    )


def failures(made: Candidate) -> dict[str, Check]:
    return {check.contract: check for check in verify(made, SETTINGS)[0] if not check.passed}


def vocabulary_failures(
    trained: Trained, directory: Path, change: Callable[[Metadata], None]
) -> dict[str, Check]:
    path = write(trained.model(), directory / "x.gguf", "Q8_0", change)
    checks = vocabulary_checks(
        path, TrainerTokenizer(trained.adapter), read_split(trained.held_out)
    )
    return {check.contract: check for check in checks if not check.passed}


def test_a_right_conversion_passes(trained: Trained, tmp_path: Path) -> None:
    checks, _ = verify(candidate(trained, tmp_path), SETTINGS)
    assert [check for check in checks if not check.passed] == []
    figures = {check.contract: check.figures for check in checks}
    assert figures["merged = adapter on base"]["mean_kld"] < 1e-8
    assert figures["llama.cpp = transformers"]["mean_kld"] < 1e-4
    assert figures["llama.cpp = transformers"]["layers"] == 3
    assert figures["tuned differs from base"]["kld_from_base"] > 1e-2


def test_texts_calls_and_thoughts_among_what_is_held_out(trained: Trained, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    question = {"role": "user", "content": "What is 2 plus 2?"}
    answers = (
        [{"role": "assistant", "content": "A text that nobody has asked for."}],
        [question, {"role": "assistant", "content": None, "tool_calls": [call]}],
        [question, {"role": "assistant", "content": "4", "reasoning_content": "Easy."}],
    )
    path = tmp_path / "test.jsonl"
    rows = ({"id": str(n), "messages": messages} for n, messages in enumerate(answers))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, called, thought = read_split(path)
    trainer = TrainerTokenizer(trained.adapter)
    encoded = trainer.encode_example(text)
    assert (encoded.prompt, encoded.unscored) == ([], 0)
    prompt = trainer.encode(trainer.render(called))
    encoded = trainer.encode_example(called)
    written = '<tool_call>{"name": "add", "arguments": {}}</tool_call><|im_end|>'
    assert (encoded.prompt, encoded.answer) == (prompt, trainer.encode(written))
    encoded = trainer.encode_example(thought)
    assert encoded.prompt == prompt
    assert encoded.answer == trainer.encode("<think>\nEasy.\n</think>\n\n4<|im_end|>")
    assert encoded.answer[encoded.unscored :] == trainer.encode("4<|im_end|>")
    made = candidate(Trained(trained.base, trained.adapter, path), tmp_path)
    assert failures(made) == {}


def test_wrong_end_token(trained: Trained, tmp_path: Path) -> None:
    def change(metadata: Metadata) -> None:
        metadata["tokenizer.ggml.eos_token_id"] = ("uint32", 0)

    found = vocabulary_failures(trained, tmp_path, change)
    assert "the end token is 2 in training, 0 in the GGUF" in found["special tokens"].detail


def test_swapped_template(trained: Trained, tmp_path: Path) -> None:
    def change(metadata: Metadata) -> None:
        metadata["tokenizer.chat_template"] = (
            "string", "{% for m in messages %}[INST]{{ m['content'] }}[/INST]{% endfor %}"
        )  # fmt: skip

    assert "chat template" in vocabulary_failures(trained, tmp_path, change)


def test_tokenizer_off_by_one(trained: Trained, tmp_path: Path) -> None:
    def change(metadata: Metadata) -> None:
        kind, tokens = metadata["tokenizer.ggml.tokens"]
        metadata["tokenizer.ggml.tokens"] = (kind, [*tokens[:300], *tokens[301:], tokens[300]])

    assert "token ids" in vocabulary_failures(trained, tmp_path, change)


def test_wrong_rope_base(trained: Trained, tmp_path: Path) -> None:
    def change(metadata: Metadata) -> None:
        metadata["llama.rope.freq_base"] = ("float32", 500000.0)

    assert set(failures(candidate(trained, tmp_path, change=change))) >= {
        "llama.cpp = transformers"
    }


def test_query_and_key_rows_not_interleaved(trained: Trained, tmp_path: Path) -> None:
    model = trained.model()
    sources = {
        name: dataclasses.replace(source, order=None)
        if isinstance(source, CheckpointTensor)
        else source
        for name, source in model.sources.items()
    }
    # A fault of one file, and one of the architecture's table, which every file would share.
    (tmp_path / "table").mkdir()
    found = failures(candidate(trained, tmp_path, model=model, sources=sources))
    assert {"written as merged", "Q8_0 ≈ merged"} <= set(found)
    model.sources = sources
    found = failures(candidate(trained, tmp_path / "table", model=model))
    assert "written as merged" not in found
    assert "llama.cpp = transformers" in found


def test_dropped_lora_layer(trained: Trained, tmp_path: Path) -> None:
    adapter = Adapter(trained.adapter)
    adapter.changes = {k: v for k, v in adapter.changes.items() if ".layers.1." not in k}
    model = GGUFModel(MergedCheckpoint(trained.base, adapter), trained.adapter, name="x")
    assert "merged = adapter on base" in failures(candidate(trained, tmp_path, model=model))


def test_doubled_scale(trained: Trained, tmp_path: Path) -> None:
    adapter = Adapter(trained.adapter)
    adapter.changes = {
        name: dataclasses.replace(change, scale=2 * change.scale)
        for name, change in adapter.changes.items()
    }
    model = GGUFModel(MergedCheckpoint(trained.base, adapter), trained.adapter, name="x")
    assert "merged = adapter on base" in failures(candidate(trained, tmp_path, model=model))


def test_base_merged_instead_of_tuned(trained: Trained, tmp_path: Path) -> None:
    found = failures(candidate(trained, tmp_path, model=trained.base_model()))
    assert "tuned differs from base" in found
    assert "changed tensors" in found


def test_untied_head_lost(tokenizer_directory: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tokenizer_directory, tie_word_embeddings=False)
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory)
    untied = Trained(base, adapter, write_held_out(tmp_path / "test.jsonl"))
    model = untied.model()
    assert "output.weight" in model.sources
    sources = {name: source for name, source in model.sources.items() if name != "output.weight"}
    found = failures(candidate(untied, tmp_path, model=model, sources=sources))
    assert "output.weight is missing" in found["written as merged"].detail


def test_truncated_file(trained: Trained, tmp_path: Path) -> None:
    made = candidate(trained, tmp_path)
    data = made.tuned.read_bytes()
    made.tuned.write_bytes(data[: len(data) - 100_000])
    found = failures(made)
    assert "truncated or damaged" in found["the file loads"].detail
