"""Where a generated text goes on to a question that it asks itself: its answer ends there."""

from __future__ import annotations

import re
from collections.abc import Callable

_QUESTION = (
    r"question|q|problem|exercise|human|user|frage|aufgabe|pregunta|pergunta|domanda|problème"
    r"|exercice|vraag|fråga|spørgsmål|spørsmål|kysymys|pytanie|otázka|kérdés|soru|întrebare"
    r"|ερώτηση|вопрос|задача|питання|سؤال|السؤال|प्रश्न|सवाल|คำถาม|câu\shỏi|pertanyaan|soal"
    r"|问题|問題|題目|题目|質問|問|问|질문|문제"
)
# What a model that runs on writes before the next question, with a colon or as a heading.
_NEXT = re.compile(
    rf"(?im)^(?:[ \t>*_#]*(?:{_QUESTION})\s?\d{{0,4}}[*_]*\s?[:：]"
    rf"|[ \t]*\#{{1,6}}\s(?:{_QUESTION})\s?\d{{0,4}}[ \t*_]*$"
    # Examples of a task are often written so.
    r"|(?P<example>(?<=\n\n)[*_#]*(?:text|review|input|sentence|tweet|passage|instruction|satz"
    r"|texte|texto|testo|текст|文本|句子|輸入|输入|入力|文章|문장|입력)\s?\d{0,4}[*_]*\s?[:：]))"
)
# Where a turn ends, in the marks of chat templates that were generated as text.
_TURN = re.compile(
    r"<\|(?:im_end|eot_id|end|endoftext|end_of_text|eot|user|END_OF_TURN_TOKEN)\|>|<end_of_turn>|<eos>"
    r"|(?:<\|(?:im_start|start_header_id)\|>|<start_of_turn>)(?=user|system|human)|\[INST\]"
    r"|</s>(?=\s*(?:\Z|\n|<s>|\[INST))|<｜(?:end▁of▁sentence|User)｜>"
)
_BLANK_LINE = re.compile(r"\n[ \t>*_-]*\n[ \t>*_-]*\Z")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|[。！？：]|\n")
# Such a sentence only leads to the question, which is repeated behind it.
_INTRODUCTION = re.compile(
    r"(?i)\A(?:[\W_]*(?:sure|okay|ok|certainly|of course|absolutely|gern|natürlich|bien sûr|claro"
    r"|конечно|好的|当然|もちろん|はい|네|물론)[\W_]*|\#.*"
    r"|(?:step|part|schritt|teil|étape|partie|paso|parte|шаг|часть)\s\d{1,2}[.:]?"
    r"|(?=[^=]*\Z)(?:.*\b(?:here(?:['’]s|\sis|\sare)|(?:let\sme|let['’]s|i['’]ll|i\swill|we['’]ll|we\swill"
    r"|i['’]m\sgoing\sto)\s(?:first\s)?(?:solve|repeat|restate|rephrase|answer|go|work|start|begin|do"
    r"|look|take|think|try|break|read|write)|repeat(?:ed|ing)?|restat\w+|following"
    r"|hier\s(?:ist|sind)|wiederhol\w*|voici|aquí\s(?:está|tienes)|aqui\sestá|ecco|вот)\b.*"
    r"|.*(?:如下|以下|次の|다음).*|[^\d]{0,60}:))\Z"
)
_MOST_LEADING = 400  # characters of an introduction
_MARKS_TRIED = 8


def first_block(text: str, names_any: Callable[[str], bool], says: Callable[[str], bool]) -> str:
    """A text up to where a new question begins: what follows is about something else.

    A question behind an introduction, or with nothing before it, is the one that was asked. What
    stands before it ends there if it `says` its answer or, where it is no introduction, if a blank
    line follows it or it `names_any` of what may be an answer.
    """
    turn = next((one for one in _TURN.finditer(text) if _says_any(text[: one.start()])), None)
    text = text if turn is None else text[: turn.start()]
    introduced = False  # it may lead to several questions
    for _, mark in zip(range(_MARKS_TRIED), _NEXT.finditer(text), strict=False):
        before = text[: mark.start()]
        if not _says_any(before):
            continue
        apart = _BLANK_LINE.search(before) is not None and mark["example"] is None
        leads = _only_leads(before)
        ends = not leads and (apart or (not introduced and names_any(before)))
        if ends or says(before):
            return before
        introduced |= leads
    return text


def _says_any(before: str) -> bool:
    return any(map(str.isalnum, before))


def _only_leads(before: str) -> bool:
    """Is what stands before a question but an introduction to it, or the facts that it is about?"""
    before = before.strip()
    if len(before) > _MOST_LEADING:
        return False
    if "\n" not in before and _NEXT.match(before):
        return True
    sentences = [one.strip() for one in _SENTENCE.split(before)]
    return all(_INTRODUCTION.match(one) for one in sentences if one)
