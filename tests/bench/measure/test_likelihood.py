"""Packed likelihoods against one sequence at a time, and against PyTorch's cross entropy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from tests.support import ModulePaths
from tuneserve.bench.measure.likelihood import PACKED_SEQUENCES, answer_likelihoods
from tuneserve.bench.measure.speed import time_repetitions, turns
from tuneserve.bench.tasks.examples import encode_examples
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.divergence import token_nll
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch, backend


@pytest.fixture(scope="module")
def model(demo_gguf: Path, module_paths: ModulePaths) -> Iterator[LlamaModel]:
    """The demo model in F32: quantized activations would turn last digits into whole percents."""
    api = backend()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = 0, True  # LLAMA_FTYPE_ALL_F32
    path = module_paths.mktemp("f32") / "demo-f32.gguf"
    assert api.llama_model_quantize(os.fsencode(demo_gguf), os.fsencode(path), params) == 0
    with LlamaModel(path) as loaded:
        yield loaded
    path.unlink()


def context(model: LlamaModel, n_batch: int) -> LlamaContext:
    return LlamaContext(
        model,
        n_ctx=512,
        n_batch=n_batch,
        n_seq_max=PACKED_SEQUENCES,
        cache_type_k="f32",
        cache_type_v="f32",
        flash_attention=False,
        threads=1,
    )


def examples() -> list[Example]:
    asked = [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Say hello.", "Hello!"),
        ("Name three colours, please, and nothing else.", "Red, green and blue."),
    ]
    return [
        Example.of_turn(str(place), question, answer)
        for place, (question, answer) in enumerate(asked)
    ]


def test_answers_end_with_the_end_token(model: LlamaModel) -> None:
    for item in encode_examples(model, examples()):
        assert [model.is_end(token) for token in item.answer].index(True) == len(item.answer) - 1
        text = b"".join(model.token_bytes(token) for token in item.answer).decode()
        assert text == f"{item.example.reference}<|im_end|>"
        assert not item.opens_thought


def test_thoughts_are_scored_as_they_were_trained(model: LlamaModel) -> None:
    asked, answered = examples()[0].messages
    answered = {**answered, "reasoning_content": "An easy one."}
    example = replace(examples()[0], messages=(asked, answered))

    def text(ids: list[int]) -> str:
        return b"".join(model.token_bytes(token) for token in ids).decode()

    answer = f"{example.reference}<|im_end|>"
    thoughts = "<think>\nAn easy one.\n</think>\n\n"
    (trained,) = encode_examples(model, [example], thoughts="train")
    assert (text(trained.answer), trained.unscored) == (thoughts + answer, 0)
    (masked,) = encode_examples(model, [example], thoughts="mask")
    assert masked.answer == trained.answer
    assert text(masked.answer[masked.unscored :]) == answer
    (dropped,) = encode_examples(model, [example], thoughts="drop")
    assert (text(dropped.answer), dropped.unscored) == (answer, 0)
    with context(model, 512) as one:
        found = {
            name: next(answer_likelihoods(one, [item]))[1]
            for name, item in (("all", trained), ("answer", masked))
        }
        logits = one.logits((masked.prompt + masked.answer)[:-1], start=len(masked.prompt) - 1)
    losses = list(map(token_nll, logits, masked.answer))
    assert found["all"].nll == pytest.approx(sum(losses), abs=1e-3)
    assert found["answer"].nll == pytest.approx(sum(losses[masked.unscored :]), abs=1e-3)
    assert found["answer"].tokens == len(masked.answer) - masked.unscored


@pytest.mark.parametrize("n_batch", [64, 512])
def test_packed_is_one_by_one(model: LlamaModel, n_batch: int) -> None:
    encoded = encode_examples(model, examples())
    with context(model, n_batch) as packed:
        found = [likelihood for _, likelihood in answer_likelihoods(packed, encoded)]
    with context(model, 512) as single:
        for item, likelihood in zip(encoded, found, strict=True):
            tokens = (item.prompt + item.answer)[:-1]
            logits = single.logits(tokens, start=len(item.prompt) - 1)
            expected = sum(map(token_nll, logits, item.answer))
            assert likelihood.nll == pytest.approx(expected, rel=1e-4)
            assert likelihood.tokens == len(item.answer)


def test_known_packs_are_skipped_and_the_rest_is_unchanged(model: LlamaModel) -> None:
    # The second has no room beside the first.
    longer = [
        Example.of_turn(one.id, f"{one.id} {3 * str(one.messages[0]['content'])}", one.reference)
        for one in examples()
    ]
    encoded = encode_examples(model, longer)

    def run(known: set[str]) -> dict[str, float]:
        with context(model, 64) as packed:
            scored = answer_likelihoods(packed, encoded, known=known)
            return {item.example.id: likelihood.nll for item, likelihood in scored}

    everything = run(set())
    rest = run({"0"})
    assert "0" not in rest
    assert rest == {name: everything[name] for name in rest}


@pytest.mark.parametrize("n_batch", [64, 512])
def test_what_begins_alike_is_computed_once(
    model: LlamaModel, n_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        ("Is it red or green? A leaf.", "green"),
        ("Is it red or green? A leaf.", "red, like a rose"),
        ("Is it red or green? A leaf.", "green"),
        ("Is it red or green? A fire.", "red"),
        ("Is it red or green? A leaf in autumn, when the trees lose them.", "red"),
        ("Say yes.", "yes"),
    ]
    encoded = encode_examples(
        model, [Example.of_turn(str(at), *each) for at, each in enumerate(asked)]
    )
    fed = []
    decode = LlamaContext.decode

    def counted(self: LlamaContext, batch: TokenBatch) -> None:
        fed.append(len(batch))
        decode(self, batch)

    with context(model, n_batch) as packed:
        monkeypatch.setattr(LlamaContext, "decode", counted)
        found = [likelihood for _, likelihood in answer_likelihoods(packed, encoded)]
        monkeypatch.undo()
    paths = [(item.prompt + item.answer)[:-1] for item in encoded]
    different = {tuple(path[: end + 1]) for path in paths for end in range(len(path))}
    if n_batch == 512:
        assert fed == [len(different)]
    with context(model, 512) as single:
        for item, path, likelihood in zip(encoded, paths, found, strict=True):
            logits = single.logits(path, start=len(item.prompt) - 1)
            expected = sum(map(token_nll, logits, item.answer))
            assert likelihood.nll == pytest.approx(expected, rel=1e-4)
    assert found[0] == found[2]


def test_token_nll_is_cross_entropy() -> None:
    import torch

    logits = np.random.default_rng(0).normal(scale=8, size=1000).astype(np.float32)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double()[None], torch.tensor([17])
    )
    assert token_nll(logits, 17) == pytest.approx(float(expected), rel=1e-6)


def test_speed_counts_what_it_timed(model: LlamaModel) -> None:
    text = encode_examples(model, examples())[0].prompt
    with LlamaContext(model, n_ctx=128, n_batch=64, threads=1) as small:
        started = time.perf_counter()
        first = time_repetitions(small, text, 2, generated=4)
        found = time_repetitions(small, text, 1, generated=4, into=first)
        elapsed = time.perf_counter() - started
    speed = found.speed
    assert (speed.prompt.tokens, speed.generation.tokens) == (64, 4)
    assert speed.prompt.repetitions == speed.generation.repetitions == 3
    # The warm-ups are two repetitions that are not counted.
    assert sum(found.reading) + sum(found.writing) < elapsed
    assert speed.prompt.mean == pytest.approx(fmean(64 / each for each in found.reading))


def test_models_are_timed_there_and_back() -> None:
    assert turns(["base", "tuned"], 5) == [("base", 3), ("tuned", 5), ("base", 2)]
    assert turns(["base", "tuned"], 2) == [("base", 1), ("tuned", 2), ("base", 1)]
    with pytest.raises(ValueError, match="two repetitions"):
        turns(["base", "tuned"], 1)


def test_encoded_examples_compare_by_value(model: LlamaModel) -> None:
    first, second = (encode_examples(model, examples()[:1]) for _ in range(2))
    assert isinstance(first[0], EncodedExample)
    assert first == second
