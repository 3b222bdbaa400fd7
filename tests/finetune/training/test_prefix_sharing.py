"""A batch's tree as tensors, and what the mask lets a real attention see."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from transformers import LlamaConfig, LlamaForCausalLM

from tests.finetune.tokens.test_prefix_tree import Example, examples
from tuneserve.finetune.runtime import flex_tree
from tuneserve.finetune.runtime.flex_tree import FlexTree
from tuneserve.finetune.runtime.trained_rows import TrainedRows
from tuneserve.finetune.runtime.tree_attention import CHUNKS, Chunks
from tuneserve.finetune.tokens.encoder import IGNORED
from tuneserve.finetune.tokens.prefix_tree import prefix_tree
from tuneserve.finetune.tokens.sharing import RowCosts
from tuneserve.finetune.training import prefix_sharing
from tuneserve.finetune.training.prefix_sharing import (
    ENDS,
    SHARED,
    CannotShareError,
    Difference,
    SharingCollator,
    TreeAttention,
    chunks_of,
    shared_loss,
)

COSTS = RowCosts(pair=0.0, unit=4)


def collator(*, additive: bool = False, costs: RowCosts = COSTS) -> SharingCollator:
    attention: TreeAttention = "additive" if additive else "chunks"
    return SharingCollator(lambda features: {"of": len(features)}, costs, attention)


@given(examples())
def test_a_place_sees_what_stands_before_it_in_its_examples(batch: list[Example]) -> None:
    tree = prefix_tree(batch)
    assume(len(tree))
    made = collator().tensors(tree)
    length = made["input_ids"].shape[1]
    assert length % 4 == 0
    assert len(tree) <= length < len(tree) + 4
    mask = made["attention_mask"]
    assert mask.shape == (1, 1, length, length)
    # The places of each example's own tokens, found by what they and all before them spell.
    spelled: dict[int, tuple[int, ...]] = {}
    for place in range(len(tree)):
        seen = mask[0, 0, place].nonzero().flatten().tolist()
        assert seen[-1] == place
        assert all(spelled[n] == tuple(tree.ids[m] for m in seen[: k + 1])
                   for k, n in enumerate(seen[:-1]))  # fmt: skip
        spelled[place] = tuple(tree.ids[n] for n in seen)
        assert int(made["position_ids"][0, place]) == len(seen) - 1
    assert torch.equal(mask[0, 0, len(tree) :].nonzero()[:, 1], torch.arange(len(tree), length))
    additive = collator(additive=True).tensors(tree)["attention_mask"]
    assert torch.equal(additive == 0, mask)
    assert torch.isfinite(additive).all()


@given(examples())
def test_chunks_see_what_the_mask_shows(batch: list[Example]) -> None:
    tree = prefix_tree(batch)
    assume(len(tree))
    made = collator().tensors(tree)
    length = made["input_ids"].shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_sharing, "_WORTH_CHUNKS", 99.0)
        patch.setattr(prefix_sharing, "_CHUNK_SIZES", (2, 3))
        chunks = chunks_of(tree, length)
    assert chunks is not None
    count, size, seen = chunks.hidden.shape
    keys = chunks.keys.view(count, seen)
    for place in range(len(tree)):
        query = int(chunks.order[place])
        assert int(chunks.queries[query]) == place
        shown = keys[query // size][~chunks.hidden[query // size, query % size]]
        assert torch.equal(shown, made["attention_mask"][0, 0, place].nonzero().flatten())


def flexed(costs: RowCosts = COSTS) -> SharingCollator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_tree, "install", lambda: None)
        return SharingCollator(lambda features: {"of": len(features)}, costs, "flex")


@given(examples())
def test_where_a_tree_ends_says_what_the_mask_shows(batch: list[Example]) -> None:
    tree = prefix_tree(batch)
    assume(len(tree))
    made = flexed().tensors(tree)
    places = torch.arange(len(made[ENDS]))
    seen = flex_tree._seen(made[ENDS])(0, 0, places[:, None], places[None, :])
    assert torch.equal(seen[None, None], collator().tensors(tree)["attention_mask"])


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    ))  # fmt: skip


def test_the_loss_of_rows_is_that_of_what_follows_them() -> None:
    model = small_llama()
    # A place may have several targets, and one target may be all there is.
    for batch in ([([1, 2, 3, n], [IGNORED, IGNORED, 3, n]) for n in range(4, 9)],
                  [([1, 2, 3], [IGNORED, IGNORED, 3])]):  # fmt: skip
        made = flexed().tensors(prefix_tree(batch))
        rows = model(input_ids=made["input_ids"], position_ids=made["position_ids"])
        likely = rows.logits[0].log_softmax(-1)[made["places"], made["targets"]]
        expected = -(likely * made["weights"]).sum()
        trained = TrainedRows(model)
        trained.layers = 0
        torch.testing.assert_close(shared_loss(trained, model, made, 8), expected / 8)
        found = shared_loss(trained, model, made, None)
        torch.testing.assert_close(found, expected / made["weights"].sum())


def test_a_model_that_passes_over_the_tree_is_told() -> None:
    model = small_llama()
    tree = prefix_tree([([1, 2, 3, n], [IGNORED, IGNORED, 3, n]) for n in range(4, 9)])
    with pytest.raises(CannotShareError, match="0 of its 2 layers took the tree"):
        shared_loss(TrainedRows(model), model, flexed().tensors(tree), None)


def loaded(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.mark.slow
def test_unsloths_flex_attention_computes_a_tree() -> None:
    """As a mask over the whole row does. (A CPU has no backward pass of it; on a GPU each training
    begins with a comparison of gradients.)"""
    unsloth = importlib.util.find_spec("unsloth")
    assert unsloth is not None
    assert unsloth.origin is not None
    # Alone: the package would change transformers for the tests after this one.
    path = Path(unsloth.origin).parent / "utils" / "prefix_grouper_kernel.py"
    kernel = loaded("prefix_grouper_kernel", path)
    flex_tree.take_trees(kernel)
    flex_tree.take_trees(kernel)
    beginnings = [[*range(40)], [*range(40), *range(50, 70)]]
    tree = prefix_tree(
        ([*b, 100 + n, 200 + n, 3], [IGNORED] * len(b) + [100 + n, 200 + n, 3])
        for b in beginnings
        for n in range(5)
    )
    costs = RowCosts(pair=0.0, unit=flex_tree.UNIT)
    flex = flexed(costs).tensors(tree)
    mask = collator(costs=costs).tensors(tree)["attention_mask"]
    length = mask.shape[-1]
    assert length == 128
    torch.manual_seed(0)
    shapes = ((1, length, 4, 16), (1, length, 2, 16), (1, length, 2, 16))
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    seen = FlexTree(flex[ENDS])
    found = kernel.flex_shared_prefix_attention(*given, seen, compiled=False)
    assert seen.uses == 1
    query, key, value = (tensor.transpose(1, 2) for tensor in given)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("length", "chunked"), [(513, True), (514, False)])
def test_long_examples_are_not_copied_into_chunks(length: int, chunked: bool) -> None:
    texts = [[*range(length - 40), *range(n, n + 40)] for n in range(1000, 1800, 100)]
    tree = prefix_tree((ids, [IGNORED] * (length - 1) + ids[-1:]) for ids in texts)
    assert (chunks_of(tree, len(tree)) is not None) is chunked


def test_a_batch_is_a_tree_where_that_is_cheaper() -> None:
    def made(costs: RowCosts, *texts: list[int]) -> Any:
        features = [{"input_ids": ids, "labels": [IGNORED, *ids[1:]]} for ids in texts]
        return collator(costs=costs)(features)

    alike = [[1, 2, 3, 4, 5, 6, 7, n] for n in range(4)]
    apart = [[n, 2, 3, 4, 5, 6, 7, 8] for n in range(4)]
    free = RowCosts(pair=0.0, unit=1)
    assert SHARED in made(free, *alike)
    # Without the last tokens, which predict nothing, there is less to compute as well.
    assert SHARED in made(free, *apart)
    assert SHARED not in made(RowCosts(pair=1.0, unit=8), *(ids[:8] for ids in apart[:1]))
    assert made(free, *alike)["of"] == 4
    nothing_trained = collator()([{"input_ids": [1, 2], "labels": [IGNORED, IGNORED]}])
    assert SHARED not in nothing_trained


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


@pytest.mark.parametrize("attention", ["sdpa", "chunks", "eager"])
def test_loss_and_gradients_are_those_of_the_examples_alone(
    model: Any, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.set_attn_implementation("eager" if attention == "eager" else "sdpa")
    talk = [5, 6, 7, 8, 9, 10]
    texts = [talk[:4], talk, [*talk[:3], 11, 12, 13], [5, 20, 21], talk[:4], [30, 31, 2]]
    batch = [(ids, [IGNORED, *ids[1:-2], *ids[-2:]]) for ids in texts]
    batch[1] = (talk, [IGNORED] * 4 + talk[4:])

    def gradients(loss: Any) -> Any:
        model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    total: Any = 0.0
    for ids, labels in batch:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(labels[1:]), reduction="sum"
        )
    monkeypatch.setattr(prefix_sharing, "_WORTH_CHUNKS", 99.0 if attention == "chunks" else 0.0)
    monkeypatch.setattr(prefix_sharing, "_CHUNK_SIZES", (2,))
    made = collator(additive=attention == "eager").tensors(prefix_tree(batch))
    inputs = {name: made[name] for name in ("input_ids", "position_ids", "attention_mask")}
    if attention == "chunks":
        inputs[CHUNKS] = Chunks(**made[CHUNKS])
        inputs["attention_mask"] = torch.zeros_like(inputs["attention_mask"])  # not looked at
    rows = model(**inputs).logits[0, made["places"]].log_softmax(-1)
    found = -(made["weights"] * rows.gather(1, made["targets"][:, None])[:, 0]).sum()
    # Norms are computed in fp32 whatever the model is in.
    assert found.item() == pytest.approx(total.item(), rel=1e-6)
    expected = gradients(total)
    assert float((gradients(found) - expected).norm() / expected.norm()) < 1e-6


def test_rounding_is_told_from_another_result() -> None:
    assert Difference(1e-7, 3e-6).within("fp32")
    assert not Difference(1e-7, 1e-3).within("fp32")
    assert Difference(0.035, 0.06).within("bf16")
    assert not Difference(0.035, 0.3).within("bf16")
    assert not Difference(0.2, 0.06).within("bf16")
    assert not Difference(float("nan"), 0.0).within("bf16")
    assert not Difference(0.0, float("nan")).within("bf16")
