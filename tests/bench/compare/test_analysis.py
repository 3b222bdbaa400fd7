"""The verdict follows from interval and test, whatever the point estimate says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_simulation import GapDesign, find_gap

from tuneserve.bench.compare.analysis import (
    compare_accuracy,
    compare_gap,
    compare_groups,
    compare_perplexity,
    compare_scores,
    count_pairs,
    decide,
    judge,
)
from tuneserve.bench.compare.cautions import caution, rank_contenders
from tuneserve.bench.compare.figures import gap_said
from tuneserve.bench.compare.forgetting import (
    TextLosses,
    compare_elsewhere,
    judge_forgetting,
)
from tuneserve.bench.compare.pairs import FAILED, Answer, Pair, Response
from tuneserve.bench.compare.results import AccuracyComparison
from tuneserve.bench.stats.bootstrap import Bootstrap, FloatArray
from tuneserve.bench.stats.gaps import compare_gaps
from tuneserve.bench.tasks.tasks import Task
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

SETTINGS = BenchSettings(bootstrap=2000)


def answer(correct: bool, nll: float = 1.0) -> Answer:
    return Answer("a", "", False, float(correct), "stop", 2, nll, 2)


def pairs(
    won: int, lost: int, both: int, neither: int, *, group: str | None = None, per_source: int = 1
) -> list[Pair]:
    outcomes = (
        [(False, True)] * won
        + [(True, False)] * lost
        + [(True, True)] * both
        + [(False, False)] * neither
    )
    return [
        Pair(
            replace(
                Example.of_turn(f"{group}{place}", "x", "a", group=group),
                source=None if per_source == 1 else f"{group}{place // per_source}",
            ),
            base=answer(base, 2.0),
            tuned=answer(tuned, 1.0),
        )
        for place, (base, tuned) in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("won", "lost", "outcome"),
    [
        (40, 10, "better"),
        (10, 40, "worse"),
        (30, 25, "no difference shown"),
        (25, 30, "no difference shown"),
        (0, 0, "no difference shown"),
        (4, 0, "no difference shown"),  # the exact test needs 6 of 6
        (6, 0, "better"),
    ],
)
def test_verdict(won: int, lost: int, outcome: str) -> None:
    accuracy = compare_accuracy(pairs(won, lost, 100, 50), SETTINGS)
    verdict = judge(accuracy, SETTINGS.confidence)
    assert verdict.outcome == outcome
    if outcome == "no difference shown":
        assert verdict.sentence.startswith("No difference shown")
    else:
        assert verdict.sentence.startswith(f"The tuned model is {outcome}")


def test_prompts_of_one_source_are_one_witness() -> None:
    alone = compare_accuracy(pairs(8, 0, 40, 40), SETTINGS)
    together = compare_accuracy(pairs(8, 0, 40, 40, per_source=8), SETTINGS)
    assert decide(alone, alone.p, 0.95) == "better"
    assert decide(together, together.p, 0.95) == "no difference shown"
    assert (together.p, together.mcnemar_p) == (1.0, alone.mcnemar_p)
    assert together.clusters == 11


def test_sentence_holds_the_figures() -> None:
    accuracy = compare_accuracy(pairs(40, 10, 100, 50), SETTINGS)
    sentence = judge(accuracy, 0.95).sentence
    assert "70.0 % of 200 held-out prompts right, the base 55.0 %" in sentence
    assert "+15.0 points, 95 % interval" in sentence


def test_groups_are_compared_apart_and_adjusted() -> None:
    both = pairs(20, 0, 20, 20, group="a") + pairs(6, 0, 20, 20, group="b")
    first, second = compare_groups(both, SETTINGS)
    assert (first.name, second.name) == ("a", "b")
    assert (first.accuracy.won, second.accuracy.won) == (20, 6)
    assert second.adjusted_p == pytest.approx(second.accuracy.p)  # the largest is not enlarged
    assert first.adjusted_p == pytest.approx(2 * first.accuracy.p)
    assert compare_groups(pairs(1, 1, 1, 1), SETTINGS) == []


def test_perplexity_ratio_is_of_the_same_tokens() -> None:
    compared = compare_perplexity(pairs(3, 3, 3, 3), SETTINGS)
    assert compared.tokens == 24
    assert compared.ratio.value == pytest.approx(compared.tuned.value / compared.base.value)


def test_the_gap_between_groups() -> None:
    # Group a goes from 40 to 100 %, group b stays at 50 %: the gap grows from 10 to 50 points.
    apart = pairs(60, 0, 40, 0, group="a") + pairs(0, 0, 50, 50, group="b")
    gap = compare_gap(apart, SETTINGS)
    assert gap is not None
    assert (gap.observed_base, gap.observed_tuned) == pytest.approx((0.1, 0.5))
    # Shrunken: two shares of 100 prompts each are off by 5 points anyway.
    assert gap.base == pytest.approx(0.05, abs=0.01)
    assert gap.tuned == pytest.approx(0.495, abs=0.01)
    assert (gap.worst_base, gap.worst_tuned) == ("a", "b")
    assert gap.widened
    assert gap.change.value == pytest.approx(0.4)
    assert (gap.change.low, gap.change.high) == (None, None)
    assert (
        "change +40.0, p < 0.001 of a permutation test over groups (no interval: none holds for a "
        "best against a worst, which chance drives apart)"
    ) in gap_said(gap)

    alike = pairs(5, 5, 45, 45, group="a") + pairs(5, 5, 45, 45, group="b")
    even = compare_gap(alike, SETTINGS)
    assert even is not None
    assert not even.widened
    assert compare_gap(pairs(1, 1, 1, 1), SETTINGS) is None


@pytest.mark.parametrize("per_source", [1, 4])
def test_a_gap_that_is_chance_is_not_called_widened(per_source: int) -> None:
    """A base that gets nothing right has no gap; every tune that is not perfect has one."""
    alike = GapDesign((0.0,) * 3, (0.8,) * 3, 52, per_source)
    found = find_gap(alike, benchmarks=200, resamples=200, seed=2)
    assert found.widened <= 0.05
    assert found.given < 0.6 * found.observed
    apart = GapDesign((0.3,) * 3, (0.8, 0.8, 0.2), 52, per_source)
    assert find_gap(apart, benchmarks=40, resamples=200, seed=1).widened > 0.7


def test_a_gap_within_sources_is_seen_there() -> None:
    """One question in two groups each, where sources differ more than groups do."""
    count = 40
    base = np.repeat([1.0, 0.0], count)
    tuned = base.copy()
    tuned[1 : count // 2 : 2] = 0.0  # half of the easy questions are lost, in one group only
    clusters = np.repeat(np.arange(count), 2)
    groups = np.tile([0, 1], count)
    found = compare_gaps(base, tuned, groups, ["a", "b"], Bootstrap(clusters))
    assert (found.observed_base, found.observed_tuned) == pytest.approx((0.0, 10 / count))
    assert found.p == pytest.approx(0.5**9, abs=0.002)  # all ten the same way, either way
    assert found.widened


STEADY = [500.0 + 3 * (n % 5) for n in range(12)]


def text_losses(name: str, tuned: list[float]) -> TextLosses:
    return TextLosses(name, "chunks", STEADY, tuned, [255] * 12, [None] * 12)


def test_forgetting_is_judged_by_interval_and_adjusted_test() -> None:
    worse = text_losses("lost.txt", [loss + 40 - n for n, loss in enumerate(STEADY)])
    mixed = text_losses("same.txt", [loss + (-1) ** n * 20 for n, loss in enumerate(STEADY)])
    tasks, (lost, same) = compare_elsewhere([], [worse, mixed], SETTINGS)
    assert tasks == []
    assert (lost.outcome, same.outcome) == ("worse", "no difference shown")
    assert lost.ratio.value == pytest.approx(lost.tuned.value / lost.base.value)
    found = judge_forgetting(tasks, [lost, same], SETTINGS)
    assert found.outcome == "forgotten"
    assert found.sentence.startswith("Something was forgotten: perplexity of lost.txt rose by +14")
    # 12 chunks tell nothing of a kind that is 3 in 100: 1 - 0.05 ** (1 / 12) is 22.1 %.
    assert (
        "on text like the 12 chunks measured (what up to 22.1 % of such chunks gain may be seen in "
        "none of 12 chunks)"
    ) in found.sentence
    assert "same.txt" not in found.sentence
    assert judge_forgetting([], [same], SETTINGS).outcome == "no forgetting shown"
    assert judge_forgetting([], [], SETTINGS).outcome == "not measured"


def test_tasks_and_texts_are_adjusted_together() -> None:
    """Six of six lost prompts are p = 0.031: a loss alone, none beside another comparison."""
    task = Task("trivia", "trivia.jsonl", [], [], 1), pairs(0, 6, 30, 30)
    (alone,), _ = compare_elsewhere([task], [], SETTINGS)
    assert alone.adjusted_p == pytest.approx(2 * 0.5**6)
    assert alone.outcome == "worse"
    assert (
        "trivia fell from 54.5 to 45.5 % right" in judge_forgetting([alone], [], SETTINGS).sentence
    )
    even = text_losses("same.txt", [loss + (-1) ** n * 20 for n, loss in enumerate(STEADY)])
    (beside,), _ = compare_elsewhere([task], [even], SETTINGS)
    assert beside.adjusted_p == pytest.approx(4 * 0.5**6)
    assert beside.outcome == "no difference shown"
    sentence = judge_forgetting([beside], [], SETTINGS).sentence
    assert "a loss of up to" in sentence
    assert "is not excluded" in sentence


def test_nothing_forgotten_needs_a_margin_that_is_excluded() -> None:
    """Eight of eight lost is not green; nor is no loss among 266; no loss among 2,660 is."""
    for count, lost, outcome in ((8, 5, "no forgetting shown"), (266, 2, "no forgetting shown"),
                                 (2660, 2, "nothing forgotten")):  # fmt: skip
        task = Task("General", "", [], [], 9), pairs(2 if lost == 2 else 0, lost, count, 0)
        tasks, _ = compare_elsewhere([task], [], SETTINGS)
        verdict = judge_forgetting(tasks, [], SETTINGS)
        assert verdict.outcome == outcome, verdict
        low = tasks[0].accuracy.difference.low
        assert low is not None
        if outcome == "nothing forgotten":
            assert "a loss of more than 2 points on General can be excluded" in verdict.sentence
            assert tasks[0].kept
        else:
            assert f"a loss of up to {-100 * low:.1f} points is not excluded" in verdict.sentence
    many = STEADY * 20
    shifted = [loss + (-1) ** n * 2 for n, loss in enumerate(many)]
    steady = TextLosses("same.txt", "chunks", many, shifted, [255] * 240, [None] * 240)
    _, texts = compare_elsewhere([], [steady], SETTINGS)
    found = judge_forgetting([], texts, SETTINGS)
    assert found.outcome == "nothing forgotten"
    assert "a rise of the perplexity of same.txt by more than +5.0 %" in found.sentence
    wide = BenchSettings(perplexity_margin=1.001)
    assert judge_forgetting(*compare_elsewhere([], [steady], wide), wide).outcome == (
        "no forgetting shown"
    )


def test_what_few_pieces_do_not_show_is_not_excluded() -> None:
    """None of 12 alike chunks loses much, but 22 % of all chunks may be of another kind."""
    calm = text_losses("calm.txt", [loss + (-1) ** n * 2 for n, loss in enumerate(STEADY)])
    _, (few,) = compare_elsewhere([], [calm], SETTINGS)
    assert few.ratio.high is not None
    assert few.ratio.high < SETTINGS.perplexity_margin
    verdict = judge_forgetting([], [few], SETTINGS)
    assert verdict.outcome == "no forgetting shown"
    assert "what up to 22.1 % of such chunks lose may be seen in none of 12" in verdict.sentence
    # Both answer and lose alike digit for digit: one model, of which nothing is unknown.
    _, same = compare_elsewhere([], [text_losses("one.txt", STEADY)], SETTINGS)
    assert judge_forgetting([], same, SETTINGS).outcome == "nothing forgotten"


def test_what_few_graded_prompts_do_not_show_is_not_excluded() -> None:
    """None of 40 loses more than a point, but 7 % of all may lose everything."""
    asked = [
        replace(
            pair,
            base=replace(pair.base, score=0.6),
            tuned=replace(pair.tuned, score=0.6 + (-1) ** place * 0.004),
        )
        for place, pair in enumerate(pairs(0, 0, 2000, 0))
    ]
    task = Task("json", "", [], [], 9)
    for count, outcome in ((120, "no forgetting shown"), (2000, "nothing forgotten")):
        tasks, _ = compare_elsewhere([(task, asked[:count])], [], SETTINGS)
        verdict = judge_forgetting(tasks, [], SETTINGS)
        assert verdict.outcome == outcome, verdict
    tasks, _ = compare_elsewhere([(task, asked[:200])], [], SETTINGS)
    low = tasks[0].accuracy.difference.low
    assert low is not None
    assert low > -0.02
    assert not tasks[0].kept
    sentence = judge_forgetting(tasks, [], SETTINGS).sentence
    assert "none is seen, but what up to 1.5 % of such prompts lose may be seen in none" in sentence


def test_what_the_base_can_not_do_is_not_kept() -> None:
    task = Task("Hard", "", [], [], 9), pairs(0, 0, 0, 3000)
    tasks, _ = compare_elsewhere([task], [], SETTINGS)
    verdict = judge_forgetting(tasks, [], SETTINGS)
    assert verdict.outcome == "no forgetting shown"
    assert "the base scores 0.0 %: it has nothing to lose there" in verdict.sentence


def test_few_chunks_show_nothing_and_exclude_nothing() -> None:
    """Five chunks, all worse: the smallest p is 0.0625."""
    worse = [loss + 25 + loss % 5 for loss in STEADY[:5]]
    losses = TextLosses("five.txt", "chunks", STEADY[:5], worse, [255] * 5, [None] * 5)
    _, (five,) = compare_elsewhere([], [losses], SETTINGS)
    assert (five.adjusted_p, five.smallest_detectable) == (0.0625, None)
    verdict = judge_forgetting([], [five], SETTINGS)
    assert verdict.outcome == "no forgetting shown"
    assert "With 5 chunks no loss can be shown, however large" in verdict.sentence
    assert "a rise of the perplexity of up to +1" in verdict.sentence
    two = replace(losses, base=STEADY[:2], tuned=STEADY[2:4], tokens=[255] * 2, sources=[None] * 2)
    verdict = judge_forgetting([], compare_elsewhere([], [two], SETTINGS)[1], SETTINGS)
    assert "no loss can be excluded (no interval: 2 chunks)" in verdict.sentence


def test_a_kind_that_fell_to_nothing_is_something_forgotten() -> None:
    """12 of 12 arithmetic questions lost among 2,042, while 30 others are gained."""
    kinds = [*pairs(0, 12, 0, 0, group="arithmetic"), *pairs(30, 0, 2000, 0, group="words")]
    tasks, _ = compare_elsewhere([(Task("General", "", [], [], 9), kinds)], [], SETTINGS)
    assert tasks[0].kept
    verdict = judge_forgetting(tasks, [], SETTINGS)
    assert verdict.outcome == "forgotten"
    assert verdict.sentence.startswith(
        "Something was forgotten: arithmetic of General fell from 100.0 to 0.0 % right (−100.0 "
        "points, "
    )
    assert len(verdict.lost) == 1
    # Kinds of every task are adjusted together: nine losses stand alone, not among forty kinds.
    few = [*pairs(0, 9, 0, 0, group="arithmetic"), *pairs(9, 0, 2000, 0, group="words")]
    calm = [part for n in range(38) for part in pairs(0, 0, 60, 0, group=f"k{n:02}")]
    for beside, outcome in (([], "forgotten"), (calm, "nothing forgotten")):
        asked = [(Task(name, "", [], [], 9), each) for name, each in
                 (("General", few), ("More", beside)) if each]  # fmt: skip
        tasks, _ = compare_elsewhere(asked, [], SETTINGS)
        assert tasks[0].kinds[0].adjusted_p == pytest.approx(
            2 * 0.5**9 * (40 if beside else 2), rel=1e-6
        )
        assert judge_forgetting(tasks, [], SETTINGS).outcome == outcome


def test_groups_that_go_another_way_stand_in_the_verdict() -> None:
    halves = [*pairs(0, 30, 0, 0, group="de"), *pairs(30, 0, 0, 0, group="en")]
    verdict = judge(
        compare_accuracy(halves, SETTINGS), 0.95, groups=compare_groups(halves, SETTINGS)
    )
    assert verdict.outcome == "no difference shown"
    assert "Not so by group: de fell from 100.0 to 0.0 % right (−100.0 points" in verdict.sentence
    assert "; en rose from 0.0 to 100.0 % right (+100.0 points" in verdict.sentence
    assert [said[:7] for said in verdict.lost] == ["de fell"]
    gained = [*pairs(0, 12, 0, 0, group="de"), *pairs(90, 0, 0, 0, group="en")]
    verdict = judge(
        compare_accuracy(gained, SETTINGS), 0.95, groups=compare_groups(gained, SETTINGS)
    )
    assert (verdict.outcome, len(verdict.lost)) == ("better", 1)
    assert "en rose" not in verdict.sentence  # as all do


def test_a_weak_base_has_less_to_lose_than_the_margin() -> None:
    """40 of 1,500 right become 29: less than two points, and more than a quarter of all."""
    tasks, _ = compare_elsewhere(
        [(Task("Hard", "", [], [], 9), pairs(0, 11, 29, 1460))], [], BenchSettings(margin=5.0)
    )
    low = tasks[0].accuracy.difference.low
    assert low is not None
    assert low > -0.02
    verdict = judge_forgetting(tasks, [], BenchSettings(margin=5.0))
    assert verdict.outcome != "nothing forgotten"
    assert not tasks[0].kept
    even, _ = compare_elsewhere(
        [(Task("Hard", "", [], [], 9), pairs(5, 5, 35, 1455))], [], SETTINGS
    )
    verdict = judge_forgetting(even, [], SETTINGS)
    assert verdict.outcome == "no forgetting shown"
    assert (
        "and of the 2.7 % that the base scores a tenth at most (0.27 points) may be lost (about "
    ) in verdict.sentence
    tasks, _ = compare_elsewhere(
        [
            (Task("Easy", "", [], [], 9), pairs(0, 0, 4000, 0)),
            (Task("Half", "", [], [], 9), pairs(0, 0, 400, 3600)),
        ],
        [],
        SETTINGS,
    )
    assert (
        "a loss of more than 2 points on Easy and a loss of more than 1 point on Half can be"
    ) in judge_forgetting(tasks, [], SETTINGS).sentence


def test_that_more_prompts_would_exclude_it_is_not_said_of_a_loss_that_is_seen() -> None:
    for lost, kept, said in ((5, 3, False), (0, 60, True), (1, 200, True)):
        tasks, _ = compare_elsewhere(
            [(Task("General", "", [], [], 9), pairs(0, lost, kept, 0))], [], SETTINGS
        )
        sentence = judge_forgetting(tasks, [], SETTINGS).sentence
        assert ("such prompts would exclude 2 if nothing is lost)" in sentence) == said, sentence


def test_one_of_a_kind_is_named_in_the_singular() -> None:
    alone = TextLosses("one.txt", "chunks", [500.0], [510.0], [255], [None])
    verdict = judge_forgetting([], compare_elsewhere([], [alone], SETTINGS)[1], SETTINGS)
    assert "on the one chunk of one.txt no loss" in verdict.sentence
    said = judge(compare_accuracy(pairs(1, 0, 0, 0), SETTINGS), 0.95).sentence
    assert "gets 100.0 % of the one held-out prompt right, the base 0.0 %" in said


def test_why_a_small_p_shows_nothing_is_told() -> None:
    """All gain 1.0 to 1.5 points; that none loses more is not known of what was not seen."""
    small = [
        replace(
            pair,
            base=replace(pair.base, score=0.5),
            tuned=replace(pair.tuned, score=0.51 + 0.001 * (place % 6)),
        )
        for place, pair in enumerate(pairs(0, 0, 100, 0))
    ]
    accuracy = compare_accuracy(small, SETTINGS)
    assert accuracy.p < 0.001
    verdict = judge(accuracy, 0.95)
    assert verdict.outcome == "no difference shown"
    assert (
        "The test alone would show one, but the interval holds zero, and both have to agree: so few"
    ) in verdict.sentence
    assert (
        "The test alone" not in judge(compare_accuracy(pairs(9, 9, 9, 9), SETTINGS), 0.95).sentence
    )


@pytest.mark.parametrize("back", [False, True])
def test_why_an_interval_off_zero_shows_nothing_is_told(back: bool) -> None:
    won, lost = (0, 5) if back else (5, 0)
    accuracy = compare_accuracy(pairs(won, lost, 10, 5), SETTINGS)
    assert accuracy.p == pytest.approx(0.0625)
    low, high = accuracy.difference.low, accuracy.difference.high
    assert low is not None
    assert high is not None
    assert low > 0 or high < 0
    verdict = judge(accuracy, 0.95)
    assert verdict.outcome == "no difference shown"
    assert (
        "The interval alone would show one, but the test’s p is not below 0.05, and both have to "
        "agree. A true difference of"
    ) in verdict.sentence


def test_with_five_sources_nothing_can_be_shown_and_that_is_said() -> None:
    asked = pairs(90, 0, 10, 0, per_source=20)
    verdict = judge(compare_accuracy(asked, SETTINGS), 0.95)
    assert verdict.outcome == "no difference shown"
    assert "With 5 sources no difference can be shown, however large" in verdict.sentence
    assert "the test needs 6" in verdict.sentence
    assert "4 times in 5" not in verdict.sentence


def test_the_detectable_difference_is_at_the_level_of_the_verdict() -> None:
    tasks = [(Task(name, "", [], [], 9), pairs(9, 9, 40, 40)) for name in "abcd"]
    alone = compare_accuracy(tasks[0][1], SETTINGS)
    compared, _ = compare_elsewhere(tasks, [], SETTINGS)
    assert compared[0].accuracy.level == pytest.approx(0.05 / 4)
    assert compared[0].accuracy.smallest_detectable is not None
    assert alone.smallest_detectable is not None
    assert compared[0].accuracy.smallest_detectable > 1.15 * alone.smallest_detectable


def test_cut_answers_floor_and_ceiling_stand_in_the_verdict() -> None:
    asked = pairs(50, 0, 20, 30)
    cut = [
        replace(pair, base=replace(pair.base, finish_reason="length" if n < 57 else "stop"))
        for n, pair in enumerate(asked)
    ]
    accuracy = compare_accuracy(cut, SETTINGS)
    cautions = caution(accuracy, count_pairs(cut), 16)
    assert cautions == [
        "57.0 % of the base model's and 0.0 % of the tuned model's answers were cut at "
        "max_tokens 16."
    ]
    verdict = judge(accuracy, 0.95, cautions)
    assert verdict.outcome == "better"
    assert verdict.sentence.endswith(f" Caution: {cautions[0]}")
    assert verdict.cautions == cautions
    bare = [replace(pair, base=replace(pair.base, found="none")) for pair in asked]
    (said,) = caution(compare_accuracy(bare, SETTINGS), count_pairs(bare), 16)
    assert said.endswith("of the tuned model's answers were without what the task asks for.")
    for kept, word in (((0, 0, 0, 100), "too hard"), ((0, 0, 100, 0), "too easy")):
        same = pairs(*kept)
        (said,) = caution(compare_accuracy(same, SETTINGS), count_pairs(same), 16)
        assert word in said
    assert caution(compare_accuracy(asked, SETTINGS), count_pairs(asked), 16) == []


def test_a_shown_difference_is_not_said_to_be_too_small_to_tell() -> None:
    asked = pairs(10, 0, 1980, 10)
    accuracy = compare_accuracy(asked, SETTINGS)
    assert decide(accuracy, accuracy.p, 0.95) == "better"
    assert caution(accuracy, count_pairs(asked), 16) == []
    (said,) = caution(accuracy, count_pairs(asked), 16, p=0.2)  # after adjustment none is shown
    assert "too easy to tell them apart" in said
    hard = pairs(19, 0, 0, 1981)
    (said,) = caution(compare_accuracy(hard, SETTINGS), count_pairs(hard), 16)
    assert "too hard for both" in said
    assert "can't tell" not in said


def test_what_any_contender_did_not_answer_stands_in_the_ranking() -> None:
    """Errors for 30 of 40 prompts, and 40 empty answers, are no models that know less."""

    def others(place: int, pair: Pair) -> dict[str, Response]:
        missing = replace(pair.tuned, text="", score=0.0, finish_reason=FAILED, problem="400")
        return {
            "endpoint": missing if place < 30 else pair.tuned,
            "mute": replace(pair.tuned, text=" ", score=0.0),
            "long": replace(pair.tuned, finish_reason="length" if place < 4 else "stop"),
        }

    asked = [
        replace(pair, others=others(place, pair)) for place, pair in enumerate(pairs(4, 4, 30, 2))
    ]
    ranking = rank_contenders(asked, SETTINGS)
    assert ranking is not None
    assert ranking.cautions == [
        "75.0 % of endpoint's and none of any other's answers were missing: their "
        "prompts got none, and count as wrong.",
        "10.0 % of long's and none of any other's answers were cut at max_tokens "
        f"{SETTINGS.max_tokens}.",
        "100.0 % of mute's and none of any other's answers were empty.",
    ]
    assert all(f"Caution: {each}" in ranking.sentence for each in ranking.cautions)
    plain = [replace(pair, others={"endpoint": pair.tuned}) for pair in pairs(4, 4, 30, 2)]
    ranking = rank_contenders(plain, SETTINGS)
    assert ranking is not None
    assert "Caution" not in ranking.sentence


def gained(prompts: int, back: bool = False) -> list[Pair]:
    """A graded score of 0.5, and small gains everywhere; `back`: with the models exchanged."""

    def score(pair: Pair, gain: float) -> Pair:
        worse, better = replace(pair.base, score=0.5), replace(pair.tuned, score=gain)
        return (
            replace(pair, base=better, tuned=worse)
            if back
            else (replace(pair, base=worse, tuned=better))
        )

    gains = (0.55, 0.57, 0.53, 0.56) * (prompts // 4)
    return [score(pair, gain) for pair, gain in zip(pairs(0, 0, prompts, 0), gains, strict=True)]


def test_a_graded_difference_is_shown_beyond_what_prompts_not_seen_could_undo() -> None:
    """Small gains everywhere say nothing of a rare kind that loses all: with 20 prompts it may be
    14 % of all, with 200 it may be 1.5 %."""
    few, many = (compare_accuracy(gained(prompts), SETTINGS) for prompts in (20, 200))
    assert few.p < 0.001
    assert few.difference.low is not None
    assert few.difference.low > 0
    # All of it, but for what gains as small as those seen (0.14 whole ones by `wholeness`) make.
    sizes = [0.05, 0.07, 0.03, 0.06] * 5
    whole = (sum(size**2 for size in sizes) + 0.1) / (sum(sizes) + 0.1)
    assert few.undoing == pytest.approx((1 - whole**2) * (0.05 ** (-1 / 20) - 1))
    assert few.unseen == pytest.approx(0.137, abs=1e-3)
    verdict = judge(few, 0.95)
    assert verdict.outcome == "no difference shown"
    assert (
        "Test and interval alone would show one, but prompts of a kind that none of the 20 prompts "
        "shows may be up to 13.9 % of all: if the tuned model failed on those that the base one "
        "gets right, they could undo it."
    ) in verdict.sentence
    assert judge(many, 0.95).outcome == "better"
    # It would be shown of a difference that is larger by as much.
    assert few.smallest_detectable is not None
    assert few.smallest_detectable > few.undoing


def test_a_graded_loss_could_be_undone_too() -> None:
    few, many = (compare_accuracy(gained(prompts, back=True), SETTINGS) for prompts in (20, 200))
    assert "if the base model failed on those that the tuned one" in judge(few, 0.95).sentence
    assert judge(many, 0.95).outcome == "worse"


def test_a_ranking_shows_no_difference_that_could_be_undone() -> None:
    for prompts, shown in ((20, False), (200, True)):
        found = [replace(pair, others={"third": pair.base}) for pair in gained(prompts)]
        ranking = rank_contenders(found, SETTINGS)
        assert ranking is not None
        (test,) = [t for t in ranking.tests if {t.first, t.second} == {"base", "tuned"}]
        assert test.adjusted_p < 0.001
        assert test.shown == shown
        assert test.why_not == ("" if shown else "22.3 points could be undone by kinds not seen")


def test_right_or_wrong_counts_with_what_was_not_seen_by_itself() -> None:
    """But not where prompts share sources that gain a little each: one may lose all."""
    assert compare_accuracy(pairs(4, 4, 30, 2), SETTINGS).undoing == 0.0
    # Sources that win or lose as a whole are like prompts that do.
    whole = compare_accuracy(pairs(8, 0, 40, 40, per_source=4), SETTINGS)
    assert whole.clusters == 22
    assert whole.undoing == 0.0
    sources = Bootstrap(np.repeat(np.arange(22), 4))
    little = np.tile([1.0, 0.0, 0.0, 0.0], 22)  # of each source a quarter
    for comparisons in (1, 3):  # each of several comparisons may have kinds of its own
        found = compare_scores(little, np.zeros(88), sources, comparisons)
        odds = (0.05 / comparisons) ** (-1 / 22) - 1
        seen = (22 / 16 + 0.1) / (22 / 4 + 0.1)
        assert found.undoing == pytest.approx((1 - seen**2) * odds)


WHOLE = [(20, 8, 0), (30, 9, 1), (50, 12, 2), (100, 18, 4)]


def some_won(prompts: int, won: int, lost: int) -> tuple[FloatArray, FloatArray]:
    """Tuned and base scores, right or wrong; the last prompts are wrong for both."""
    tuned, base = np.zeros(prompts), np.zeros(prompts)
    tuned[:won] = 1.0
    base[won : won + lost] = 1.0
    return tuned, base


def near(one: AccuracyComparison, other: AccuracyComparison, within: float) -> None:
    """Both better, with ends and smallest detectable difference as good as the same."""
    for found in (one, other):
        assert decide(found, found.p, 0.95) == "better"
    assert one.smallest_detectable == pytest.approx(other.smallest_detectable, abs=within)
    assert one.difference.low == pytest.approx(other.difference.low, abs=within)
    assert one.difference.high == pytest.approx(other.difference.high, abs=within)


@pytest.mark.parametrize(("prompts", "won", "lost"), WHOLE)
@pytest.mark.parametrize(("place", "score"), [(-1, 0.01), (0, 0.99)])
def test_one_part_of_a_point_changes_nothing(
    prompts: int, won: int, lost: int, place: int, score: float
) -> None:
    tuned, base = some_won(prompts, won, lost)
    alone = Bootstrap(np.arange(prompts))
    whole = compare_scores(tuned, base, alone)
    tuned[place] = score
    near(compare_scores(tuned, base, alone), whole, 0.003)


@pytest.mark.parametrize(("prompts", "won", "lost"), WHOLE)
def test_one_shared_source_changes_little(prompts: int, won: int, lost: int) -> None:
    tuned, base = some_won(prompts, won, lost)
    shared = np.arange(prompts)
    shared[-1] -= 1
    one = compare_scores(tuned, base, Bootstrap(shared))
    near(one, compare_scores(tuned, base, Bootstrap(np.arange(prompts))), 0.03)


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3, 1.0])
def test_a_better_data_set_gets_no_worse_verdict(step: float) -> None:
    generator = np.random.default_rng(6)
    for _ in range(25):
        count = int(generator.integers(10, 60))
        base = np.where(generator.random(count) < 0.4, 1.0, 0.0)
        tuned = np.where(generator.random(count) < 0.4, 1.0, base)
        alone = Bootstrap(np.arange(count))
        found = compare_scores(tuned, base, alone)
        raised = tuned.copy()
        raised[np.flatnonzero(tuned < 1)[-1:]] = step
        higher = compare_scores(raised, base, alone)
        if decide(found, found.p, 0.95) == "better":
            assert decide(higher, higher.p, 0.95) == "better"


def test_small_groups_are_left_out_of_the_gap_and_named() -> None:
    asked = [part for name in "abcd" for part in pairs(10, 10, 15, 15, group=name)]
    rare = pairs(0, 1, 0, 0, group="rare")
    gap = compare_gap([*asked, *rare], SETTINGS)
    assert gap is not None
    assert gap.left_out == ["rare"]
    assert gap.worst_tuned != "rare"
    assert gap.tuned == pytest.approx(0.0)
    assert "Left out, with fewer than 10 prompts: rare." in gap_said(gap)
    assert compare_gap([*pairs(10, 10, 15, 15, group="a"), *rare], SETTINGS) is None
