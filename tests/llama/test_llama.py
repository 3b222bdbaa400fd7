"""The llama.cpp layer on the real demo model."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import prompt_ids
from tuneserve.chat.prompt import with_bos
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch
from tuneserve.llama.context import NoRoomError

QUESTION = [{"role": "user", "content": "What is 1+1?"}]


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf) as loaded:
        yield loaded


def test_tokens_round_trip_to_the_same_bytes(model: LlamaModel) -> None:
    text = "naïve 12345\n\t日本 🦙 <|im_end|> x"
    ids = model.tokenize(text)
    assert b"".join(model.token_bytes(token) for token in ids).decode() == text
    end = model.tokenize("<|im_end|>")
    assert end == [model.eos]
    assert len(model.tokenize("<|im_end|>", parse_special=False)) > 1
    assert model.is_end(model.eos)


def test_metadata(model: LlamaModel) -> None:
    assert model.metadata("general.architecture") == "llama"
    assert "im_start" in (model.metadata("tokenizer.chat_template") or "")
    assert model.metadata("no.such.key") is None


def test_prompt_follows_the_stored_template(model: LlamaModel) -> None:
    ids = prompt_ids(model, QUESTION)
    text = b"".join(model.token_bytes(token) for token in ids).decode()
    assert text.endswith("<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n")


def test_bos_is_never_doubled() -> None:
    assert with_bos([5, 6], 1) == [1, 5, 6]
    assert with_bos([1, 5], 1) == [1, 5]
    assert with_bos([5], None) == [5]


def test_logits_do_not_depend_on_how_the_prompt_is_cut(model: LlamaModel) -> None:
    ids = prompt_ids(model, QUESTION)
    whole, pieces = (_logits(model, ids, n_batch) for n_batch in (512, 16))
    assert whole.shape == (len(ids), model.n_vocab)
    assert np.array_equal(whole.argmax(axis=1), pieces.argmax(axis=1))
    assert np.abs(whole - pieces).max() < 0.05


def _logits(model: LlamaModel, ids: list[int], n_batch: int) -> np.ndarray:
    with LlamaContext(model, n_ctx=128, n_batch=n_batch) as context:
        return context.logits(ids)


def test_outputs_are_those_asked_for_of_the_sequences_in_a_batch(model: LlamaModel) -> None:
    texts = [model.tokenize(text) for text in ("The sea is", "One, two, three,", "Hi")]
    following = [*texts[2], 7]
    with LlamaContext(model, n_ctx=128, n_seq_max=3, threads=1) as context:
        alone = [context.logits(ids) for ids in texts]
        after = context.logits(following, start=len(texts[2]))[0]
        context.clear()
        batch = TokenBatch(16)
        last = [
            batch.add(ids, 0, number, outputs=outputs)
            for number, (ids, outputs) in enumerate(zip(texts, (2, 99, -1), strict=True))
        ]
        assert len(batch) == sum(map(len, texts)) == 16 - batch.room
        context.decode(batch)
        found = context.batch_logits(2 + len(texts[1])).copy()
        expected = np.concatenate([alone[0][-2:], alone[1]])
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        assert np.abs(found - expected).max() < 1.0
        assert np.array_equal(context.token_logits(last[1]), found[-1])
        # A single token takes a shorter way into the batch.
        batch.clear()
        index = batch.add(following[-1:], len(texts[2]), 2, outputs=1)
        context.decode(batch)
        assert context.token_logits(index).argmax() == after.argmax()


def test_a_batch_without_room_changes_nothing(model: LlamaModel) -> None:
    ids = model.tokenize("word " * 300)
    with LlamaContext(model, n_ctx=256, threads=1) as context:
        batch = TokenBatch(256)
        used = context.cells - 1
        batch.add(ids[:used], 0, 0, outputs=1)
        context.decode(batch)
        batch.clear()
        batch.add(ids[:2], used, 0, outputs=1)
        with pytest.raises(NoRoomError, match="no room for 2 tokens"):
            context.decode(batch)
        batch.clear()
        batch.add(ids[:1], used, 0, outputs=1)
        context.decode(batch)


def test_importing_the_package_does_not_load_llama_cpp() -> None:
    code = "import sys, tuneserve.llama, tuneserve.gguf.reader; print('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_greedy_answer_with_a_quantized_cache(model: LlamaModel) -> None:
    ids = prompt_ids(model, QUESTION)
    answer = []
    with LlamaContext(model, n_ctx=128, cache_type_k="q8_0", cache_type_v="q8_0") as context:
        for _ in range(16):
            token = int(context.logits(ids, start=len(ids) - 1)[0].argmax())
            if model.is_end(token):
                break
            ids.append(token)
            answer.append(token)
    assert b"2" in b"".join(model.token_bytes(token) for token in answer)


def test_too_long_for_the_context(model: LlamaModel) -> None:
    with (
        LlamaContext(model, n_ctx=64, n_batch=64) as context,
        pytest.raises(UsageError, match="65 tokens don't fit a context of 64"),
    ):
        context.logits([1] * 65)


def test_quantized_v_cache_without_flash_attention_is_refused(model: LlamaModel) -> None:
    with pytest.raises(TuneserveError, match="can't make a context"):
        LlamaContext(model, n_ctx=64, cache_type_v="q8_0", flash_attention=False)


def test_bad_files_are_one_clear_error(tmp_path: Path, demo_gguf: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        LlamaModel(tmp_path / "none.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="not a GGUF file"):
        LlamaModel(other)
    cut = tmp_path / "cut.gguf"
    with demo_gguf.open("rb") as file:
        cut.write_bytes(file.read(8 << 20))
    with pytest.raises(UsageError, match=r"cut\.gguf: this GGUF is truncated"):
        LlamaModel(cut)
    with pytest.raises(TuneserveError, match=r"cut\.gguf: llama\.cpp can't load it: ") as caught:
        LlamaModel(cut, tried=True)
    assert "no reason given" not in caught.value.render()


@pytest.mark.parametrize("mmap", [True, False])
def test_the_file_is_mapped_only_if_wanted(demo_gguf: Path, mmap: bool) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(demo_gguf.resolve()))

    before = mappings()
    with LlamaModel(demo_gguf, mmap=mmap):
        assert (mappings() > before) is mmap


def test_locked_memory_stays(demo_gguf: Path) -> None:
    def locked() -> int:
        found = re.search(r"VmLck:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    before = locked()
    allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    with LlamaModel(demo_gguf, mlock=True):
        if locked() == before and 0 <= allowed < demo_gguf.stat().st_size:
            pytest.skip("this user may not lock so much memory")
        assert locked() - before > 50_000
    assert locked() == before


def test_a_split_for_more_devices_than_llama_cpp_knows_is_refused(demo_gguf: Path) -> None:
    with pytest.raises(UsageError, match="at most"):
        LlamaModel(demo_gguf, tensor_split=[1.0] * 1000)
    with LlamaModel(demo_gguf, tensor_split=[1.0], split_mode="none") as loaded:
        assert loaded.n_layer == 30
