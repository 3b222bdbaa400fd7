"""Numbers as people write them, and which of an answer's numbers counts."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import last_number, make_scorer
from tuneserve.bench.tasks.scorers.marks import Scorer
from tuneserve.bench.tasks.scorers.numbers import the_number
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

NUMBERS: dict[str, list[tuple[str, float | None]]] = {
    "plain": [
        ("It costs $1,234.50 in all", 1234.5), ("first 3, then -4", -4.0), ("1.5e3 m", 1500.0),
        (".5", 0.5), ("3.", 3.0), ("In 2020, 500 came", 500.0), ("1,2,3", 3.0), ("-", None),
        ("", None), ("(1,2)", 2.0), ("3rd", 3.0),
    ],
    "sign": [
        ("−5", -5.0), ("–5 °C", -5.0), ("-$5", -5.0), ("$-5", -5.0), ("x = - 5", -5.0),
        ("pages 3-5", 5.0), ("pages 3–5", 5.0), ("minus 5", -5.0), ("5 ± 0.1", 5.0),
    ],
    "separators": [
        ("1.234,56 €", 1234.56), ("1.234 €", 1234.0), ("1.234", 1.234), ("1.234.567", 1234567.0),
        ("1 234,5", 1234.5), ("1\u202f234,5", 1234.5), ("1\u00a0234", 1234.0), ("1'234", 1234.0),
        ("1’234.50", 1234.5), ("12,34,567", 1234567.0), ("₹12,34,567.50", 1234567.5),
        ("12,34", 12.34), ("0,5", 0.5), ("0,500", 0.5), ("1_000", 1000.0),
        ("1,234,567.89", 1234567.89), ("10 000 000", 1e7),
    ],
    "currencies": [
        ("€ 1.234", 1234.0), ("1.234 Euros", 1234.0), ("-1.234 €", -1234.0), ("€-1.234", -1234.0),
        ("0.500 €", 0.5), ("€ 1.234,56", 1234.56), ("Rp 15.000", 15000.0), ("R$ 1.234", 1234.0),
        *((f"12.500 {money}", 12500.0) for money in (
            "pesos", "COP", "đ", "đồng", "PLN", "zł", "złotych", "lira", "Türk lirası", "reais",
            "rupiah", "kroner", "kronor", "Kč", "forint", "lei", "руб.", "рублей", "₽", "грн",
            "CLP", "guaraníes", "евро", "ευρώ", "ユーロ", "欧元", "유로")),
        ("$2.500 (pesos)", 2500.0), ("COP $12.500", 12500.0), ("COP12.500", 12500.0),
        ("PLN 12.500", 12500.0), ("12.50 pesos", 12.5), ("12.500,50 zł", 12500.5),
        ("12.500 dólares", 12.5), ("Peso: 1.234 kg", 1.234), ("Try 1.234", 1.234),
        ("1.234 kr", 1234.0), ("EUR 1.234", 1234.0), ("$1.234", 1.234), ("1.234 km", 1.234),
    ],
    "scales of characters": [
        ("5千万", 5e7), ("1億2000万", 1.2e8), ("3万5千", 35000.0), ("2千5百万", 2.5e7),
        ("2万5000人", 25000.0), ("3억 5천만 원", 3.5e8), ("12만 3400원", 123400.0),
        ("5百万円", 5e6),
        ("1億2,345万6,789円", 123456789.0), ("1.5万", 15000.0), ("5千克", 5.0), ("5百分点", 5.0),
        ("2万 5人", 5.0), ("5 ล้านบาท", 5e6),
    ],
    "scales of words": [
        ("5 millones", 5e6), ("5 миллионов", 5e6), ("3 тысячи", 3000.0), ("5 тыс. руб.", 5000.0),
        ("5 Mio.", 5e6), ("5 Mrd. Euro", 5e9), ("5 tausend", 5000.0), ("5 mil millones", 5e9),
        ("5 mila euro", 5000.0), ("1.2 mln zł", 1.2e6), ("5 tysięcy", 5000.0), ("5 triệu", 5e6),
        ("5 milyon lira", 5e6), ("5 करोड़", 5e7), ("5 ألف", 5000.0), ("5 hundred thousand", 5e5),
        ("2 million 500 thousand", 2.5e6), ("3 lakh 50 thousand", 350000.0), ("-3 million", -3e6),
        ("2 thousand 5 million", 5e6), ("5 million people and 3 dogs", 3.0), ("2/4 million", 5e5),
        ("Mit 5 bin ich", 5.0), ("1e308 million", None),
    ],
    "scales of letters": [
        ("5k", 5000.0), ("5K", 5000.0), ("5M", 5e6), ("7B", 7e9), ("5bn", 5e9), ("5 M€", 5e6),
        ("£5m", 5e6), ("$5 m", 5e6), ("5m", 5.0), ("5 K", 5.0), ("5 kB", 5.0), ("5 Mb", 5.0),
    ],
    "fractions": [
        ("It is 3/4.", 0.75), (r"\frac{3.5}{2}", 1.75), ("4.5/5", 0.9),
        ("3/4", 0.75), ("1 3/4", 1.75), ("½", 0.5), ("1½", 1.5), ("2 ½", 2.5), ("-3/4", -0.75),
        (r"\frac{1}{4}", 0.25), (r"-\frac{1}{4}", -0.25), (r"1\frac{3}{4}", 1.75),
        (r"\dfrac34", 0.75), ("3⁄4", 0.75), ("1/0", None),
    ],
    "shares": [("50%", 0.5), ("50 %", 0.5), ("٪12", 0.12), ("12.5 percent", 0.125),
        ("12 Percent", 0.12), ("5‰", 0.005)],
    "shares in words": [
        *((text, 0.1) for text in (
            "10パーセント", "10퍼센트", "百分之10", "百分之 10", "10 procent", "10 procento",
            "10 prosent", "10 prosenttia", "10 por cento", "10 per cento", "yüzde 10", "10 yüzde",
            "%10", "٪١٠",
            "10 प्रतिशत", "10 بالمئة", "10 phần trăm", "10 persen", "10 τοις εκατό", "10 відсотків",
            "10 เปอร์เซ็นต์", "10 percento", "The answer is %10", "答案是百分之10。")),
        ("10 percentage points", 10.0), ("10 procentpunten", 10.0), ("千分之5", 0.005),
        ("10パーセントポイント", 10.0),
    ],
    "no cents": [
        ("1.234,– €", 1234.0), ("1.234,-", 1234.0), ("1.234,-- €", 1234.0), ("12,- €", 12.0),
        ("12,– Euro", 12.0), ("CHF 1’234.–", 1234.0), ("1.234.567,— €", 1234567.0), ("3,-3", -3.0),
    ],
    "circled": [("⑤", 5.0), ("答案是⑤。", 5.0), ("⑫", 12.0), ("① 5 ② 6", 6.0), ("①②", None)],
    "negative denominators": [
        (r"\frac{3}{-8}", -0.375), (r"\frac{-3}{-8}", 0.375), (r"\dfrac{3}{-8}", -0.375),
        (r"\boxed{\frac{3}{-8}}", -0.375), (r"\frac{-3}{8}", -0.375),
    ],
    "rates": [
        ("The answer is 42 apples, 6 per child", 42.0), ("#### 42, 6 per child", 42.0),
        ("Answer: 42 apples, 6 per child", 42.0), ("Answer: 42, 6 each", 42.0),
        ("12 eggs, 2 per nest", 12.0), ("42 / 7 = 6, 6 per child", 6.0), ("6 per child", 6.0),
        ("42 in total, 6 each", 42.0),
        ("7 children, so 6 per child", 6.0), ("Die Antwort ist 42, 6 pro Kind", 42.0),
        ("5 apples for 12 %", 0.12), ("The answer is 6 per child, 42 in total", 6.0),
    ],
    "the total and its parts": [
        ("15、つまり12+3", 15.0), ("15です。つまり12+3です。", 15.0), ("15、すなわち12+3", 15.0),
        ("15円、つまり12円+3円", 15.0), ("12+3、すなわち15", 15.0),
        ("答えは15で、14ではありません", 15.0),
    ],
    "scripts": [
        ("٤٢", 42.0), ("४२", 42.0), ("４２", 42.0), ("۱۲۳٫۵", 123.5), ("١٬٢٣٤", 1234.0),
        ("一共42个。", 42.0), ("총 5명", 5.0), ("มี5คน", 5.0), ("５万", 50000.0),
        ("１２３，４５６", 123456.0),
    ],
    "powers": [
        ("6.02 × 10^23", 6.02e23), (r"3 \times 10^{5}", 3e5), ("1.5×10³", 1500.0), ("10²", 100.0),
        ("10^2", 100.0), ("5x10^3", 5000.0),
        ("5*10**3", 5000.0), ("1.5*10**-3", 0.0015), ("5 million", 5e6),
    ],
    "units": [
        ("25 m2", 25.0), ("25m²", 25.0), ("40 g of CO2", 40.0), ("5 kg/m^3", 5.0),
        ("60 km/h", 60.0),
        ("25kg", 25.0), ("USD5", 5.0), ("R$ 5", 5.0), (r"42\text{ km}", 42.0),
    ],
    "no numbers": [
        ("2019-06-03", None), ("03.06.2019", None), ("6/3/2019", None), ("June 3, 2020", None),
        ("2020年1月3日", None), ("12:30", None), ("12:30:15 pm", None), ("v1.2.3", None),
        ("192.168.0.1", None), ("CO2", None), ("H2O", None), ("GPT-4", None), ("COVID-19", None),
        ("x_2", None), (r"x_{12}", None), ("e5", None), ("9" * 400, None), ("1" + "0" * 330, None),
        ("1e999", None), ("-" + "9" * 5000, None), ("∞", None), ("inf", None), ("nan", None),
        ("3f2a", None),
        ("√2", None),
        ("2√2", None),
        (r"\frac{\pi}{2}", None),
        ("2020-01", None),
    ],
    "which one": [
        (r"\boxed{42}. Checked in 2 ways", 42.0), (r"\boxed{\frac{1}{4}}", 0.25),
        (r"\boxed{x = 5}", 5.0), (r"\boxed{1{,}234}", 1234.0), (r"\boxed{\text{42 km}}", 42.0),
        ("#### 72\nAnn has 5 apples", 72.0), ("#### 72 … Ann has 5 apples", 72.0),
        ("The answer is 3 + 4 = 7 of 9.", 7.0), ("The answer is 12. It took 3 steps.", 12.0),
        ("**Answer:** -7 (since 3-10)", -7.0), ("the answer is not 5 but 7", 7.0),
        ("Die Antwort ist 5. Das sind 2 mehr.", 5.0), ("Ответ: 5 (из 7)", 5.0),
        ("答案是42。共3步", 42.0), ("So the answer is:\n\n42 apples", 42.0),
        ("It's 7 (seven), not 8.", 7.0),
        ("The answer is 5 because 2 + 3 = 5 and 1 + 1 = 2", 5.0), ("Answer: 6 = 2 × 3", 6.0),
        ("The answer is 5 since 10 = 2*5", 5.0), ("Answer: 5 (3 + 2 = 5, 4 = 4)", 5.0),
        ("The answer is x = 5, because 10 = 2x", 5.0), ("The answer is 2(3+4) = 14", 14.0),
        ("The answer is 5 apples + 3 apples = 8 apples", 8.0), ("Answer: 2x = 10, x = 5", 5.0),
        ("The answer is 20% of 50 = 10", 10.0), ("Answer: -7 (since 3-10 = -7)", -7.0),
        ("5\n\n1. Count\n2. Add", 5.0), ("1. 7\n2. 8", 8.0),
        ("12 (3 boxes with 4 each)", 12.0), ("I have 5 (3 red ones and 2 blue ones).", 5.0),
        ("3 dozen (12 in each of 3 boxes, so 36)", 36.0), ("3 dozen (36)", 36.0),
        ("3 plus 4 is 7", 7.0), ("5 times 3 equals 15.", 15.0), ("2 and 2 make 4", 4.0),
        ("5% of 200 is 10", 10.0), ("7 mal 24 ist 168", 168.0), ("3 por 4 son 12", 12.0),
        ("10 = 5% of 200", 10.0), ("10 = 5 % of 200.", 10.0), ("5% of 200 = 10", 10.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [row for rows in NUMBERS.values() for row in rows],
    ids=lambda v: repr(v)[:24],
)
def test_the_number_of_an_answer(text: str, value: float | None) -> None:
    found = last_number(text)
    assert found == (value if value is None else pytest.approx(value, rel=1e-12))


@given(st.text() | st.from_regex(r"[-+−0-9.,'/%^ eE×\u0660-\u0669\\{}]{1,40}", fullmatch=True))
def test_any_text_has_a_finite_number_or_none(text: str) -> None:
    value = last_number(text)
    assert value is None or abs(value) < float("inf")


def number(**settings: float) -> Scorer:
    return make_scorer(BenchSettings.model_validate({"task": "number", **settings}), [])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_equals_itself_however_it_is_wrapped(value: float) -> None:
    assert number()(f"So the result is {value!r}", repr(value)) == 1.0


_DIGITS = [chr(zero) for zero in (0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0x0ED0, 0x17E0, 0xFF10)]


@given(st.integers(-(10**15), 10**15), st.sampled_from(_DIGITS))
def test_digits_of_every_script_are_read(value: int, zero: str) -> None:
    text = "".join(chr(ord(zero) + int(c)) if c.isdigit() else c for c in str(value))
    assert last_number(text) == value


@given(
    st.integers(0, 10**12),
    st.integers(0, 99),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("\u202f", ","), ("'", "."), ("’", ".")]),
)
def test_every_convention_of_separators_is_read(
    whole: int, rest: int, marks: tuple[str, str]
) -> None:
    text = f"{whole:,}".replace(",", marks[0]) + f"{marks[1]}{rest:02d}"
    assert last_number(f"{text} €") == pytest.approx(whole + rest / 100)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("1/4", "3/4", False), (r"\frac{1}{4}", r"\frac{3}{4}", False), ("-5", "5", False),
        ("−5", "5", False), ("3/4", "0.75", True), ("50%", "0.5", True), ("50 %", "50", True),
        ("50", "50 %", True), ("5 %", "0.5", False), ("25 m²", "25", True), ("none", "3", False),
        ("9" * 400, "7", False), ("1e999", "1e999", False), ("102", "10²", False),
        ("The answer is 12, after 3 steps", "12", True),
    ],
)  # fmt: skip
def test_right_and_wrong(answer: str, reference: str, right: bool) -> None:
    assert number()(answer, reference) == right


def test_the_tolerance_is_relative() -> None:
    scorer = number(tolerance=0.01)
    assert scorer("3.02", "3") == 1.0
    assert scorer("3.1", "3") == 0.0


def test_what_was_found_and_in_what_form() -> None:
    marks = {text: number().mark(text, "42") for text in ("42", "42 km", "So 6 x 7 = 42", "6 or 7")}
    assert [marks[text].strict for text in marks] == [1.0, 1.0, 0.0, 0.0]
    assert [marks[text].found for text in marks] == ["one", "one", "several", "several"]
    assert number().mark("no idea", "42").found == "none"
    assert number().mark("42, or rather 43", "42").lenient == 1.0


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("The answer is not 5", None, "none"), ("The answer isn't 5", None, "none"),
        ("It is not 5 or 6", None, "none"), ("答案不是5", None, "none"), ("not 5%", None, "none"),
        ("The answer is not 5, it is 7.", 7.0, "one"), ("答えは5ではなく7です", 7.0, "one"),
        ("The answer isn't 5 but 7", 7.0, "one"), ("The answer is not only 5", 5.0, "one"),
        ("Answer: 12 or 13", 12.0, "several"), ("The answer is between 12 and 13", 12.0, "several"),
        ("Answer: 5 apples or 6", 5.0, "several"), ("答案是12或13", 12.0, "several"),
        ("The answer is 50% or 0.5", 0.5, "one"), ("The answer is 5 and it took 3", 5.0, "one"),
        ("The answer is 12, after 3 steps", 12.0, "one"),
        (r"\boxed{3, -3}", -3.0, "several"), (r"\boxed{12 \text{ or } 13}", 13.0, "several"),
        (r"\boxed{3\times10^{5}}", 3e5, "one"), (r"\boxed{x=3\cdot10^{-2}}", 0.03, "one"),
        (r"\boxed{2\pi}", 2 * math.pi, "one"), ("3π/4", 0.75 * math.pi, "one"),
        ("25π ≈ 78.5", 78.5, "several"), ("3π/0", None, "none"), ("5 pints", 5.0, "one"),
        ("12 = 3*4", 12.0, "one"), ("12 = 3 × 4.", 12.0, "one"), ("12 = 3*4\n5", 5.0, "several"),
        ("− 5", -5.0, "one"), ("Answer: − 5", -5.0, "one"), ("- 5", 5.0, "one"),
        ("8 − 5", 3.0, "one"), ("moins 5", -5.0, "one"), ("负5", -5.0, "one"),
        ("マイナス5", -5.0, "one"), ("au moins 5", 5.0, "one"), ("al menos 5", 5.0, "one"),
    ],
)  # fmt: skip
def test_what_is_denied_or_open_is_not_settled(text: str, value: float | None, found: str) -> None:
    number, how_many = the_number(text)
    assert how_many == found
    assert (number and number.value) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    "text",
    ["12 is wrong", "12 is incorrect", "12 is wrong.", "12 is the wrong answer", "12 was false",
     "12 is definitely wrong", "12 can't be right", "12 is ruled out", "12 is not correct",
     "12 isn't right", "12 is not the answer", "12 is too high", "12 and 13 are both wrong",
     "12 ist falsch", "12 ist leider falsch", "12 stimmt nicht", "12 est faux", "12 es falso",
     "12 está errado", "12 è sbagliato", "12 is fout", "12 är fel", "12 to błąd", "12 неверно",
     "12 — неправильно", "12 yanlış", "12 değil", "12不对", "12是错的", "12不是答案", "12は間違い",
     "12は違います", "12ではない", "答えは12ではありません", "정답은 12가 아닙니다",
     "12는 틀렸습니다",
     "12 गलत है", "12 là sai", "12 salah", "x ≠ 12", "≠ 12", "!= 12", r"x \neq 12",
     "A resposta não é 12", "Cevap 12 değil", "I don't think it's 12", "keine 12", "never 12",
     "I do not believe that the answer is 12", "I can't say that it's 12", "I doubt it's 12",
     "It is anything but 12", "La risposta non è 12", "Het antwoord is niet 12",
     "not equal to 12",
     "Odpowiedź to nie 12", "Svaret är inte 12", "Vastaus ei ole 12", "A válasz nem 12",
     "Η απάντηση δεν είναι 12", "Đáp án không phải là 12", "Jawabannya bukan 12",
     "الجواب ليس 12", "คำตอบไม่ใช่ 12", "उत्तर 12 नहीं है", r"\boxed{\neq 12}"],
)  # fmt: skip
def test_a_number_that_is_denied_is_not_read(text: str) -> None:
    mark = number().mark(text, "12")
    assert (mark.score, mark.strict, mark.found) == (0.0, 0.0, "none")


@pytest.mark.parametrize(
    "text",
    ["12不对，13才对", "13才对，12不对", "It's 13; 12 is wrong", "12 is wrong. It is 13.",
     "12 is incorrect; 13 is correct", "12 isn't right, 13 is", "13 ist richtig, nicht 12",
     "12 ist falsch, 13 ist richtig", "12 est faux, c'est 13", "12가 아니라 13입니다",
     "13입니다. 12가 아닙니다.", "答えは13で、12ではありません", "13であって12ではない",
     "Cevap 13, 12 değil",
     "Jawabannya 13, bukan 12", "答案是13，不是12。", "13, not 12", "13 rather than 12",
     "13, nicht 12 oder 14", "12 and 14 are wrong, 13 is right",
     "13 is the answer; 12 is not.",
     "Odpowiedź to 13, nie 12", "13은 틀림없다", "13は間違いない", "13没错", "13 is not wrong",
     "No doubt it's 13", "Of 12 answers, 13 are wrong"],
)  # fmt: skip
def test_the_number_that_is_left_is_read(text: str) -> None:
    assert number()(text, "13") == 1.0


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("The answer is 5 or 6.", ["5 or 6", "6, 5", "4, 5, 6"], ["5", "6", "5, 7"]),
        ("12 or 13", ["12 or 13"], ["12", "13"]), ("12-13", [], ["12", "13"]),
        (r"\boxed{3, -3}", ["3, -3", r"\boxed{-3, 3}", "x = 3 or x = -3"], ["3", "-3"]),
        ("Answer: x = 3 or x = -3", ["3 and -3"], ["-3"]), ("12 (or 13)", [], ["12", "13"]),
        ("I think it is 12 or 13 apples.", ["12, 13"], ["12", "13"]),
        ("It is between 12 and 13", [], ["12", "13"]), ("Answer: 5 apples or 6", [], ["5", "6"]),
        ("Answer: 50% or 0.5", ["0.5", "50"], []), ("Answer: 5 and it took 3", ["5"], ["3"]),
        ("Either 5 or 6. Final answer: 6", ["6"], ["5"]), ("42, or rather 43", ["43"], ["42"]),
        (r"\boxed{5 \text{ hours } 30 \text{ minutes}}", ["5 hours 30 minutes"], ["5"]),
        (r"\boxed{x=5, y=7}", ["7"], []), ("Ann has 3 and Bob has 5", ["5"], ["3"]),
        ("3", ["3, -3"], ["-3"]), ("The answer is 12 and 12", ["12"], []),
    ],
)  # fmt: skip
def test_an_answer_that_names_several_is_right_where_all_are(
    answer: str, right: list[str], wrong: list[str]
) -> None:
    assert [number()(answer, one) for one in right] == [1.0] * len(right)
    assert [number()(answer, one) for one in wrong] == [0.0] * len(wrong)


def test_several_of_the_accepted_references_are_right() -> None:
    scorer = make_scorer(BenchSettings(task="number", separator="|"), [])
    assert [scorer(text, "5|6") for text in ("5", "5 or 6", "5 or 7", "7")] == [1, 1, 0, 0]
    # Strictly all numbers of one reference are named.
    strict = [number().mark(text, "3, -3").strict for text in ("-3, 3", "3", r"\boxed{3, -3}")]
    assert strict == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("14 (since 7*2=14 and 3+4=7)", 14.0), ("14 (since 7*2=14)", 14.0), ("12 (3*4)", 12.0),
        ("14 apples (7*2 = 14, 3 + 4 = 7). Done!", 14.0), ("3 dozen (3*12 = 36)", 36.0),
        ("14 (because f(2) = 7 and g(7) = 3)", 14.0), ("2(3+4) = 14", 14.0), ("2 + 3 (= 5)", 5.0),
        ("3 hours (180 minutes)", 3.0),
    ],
)  # fmt: skip
def test_an_explanation_in_parentheses_is_not_the_answer(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22\n\nExplanation: 4*5=20, plus 2.", 22.0),
        ("22 apples.\n\nHe had 20 and bought 2.", 22.0),
        ("22, because 4 * 5 = 20 and 2 more", 22.0),
        ("8 apples, since Tom has 5 and Ann has 3", 8.0),
        ("8 apples (5 red, 3 green)", 8.0), ("8 apples, of which 5 are red and 3 green", 8.0),
        ("Together they have 8 apples: Tom has 5 and Ann has 3.", 8.0), ("8\nStep 1: 5 and 3", 8.0),
        ("8 apples: 5 from Tom, 3 from Ann", 8.0),
        ("12 books\n\nThere were 3 shelves with 4 books each.", 12.0),
        ("**8**\n\nTom: 5, Ann: 3", 8.0),
        ("8 km/h\n\nHe ran 16 km in 2 hours.", 8.0), ("8\nBecause Tom has 5, Ann 3", 8.0),
        ("So 8 apples, since Tom has 5 and Ann has 3", 8.0),
        ("8 apples, including 5 red ones", 8.0),
        ("8 Äpfel, weil Tom 5 und Anna 3 hat", 8.0), ("8 Äpfel, davon 5 rote und 3 grüne", 8.0),
        ("8 Äpfel\n\nErklärung: Tom hat 5, Anna 3", 8.0), ("8 manzanas, ya que Ana tiene 3", 8.0),
        ("8 pommes, car Tom en a 5 et Anne 3", 8.0), ("8 pommes, dont 5 rouges", 8.0),
        ("8 maçãs, porque Tom tem 5 e Ana 3", 8.0), ("8 mele, perché Tom ne ha 5 e Anna 3", 8.0),
        ("8 appels, omdat Tom er 5 heeft en An 3", 8.0), ("8 äpplen, eftersom Tom har 5", 8.0),
        ("8 яблок: 5 у Тома и 3 у Анны", 8.0), ("8 яблок, потому что 5 и 3", 8.0),
        ("8 jabłek, ponieważ Tom ma 5, a Anna 3", 8.0), ("8 elma, çünkü Tom'un 5 elması var", 8.0),
        ("8 quả, bởi vì Tom có 5 và An có 3", 8.0), ("8 buah, karena Tom punya 5", 8.0),
        ("8 ผล เพราะ มี 5 และ 3", 8.0), ("8 تفاحات لأن توم لديه 5", 8.0),
        ("8 सेब, क्योंकि टॉम के पास 5", 8.0), ("8个，因为汤姆有5个，安有3个", 8.0),
        ("答：8个，其中5个红的，3个绿的", 8.0), ("8\n\n解释：汤姆5个，安3个", 8.0),
        ("8個です。5個と3個を足しました。", 8.0), ("8個。なぜなら5個と3個だから", 8.0),
        ("8個、内訳はりんご5個、みかん3個", 8.0), ("총 25개 (사과 10개, 배 15개)", 25.0),
        ("8개입니다. 5개와 3개를 더했습니다.", 8.0), ("8개, 왜냐하면 5개와 3개", 8.0),
    ],
)  # fmt: skip
def test_what_explains_the_number_in_front_of_it_is_not_the_answer(text: str, value: float) -> None:
    number, found = the_number(text)
    assert (number and number.value, found) == (value, "one")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("We multiply 4 by 3 because there are 3 boxes, giving 12.", 12.0),
        ("Subtract 5 from 20 because 5 were eaten, 20 - 5 = 15.", 15.0),
        ("3 feet further, for a distance of 21+3=24 feet", 24.0),
        ("12 apples, as well as 5 pears, come to 17", 17.0),
        ("5 Äpfel, da kommen 3 hinzu, das sind 8", 8.0),
        ("She needs 40 more to reach 100 because 100 - 60 = 40.", 40.0),
        ("20 students.\nCalculation: 20 - 5 = 15", 15.0),
        ("20 cookies\nStep 1: 20 - 5 = 15\nStep 2: 15 / 3 = 5", 5.0),
        ("12 eggs\n\nHe uses 5 of them. That gives him 7.", 7.0),
        ("50\n\nThen 10% is taken off. Final price 45.", 45.0),
        ("2 liters\n\nConverted to milliliters this is 2000.", 2000.0),
        ("5 apples.\n\n5 + 3 = 8", 8.0), ("5 apples.\n\nThen he gets 3, so he has 8.", 8.0),
        ("5 apples.\n\nHe gets 3. Now he has 8.", 8.0), ("5 boxes\n\n3 each\n\n15 in total", 15.0),
        ("Since 5 + 3 = 8, 8 are there", 8.0), ("5 apples\nSince she buys 3 more, she has 8", 8.0),
        ("There are 5 because 2 were lost, so 8 in the end", 8.0),
        ("4 * 5 = 20\n\n20 + 2 = 22", 22.0),
        ("First there were 7 because of 3 more. Then 15.", 15.0), ("Step 1: 5\n\nStep 2: 8", 8.0),
        ("5\n\nThe answer is 8", 8.0), ("10 apples: 6 eaten and 4 left", 4.0),
        ("12 apples.\nHe gives 5 away.\nNow he has 7.", 7.0),
        ("12 apples. He gives 5 away and has 7.", 7.0), ("12: fine.\n5 go. 7 stay", 7.0),
        ("60\n\nWait, I forgot the rest. It should be 75.", 75.0),
    ],
)  # fmt: skip
def test_what_goes_on_to_another_number_is_no_explanation(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9 x 6 = 54. So, 54 eggs are in a total of 9 boxes.", 54),
        ("He earns 60 * 2 = $120 in 2 weeks.", 120),
        ("So, he makes 60*2=$120 in 2 weeks", 120),
        ("He has 20.\nHe pays 6.5 + 5.5 = $12 for 5 apples.", 12),
        ("Therefore, Tom earns **$120** in 2 weeks.", 120),
        ("They need **7** buses for the 280 students.", 7),
        ("It takes **5 hours** to read 100 pages.\n\nI hope this helps!", 5),
        # What goes on to a number of its own, and what is bold for another reason.
        ("12 / 5 = 2.4 boxes, which rounds up to 3.", 3), ("3 + 4 = 7 days, or 1 week", 1),
        ("3 * 4 = 12 pens, so 36 dollars", 36), ("16 - 7 = 9 eggs at $2, which makes $18.", 18),
        ("With x = 3 we have 9 apples", 9), ("**2.** Add up: 4 and 5 make 9", 9),
        ("**Step 3**: 4 and 5 make 9", 9), ("There are **3** red and **4** blue, 7", 7),
        ("It isn't **5** but 6", 6), ("**2** is half of it, so 4", 4),
        ("3 + 4 = 7. He has 5 of 9", 9),
    ],
)  # fmt: skip
def test_what_a_last_sentence_comes_to_is_the_answer(text: str, value: float) -> None:
    assert last_number(text) == value


def test_a_line_that_begins_with_a_number_is_no_list() -> None:
    scorer = make_scorer(BenchSettings(task="number"), [])
    assert last_number("32. Each term is double the one before.") == 32
    assert scorer.mark("206. Babies are born with about 300.", "206").lenient == 1
    assert scorer.mark("1. Babies have more.\n2. Adults have 206.", "206").score == 1
    assert last_number("1. There are 12") == 12
    assert last_number("2. Add.\n3. No more") == 3


@pytest.mark.parametrize(
    "behind",
    [
        ", because 3 of the 8 apples were eaten.", ", because he gave away 3 of his 8 apples",
        " since he had 8 apples and gave away 3.", ", because 3 + 5 = 8", ", because 4 × 5 = 20.",
        " apples, because 4 children share 20 apples", ", da 20 Äpfel auf 4 Kinder verteilt werden",
        ", as 3 of the 8 apples were eaten", ", because 3 were eaten out of 8, leaving 5",
        ". He had 8 and gave 3 away.", " apples. He had 8 and gave 3 away.",
        "!\nHe had 8 apples and lost 3.",
        "\n\nCheck: 5 + 3 = 8", ". We can verify: 5 + 3 = 8.", "\nVerification: 5 + 3 = 8 ✓",
        ". Let's double-check: 5 + 3 = 8, which is correct.", "\n\nTo check, put it in: 5 + 3 = 8",
    ],
)  # fmt: skip
def test_how_a_number_is_found_or_checked_is_not_the_answer(behind: str) -> None:
    assert last_number(f"5{behind}") == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 days, since she rests, times 8 hours is 40 hours.", 40), ("5, as well as 3 others", 3),
        ("5 apples. Then 3 more, 8", 8), ("5 apples. He buys 3, so 8", 8),
        ("5 apples. With the rest: 8", 8),
        ("5 apples. 5 + 3 = 8", 8), ("5. No, 8", 8), ("5. 6 are red. Now he has 8.", 8),
        ("2 boxes. 4 apples in each box. 8 apples.", 8), ("3 red. 5 blue. 8 marbles.", 8),
        ("6. 7. 8.", 8), ("2 boxes.\n4 apples per box.\n8", 8),
        ("As a result: 5 apples and 3 pears make 8", 8), ("He pays 3 * 4 = 12, has 8 left", 8),
        ("He pays 20 - 15 = 5 and 3 more, 8", 8), ("1. There are 8", 8),
        ("2. Add 5.\n3. It is 8", 8),
        ("Is it 5? Let's check: 5 + 2 = 7, so 8", 8),
        ("Let's check: 5 + 3 = 8", 8), ("Check: 8", 8), ("5\nLet me check. Wait, 8", 8),
    ],
)  # fmt: skip
def test_a_first_number_that_others_follow_is_a_step(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72 km/h (20 m/s)", 72.0), ("5 feet (1.52 m)", 5.0), ("€5 (about $5.40)", 5.0),
        ("144 hours (6 days)", 144.0), ("40 minutes (or 0.67 hours)", 40.0), ("1/3 (0.333)", 1 / 3),
        ("100 °C (212 °F)", 100.0), ("12 (rounded from 11.97)", 12.0), ("5 € (5.40 $)", 5.0),
        ("Total = $45 (tax included: $3.50)", 45.0), ("$45 (including $3.50 tax)", 45.0),
        ("He runs at 72 km/h (20 m/s).", 72.0), ("2.5 kg (2500 g)", 2.5), ("12 (≈ 11.97)", 12.0),
        (r"\boxed{72 km/h (20 m/s)}", 72.0), ("144 Stunden (6 Tage)", 144.0), ("20% (0.2)", 0.2),
        ("45 € (davon 3,50 € Steuer)", 45.0), ("12 (gerundet von 11,97)", 12.0),
        ("144 heures (soit 6 jours)", 144.0), ("45 € (dont 3,50 € de TVA)", 45.0),
        ("144 horas (6 días)", 144.0), ("144 часов (6 дней)", 144.0), ("144小时（6天）", 144.0),
        ("144時間（6日）", 144.0), ("144시간 (6일)", 144.0), ("12（约11.97）", 12.0),
        ("He runs 72 km/h (20 m/s), so 100 m", 100.0), ("He has 5 apples (3 left)", 3.0),
        ("5 boxes (15 apples in total)", 15.0), ("11.97 (rounded to 12)", 12.0),
        ("11.97 (about 12)", 12.0), ("15 (5 each)", 5.0), ("3 dozen (36)", 36.0),
    ],
)  # fmt: skip
def test_the_same_in_another_unit_is_not_the_answer(text: str, value: float) -> None:
    number, _ = the_number(text)
    assert number is not None
    assert value in number.readings


TOTALS: dict[str, list[tuple[str, float]]] = {
    "brackets": [
        ("15 in total (12 + 3)", 15.0), ("15 (= 12 + 3)", 15.0), ("7（3+4）", 7.0),
        ("7（3＋4）", 7.0), ("15 [12 + 3]", 15.0), ("15【=12+3】", 15.0), ("7(3+4)", 7.0),
        ("15 apples in all (3 x 5)", 15.0), ("15 altogether (12 and 3)", 15.0),
        ("15 in total (12 red, 3 blue)", 15.0), ("15 in total (12 + 3 = 15)", 15.0),
        ("15 in total (3 boxes with 5 each)", 15.0), ("15 (the product of 3 and 5)", 15.0),
        ("$15 in total ($12 + $3)", 15.0), ("15 € (12 € + 3 €)", 15.0), ("10 (20/2)", 10.0),
        ("1,500 in total (1,000 + 500)", 1500.0), ("10 (= 5 % of 200)", 10.0),
        ("15 (= 3 * (2 + 3))", 15.0), (r"\boxed{15 (=12+3)}", 15.0), ("78.5 (= 25 * 3.14)", 78.5),
        ("#### 15 in total (= 12 + 3)", 15.0), ("15 (= 12 + 4)", 15.0),
    ],
    "signs and words": [
        ("15 apples = 12 + 3", 15.0), ("15 = 3 boxes * 5 apples", 15.0), ("15 is 12 plus 3", 15.0),
        ("15, i.e. 12 + 3", 15.0), ("15, that is, 12 + 3.", 15.0), ("15 in total: 12 + 3", 15.0),
        ("15, the sum of 12 and 3", 15.0), ("15 equals 5 times 3", 15.0),
        ("15 in total, 12 red and 3 blue.", 15.0),
    ],
    "announced": [
        ("The answer is 2+3, i.e. 5", 5.0), ("The answer is 2 + 3, i. e., 5.", 5.0),
        ("The answer is 12 + 3, that is 15 apples", 15.0), ("The answer is 12 + 3, so 15.", 15.0),
        ("The answer is 12 + 3 (15)", 15.0), ("The answer is 12+3 which makes 15", 15.0),
        ("The answer is 3*(2+3), hence 15", 15.0), ("The answer is 12 + 3. That is 15.", 15.0),
        ("The answer is the product of 3 and 5, that is 15.", 15.0),
        ("The answer is 22 * 3.14, so about 69", 69.0), ("The answer is 12 + 3 → 15", 15.0),
        ("The answer is 12 and 3, so 15", 15.0), ("The answer is 12 + 3\n= 15", 15.0),
        ("The answer is 15, i.e. 12 + 3.", 15.0), ("The answer is 2 + 3, i.e. 6", 6.0),
    ],
    "languages": [
        ("15 insgesamt (12 + 3)", 15.0), ("Die Antwort ist 2+3, d.h. 5", 5.0),
        ("Die Antwort ist 2+3, also 5", 5.0), ("Die Antwort ist 2 + 3, das sind 5", 5.0),
        ("15 en tout (12 + 3)", 15.0), ("La réponse est 2+3, c'est-à-dire 5", 5.0),
        ("La réponse est 2+3, soit 5", 5.0), ("La respuesta es 2+3, es decir, 5", 5.0),
        ("A resposta é 2+3, ou seja, 5", 5.0), ("La risposta è 2+3, cioè 5", 5.0),
        ("15 всего (12 + 3)", 15.0), ("Ответ: 2+3, т.е. 5", 5.0), ("Ответ: 2+3, то есть 5", 5.0),
        ("一共15个（12+3）", 15.0), ("答案是2+3，也就是5", 5.0), ("答案是2+3，所以5", 5.0),
        ("合計15個（12＋3）", 15.0), ("答えは2+3、つまり5", 5.0), ("15（12加3）", 15.0),
        ("총 15개 (12 + 3)", 15.0), ("정답은 2+3, 즉 5", 5.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), [row for rows in TOTALS.values() for row in rows])
def test_a_total_beside_what_makes_it_is_the_answer(text: str, value: float) -> None:
    number, found = the_number(text)
    assert number is not None
    assert number.value == pytest.approx(value)
    assert found == "one"


@given(
    st.lists(st.integers(1, 999), min_size=2, max_size=5),
    st.sampled_from(["{t} in total ({c})", "{t} (= {c})", "{t}（{c}）",
                     "The answer is {c}, i.e. {t}",
                     "{t} apples = {c}", "It is {t}, that is {c}.", "Answer: {c}, so {t}."]),
)  # fmt: skip
def test_a_sum_is_worked_out_however_it_is_written(terms: list[int], form: str) -> None:
    assert last_number(form.format(t=sum(terms), c=" + ".join(map(str, terms)))) == sum(terms)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 2 and 3 or 5", 2.0), ("The answer is 5-10, so 7", 5.0), ("5 (2, 3)", 3.0),
        ("5, 2 and 3", 3.0), ("12 or 13 (12 + 1)", 13.0),
        ("15 in total (5 each)", 5.0), ("7(3+4) = 49", 49.0),
        ("15 in total (12 + 3), and 4 more: 19", 19.0), ("15 - 3 = 12 (10 + 2)", 12.0),
    ],
)  # fmt: skip
def test_no_total_is_seen_where_none_is_given(text: str, value: float) -> None:
    number, found = the_number(text)
    assert (number and number.value, found) == (value, "several")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12 + 3", 15.0), (r"\boxed{12+3}", 15.0), ("#### 12 + 3", 15.0), ("12 plus 3", 15.0),
        ("The answer is 12 + 3", 15.0), ("The answer is 12 + 3 apples", 15.0), ("2(3+4)", 14.0),
        ("The answer is (12 + 3)", 15.0), ("The answer is 12 × 3", 36.0), ("12 times 3", 36.0),
        ("The answer is 12/3 × 2", 8.0), ("The answer is 200 - 5", 195.0), ("12 + 3 = ?", 15.0),
        ("The answer is 200 minus 5", 195.0), ("The sum of 12 and 3", 15.0), ("20% of 50", 10.0),
        ("(12 + 3) × 2", 30.0), ("x = 5, y = 2 + 3", 5.0), ("12 ÷ 4", 3.0), ("12加3", 15.0),
        ("Step 1: 5 x 3 = 15, so 15 + 2", 17.0), ("Die Antwort ist 12 mal 3", 36.0),
        (r"\boxed{12 \times 3}", 36.0), ("the answer is 12 divided by 4", 3.0),
        ("12 squared", 144.0), ("2 to the power of 10", 1024.0), ("16 dozen", 192.0),
        ("The answer is 2 to the power of 10", 1024.0), ("5 cubed", 125.0), ("12的平方", 144.0),
        ("12 au carré", 144.0), ("7 and a half", 7.5), ("The answer is 7 and a half hours", 7.5),
        ("2 hoch 10", 1024.0), ("3 dozen eggs", 36.0), ("10 + 10%", 10.1),
        ("The answer is 12 + 3 - 5", 10.0),
    ],
)  # fmt: skip
def test_arithmetic_that_is_not_worked_out_is_its_own_value(text: str, value: float) -> None:
    assert last_number(text) == pytest.approx(value)
    mark = number().mark(text, repr(value))
    assert mark.score == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "half of 12", "The answer is half of 12", "twice 12", "The answer is twice 12", "log 12",
        "12 factorial", "12 quarters", "12 thirds", "the square root of 12", "the square of 12",
        "The answer is 12 more than 3", "12 less than 20", "3 times as many as 12", "12 tens",
        "die Hälfte von 12", "la moitié de 12", "la mitad de 12", "metade de 12", "la metà di 12",
        "12的一半", "12の半分", "12의 절반", "половина от 12", "There are 9. It is half of 12.",
        r"\boxed{\text{half of } 12}", "The answer is x + 12", "Of 9 the answer is half of 12",
        "3+12i", "The answer is 12x + 3", r"\boxed{3x+12}", "x * 12",
    ],
)  # fmt: skip
def test_no_part_of_another_calculation_is_read(text: str) -> None:
    mark = number().mark(text, "12")
    assert (mark.score, mark.strict, mark.found) == (0.0, 0.0, "none")


@pytest.mark.parametrize(
    "text",
    ["25 + x", "25 - x", "25 × y", "The answer is 25 + x", "less than 25", "more than 25",
     "The answer is less than 25", "fewer than 25", "more than $25", "weniger als 25",
     "mehr als 25", "plus de 25", "moins de 25", "más de 25", "menos de 25", "mais de 25",
     "più di 25", "meer dan 25", "mer än 25", "больше 25", "менее 25", "więcej niż 25", "超过25",
     "不到25", "25未満", "25 미만", "lebih dari 25", "nhiều hơn 25"],
)  # fmt: skip
def test_a_number_that_only_bounds_the_answer_or_is_added_to_is_none(text: str) -> None:
    mark = number().mark(text, "25")
    assert (mark.score, mark.strict, mark.found) == (0.0, 0.0, "none")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("at most 25", 25.0), ("no more than 25", 25.0), ("nicht mehr als 25", 25.0),
        ("pas plus de 25", 25.0), ("не более 25", 25.0), ("不超过25", 25.0), ("25 - I think", 25.0),
        ("25 - a good result", 25.0), ("Less than 25, namely 20", 20.0), ("25 + x = 30", 30.0),
        ("1 out of 4", 0.25), ("1 in 4", 0.25), ("The probability is 1 in 4.", 0.25),
        ("1 sur 4", 0.25), ("1 von 4", 0.25), ("1 su 4", 0.25), ("1 из 4", 0.25),
        ("1 de cada 4", 0.25), ("1 em cada 4", 0.25), ("1 op de 4", 0.25), ("4分之1", 0.25),
        ("4分の1", 0.25), ("4분의 1", 0.25), ("He scored 1 in 4 games", 4.0), ("5 in 2020", 2020.0),
        ("7 and 1/2", 7.5), ("7 und 1/2 Stunden", 7.5), ("The answer is 7 and 1/2.", 7.5),
        ("The roots are 3 and 1/2", 0.5), ("3 and 3/2", 1.5),
        ("72<|im_end|>\n<|im_start|>user\n10", 72.0), ("72</s>\n[INST] 10", 72.0),
        ("<|im_start|>assistant\n72<|im_end|>\n3", 72.0), ("72<|endoftext|>10", 72.0),
        ("72<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n10", 72.0),
        ("72<end_of_turn>\n<start_of_turn>user\n10", 72.0), ("<s>10</s> 72", 72.0),
    ],
)  # fmt: skip
def test_bounds_shares_mixed_numbers_and_turns(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("7 dozen", "7", True), ("7 dozen", "84", True), ("7", "7 dozen", True),
        ("84", "7 dozen", True),
        ("$4 million", "4", True), ("$4 million", "4000000", True), ("$4.5M", "4.5", True),
        ("-4 Millionen", "-4", True), ("3亿", "3", True), ("4 million", "4 billion", False),
        ("7 dozen", "7 thousand", False), ("4 million", "4000", False), ("5%", "5‰", False),
        ("2 million 500 thousand", "2", False), ("1 out of 4", "1 out of 3", False),
    ],
)  # fmt: skip
def test_a_number_with_a_scale_is_the_one_before_it_too(
    answer: str, reference: str, right: bool
) -> None:
    assert number()(answer, reference) == right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9.9 is larger than 9.11.", 9.9), ("9.9 is bigger than 9.11", 9.9),
        ("9 ist größer als 7", 9),
        ("9 est plus grand que 7, donc 9", 9), ("12 is more than 9, so 12", 12),
    ],
)  # fmt: skip
def test_the_number_that_is_compared_is_the_answer(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    "cue",
    ["Result: ", "**Result:** ", "Final result: ", "Solution: ", "Résultat : ",
     "Resultado: ", "Risultato: ", "Результат: ",
     "Wynik: ", "Sonuç: ", "结果：", "結果：", "결과: ", "Ans: ", "Ans. ", "## Answer\n\n",
     "**Final Answer**\n", "Answer\n",
     "# Antwort\n", "### Réponse\n"],
)  # fmt: skip
@pytest.mark.parametrize("behind", ["\n\nThere are 3 boxes with 4.", ". There are 3 boxes with 4."])
def test_words_of_a_result_announce_it(cue: str, behind: str) -> None:
    assert last_number(f"{cue}12{behind}") == 12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Solution:\nShe has 16 eggs and eats 3. 13 are left.", 13),
        ("Solution: 16 - 3 = 13. 13 * 2 = 26", 26),
        ("Solution: She has 16.\nShe sells 9", 9), ("The solution has 3 steps: 12", 12),
        ("3.14 (to 2 decimal places)", 3.14), ("3.14, rounded to 2 decimal places", 3.14),
        ("3.142, correct to 3 decimal places.", 3.142), ("120 (rounded to the nearest 10)", 120),
        ("3,14 (auf 2 Nachkommastellen gerundet)", 3.14), ("2 decimal places", 2),
        ("12.57 (using π = 3.14)", 12.57), ("12.57 cm², using π ≈ 3.14.", 12.57),
        ("12.57 (taking π as 3.14)", 12.57),
        ("Using π = 3.14, we get 12.56", 12.56),
    ],
)  # fmt: skip
def test_what_says_how_exact_a_number_is_or_leads_to_it_is_not_it(text: str, value: float) -> None:
    assert last_number(text) == value


def test_a_share_of_a_count_is_the_count_too() -> None:
    assert [number()("8 out of 10", wanted) for wanted in ("0.8", "8", "10")] == [1.0, 1.0, 0.0]


def test_leniently_the_year_of_a_date_is_named() -> None:
    mark = number().mark("July 20, 1969", "1969")
    assert (mark.score, mark.lenient, mark.found) == (0.0, 1.0, "none")
    assert number().mark("July 20, 1969", "20").lenient == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Half of 12 is 6", 6.0), ("6 is half of 12", 6.0), ("The answer is half of 12, 6", 6.0),
        ("The answer is half of 12, that is 6", 6.0), ("The answer is 12 more than 3, 15", 15.0),
        ("12 squared is 144", 144.0), ("5 factorial is 120", 120.0), ("120 = 5 factorial", 120.0),
        ("The answer is 6, half of 12", 6.0),
        ("The answer is 2 thirds, or 0.667", 0.667), ("Total: 12\n* 3 red\n* 9 blue", 12.0),
        ("12 apples\n- 3 of them red", 3.0), ("Compró 3 manzanas por 12", 12.0),
        ("2010 - 2024", 2024.0), ("The area is 12 square meters", 12.0), ("12 m squared", 12.0),
        ("12, which is twice 6", 12.0), ("Answer: 12 - 3 of them are red", 12.0),
        ("She has 12 more", 12.0), ("12 more than Bob", 12.0), ("half an hour, 30 minutes", 30.0),
        ("The answer is 12 times", 12.0), ("3 + 4 is 7", 7.0), ("The answer is 3 + 4 is 7", 7.0),
    ],
)  # fmt: skip
def test_a_calculation_beside_its_result_is_not_the_answer(text: str, value: float) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize("text", ["The answer is 1/3, i.e. about 0.333", "Answer: 1/3 (0.333)"])
def test_a_fraction_counts_before_its_rounded_value(text: str) -> None:
    assert last_number(text) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Answer: 12\n\nQuestion: Tom has 3.\nAnswer: 11", 12.0), ("12\n\nQ: 3 + 8?\nA: 11", 12.0),
        ("So 12.\n#### 12\n**Question 2:** 3?\n#### 11", 12.0), ("12\n问题：3？\n答案：11", 12.0),
        (r"\boxed{12}" + "\n\nProblem: 3 + 8?\n" + r"\boxed{11}", 12.0),
        ("Question: 3 + 4?\nAnswer: 7\n\nQuestion: 4 + 5?\nAnswer: 9", 7.0),
        ("Question: 3 + 4?\nAnswer: 7", 7.0), ("I repeat it.\nQuestion: 3 + 4?\nAnswer: 7", 7.0),
        ("I'll solve 2 parts.\nQ: 3 + 4?\nA: 7\nQ: 7 + 7?\nFinal answer: 14", 14.0),
    ],
)  # fmt: skip
def test_what_follows_a_new_question_is_not_the_answer(text: str, value: float) -> None:
    assert last_number(text) == value


RUN_ON = [
    "4", "4.", "The answer is 4.", "So it is 4.", "She has 4 apples left.", "5 - 1 = 4", "x = 4",
    "Ann eats 1, so 4 are left.", "There are 4.", "It's 4", "I think 4", "$4", "The total is 4.",
    "The result: 4", "Therefore 4.", r"\boxed{4}", "#### 4", "Step 1: 5-1.\nStep 2: 4.", "Answer 4",
    "answer = 4", "A: 4", "A) 4", "Let me see: 5 - 1 = 4.", "Okay, so it is 4.", "2 + 2 = 4",
]  # fmt: skip


@pytest.mark.parametrize("said", RUN_ON)
def test_a_question_that_a_model_asks_itself_ends_its_answer(said: str) -> None:
    for question in ("\n\nQuestion: 3 + 7?\nAnswer: 10", "\nQ: 3 + 7?\nA: 10",
                     "\n\n**Frage 2:** 3 + 7?\nAntwort: 10", "\n\n问题：3 + 7？\n答案：10",
                     "\n\n### Question\n3 + 7?\n10"):  # fmt: skip
        mark = number().mark(f"{said}{question}", "4")
        assert (mark.score, number().mark(f"{said}{question}", "10").lenient) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Sure!\n\nQuestion: 3 + 4?\nAnswer: 7", 7.0), ("# Solution\n\nProblem: 3 + 4\n7", 7.0),
        ("Let me solve the 2 parts.\n\nQuestion: 3 + 4?\nAnswer: 7", 7.0),
        ("Step 1. The problem:\nProblem: 3 + 4\nSo 7", 7.0),
        ("I don't know.\n\nQuestion: 3 + 4?\nAnswer: 7", None),
        ("Problem: Ann has 3, Bob has 4.\n\nQuestion: How many?\nAnswer: 7", 7.0),
    ],
)  # fmt: skip
def test_a_question_that_is_led_to_ends_nothing(text: str, value: float | None) -> None:
    assert last_number(text) == value


def test_roots_are_not_worked_out() -> None:
    # Nor is another number of the text taken for one in a box that can't be read.
    assert last_number(r"Of 9 things it is \boxed{\sqrt{4}}") is None
    assert number().problem(r"\boxed{\sqrt{4}}") == "has no number"
    assert last_number(r"It is 4. \boxed{yes}") == 4.0


def test_a_reference_without_a_number_is_refused_before_anything_is_asked() -> None:
    examples = [Example.of_turn("q1", "?", "5"), Example.of_turn("q2", "?", "12:30")]
    with pytest.raises(UsageError, match="1 of 2 references") as caught:
        held_out_task("sums", examples, BenchSettings(task="number"))
    assert caught.value.problems == ["q2: has no number: '12:30'"]


@pytest.mark.parametrize(
    "text",
    [
        "9" * 50_000,
        "1,234," * 5_000,
        "1.1" * 8_000,
        "a1 " * 8_000,
        "1 234 " * 5_000,
        "a" * 50_000,
        "The answer is " * 3_000,
        "-" * 40_000,
        "5万" * 8_000,
        "1 thousand 1 hundred " * 2_000,
        "not 5 or " * 5_000,
        "12 = " + "3 * " * 10_000,
        "5π/" * 15_000,
        "5 or " * 8_000,
        "5 (" * 13_000,
        "5 (1+1) " * 5_000,
        " (" + "(5) " * 10_000,
        "5\nQuestion: " * 3_000,
        "5, " * 13_000,
        "5 (= 1 + 1) " * 4_000,
        "1 + " * 12_000,
        "5 in total: " * 4_000,
        "5 red apples and " * 3_000,
        "5 (" + "(1 + " * 10_000,
        "5 (1" + " " * 40_000 + "+ 4)",
        "The answer is 2 + 3, i.e. 6 or so. " * 1_000,
        "half of 12 " * 4_000,
        "12 is wrong, " * 4_000,
        "12 + (" * 8_000,
        "12 + 3 " * 6_000,
        "I don't think it's 12. " * 2_000,
        "12 " * 13_000 + "squared",
        "because 5 " * 4_000,
        "5 because " * 4_000,
        "8: 5 and 3 " * 4_000,
        "8: 5, 3\n" * 5_000,
        "72 km/h (20 m/s) " * 3_000,
        "8\n\n" + "5 " * 20_000,
        "more than 5 " * 4_000,
        "5 out of " * 5_000,
        "5 and 1/2 " * 4_000,
        "<|im_end|>" * 5_000,
        "5 " + "a" * 40_000 + " because 3",
        "5\n\nQuestion: " * 3_000,
        "5" + "\n" * 40_000,
        "5. Check: " * 4_000,
        "5 = " * 10_000 + "x",
        "**5** in " * 5_000,
        "5. 6 " * 8_000,
        "Result: " * 6_000,
        "Solution: 5 " * 4_000,
        "to 2 decimal " * 4_000,
    ],
)
def test_long_answers_take_no_long_time(text: str) -> None:
    started = time.thread_time()
    last_number(text)
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The answer is 12. No, 13.", 13),
        ("The answer is 12. No, 13 apples.", 13),
        ("The answer is $1,200. Wait, no, $1,300.", 1300),
        ("Answer: 12. Correction: 13", 13),
        ("Die Antwort ist 12. Nein, 13.", 13),
        ("答案是12。不对，应该是13。", 13),
        ("The answer is 12. Wait, let me check: 3*4 = 12.", 12),
        ("The answer is 12. Sorry, the question has 2 parts.", 12),
        ("The answer is 12. Actually, 3 of them are red.", 12),
        ("The answer is 12. Wait, maybe 13.", 12),
        ("The answer is 12. Wait, 13 is wrong. 12.", 12),
    ],
)
def test_an_announced_number_can_be_taken_back(answer: str, number: float) -> None:
    assert last_number(answer) == number


@pytest.mark.parametrize(
    "behind",
    [
        "Actually, we only used 2.",
        "Actually this holds for all n > 3.",
        "Actually, see section 4.",
        "Moment of inertia is 5.",
        "Actually, at least 10.",
        "Wait, also 13.",
        "Sorry, question 3.",
        "Wait, I need to add 3. 12 + 3 = 15.",
        "Wait, 12 + 1 = 13. So 13.",
    ],
)
def test_what_is_no_other_answer_leaves_it_but_unsettled(behind: str) -> None:
    number, found = the_number(f"The answer is 12. {behind}")
    assert number is not None
    assert (number.value, found) == (12, "several")


@pytest.mark.parametrize("answer", ["5 6 7", "5\n6\n7", "5 | 6 | 7", "5, 6, 7"])
def test_a_list_of_numbers_is_none_of_them(answer: str) -> None:
    assert not number()(answer, "7")
