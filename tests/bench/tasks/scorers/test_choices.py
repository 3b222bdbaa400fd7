"""The choice that an answer settles on, and sets of labels."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import first_choice, make_scorer
from tuneserve.bench.tasks.scorers.choices import settled_choice
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

WORDS = ["positive", "negative", "very positive"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("This is a hard one. The answer is (C).", "C"), ("A person would choose B", "B"),
        ("It is not B, so D", "D"), ("I'd say B", "B"), ("C", "C"), ("c", "C"), ("(C)", "C"),
        ("Options: A, B, C, D. I choose C", "C"), ("**B**", "B"), ("b) because", "B"),
        ("B) Paris", "B"), ("B. Paris is the capital", "B"),
        ("A) x\nB) y\nC) z\nD) w\n\nI choose C.", "C"), ("选B", "B"), ("答案是B。", "B"),
        ("The answer is c", "C"), ("A is correct", "A"), ("A.", "A"), ("Answer: **A**", "A"),
        (r"\boxed{D}", "D"), (r"\boxed{\text{D}}", "D"), ("I think it is A.", "A"),
        ("I would go with option A here", "A"), ("Das ist B", "B"), ("A hard one", None),
        ("Ａ", "A"), ("It isn't A, it's C", "C"), ("The answer is not B but D", "D"),
        ("Either A or B. Final answer: B", "B"), ("```\nB\n```", "B"), ("A: 5, B: 6\nB", "B"),
        ("I choose (b).", "B"), ("B은 아니고 C입니다", "C"),
        ("A is correct. B, C and D are wrong.", "A"), ("A: no. B: no. C: yes. D: no.", "C"),
        ("A) no\nB) yes\nC) no", "B"), ("A – wrong, B – right", "B"), ("not A or B", None),
        ("Not A, B or C but D", "D"), ("A, B is wrong", "A"), ("B cannot be right, so C", "C"),
        ("The correct option is b.", "B"), ("C is right; A and B aren't", "C"),
        ("It's C because A is wrong", "C"), ("C because A lacks it", "C"), ("D, not A", "D"),
        ("A, B and D are wrong, so C.", "C"), ("A, C and D are wrong, so B is right", "B"),
        ("B, C, and D are wrong.", None), ("It must be C as A, B and D all fail.", "C"),
        ("C选项正确，A选项错误。", "C"), ("应该选C，因为A太小。", "C"),
        ("The answer is B since C and D overlap.", "B"), ("Because A is too small, C.", "C"),
        ("B's best", None), ("C++", None), ("vitamin-D", None), ("", None), ("I do not know", None),
    ],
)  # fmt: skip
def test_letters_are_told_from_words(answer: str, letter: str | None) -> None:
    found = first_choice(answer, ["A", "B", "C", "D"])
    assert found == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Cevap B'dir.", "B"), ("Doğru cevap B’dir.", "B"), ("B'yi seçiyorum", "B"), ("A'dır", "A"),
        ("B'nin doğru olduğunu düşünüyorum", "B"), ("A'yı değil B'yi seçerim", "B"),
        ("Yanıt: C", "C"), ("Bence cevap C'dir.", "C"), ("B'yi eliyorum", None),
        ("A B-t választom", "B"), ("A-t-il raison ?", None), ("D'une part", None),
    ],
)  # fmt: skip
def test_a_letter_may_have_an_ending(answer: str, letter: str | None) -> None:
    assert settled_choice(answer, list("ABCD")) == (letter, "one" if letter else "none")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("คำตอบที่ถูกต้องคือ ค", "ค"), ("ข้อ ค ถูกต้อง", "ค"), ("เลือกข้อ ง", "ง"), ("ตอบ ก", "ก"),
        ("ค. กรุงเทพ", "ค"), ("คำตอบที่ถูกคือข้อ ก", "ก"), ("ข้อที่ถูกต้องคือ ข", "ข"),
        ("คำตอบคือข้อค", "ค"),
        ("ก เป็นคำตอบที่ถูกต้อง", "ก"), ("คำตอบไม่ใช่ ก แต่เป็น ข", "ข"),
        ("ตัวเลือกที่ถูกต้องคือ ง ครับ", "ง"),
    ],
)  # fmt: skip
def test_a_letter_within_a_word_without_spaces_is_no_choice(answer: str, letter: str) -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=tuple("กขคง")), [])
    assert [one for one in "กขคง" if scorer(answer, one)] == [letter]
    assert scorer.mark(answer, letter).found == "one"


@pytest.mark.parametrize(
    ("answer", "choices", "choice"),
    [
        ("It is positive, not negative.", WORDS, "positive"), ("NEGATIVE", WORDS, "negative"),
        ("very positive indeed", WORDS, "very positive"), ("positively", WORDS, None),
        ("", WORDS, None), ("It is not positive. Negative.", WORDS, "negative"),
        ("not spam", ["spam", "not spam"], "not spam"), ("non-toxic", ["toxic", "safe"], None),
        ("I'd say B", ["B", "I", "D"], "B"), ("Yes, that is so; no doubt.", ["yes", "no"], "yes"),
        ("这是正面的", ["正面", "负面"], "正面"), ("不是正面，是负面", ["正面", "负面"], "负面"),
        ("正解は東京です。", ["東京", "京都"], "東京"),
        ("東京ではなく京都です", ["東京", "京都"], "京都"),
        ("정답은 서울입니다", ["서울", "부산"], "서울"),
        ("यह सकारात्मक है।", ["सकारात्मक", "नकारात्मक"], "सकारात्मक"),
        ("คำตอบคือกรุงเทพครับ", ["กรุงเทพ", "เชียงใหม่"], "กรุงเทพ"),
        ("هذا إيجابي.", ["إيجابي", "سلبي"], "إيجابي"),
        ("Правильный ответ: В", list("АБВГ"), "В"), ("В этом случае Б", list("АБВГ"), "Б"),
        ("我选乙。", list("甲乙丙丁"), "乙"), ("3", ["1", "2", "3"], "3"),
        ("The answer is 2, since 1 is wrong", ["1", "2", "3"], "2"),
        ("There is no contradiction; entailment.", ["entailment", "contradiction"], "entailment"),
        ("Rating: 4 out of 5", list("12345"), "4"), ("4/5", list("12345"), "4"),
        ("positive: no, negative: yes", WORDS, "negative"),
        ("No doubt it is positive", WORDS, "positive"),
        ("ポジティブとは言えない。ネガティブ", ["ポジティブ", "ネガティブ"], "ネガティブ"),
        ("京都であることは間違いない", ["東京", "京都"], "京都"),
        ("3.5", list("12345"), None),
        ("It is 3.5", list("12345"), None), ("-3", list("12345"), None),
        ("New York City", ["new york", "los angeles"], "new york"),
    ],
)  # fmt: skip
def test_choices_of_words(answer: str, choices: list[str], choice: str | None) -> None:
    assert first_choice(answer, choices) == choice


@pytest.mark.parametrize(
    ("answer", "choice", "found"),
    [
        ("I would not call this negative; it is positive", "positive", "several"),
        ("Not at all positive; it is negative", "negative", "several"),
        ("It is hardly positive: negative", "negative", "several"),
        ("I wouldn't say positive, negative", "negative", "several"),
        ("less positive than negative", None, "none"),
        ("It is not what people call positive", None, "none"),
    ],
)
def test_what_a_negation_leaves_open_is_counted(
    answer: str, choice: str | None, found: str
) -> None:
    assert settled_choice(answer, WORDS) == (choice, found)


@pytest.mark.parametrize(
    ("answer", "choice", "found"),
    [
        ("C? no", None, "none"), ("C? No, D", "D", "one"), ("Answer: A? No, B", "B", "one"),
        ("Answer: A? No. Answer: B", "B", "one"), ("Both A and C", "C", "several"),
        ("The answer is A or B", "A", "several"), ("Answer: anything but A", None, "none"),
        (r"\boxed{A \text{ or } B}", "A", "several"), ("A. Wait, actually B", "B", "one"),
        ("Answer: A. Wait, actually B", "B", "one"), ("Answer: A. No, B.", "B", "one"),
        ("A — scratch that, B", "B", "one"), ("B. Actually, A is wrong", "B", "one"),
        ("A? Wait, no, B. So the answer is A.", "A", "one"), ("Answer: A?", "A", "one"),
        ("B. Actually, a hard one", "B", "one"), ("C? Yes.", "C", "one"),
        ("The answer is A, not B", "A", "one"), ("Answer: A. B and C are wrong.", "A", "one"),
    ],
)  # fmt: skip
def test_what_is_taken_back_or_open_is_not_settled(
    answer: str, choice: str | None, found: str
) -> None:
    assert settled_choice(answer, list("ABCD")) == (choice, found)


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("A. Wait, B", "B"), ("A – no, B", "B"), ("Not A but B", "B"), ("A. Wait, B. No, C.", "C"),
        ("A. Paris. Wait, B. Rome", "B"), ("A or B. Wait, B", "B"), ("A. No, no, A.", "A"),
        ("A. Wait, B, because A has no legs", "B"), ("A. Wait, not A. B", "B"),
        ("A. Wait, not B.", "A"), ("A: no, B: no, C: yes", "C"), ("A: yes, B: no, C: no", "A"),
        ("A) x\n\nHold on, the correct option should be C)", "C"), ("A, no doubt", "A"),
        ("A – nein, B", "B"), ("A. Moment, es ist B.", "B"), ("Nicht A, sondern B", "B"),
        ("A. En fait, c'est B", "B"), ("C plutôt que B", "C"), ("A – no, espera, B", "B"),
        ("No A sino B", "B"), ("A. Anzi, B", "B"), ("A. Na verdade, é B.", "B"),
        ("A. Точнее, B", "B"), ("A。不对，应该是B", "B"), ("A。等等，是B。", "B"),
        ("A。不，B", "B"), ("不是A，而是B", "B"), ("A。いや、Bです。", "B"), ("AではなくB", "B"),
        ("A. 아니, B", "B"), ("A. 잠깐, B입니다", "B"), ("A 아니고 B", "B"),
        ("A. لا، B", "B"), ("A. नहीं, B", "B"),
    ],
)  # fmt: skip
def test_the_choice_that_an_answer_decides_on_last_is_its_answer(answer: str, choice: str) -> None:
    assert settled_choice(answer, list("ABCD")) == (choice, "one")


@pytest.mark.parametrize(
    "answer",
    [
        "A. Wait, maybe B", "A. Wait, B?", "A. Actually, B could be right too",
        "A. Actually, B is a mammal", "A. Wait, both A and B", "A. Wait, B or C",
        "A. Actually, it is better than B.", "A. Moment, vielleicht B", "A. Attends, peut-être B",
        "A。等等，可能是B", "A. Стоп, может быть B", "A or B", "A oder B", "A ou B", "A o B",
        "A e B", "A или B", "A或B", "AまたはB", "A. Wait, also B.", "A. Wait, B as well.",
        "A. Actually, it's a good B.", "The answer is A. No, vitamin B.",
    ],
)  # fmt: skip
def test_an_answer_that_leaves_open_what_it_takes_back_is_right_for_none(answer: str) -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=tuple("ABCD")), [])
    marks = [scorer.mark(answer, letter) for letter in "ABCD"]
    assert [mark.score for mark in marks] == [0, 0, 0, 0]
    assert marks[0].found == "several"
    assert marks[0].lenient == 1.0


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("Yes. No, wait, no.", "no"), ("No, actually yes", "yes"), ("No, no, no.", "no"),
        ("Yes, no doubt", "yes"), ("No. Wait, yes.", "yes"),
    ],
)  # fmt: skip
def test_a_choice_that_is_a_word_of_correction_takes_nothing_back(answer: str, choice: str) -> None:
    assert settled_choice(answer, ["yes", "no"]) == (choice, "one")


@pytest.mark.parametrize(
    ("answer", "choice", "found"),
    [
        ("positive – no, negative", "negative", "one"),
        ("positive. Actually, the film is negative about war.", "positive", "several"),
        ("nicht positive, sondern negative", "negative", "one"),
        ("anything but positive", None, "none"), ("It is far from positive", None, "none"),
        ("nothing but positive", "positive", "one"), ("all except positive", None, "none"),
        ("positive? no, negative", "negative", "one"), ("Positive, actually.", "positive", "one"),
        ("Answer: positive. Sorry, negative.", "negative", "one"),
        ("The answer is positive or negative", "positive", "several"),
    ],
)  # fmt: skip
def test_words_that_are_denied_or_open_are_not_settled(
    answer: str, choice: str | None, found: str
) -> None:
    assert settled_choice(answer, WORDS) == (choice, found)


@pytest.mark.parametrize(
    "text",
    [
        "answer is ",
        "\n",
        "-",
        "A, ",
        "B: no. ",
        "not positive, ",
        "A? no ",
        "A wait B ",
        "A wait not B ",
        "A. no, ",
        "A or ",
        "A\nQ: ",
        "although A ",
        "A, although B ",
        "overall positive, although negative ",
        "all but A are wrong ",
        "less likely than A ",
        "A、",
        "A: ",
        "so not positive, ",
        "positive, also negative ",
        "positive or negative? ",
        "since positive, not negative. ",
        "A) x - correct ",
    ],
)
def test_long_answers_take_no_long_time(text: str) -> None:
    answer = text * (20_000 // len(text))
    started = time.perf_counter()
    first_choice(answer, list("ABCD"))
    first_choice(answer, WORDS)
    assert time.perf_counter() - started < 5


@given(st.text(), st.sampled_from(["ABCD", "АБВГ", "甲乙丙丁", "1234"]))
def test_any_answer_settles_on_one_of_the_choices_or_none(text: str, letters: str) -> None:
    named, found = settled_choice(text, list(letters))
    assert (named is None) == (found == "none")
    assert named is None or named in letters


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(
        [
            "{}",
            "({})",
            "**{}**",
            "{}.",
            "Answer: {}",
            "The answer is {}.",
            r"\boxed{{{}}}",
            "答案：{}",
            "I choose {}",
            "「{}」",
            "{})",
        ]
    ),
)
def test_every_dress_of_a_letter_is_seen_through(letter: str, dress: str) -> None:
    assert first_choice(dress.format(letter), list("ABCD")) == letter


def test_what_was_found_and_in_what_form() -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=("yes", "no")), [])
    assert scorer.mark("Yes.", "yes").strict == 1.0
    wordy = scorer.mark("I would say yes to that.", "yes")
    assert (wordy.score, wordy.strict, wordy.found) == (1.0, 0.0, "one")
    both = scorer.mark("Maybe yes, maybe no.", "no")
    assert (both.score, both.lenient, both.found) == (0.0, 1.0, "several")
    assert scorer.mark("Perhaps.", "no").found == "none"
    assert settled_choice("A or B", ["A", "B", "C"])[1] == "several"


@pytest.mark.parametrize(
    ("answer", "choices", "right"),
    [
        ("Answer: A or B", "ABCD", []), ("A or B", "ABCD", []), ("A, B", "ABCD", []),
        ("Answer: A, B or C", "ABCD", []), (r"\boxed{A, C}", "ABCD", []), ("A and B", "ABCD", []),
        ("I can't choose: A or B.", "ABCD", []), ("Both A and C", "ABCD", []),
        ("Either A or B. Final answer: B", "ABCD", ["B"]), ("A, as B and C lack it", "ABCD", ["A"]),
        ("A or B? I take B", "ABCD", ["B"]), ("Answer: A, not B or C", "ABCD", ["A"]),
        ("A or A", "ABCD", ["A"]), ("yes/no", ("yes", "no"), []), ("yes or no", ("yes", "no"), []),
        ("A B C D", "ABCD", []), ("A\nB\nC", "ABCD", []), ("- A\n- B", "ABCD", []),
        ("A | B", "ABCD", []), ("yes no", ("yes", "no"), []), ("A\nA", "ABCD", ["A"]),
        ("The answer is yes or no.", ("yes", "no"), []), ("yes, yes", ("yes", "no"), ["yes"]),
    ],
)  # fmt: skip
def test_an_answer_that_names_several_choices_is_right_for_none(
    answer: str, choices: Sequence[str], right: list[str]
) -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=tuple(choices)), [])
    assert [choice for choice in choices if scorer(answer, choice)] == right
    assert any(scorer.mark(answer, choice).lenient for choice in choices)


def test_several_of_the_accepted_choices_are_right() -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=("A", "B", "C"), separator="|"), [])
    assert [scorer(text, "A|B") for text in ("A", "A or B", "A or C", "C")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("There is no doubt: yes", "yes"), ("No doubt about it, yes", "yes"),
        ("There is no reason against it: yes, it is", "yes"), ("No question: no.", "no"),
        ("Yes: there is no other way", "yes"), ("No, for one reason: yes-men", "no"),
        ("Is there no other way? The verdict: Yes.", "yes"), ("没有 no：yes。", "yes"),
        ("yes\n\nQuestion: Is it red?\nAnswer: no", "yes"),
        ("Answer: yes\n\nQ: Is it red?\nAnswer: no", "yes"),
        ("Question: Is it blue?\nAnswer: no", "no"),
    ],
)  # fmt: skip
def test_yes_and_no_are_told_from_words(answer: str, choice: str) -> None:
    assert first_choice(answer, ["yes", "no"]) == choice


@pytest.mark.parametrize(
    "said",
    ["B", "B.", "(B)", "The answer is B.", "I choose B.", "B is right.", "It's B.", "I'd say B",
     "My answer: B", "Option B", "Answer B", "B because it fits", "B) Paris", "So B.",
     "Therefore, B is correct.", "I think it is B"],
)  # fmt: skip
def test_a_question_that_a_model_asks_itself_ends_its_answer(said: str) -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=tuple("ABCD")), [])
    for question in ("\n\nQuestion: Which?\nA) sky B) sea\nAnswer: C", "\nQ: Which?\nA: C",
                     "\n\nFrage: Welche?\nAntwort: C", "\n\n### Question\nWhich? C"):  # fmt: skip
        assert scorer(f"{said}{question}", "B") == 1.0
        assert scorer.mark(f"{said}{question}", "C").lenient == 0.0


@pytest.mark.parametrize(
    "text",
    ["A가 아닙니다", "A는 정답이 아닙니다", "A가 아니에요", "A 아님", "정답은 A가 아닙니다",
     "Nem A", "Ei A",
     "όχι A", "δεν είναι A", "Η απάντηση δεν είναι A", "Không phải A", "Đáp án không phải là A",
     "Bukan A", "Jawabannya bukan A", "Nie A", "Inte A", "A değil", "Cevap A değil", "Nu A", "Ne A",
     "Ni A ni C", "Né A né C", "ليس A", "คำตอบไม่ใช่ A", "答えはAではありません",
     "Vastaus ei ole A",
     "A válasz nem A", "A is the wrong answer", "A is ruled out", "A can be excluded",
     "I doubt it's A", "I doubt that it is A", "The answer is unlikely to be A", "A is unlikely",
     "I don't think the answer is A", "A would be a mistake", "A does not fit", "A ist falsch",
     "A est faux", "A неверно"],
)  # fmt: skip
def test_a_letter_that_is_denied_in_any_language_is_not_chosen(text: str) -> None:
    assert settled_choice(text, list("ABCD")) == (None, "none")


@pytest.mark.parametrize(
    "text",
    ["정답은 A가 아닙니다. B입니다.", "A가 아니라 B", "답은 B예요, A가 아닙니다",
     "Không phải A mà là B",
     "Đáp án là B, không phải A", "Bukan A, tapi B", "Jawabannya B, bukan A", "Όχι A, αλλά B",
     "Η απάντηση είναι B, όχι A", "Nie A, lecz B", "Odpowiedź B, nie A", "Inte A utan B",
     "Cevap A değil B", "Ei A vaan B", "Nem A, hanem B", "Nu A, ci B", "Ne A, nego B", "ليس A بل B",
     "A नहीं, B", "I doubt that A is correct; B", "A is ruled out, so B", "A ist falsch, B stimmt",
     "There is no doubt it's B", "B는 틀림없다"],
)  # fmt: skip
def test_the_letter_that_is_left_is_chosen(text: str) -> None:
    assert first_choice(text, list("ABCD")) == "B"


@pytest.mark.parametrize(
    "text",
    ["A is less likely", "A is less plausible.", "I think A is less likely.", "I ruled out A.",
     "We can eliminate A", "I'd reject A", "avoid A", "A is the worst choice", "A is a trap",
     "A is a distractor", "A? I don't think so", "A? Probably not.", "Discard A.", "A is rejected",
     "Let's rule A out.", "A has been eliminated", "A is the least likely", "I would exclude A",
     "A seems much less plausible", "I'd rule out option A.",
     "Ich schließe A aus.", "A kann man ausschließen", "A fällt weg", "A ist unwahrscheinlich",
     "A ist weniger wahrscheinlich", "J'élimine A.", "On peut exclure A", "A est moins probable.",
     "A est à exclure", "Descarto A.", "Podemos descartar A", "A es menos probable",
     "A queda descartada", "Podemos excluir A", "A é menos provável", "A é improvável", "Escludo A",
     "A è meno probabile", "A è da escludere", "Исключаем A", "A менее вероятно", "A отпадает",
     "A маловероятно", "排除A", "A可以排除", "A不太可能", "A的可能性较小", "Aを除外する",
     "Aは可能性が低い", "A를 제외한다", "A는 가능성이 낮다", "Wykluczam A", "Vylučuji A",
     "A jest mniej prawdopodobne", "A je méně pravděpodobné", "Ik sluit A uit", "A valt af",
     "A is minder waarschijnlijk", "Vi kan utesluta A", "A är mindre troligt", "A elenir",
     "A daha az olası", "Loại bỏ A", "A ít có khả năng hơn", "Kesampingkan A", "A kurang mungkin",
     "ตัด A ออก", "نستبعد A", "A की संभावना कम है", "Αποκλείουμε το A", "Exclud A", "Kizárom A-t",
     "A este mai puțin probabil", "Виключаємо A", "A менш імовірно", "Suljen pois A"],
)  # fmt: skip
def test_a_letter_that_is_ruled_out_or_less_likely_is_not_chosen(text: str) -> None:
    assert settled_choice(text, list("ABCD")) == (None, "none")


@pytest.mark.parametrize(
    "text",
    ["C is less likely than B", "C is less plausible than B.", "C is worse than B",
     "I choose B over C", "B is more likely than C", "B beats C", "B fits better than A or C",
     "I can eliminate A, C, and D, leaving B.", "A, C, D are wrong, so B", "B can't be ruled out",
     "Having ruled out A, C and D, I choose B", "I chose B and rejected C", "C is a trap. B",
     "B is unlikely to be wrong", "By elimination B", "C is less likely than both B", "B, unlike C",
     "B is the least expensive", "C is less likely, so B.", "Kizárólag B a helyes",
     "C ist weniger wahrscheinlich als B", "C est moins probable que B",
     "C es menos probable que B",
     "C é menos provável do que B", "C è meno probabile di B", "C менее вероятно, чем B",
     "C is minder waarschijnlijk dan B", "C är mindre troligt än B", "B passt besser als C",
     "B est plus probable que C", "B es mejor que C", "B é mais provável que C",
     "B è più probabile di C", "B лучше, чем C", "B är mer troligt än C", "CよりもBの方が適切",
     "C보다 B가 더 적절하다", "排除A、C、D，选B", "A、C、Dを除外して、B",
     "B is right. C is a trap.", "本题选B，A、C、D均错误", "A、C、D都错，选B",
     "A、C、Dはすべて誤り。B",
     "I prefer B to C", "A, C und D sind falsch, B", "All but B are wrong",
     "Alle außer B sind falsch",
     "Every option except B is incorrect.", "Toutes sauf B sont fausses",
     "Todas menos B son incorrectas", "Todas exceto B são incorretas", "除了B都错", "除B外都不对",
     "Tutte tranne B sono sbagliate", "Все, кроме B, неверны", "Alle behalve B zijn fout",
     "Alla utom B är fel", "Wszystkie oprócz B są błędne", "B以外は間違い",
     "B를 제외하고 모두 틀렸다",
     "B不可能是错的", "A, C, D를 제외하면 B입니다", "Ich schließe A und C aus, also B."],
)  # fmt: skip
def test_the_letter_that_is_preferred_is_chosen(text: str) -> None:
    scorer = make_scorer(BenchSettings(task="choice", choices=tuple("ABCD")), [])
    assert [letter for letter in "ABCD" if scorer(text, letter)] == ["B"]


def test_what_cant_be_ruled_out_is_not_ruled_out() -> None:
    assert settled_choice("I can't rule out C but choose B", list("ABCD")) == ("B", "several")
    assert settled_choice("We cannot eliminate A", list("ABCD")) == (None, "none")


@pytest.mark.parametrize(
    ("text", "choices", "choice"),
    [
        ("olumlu değil", ["olumlu", "olumsuz"], None), ("긍정이 아닙니다", ["긍정", "부정"], None),
        ("olumlu değil, olumsuz", ["olumlu", "olumsuz"], "olumsuz"),
        ("긍정이 아닙니다. 부정입니다.", ["긍정", "부정"], "부정"),
        ("긍정적입니다", ["긍정", "부정"], "긍정"),
        ("부정적이지 않다, 긍정", ["긍정", "부정"], "긍정"),
        ("δεν είναι θετικό", ["θετικό", "x"], None),
        ("Όχι θετικό αλλά αρνητικό", ["θετικό", "αρνητικό"], "αρνητικό"),
        ("positive is ruled out, negative", WORDS, "negative"),
        ("肯定的ではありません。否定的です。", ["肯定的", "否定的"], "否定的"),
        ("nie", ["tak", "nie"], "nie"),
        ("Nie, tak nie jest.", ["tak", "nie"], "nie"), ("Nem.", ["igen", "nem"], "nem"),
        ("Ei, se ei ole totta", ["kyllä", "ei"], "ei"), ("아니요", ["예", "아니요"], "아니요"),
        ("Không.", ["Có", "Không"], "Không"), ("不是", ["是", "不是"], "不是"),
        ("Hayır", ["evet", "hayır"], "hayır"),
    ],
)  # fmt: skip
def test_a_word_that_is_denied_in_any_language_is_not_chosen(
    text: str, choices: list[str], choice: str | None
) -> None:
    assert first_choice(text, choices) == choice


@pytest.mark.parametrize("label", ["Text", "Question", "Review"])
@pytest.mark.parametrize("said", ["positive", "It is positive.", "I'd call it positive."])
def test_so_does_an_example_that_follows(said: str, label: str) -> None:
    answer = f"{said}\n\n{label}: I hate it.\nSentiment: negative"
    assert settled_choice(answer, WORDS) == ("positive", "one")
    scorer = make_scorer(BenchSettings(task="labels"), WORDS)
    assert scorer(answer, "positive") == 1.0


@pytest.mark.parametrize(
    ("answer", "choices", "choice"),
    [
        ("HAYIR", ["evet", "hayır"], "hayır"), ("HAYIR, DEĞİL", ["evet", "hayır"], "hayır"),
        ("ΟΧΙ", ["ναι", "όχι"], "όχι"), ("Η ΑΠΑΝΤΗΣΗ ΕΙΝΑΙ ΟΧΙ", ["ναι", "όχι"], "όχι"),
        ("ΘΕΤΙΚΟ", ["θετικό", "αρνητικό"], "θετικό"), ("Όχι.", ["ναι", "όχι"], "όχι"),
        ("ΔΕΝ ΕΙΝΑΙ ΘΕΤΙΚΟ, ΑΡΝΗΤΙΚΟ", ["θετικό", "αρνητικό"], "αρνητικό"),
    ],
)  # fmt: skip
def test_capitals_hide_dots_and_accents(answer: str, choices: list[str], choice: str) -> None:
    assert first_choice(answer, choices) == choice


@pytest.mark.parametrize(
    "text",
    ["While the beginning is positive, overall the sentiment is negative.",
     "Although it starts positive, it is negative.",
     "It has positive moments, but all in all negative.",
     "Despite some positive words, the review is negative.", "Negative, though it starts positive.",
     "The tone is positive at first. Overall, the sentiment is negative.",
     "The start is positive but overall it is negative.", "More negative than positive",
     "Obwohl der Anfang positive ist, ist es negative", "Aunque empieza positive, es negative",
     "Bien que le début soit positive, l'avis est negative",
     "Embora positive no início, é negative",
     "Sebbene l'inizio sia positive, è negative", "Хотя начало positive, в целом negative",
     "虽然开头positive，但整体negative", "始まりはpositiveですが、negative",
     "positive지만, negative"],
)  # fmt: skip
def test_what_is_only_conceded_is_not_chosen(text: str) -> None:
    assert settled_choice(text, WORDS) == ("negative", "one")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("negative overall (positive about the food)", "negative"),
        ("Positive. Overall, nothing negative was said.", "positive"),
    ],
)
def test_what_stands_behind_a_sum_is_not_always_it(text: str, choice: str) -> None:
    assert settled_choice(text, WORDS)[0] == choice


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("The food was positive, but the service awful. Therefore, the sentiment is {0}.",
         "negative positive"),
        ("The food (positive) was good, the rest was not. So {0}.", "negative positive"),
        ("Some positive remarks, many complaints. In conclusion, {0}.", "negative positive"),
        ("There is no evidence against it. Therefore, {0}.", "yes no"),
        ("No player may leave, so {0}, it's forbidden.", "yes no"),
        ("Since there are no exceptions, {0}.", "yes no"),
        ("The account was charged twice, so this is a {0} issue.", "billing account"),
        ("The account was charged twice → {0}", "billing account"),
        ("Thus the account is at fault. So it is {0}, since the account was charged.",
         "billing account"),
        ("There is fear and anger, but mostly {0}.", "anger fear"),
        ("Positive or negative? {0}.", "negative positive"),
        ("Is it positive or negative? I'd say {0}.", "negative positive"),
        ("Das Essen war positiv. Daher ist die Stimmung {0}.", "negativ positiv"),
        ("Das Essen war positiv, alles andere schlecht, also {0}.", "negativ positiv"),
        ("Weder positiv noch negativ, also {0}.", "neutral positiv negativ"),
        ("La nourriture est positive. L'avis est donc {0}.", "négatif positive"),
        ("No está prohibido, así que {0}.", "sí no"),
        ("El texto no lo niega. Por lo tanto, {0}.", "sí no"),
        ("Il cibo è positivo, il resto pessimo, quindi {0}", "negativo positivo"),
        ("O texto não nega isso. Portanto, {0}.", "sim não"),
        ("Есть положительный момент. Следовательно, отзыв {0}.", "отрицательный положительный"),
        ("Tekst nie zaprzecza. Zatem {0}.", "tak nie"),
        ("食物是正面的。综上所述，情感为{0}。", "负面 正面"),
        ("有正面评价，但服务很差，所以是{0}。", "负面 正面"),
        ("料理はポジティブ。よって{0}。", "ネガティブ ポジティブ"),
        ("음식은 긍정적이지만 서비스는 나빴다. 따라서 {0}이다.", "부정 긍정"),
    ],
)  # fmt: skip
def test_what_an_answer_concludes_on_is_chosen(text: str, choices: str) -> None:
    named = choices.split()
    assert settled_choice(text.format(named[0]), named) == (named[0], "one")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Negative. The reviewer liked the food, so it has a positive side.", "negative"),
        ("Negative, also positive.", "negative"),
        ("So negative a text is seldom positive.", "negative"),
        ("The tone is positive. Therefore it is positive or negative.", "positive"),
        ("So, I would not call it negative.", None), ("Is it positive or negative?", "positive"),
        ("It is positive. Therefore I liked it, not a negative word.", "positive"),
    ],
)  # fmt: skip
def test_what_concludes_on_no_choice_changes_none(text: str, choice: str | None) -> None:
    assert settled_choice(text, WORDS)[0] == choice


@pytest.mark.parametrize(
    "text",
    [
        "A) Lyon – incorrect.\nB) Paris – correct.\nC) Nice – incorrect.",
        "A) Lyon ❌\nB) Paris ✅\nC) Nice ❌",
        "A) Lyon: no\nB) Paris: yes\nC) Nice: no",
        "A) Lyon (incorrect)\nB) Paris (correct)\nC) Nice (incorrect)",
        "A. Lyon is incorrect. B. Paris is correct. C. Nice is incorrect.", "A ✗ B ✓ C ✗",
        "- A: Lyon is no capital. Incorrect.\n- B: Paris. Correct.\n- C: Nice. Incorrect.",
        "**A) Lyon** - Incorrect, no.\n**B) Paris** - Correct.\n**C) Nice** - Incorrect.",
        "A) Lyon ist falsch.\nB) Paris ist richtig.\nC) Nizza ist falsch.",
        "A) Lyon : Faux\nB) Paris : Vrai\nC) Nice : Faux",
        "A) Lyon: incorrecto\nB) París: correcto\nC) Niza: incorrecto",
    ],
)  # fmt: skip
def test_the_option_that_is_judged_right_is_chosen(text: str) -> None:
    assert settled_choice(text, list("ABCD")) == ("B", "one")


def test_a_concession_without_another_choice_concedes_nothing() -> None:
    assert settled_choice("Although it is positive, it is short.", WORDS) == ("positive", "one")
    assert settled_choice("All but A are right", list("ABCD")) == (None, "none")


@pytest.mark.parametrize(
    "text",
    ["The text has nothing to do with politics; it is about sports.",
     "sports, unrelated to politics",
     "It is irrelevant to politics. sports", "free of politics: sports",
     "No mention of politics, sports",
     "Der Text hat nichts mit politics zu tun, sports", "rien à voir avec politics, sports",
     "nada que ver con politics, sports", "nada a ver com politics, sports",
     "与politics无关，sports",
     "niente a che fare con politics; sports", "не имеет отношения к politics, sports",
     "heeft niets te maken met politics; sports", "har inget att göra med politics, sports",
     "politicsとは関係がない、sports", "politics와 관련이 없다. sports"],
)  # fmt: skip
def test_a_label_that_a_text_has_nothing_to_do_with_is_not_named(text: str) -> None:
    scorer = make_scorer(BenchSettings(task="labels"), ["politics, sports"])
    assert scorer(text, "sports") == 1.0


def test_a_label_that_is_conceded_is_named() -> None:
    scorer = make_scorer(BenchSettings(task="labels"), ["politics, sports"])
    assert scorer("Although it is about sports, it is politics too", "politics, sports") == 1.0


def test_choices_are_the_references_where_none_are_given() -> None:
    scorer = make_scorer(BenchSettings(task="choice"), ["yes", "no", "yes"])
    assert scorer("Yes, that is so; no doubt.", "yes") == 1.0
    assert scorer("No.", "yes") == 0.0
    for same in (["yes", "yes"], ["yes", "Yes."]):
        with pytest.raises(UsageError, match="at least two choices"):
            make_scorer(BenchSettings(task="choice"), same)


@pytest.mark.parametrize("task", ["choice", "likelihood", "likelihood_per_token"])
def test_a_reference_that_is_none_of_the_choices_is_refused(task: str) -> None:
    settings = BenchSettings.model_validate({"task": task, "choices": ("Yes.", "Nope")})
    examples = [Example.of_turn("q1", "?", "yes"), Example.of_turn("q2", "?", "no")]
    with pytest.raises(UsageError, match="1 of 2 references") as caught:
        held_out_task("questions", examples, settings)
    assert caught.value.problems == ["q2: is none of the choices ('Yes.', 'Nope'): 'no'"]
    assert "--choices" in caught.value.hint


def test_labels_that_are_judged_one_by_one() -> None:
    scorer = make_scorer(BenchSettings(task="labels", choices=("sports", "politics", "tech")), [])
    assert scorer("Sports: yes\nPolitics: no\nTech: yes", "sports, tech") == 1


def test_several_labels_are_a_set() -> None:
    scorer = make_scorer(BenchSettings(task="labels"), ["shipping, price", "quality"])
    assert scorer("Price; shipping", "shipping, price") == 1.0
    assert scorer("It is about the price and the shipping.", "shipping, price") == 1.0
    assert scorer("shipping", "shipping, price") == pytest.approx(2 / 3)
    assert scorer("shipping, price, quality", "shipping, price") == pytest.approx(4 / 5)
    assert scorer.mark("shipping, price, quality", "shipping, price").strict == 0.0
    assert scorer("shipping: yes, price: yes, quality: no", "shipping, price") == 1.0
    assert scorer.mark("nothing", "quality").found == "none"
    settings = BenchSettings(task="labels", choices=("shipping", "price"))
    with pytest.raises(UsageError, match="1 of 1 references"):
        held_out_task("reviews", [Example.of_turn("1", "?", "price, colour")], settings)
