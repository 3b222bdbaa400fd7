"""Activated adapters (aLoRA): the base computes what stands before their invocation sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.conftest import write_lora
from tests.serve.engine.plain_memory import PlainMemory
from tests.serve.engine.tiny_llama import (
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    LAYERS,
    SPECIAL,
    VOCABULARY,
    write_tiny_llama,
)
from tests.support import ModulePaths
from tuneserve.arrays import Floats
from tuneserve.gguf.lora import invocation_tokens
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import TokenBatch, served_context
from tuneserve.llama.lora import load_adapter, use_adapter
from tuneserve.serve.engine import Completion, Engine, SamplingParams
from tuneserve.serve.engine.activation import (
    EVERYWHERE,
    Activated,
    Adapter,
    active_at,
    alike_until,
    last_place,
)
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixLimits
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.serve.engine.scheduler import PrefillBudget, Scheduler
from tuneserve.settings import ServeSettings

SETTINGS = ServeSettings(
    ctx=1024, slots=4, threads=1, speculate="off", cache_type_k="f16", cache_type_v="f16"
)
CONTEXT, INVOCATION = "It is Rome.", "ab?"
ONCE = SamplingParams(temperature=0.0, max_tokens=1, logprobs=VOCABULARY)


@pytest.mark.parametrize(
    ("tokens", "wanted", "place"),
    [
        ([1, 2, 3, 1, 2, 9], [1, 2], 3),
        ([1, 1, 1, 2], [1, 1, 2], 1),
        ([1, 2], [1, 2], 0),
        ([1, 2], [1, 2, 3], None),
        ([0xD83D, 0xDE00, 7], [0xDE00, 7], 1),
        ([], [1], None),
    ],
)
def test_the_last_place_of_a_sequence_is_found(
    tokens: list[int], wanted: list[int], place: int | None
) -> None:
    assert last_place(tokens, wanted) == place


def test_what_is_alike_of_two_sequences() -> None:
    late, early, other = Activated("a", 9), Activated("a", 4), Activated("b", 6)
    assert [active_at(late, place) for place in (0, 8, 9, 20)] == [None, None, "a", "a"]
    pairs: list[tuple[Adapter, Adapter, int]] = [
        (None, None, EVERYWHERE), ("a", "a", EVERYWHERE), (late, late, EVERYWHERE),
        (None, "a", 0), ("a", late, 0), (None, late, 9), (late, early, 4), (late, other, 6),
    ]  # fmt: skip
    for one, two, length in pairs:
        assert alike_until(one, two) == alike_until(two, one) == length


def cache_of_everything(memory: PlainMemory) -> KVCacheManager:
    limits = PrefixLimits(1000, 1000.0, 1000, 0)
    return KVCacheManager(memory, cells=1000, sequences=8, limits=limits)


def test_the_base_s_part_of_a_prefix_is_everybody_s() -> None:
    cache = cache_of_everything(PlainMemory())
    tokens = [*range(30)]

    def known(adapter: Adapter, *, upto: int = 30) -> int:
        return cache.match_prefix(adapter, [*range(upto), 99], []).length

    sequence, _ = cache.allocate(cache.match_prefix(Activated("a", 20), tokens, []))
    cache.append(sequence, 30)
    cache.release(sequence, Activated("a", 20), tokens)
    assert known(None) == known(Activated("b", 25)) == known(Activated("a", 25)) == 20
    assert known(Activated("b", 10)) == 10
    assert known(Activated("a", 20)) == 30
    assert known("a") == 0
    cache.drop_cached("a")
    assert known(None) == 0


def test_steps_end_where_the_adapter_begins_and_the_base_s_are_shared() -> None:
    memory = PlainMemory()
    scheduler = Scheduler(
        cache_of_everything(memory), slots=4, batch_tokens=100,
        prefill=PrefillBudget(100, 100, adapts=False), queue_seconds=1e9,
    )  # fmt: skip

    def put(first: int, adapter: Adapter) -> Request:
        sampling = SamplingParams(max_tokens=2)
        tokens = [*range(first, first + 10)]
        request = Request(tokens, sampling, Generation(), limit=1000, adapter=adapter)
        scheduler.add(request)
        return request

    one, other, base = (
        put(100 * number, adapter)
        for number, adapter in enumerate((Activated("a", 7), Activated("b", 9), None))
    )
    steps = []
    for _ in range(3):
        batch = scheduler.schedule()
        steps.append((batch.adapter, batch.chunks))
        scheduler.computed(batch.chunks)
        for request, _ in batch.chunks:
            if not request.pending:
                scheduler.finish(request)
    assert steps[0] == (None, [(one, 7), (other, 9), (base, 10)])
    assert sorted(steps[1:], key=str) == [("a", [(one, 3)]), ("b", [(other, 1)])]


@pytest.fixture(scope="module")
def files(module_paths: ModulePaths) -> tuple[Path, Path]:
    """A small base, and an adapter that is activated by the bytes of INVOCATION."""
    folder = module_paths.mktemp("activated")
    base = write_tiny_llama(folder / "base.gguf")
    adapter = write_lora(
        folder / "check.gguf", seed=2, invocation=ids(INVOCATION), layers=LAYERS,
        shape=(EMBEDDING, FEED_FORWARD),
    )  # fmt: skip
    return base, adapter


@pytest.fixture(scope="module")
def engine(files: tuple[Path, Path]) -> Iterator[Engine]:
    with Engine(files[0], SETTINGS, adapters={"check": files[1]}) as engine:
        yield engine


def ids(text: str) -> list[int]:
    """Tokens of the small base: the bytes."""
    return [byte + len(SPECIAL) for byte in text.encode()]


def by_hand(engine: Engine, parts: Sequence[tuple[Sequence[int], bool]], adapter: Path) -> Floats:
    """Logits of what follows all parts, each (tokens, with the adapter?)."""
    handle = load_adapter(engine.model, adapter, activated=True)
    with served_context(engine.model, SETTINGS, n_ctx=1024, n_batch=512, n_seq_max=1) as context:
        position = 0
        for tokens, with_adapter in parts:
            use_adapter(context, handle if with_adapter else None)
            batch = TokenBatch(512)
            batch.add(tokens, position, 0, outputs=1)
            context.decode(batch)
            position += len(tokens)
        logits: Floats = context.batch_logits(1)[0].copy()
        return logits


def by_peft(base: Path, adapter: Path, prompt: Sequence[int]) -> Floats:
    """Logits of what follows a prompt, as PEFT computes an activated adapter."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    weights, factors = GGUFFile(base), GGUFFile(adapter)
    names = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    state = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    state |= {
        f"model.layers.{layer}.{theirs}": f"blk.{layer}.{ours}"
        for layer in range(LAYERS)
        for ours, theirs in names.items()
    }

    def tensor(name: str) -> Any:
        values = weights.dequantized(f"{name}.weight")
        if name.endswith(("attn_q", "attn_k")):  # GGUF has pairs of a rotation beside each other.
            pairs = values.reshape(HEADS, -1, 2, EMBEDDING)
            values = pairs.swapaxes(1, 2).reshape(EMBEDDING, EMBEDDING)
        return torch.tensor(values)

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=EMBEDDING, intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({f"{theirs}.weight": tensor(ours) for theirs, ours in state.items()})
    activated = peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=64, target_modules=["down_proj"],
            alora_invocation_tokens=[*invocation_tokens(factors)],
        ),
    ).eval()  # fmt: skip
    for name, parameter in activated.named_parameters():
        if "lora_" in name:
            layer, side = name.split(".layers.")[1].split(".")[0], name.split("lora_")[1][0]
            factor = factors.dequantized(f"blk.{layer}.ffn_down.weight.lora_{side.lower()}")
            parameter.data = torch.tensor(factor)
    with torch.no_grad():
        logits: Floats = activated(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()
    return logits


BEFORE, BEHIND = ids(f"{INVOCATION}x{CONTEXT}"), ids(f"{INVOCATION}y")
PROMPT = [*BEFORE, *BEHIND]


def difference(answer: Completion, logits: Floats) -> float:
    """Largest one of the log-probabilities of an answer's first token and these logits."""
    found = np.array([logprob for _, logprob in sorted(answer.logprobs[0].top)])
    wide = logits.astype(np.float64)
    return float(np.abs(wide - np.logaddexp.reduce(wide) - found).max())


def test_logits_are_those_of_the_base_before_and_the_adapter_behind(
    engine: Engine, files: tuple[Path, Path]
) -> None:
    # The base has had the prompt's beginning already.
    engine.generate([BEFORE], ONCE)
    generation = engine.submit(PROMPT, ONCE, adapter="check")
    answer = generation.result(60)
    assert not generation.is_base
    assert answer.cached_tokens == len(BEFORE)

    def computed(*parts: tuple[Sequence[int], bool]) -> float:
        return difference(answer, by_hand(engine, parts, files[1]))

    # Values are added up in 16 bits, in the order of their cells, which depends on what ran before.
    assert computed((BEFORE, False), (BEHIND, True)) < 0.05
    wrong = [
        computed((BEFORE[:-1], False), ([BEFORE[-1], *BEHIND], True)),
        computed((PROMPT[: len(BEFORE) + 1], False), (BEHIND[1:], True)),
        computed((PROMPT, True)),
        computed((PROMPT, False)),
    ]
    assert min(wrong) > 0.1, wrong
    again = engine.submit(PROMPT, ONCE, adapter="check").result(60)
    assert again.cached_tokens == len(PROMPT) - 1
    # The base goes on from what the adapter's request has computed with it.
    assert engine.generate([[*BEFORE, 5, 6]], ONCE)[0].cached_tokens == len(BEFORE)


@pytest.mark.slow
def test_logits_are_those_of_peft(engine: Engine, files: tuple[Path, Path]) -> None:
    (answer,) = engine.generate([PROMPT], ONCE, adapter="check")
    # Attention is computed in 16 bits here. A token more or less of the adapter makes 0.1 and more.
    assert difference(answer, by_peft(*files, PROMPT)) < 0.02


def test_without_its_invocation_sequence_the_base_answers(engine: Engine) -> None:
    prompt = ids(CONTEXT)
    (base,) = engine.generate([prompt], ONCE)
    generation = engine.submit(prompt, ONCE, adapter="check")
    assert generation.is_base
    assert dict(generation.result(60).logprobs[0].top) == pytest.approx(
        dict(base.logprobs[0].top), abs=0.05
    )
