"""Which column of a table is asked and which is answered, where their names are none that is known:
by the words in their names and by what they hold."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.hub import local_path
from tuneserve.finetune.data.keys import KNOWN, MARKS
from tuneserve.finetune.data.records import read_records

_LOOKED_AT = 200
# Of the values, this share has to be numbers, dates or names for a column to hold them.
_NEARLY_ALL = 0.9
# A column names classes if it has at most so many different values, and each often enough.
_FEW_VALUES, _REPEATED = 20, 1.5
_NUMBERS, _DATES, _IDS, _TEXT = "numbers", "dates", "ids", "text"
_NUMBER = re.compile(r"[-+±~<>]?\W{0,2}\d[\d\s.,'’_]*\W{0,3}[A-Za-z]{0,3}\W?|[A-Z]{3} ?\d[\d.,']*")
_DATE = re.compile(
    r"(\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{4}年\d{1,2}月\d{1,2}日)([T ,]+\d{1,2}:\d{2}\S*)?"
    r"|\d{1,2}:\d{2}(:\d{2})?( ?[AaPp][Mm])?"
)
# A word with a digit in it, an address, or hexadecimal digits.
_ID = re.compile(r"(?=\S*\d)[A-Za-z0-9_#./:-]{1,40}|[^\s@]+@[^\s@]+|\w+://\S+|[0-9a-fA-F-]{8,}")
_ASKED = (
    "question", "prompt", "input", "instruction", "query", "request", "message", "subject",
    "description", "sentence", "review", "text", "body",
    "frage", "nachricht", "betreff", "beschreibung", "eingabe", "aufgabe", "satz",  # German
    "pregunta", "consulta", "mensaje", "pergunta", "mensagem",  # Spanish, Portuguese
    "demande", "énoncé", "domanda", "richiesta", "messaggio", "testo",  # French, Italian
    "vraag", "bericht", "spørgsmål", "fråga", "spørsmål", "kysymys",  # Dutch, Nordic
    "pytanie", "otázka", "otazka", "kérdés", "întrebare", "pitanje",  # Polish to Croatian
    "вопрос", "запитання", "питання", "ερώτηση", "soru", "سؤال", "שאלה", "प्रश्न",
    "问题", "問題", "質問", "질문", "câu hỏi", "pertanyaan", "คำถาม",
)  # fmt: skip
_ANSWERED = (
    "answer", "output", "response", "completion", "reply", "solution", "label", "target", "result",
    "category", "sentiment", "intent", "class", "team", "department", "summary", "translation",
    "antwort", "lösung", "ergebnis", "ausgabe", "kategorie", "klasse", "abteilung", "übersetzung",
    "respuesta", "resposta", "categoría", "categoria", "solución",
    "réponse", "reponse", "catégorie", "risposta", "soluzione",
    "antwoord", "svar", "vastaus", "odpowiedź", "odpověď", "odpoveď", "válasz", "răspuns",
    "odgovor", "ответ", "відповідь", "категория", "απάντηση", "cevap", "yanıt", "جواب", "إجابة",
    "תשובה", "उत्तर", "答案", "回答", "답변", "trả lời", "jawaban", "คำตอบ",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """What a column holds: 'text', 'numbers', 'dates' or 'ids'; is there a value `everywhere`, do
    values come again (`repeats`), how many are `different`, and how many characters they have in
    the mean."""

    name: str
    kind: str
    everywhere: bool
    repeats: bool
    different: int
    characters: float

    @property
    def is_class(self) -> bool:
        """Are there a few values, which come again?"""
        return self.kind == _TEXT and self.repeats and 1 < self.different <= _FEW_VALUES

    def describe(self) -> str:
        if self.different <= 1:
            return "always the same" if self.different else "empty"
        if self.is_class:
            held = f"{self.different} different values"
        elif self.kind == _TEXT:
            held = f"text of about {max(1, round(self.characters))} characters"
        else:
            held = self.kind
        return held if self.everywhere else f"{held}, with gaps"


@dataclass(frozen=True)
class Guess:
    """The column that is probably asked and the one that is answered."""

    asked: Column
    answered: Column

    def why(self) -> str:
        """What speaks for both."""
        asked = _reason(self.asked, named=_named(self.asked, _ASKED))
        answered = _reason(self.answered, named=_named(self.answered, _ANSWERED))
        return f"{self.asked.name} is asked: {asked}; {self.answered.name} is answered: {answered}"


def unknown_columns(path: Path) -> list[Column]:
    """The columns where none of the first records has a key that says what is asked or answered;
    else none. Raises UsageError if the data can't be read."""
    values: dict[str, list[str]] = {}
    records = 0
    for raw in itertools.islice(read_records(local_path(path)), _LOOKED_AT):
        if isinstance(raw.record, BadRecord) or not isinstance(raw.record, dict):
            return []
        records += 1
        for key, value in raw.record.items():
            found = values.setdefault(str(key), [])
            if value not in (None, ""):
                found.append(str(value).strip())
    if any(key.strip().lower() in MARKS for key in values):
        return []
    return [
        column_of(key, found, records)
        for key, found in values.items()
        if key.strip().lower() not in KNOWN
    ]


def column_of(name: str, values: Sequence[str], records: int) -> Column:
    """What the `values` that a column has in so many records are."""
    different = len(set(values))
    return Column(
        name,
        kind=_kind(values),
        everywhere=len(values) == records,
        repeats=_REPEATED * different <= len(values),
        different=different,
        characters=fmean(map(len, values)) if values else 0.0,
    )


def _kind(values: Sequence[str]) -> str:
    for kind, form in ((_DATES, _DATE), (_NUMBERS, _NUMBER), (_IDS, _ID)):
        if values and _share(values, form) >= _NEARLY_ALL:
            return kind
    return _TEXT


def _share(values: Sequence[str], form: re.Pattern[str]) -> float:
    return fmean(form.fullmatch(value) is not None for value in values)


def guessed_columns(columns: Sequence[Column]) -> Guess:
    """Of two columns or more. Numbers, dates, ids and what is always the same are taken where there
    is nothing else, or a name says that they are answers."""
    asked = max(columns, key=_fitness_as_asked)
    others = [column for column in columns if column != asked]
    # Of equals the last one: what is answered mostly stands behind what is asked.
    return Guess(asked, max(reversed(others), key=_fitness_as_answered))


def _fitness_as_asked(column: Column) -> tuple[float, float]:
    answers = _named(column, _ANSWERED)
    named = _named(column, _ASKED) and not answers
    # A number is hardly a question, whatever its name ('Umsatz' has 'Satz' in it).
    says = (3.0 if column.kind == _TEXT else 1.0) * named - answers
    return _fitness(column) + says, column.characters


def _fitness_as_answered(column: Column) -> tuple[float, float]:
    named = _named(column, _ANSWERED)
    says = 3.0 * named - (_named(column, _ASKED) and not named)
    return _fitness(column) + says, float(column.is_class)


def _fitness(column: Column) -> float:
    known = 2.0 * (column.kind == _TEXT) - 2.0 * (column.different <= 1) + column.everywhere
    # Nothing is learned from what is empty, whatever its name.
    return known - 10.0 * (not column.different)


def _named(column: Column, words: Iterable[str]) -> bool:
    name = column.name.casefold()
    return any(word in name for word in words)


def _reason(column: Column, *, named: bool) -> str:
    return f"its name, {column.describe()}" if named else column.describe()
