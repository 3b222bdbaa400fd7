"""The word that an answer concludes on: the food was positive, the rest was awful. So, negative."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.denials import Mention
from tuneserve.bench.tasks.scorers.reason_words import BECAUSE, SURELY_SINCE, THEREFORE
from tuneserve.bench.tasks.scorers.rejections import OVERALL

# "So" and German "also" say other things elsewhere: so negative a text; joy, also sadness.
_CONCLUDES = re.compile(
    rf"(?i){THEREFORE}|{OVERALL}|\b(?:ultimately|mostly|predominantly)\b|[→⇒]|[=-]>"
    r"|(?:(?<![^\n])|(?<=[.,;:!?)—–-]\s)|(?<=\sand\s))so(?!\w)"
    # What a reason leads to: since there are no exceptions, yes.
    rf"|(?:(?<![^\n])|(?<=[.!?]\s))(?:{BECAUSE}|{SURELY_SINCE}|(?:as(?!\sfor)|da)(?!\w))[^.!?\n,]{{1,160}},"
    r"|(?<=[,;]\s)also(?=\s(?:ist|sind|wird|handelt|gehört|lautet)\b|\s\W{0,3}\w+\W{0,3}(?:\n|\Z))"
)
_END = re.compile(rf"(?i)[.;!?](?=\s|\Z)|[\n。；！？(（]|{BECAUSE}|\bsince\b")
_MOST_TRIED = 8
"""Words of conclusion: each reads all mentions."""
_SENTENCE = re.compile(r"[^.!?。！？\n]+[?？]?")
# What it says there is none of: overall, nothing negative.
_NONE_OF = re.compile(r"(?i)\b(?:no|not|nothing|none|never|kein\w*|nichts?|rien|nada|niente|nic)\b")


def concluded(text: str, found: Sequence[Mention]) -> str | None:
    """The only choice that the last clause behind a word of conclusion names, None for none or
    several. `found`: all mentions in the text, by place."""
    for word in reversed(list(_CONCLUDES.finditer(text))[-_MOST_TRIED:]):
        end = _END.search(text, word.end())
        named = {
            one.choice
            for one in found
            if word.end() <= one.start < (end.start() if end else len(text))
            and not (one.denied or one.doubtful or one.conceded)
            and not _NONE_OF.search(text, word.end(), one.start)
        }
        listed = word[0].lower() == "also" and any(
            not (one.denied or one.doubtful)
            and 0 < word.start() - one.end < 4
            and text[one.end : word.start()].strip() == ","
            for one in found
        )  # one more: joy, also sadness
        if named and not listed:
            return named.pop() if len(named) == 1 else None
    return None


def without_asked(text: str, found: list[Mention]) -> list[Mention]:
    """The mentions without those of a question that names several (positive or negative?), if
    others follow."""
    starts = [one.start for one in found]
    left: list[Mention] = []
    place = 0
    for sentence in _SENTENCE.finditer(text):
        end = bisect_left(starts, sentence.end())
        named = found[place:end]
        asked = sentence[0].endswith(("?", "？")) and len({one.choice for one in named}) > 1
        left += [] if asked and end < len(found) else named
        place = end
    return left + list(found[place:])
