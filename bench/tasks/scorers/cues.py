"""Where in a text the answer stands: \\boxed{…}, "#### …", "the answer is …" in many languages."""

from __future__ import annotations

import re
from collections.abc import Iterator

_DECORATION = r"[\s*_`\"'“”‘’«»「『:：=]*"
_CUE = re.compile(
    r"(?i)(?:"
    r"\banswer\b(?:\s+(?:to|of)\s+(?:the|this|that)\s+\w+)?[*_\s]*"
    r"(?:\bis\b|\bare\b|\bwould\s+be\b|\bwill\s+be\b|\bmust\s+be\b|\bshould\s+be\b|[:：=])"
    r"|\b(?:correct|right|best)\s(?:option|choice|letter|one)\b[*_\s]*(?:\bis\b|[:：=])"
    r"|\bans\b\.?(?:\s?[:：=]|(?=\s\d))"
    r"|(?<!\bas\sa\s)\b(?:result(?:ado|aat|at)?|résultat|risultato|wynik|výsledek|sonuç|результат|hasil)[*_\s]*[:：]"
    r"|(?:结果|結果|결과|النتيجة|परिणाम)\s*[:：]"
    # A line of its own. What follows a solution may be its steps, unless it is short.
    r"|^[ \t>*_#]*(?:(?:final|correct)\s)?(?:answer|antwort|ergebnis|réponse|respuesta|resposta"
    r"|risposta|ответ|答案|정답)[ \t*_]*$"
    r"|\b(?:solution|solución|solução|soluzione|решение)[*_\s]*[:：]"
    r"(?=[ \t*_$€£]*(?:[-+(]?\d[\d.,/]*[%°]?(?:\s?[^\W\d_]{1,12}){0,2}|[^\W_]{1,20})[)*_]*"
    r"(?:[.!](?=\s|\Z)|\n|\Z|\s\())"
    r"|\b(?:antwort|lösung|ergebnis)\b[*_\s]*(?:\bist\b|\blautet\b|[:：=])"
    r"|\b(?:réponse|reponse|resposta|respuesta|risposta)\b[*_\s]*"
    r"(?:(?:finale?|correcta?|correcte|corretta|correta)\s*)?(?:\best\b|\bes\b|\bè|é(?=\W)|[:：=])"
    r"|\b(?:ответ|відповідь|odpowiedź|odpověď|antwoord|svar|svaret|vastaus|cevap|yan[ıi]t)\b[*_\s]*"
    r"(?:\bis\b|\bär\b|\ber\b|\bto\b|\bje\b|\bon\b|[:：=]|[—–-](?=\s))"
    r"|απάντηση\s*(?:είναι|[:：])"
    r"|(?:答案|正解|答え|解答|回答|正确选项|正確選項|结论)\s*"
    r"(?:应该是|應該是|应为|就是|是|为|為|選|选|は|[:：])"
    r"|答\s*[:：]"
    r"|(?:정답|답)\s*(?:은|는|[:：])"
    r"|(?:उत्तर|जवाब)(?:\s+है|\s*[:：])"
    r"|(?:الإجابة|الاجابة|الجواب|الإجابة الصحيحة)\s*(?:هي|هو|[:：])"
    r"|(?:คำตอบ|ข้อ|ตัวเลือก)(?:ที่ถูก(?:ต้อง)?)?\s*คือ|คำตอบ\s*[:：]"
    r"|\bđáp\s+án\b\s*(?:là|[:：])"
    r"|\bjawaban(?:nya)?\b\s*(?:adalah|[:：])"
    r"|^[ \t]*\#{4}"
    r")" + _DECORATION,
    re.MULTILINE,
)
# In front of it: I don't think that the answer is 12.
_DOUBTED = re.compile(
    r"(?i)(?:(?:n['’]t|\b(?:not|cannot|never))\s(?:think|believe|say|claim|suppose)|(?<!no\s)\bdoubt"
    r"|\bnicht,\sdass|\bpas\sque|\bno\s(?:creo|pienso)\sque|\bnão\s(?:acho|creio)\sque"
    r"|\bnon\scredo\sche|не\sдумаю,\sчто)\s"
    r"(?:that\s)?(?:(?:the|die|la|a|my|right|correct|final)\s){0,3}\Z"
)
_BEFORE = 48  # characters
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|[。！？।؟]|\n")


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{…} or \\fbox{…}, braces within it matched; None without."""
    place = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if place < 0:
        return None
    start = text.find("{", place)
    if start < 0:
        return text[place:].removeprefix("\\boxed").strip() or None
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[start + 1 : end]
    return text[start + 1 :]


def announced(text: str) -> Iterator[tuple[str, str]]:
    """(the sentence that follows, all that follows up to the next such place) of every place that
    says that now the answer comes, the last one first."""
    until = len(text)
    for cue in reversed(list(_CUE.finditer(text))):
        after = text[cue.end() : until]
        until = cue.start()
        if _DOUBTED.search(text, max(0, until - _BEFORE), until):
            continue
        end = _SENTENCE_END.search(after)
        yield (after[: end.start()] if end else after), after
