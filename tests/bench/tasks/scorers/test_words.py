"""Texts normalised and compared, in every script."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import contains, exact, make_scorer, normalise
from tuneserve.bench.tasks.scorers.marks import ScorerError
from tuneserve.bench.tasks.scorers.texts import fold
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert fold(fold(text)) == fold(text)


@given(
    st.text(), st.sampled_from(["{}.", "「{}」", "**{}**", "“{}”", "- {}", "¿{}?", "{}。", "# {}"])
)
def test_punctuation_around_changes_nothing(text: str, around: str) -> None:
    word = "".join(char for char in text if char.isalpha()) + "x"
    assert exact(around.format(word), word)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Positive.", "positive", True),
        ("  **Positive**\n", "positive", True),
        ("ｐｏｓｉｔｉｖｅ", "positive", True),
        ("not positive", "positive", False),
        ("", "positive", False),
        ("New   York", "new york", True),
        ("", "[]", False),
        ("...", "{}", False),
        ("{ }", "{}", False),
        ("[]", "[]", True),
        (".5", "5", False),
        ("-5", "5", False),
        ("−5", "-5", True),
        ("(.5).", ".5", True),
        ("巴黎。", "巴黎", True),
        ("正面。", "正面", True),
        ("「正面」", "正面", True),
        ("《红楼梦》", "红楼梦", True),
        ("إيجابي؟", "إيجابي", True),
        ("सकारात्मक।", "सकारात्मक", True),
        ("¿sí?", "sí", True),
        ("„gut“", "gut", True),
        ("« oui »", "oui", True),
        ("- yes", "yes", True),
        ("– yes", "yes", True),
        ("• yes", "yes", True),
        ("—Yes", "yes", True),
        ("-- yes", "yes", True),
        ("--yes", "yes", False),
        ("It’s fine", "It's fine", True),
        ("well‑known", "well-known", True),
        ("\ufeffyes", "yes", True),
        ("y\u200bes", "yes", True),
        ("y\u00ades", "yes", True),
        ("\u200fنعم\u200f", "نعم", True),
        ("٤٢", "42", True),
        ("10²", "102", False),
        ("10²", "10^2", True),
        ("1½", "11/2", False),
        ("1½", "1 1/2", True),
        ("H₂O", "H2O", True), ("25 m²", "25 m2", True), ("①", "1", True),
        ("STRASSE", "Straße", True),
        ("İstanbul", "istanbul", True),
        ("ΣΟΦΟΣ", "σοφός".replace("ό", "ο"), True),
        ("HAYIR", "hayır", True), ("hayır", "HAYIR", True), ("ΟΧΙ", "όχι", True),
        ("ΌΧΙ", "όχι", True), ("ΘΕΤΙΚΟ", "θετικό", True), ("ΠΡΟΪΟΝ", "προϊόν", True),
        ("cafe\u0301", "café", True),
        ("cafe", "café", False),
        ("C#", "C", False),
        ("C++", "C", False),
        ("50%", "50", False),
        ("Да!", "да", True),
        ("はい。", "はい", True),
        ("네.", "네", True),
        ("ถูก", "ผิด", False),
    ],
)  # fmt: skip
def test_exact(answer: str, reference: str, right: bool) -> None:
    assert exact(answer, reference) == right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The answer is Paris.", "paris", True),
        ("Parisian", "paris", False),
        ("C++ is it", "C++", True),
        ("anything", "", False),
        ("...", "{}", False),
        ("It is {}.", "{}", True),
        ("法国的首都是巴黎。", "巴黎", True),
        ("答案是北京。", "北京", True),
        ("正解は東京です。", "東京", True),
        ("수도는 서울입니다.", "서울", True),
        ("คำตอบคือกรุงเทพครับ", "กรุงเทพ", True),
        ("ຄໍາຕອບແມ່ນວຽງຈັນ", "ວຽງຈັນ", True),
        ("ចម្លើយគឺភ្នំពេញ។", "ភ្នំពេញ", True),
        ("我用Python写的", "python", True),
        ("Столица — Москва.", "москва", True),
        ("Москваречье", "Москва", False),
        ("नई दिल्ली भारत की राजधानी है", "दिल्ली", True),
        ("हिन्दी", "हिन", False),
        ("العاصمة هي باريس.", "باريس", True),
        ("It’s Bob’s", "bob's", True),
        ("there are 10² of them", "102", False),
        ("room 1025", "102", False),
        ("It is 3.14", "3", False),
        ("It is 3,14", "3", False),
        ("3,000 of them", "3", False),
        ("3,000 of them", "3,000", True),
        ("1,000,000 people", "000", False),
        ("It is -5", "5", False),
        ("It is -5.", "-5", True),
        ("-5.5", "-5", False),
        ("it is .5", "5", False),
        ("there are 10^2", "10", False),
        ("pages 3-5", "5", True),
        ("- 5", "5", True),
        ("50% of it", "50", True),
        ("on 03.05.2020", "2020", True),
        ("1,2,3", "2", True),
        ("version 1.2.3", "2", True),
        ("共5个", "5", True),
        ("the iPhone 5.", "iPhone 5", True),
        ("the iPhone 5.5", "iPhone 5", False),
        ("C++ is it", "C", False),
        ("grade A+", "A", False),
        ("A+B", "A", True),
    ],
)  # fmt: skip
def test_contains(answer: str, reference: str, right: bool) -> None:
    assert contains(answer, reference) == right


@pytest.mark.parametrize("text", ["-" * 40_000, "# " * 20_000, "1," * 20_000, "3.3 " * 10_000])
def test_long_answers_take_no_long_time(text: str) -> None:
    started = time.perf_counter()
    contains(text, "positive")
    contains(text, "3")
    assert time.perf_counter() - started < 5


def test_form_is_told_from_content() -> None:
    scorer = make_scorer(BenchSettings(task="exact"), [])
    mark = scorer.mark("The capital is Paris.", "Paris")
    assert (mark.score, mark.strict, mark.lenient) == (0.0, 0.0, 1.0)
    mark = make_scorer(BenchSettings(task="contains"), []).mark("The capital is Paris.", "Paris")
    assert (mark.score, mark.strict, mark.lenient) == (1.0, 0.0, 1.0)


def test_a_prompt_may_have_several_references() -> None:
    scorer = make_scorer(BenchSettings(task="contains", separator="|"), [])
    reference = "Paris | City of Paris"
    assert scorer("It is the city of Paris", reference) == 1.0
    assert scorer("London", reference) == 0.0
    assert scorer.problem(" | ")
    numbers = make_scorer(BenchSettings(task="number", separator=" or "), [])
    assert numbers("about 12", "11 or 12") == 1.0
    assert numbers.problem("11 or twelve")


def test_a_pattern_captures_the_answer() -> None:
    scorer = make_scorer(BenchSettings(task="regex", pattern=r"Answer: *(\w+)"), [])
    assert scorer("Answer: B. No: Answer: C", "So, Answer: c") == 1.0
    assert scorer("Answer: B", "B") == 1.0
    assert scorer("it is B", "Answer: B") == 0.0
    assert scorer.mark("it is B", "B").found == "none"
    assert scorer.mark("Answer: B, Answer: C", "C").found == "several"
    with pytest.raises(UsageError, match="needs a pattern"):
        make_scorer(BenchSettings(task="regex"), [])
    with pytest.raises(UsageError, match="not a regular expression"):
        make_scorer(BenchSettings(task="regex", pattern="("), [])


def test_a_pattern_that_takes_too_long_costs_one_answer() -> None:
    settings = BenchSettings(task="regex", pattern="(a+)+$", scorer_seconds=0.3)
    scorer = make_scorer(settings, [])
    started = time.perf_counter()
    with pytest.raises(
        ScorerError, match=r"the pattern '\(a\+\)\+\$' took longer than 0\.3 s"
    ) as caught:
        scorer("a" * 40 + "b", "aa")
    assert time.perf_counter() - started < 5
    assert caught.value.problems == [f"answer: '{'a' * 40}b'", "reference: 'aa'"]
    assert scorer("baa", "aa") == 1.0


def test_a_pattern_that_takes_too_long_on_the_references_ends_it_before_anything_is_asked() -> None:
    settings = BenchSettings(task="regex", pattern="(a+)+$", scorer_seconds=0.3)
    examples = [Example.of_turn("q1", "?", "a" * 40 + "b")]
    with pytest.raises(UsageError, match="took longer than") as caught:
        held_out_task("words", examples, settings)
    assert caught.value.where == "bench.pattern"


def test_what_a_pattern_captures_is_what_re_captures() -> None:
    text = "ü\n\r\u2028\0\ud800 x=1 X=2"
    assert make_scorer(BenchSettings(task="regex", pattern="(?s).*"), []).mark(text, text).score
    scorer = make_scorer(BenchSettings(task="regex", pattern=r"(?i)x=(\d)"), [])
    assert scorer(text, "2") == 1.0
    assert scorer(text, "1") == 0.0
    empty = make_scorer(BenchSettings(task="regex", pattern="b(c)?"), [])
    assert empty.mark("bc b", "b").found == "several"
    every = make_scorer(BenchSettings(task="regex", pattern="(?=(.*))"), [])
    assert every("a" * 2_000, "") == 1.0
