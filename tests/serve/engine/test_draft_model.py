"""A draft model beside the served one: the same answers, what it may cost, and that it never fails
a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.serve.engine.tiny_llama import SPECIAL, write_tiny_llama
from tests.support import ModulePaths
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaContext
from tuneserve.serve.engine import Completion, Engine, SamplingParams
from tuneserve.serve.engine.draft_model import DraftModel, FollowedText
from tuneserve.serve.engine.draft_rounds import DraftRounds
from tuneserve.serve.engine.kv_cache import PrefixLimits
from tuneserve.serve.engine.request_drafter import RequestDrafter
from tuneserve.serve.engine.sampling import draw_seed
from tuneserve.serve.engine.speculation import MOST_DRAFTED, Speculator
from tuneserve.settings import ServeSettings

PROMPT = [1, *np.random.default_rng(1).integers(3, 259, 40).tolist()]
NOTHING_KEPT = PrefixLimits(0, 0.0, 0, 0)


@pytest.fixture(scope="module")
def tiny(module_paths: ModulePaths) -> Path:
    return write_tiny_llama(module_paths.mktemp("target") / "tiny.gguf")


@pytest.fixture(scope="module")
def stranger(module_paths: ModulePaths) -> Path:
    """Of the same vocabulary, with other weights."""
    return write_tiny_llama(module_paths.mktemp("draft") / "other.gguf", seed=1)


def settings(speculate: str = "always", /, **options: object) -> ServeSettings:
    base = {"ctx": 512, "slots": 4, "threads": 1, "cache_type_k": "f16", "cache_type_v": "f16"}
    return ServeSettings(speculate=speculate, **{**base, **options})


def answers(engine: Engine, prompts: list[list[int]], tokens: int = 40) -> list[Completion]:
    return engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=tokens))


def assert_most_probable(engine: Engine, prompt: list[int], done: Completion) -> None:
    """Every token is the most probable one after all before it, computed in one pass."""
    with LlamaContext(engine.model, n_ctx=512, threads=1) as context:
        logits = context.logits([*prompt, *done.tokens[:-1]], start=len(prompt) - 1)
    chosen = logits[np.arange(len(done.tokens)), done.tokens]
    assert (logits.max(axis=1) - chosen).max() < 0.02


class TestEngine:
    @pytest.mark.parametrize("draft", ["tiny", "stranger"])
    def test_greedy_answers_are_the_same(
        self, tiny: Path, draft: str, request: pytest.FixtureRequest
    ) -> None:
        path = request.getfixturevalue(draft)
        random = np.random.default_rng(2)
        prompts = [[1, *random.integers(3, 259, 30).tolist()] for _ in range(6)]
        with Engine(tiny, settings("off")) as plain, Engine(tiny, settings(draft=path)) as engine:
            expected = answers(plain, prompts)
            found = answers(engine, prompts)
            stats = engine.stats()
            for ids, one in zip(prompts, found, strict=True):
                assert_most_probable(plain, ids, one)
            same = [a.tokens == b.tokens for a, b in zip(found, expected, strict=True)]
            assert sum(same) >= 4  # Rounding differs, and random weights give near ties.
            assert stats.drafted["draft"] > 5
            # Its own weights guess all but what rounding changes, others next to nothing.
            share = stats.accepted["draft"] / stats.drafted["draft"]
            assert share > 0.9 if draft == "tiny" else share < 0.2
            if draft == "tiny":
                assert stats.steps < 0.5 * plain.stats().steps

    def test_a_full_cache_of_the_draft_model_fails_no_request(self, tiny: Path) -> None:
        """Four prompts alike share their cells in the served model's cache; the draft model's is
        made so small that it has no room for one."""
        with Engine(tiny, settings(draft=tiny)) as engine:
            assert engine._draft is not None
            cells = engine._draft._cache._cells
            cells.append(99, cells.free - 20)
            (done,) = answers(engine, [PROMPT])
            stats = engine.stats()
            assert (len(done.tokens), stats.drafted.get("draft", 0)) == (40, 0)
            assert stats.draft_refused > 0
            assert stats.draft_usable

    def test_preempted_and_cancelled_requests_leave_no_cells(self, tiny: Path) -> None:
        options: dict[str, object] = {"ctx": 256, "slots": 3, "prefix_share": 0.0}
        with (
            Engine(tiny, settings("off", **options)) as plain,
            Engine(tiny, settings(draft=tiny, **options)) as engine,
        ):
            prompts = [[1, *[3 + place] * 60] for place in range(3)]
            expected = answers(plain, prompts, 60)
            gone = engine.submit([1, 9, 9], SamplingParams(temperature=0.0, ignore_end=True))
            gone.cancel()
            found = answers(engine, prompts, 60)
            assert gone.result(10).finish_reason == "cancelled"
            assert [one.tokens for one in found] == [one.tokens for one in expected]
            assert engine.stats().preemptions > 0
            assert engine._draft is not None
            engine._draft.settle()
            assert engine.stats().draft_cells_used == 0

    def test_prompts_that_begin_alike_are_read_once(self, tiny: Path) -> None:
        with Engine(tiny, settings(draft=tiny)) as engine:
            assert engine._draft is not None
            answers(engine, [PROMPT], 4)
            before = engine.stats().draft_cells_used
            answers(engine, [[*PROMPT, 7, 8]], 4)
            assert engine.stats().draft_cells_used - before < 20

    def test_it_is_off_with_the_others(self, tiny: Path) -> None:
        with Engine(tiny, settings("off", draft=tiny)) as engine:
            assert engine.stats().draft_cells == 0
        with Engine(tiny, settings(draft=tiny), steady=True) as engine:
            assert engine.stats().draft_cells == 0


class TestVocabularies:
    @pytest.mark.parametrize(
        ("words", "change"),
        [
            ("token 20 is", {"swapped": (20, 21)}),
            ("EOS that is added to prompts: 2 and -1", {"add_eos": True}),
            ("459 and 259 tokens", {"more": 200}),
        ],
    )
    def test_others_are_refused(
        self, tiny: Path, tmp_path: Path, words: str, change: dict[str, object]
    ) -> None:
        draft = write_vocabulary(tmp_path / "draft.gguf", **change)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=words) as caught:
            Engine(tiny, settings(draft=draft))
        assert caught.value.where == str(draft)

    def test_a_few_more_tokens_are_none_too_many(self, tiny: Path, tmp_path: Path) -> None:
        """Neither in the draft model, whose guesses the served one must know, nor the other way
        round: there texts with them are not drafted for."""
        more = write_tiny_llama(tmp_path / "more.gguf", more_tokens=5)
        with Engine(tiny, settings(draft=more)) as engine:
            answers(engine, [PROMPT])
            assert engine.stats().drafted["draft"] > 0
        with Engine(more, settings(draft=tiny)) as engine:
            answers(engine, [[*PROMPT, 262]])
            assert engine.stats().drafted.get("draft", 0) == 0
            assert engine.stats().draft_usable

    def test_another_kind_of_tokenizer_is_refused(self, tiny: Path, demo_gguf: Path) -> None:
        with pytest.raises(UsageError, match="tokenizers of different kinds"):
            Engine(tiny, settings(draft=demo_gguf))


def write_vocabulary(
    path: Path, *, swapped: tuple[int, int] = (0, 0), add_eos: bool = False, more: int = 0
) -> Path:
    """A GGUF of the tiny model's vocabulary, changed, without any weights."""
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"more{number}" for number in range(more)]
    one, other = swapped
    tokens[one], tokens[other] = tokens[other], tokens[one]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    known = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    writer.add_token_types([*known, *[kinds.NORMAL] * more])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_eos_token(add_eos)
    for add in (
        writer.add_context_length, writer.add_embedding_length, writer.add_block_count,
        writer.add_feed_forward_length, writer.add_head_count,
    ):  # fmt: skip
        add(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# -- without an engine -----------------------------------------------------------------------------


class Running:
    """A request of which the rounds see no more than this."""

    def __init__(self, speculator: Speculator, tokens: list[int]) -> None:
        self.drafter: RequestDrafter | None = speculator.drafter(tokens)
        self.draft: Sequence[int] = ()
        self.remaining, self.generated = 100, 10


def see(request: Running) -> None:
    assert request.drafter is not None
    request.drafter.see()


@pytest.fixture
def model(tiny: Path) -> Iterator[DraftModel]:
    model = DraftModel(tiny, settings(), NOTHING_KEPT)
    yield model
    model.close()


def speculator(model: DraftModel, *, one: float, more: float, round_seconds: float) -> Speculator:
    """A step of one token takes `one` seconds, every other token `more`; a round of the draft model
    `round_seconds`, as it is told."""
    found = Speculator(rounds=DraftRounds(model, most=8), n_vocab=259)
    for tokens in range(1, 200):
        found.costs.observe(tokens, one + (tokens - 1) * more)
    model.costs.observe(1, round_seconds)
    for _ in range(40):
        model.costs.observe(1, round_seconds)
    return found


class TestRounds:
    def test_cheap_rounds_are_made(self, model: DraftModel) -> None:
        one = speculator(model, one=10.0, more=0.01, round_seconds=0.1)
        request = Running(one, PROMPT[:12])
        one.plan([request], MOST_DRAFTED)
        assert 1 <= len(request.draft) <= 8
        assert one.drafted["draft"] == len(request.draft)

    def test_dear_rounds_are_not(self, model: DraftModel) -> None:
        one = speculator(model, one=0.001, more=0.0, round_seconds=0.1)
        request = Running(one, PROMPT[:12])
        one.plan([request], MOST_DRAFTED)
        assert not request.draft

    def test_nothing_is_known_of_the_served_models_steps(self, model: DraftModel) -> None:
        one = Speculator(rounds=DraftRounds(model, most=8), n_vocab=259)
        request = Running(one, PROMPT[:12])
        one.plan([request], MOST_DRAFTED)
        assert not request.draft

    def test_wrong_guesses_end_it_until_they_are_forgotten(self, model: DraftModel) -> None:
        one = speculator(model, one=1.0, more=0.2, round_seconds=0.2)
        tokens = PROMPT[:12]
        request = Running(one, tokens)
        drafted = 0
        for step in range(80):
            request.draft = ()
            one.plan([request], MOST_DRAFTED)
            drafted += bool(request.draft)
            wrong = 3 + step if not request.draft or request.draft[0] != 3 + step else 200
            tokens.append(wrong)
            see(request)
        assert 1 <= drafted < 30
        other = Running(one, PROMPT[:12])
        for token in range(1000, 4000):
            tokens.append(token)
            see(request)
        one.plan([other], MOST_DRAFTED)
        assert other.draft

    def test_a_long_prompt_is_read_where_the_answer_is_long_enough(self, model: DraftModel) -> None:
        long = np.random.default_rng(3).integers(3, 259, 200).tolist()
        dear = speculator(model, one=0.01, more=0.0001, round_seconds=0.001)
        model.costs.per_token = 1.0
        request = Running(dear, list(long))
        dear.plan([request], MOST_DRAFTED)
        assert not request.draft
        model.costs.per_token = 1e-6
        dear.plan([request], MOST_DRAFTED)
        assert request.draft

    def test_the_text_that_came_decides_what_is_kept(self, model: DraftModel) -> None:
        text = FollowedText(model, PROMPT[:10])
        assert model.begin(text)
        first = model.decode([(text, [])])
        assert first is not None
        row = first[0].copy()
        assert model.decode([(text, [11])]) is not None
        assert model.decode([(text, [11, 12])]) is not None
        text.tokens += [11, 99]
        model.settle()
        assert (text.computed, model.behind(text), model.cells_used) == (11, 1, 11)
        again = FollowedText(model, PROMPT[:10])
        assert model.begin(again)
        other = model.decode([(again, [])])
        assert other is not None
        assert np.abs(row - other[0]).max() < 0.05
        for one in (text, again):
            one.release()
        model.settle()
        assert model.cells_used == 0

    def test_a_model_that_fails_is_not_used_any_more(self, model: DraftModel) -> None:
        text = FollowedText(model, [1, 300])
        assert not model.begin(text)
        text = FollowedText(model, [1, 3])
        assert model.begin(text)
        text.tokens += [300]  # No token of the vocabulary.
        assert model.decode([(text, [])]) is None
        assert not model.usable
        assert not model.begin(FollowedText(model, [1, 3]))


def test_a_seed_gives_guesses_other_numbers_than_what_judges_them(model: DraftModel) -> None:
    one = Speculator(rounds=DraftRounds(model, most=8), n_vocab=259)
    sampling = SamplingParams(seed=3)
    drawn = one.drafter(PROMPT[:12], sampling)._random.random(8)
    judged = np.random.default_rng(draw_seed(3)).random(8)
    assert not set(drawn) & set(judged)
    assert (drawn == one.drafter(PROMPT[:12], sampling)._random.random(8)).all()
