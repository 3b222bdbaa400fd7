"""What multiplies a number in running text: 5 million, 5 Mio., 5k, 5千万, and 1億2000万 of parts.

Words only where a number stands before them, so a word that means something else as well
("mil" of an inch, "bin" in German) is read as a scale there alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# Stems end in "~": what follows them is the ending of a case or a plural.
_WORDS: dict[float, str] = {
    12.0: "dozens? dutzend douzaines? docenas? dúzias? dozzin~ dozijn tuzin~ tucet~ düzine дюжин~",
    1e2: "hundred hundert",
    1e3: "thousand tausend mille mila mil тысяч~ тыс тисяч~ tysiąc~ tysięcy tys tisíc~ tusen tusind"
    " duizend tuhat~ bin(?!\\sich\\b) χιλιάδες हज़ार हजार ألف آلاف nghìn ngàn ribu",
    1e5: "lakhs? лакх लाख",
    1e6: "millions? millionen millioner mio mill millón millones milhão milhões milion~ mln"
    " миллион~ млн мільйон~ miljoen miljon~ miljoon~ milyon εκατομμύρι~ مليون ملايين triệu juta",
    1e7: "crores? करोड़ करोड",
    1e9: "billions? bn milliarden? milliarder milliards? mrd mia miliard~ mld mlrd md bilhão"
    " bilhões миллиард~ млрд мільярд~ miljard~ milyar δισεκατομμύρι~ مليار مليارات tỷ miliar",
    1e12: "trillions? billionen billón billones bilion~ trilhão trilhões триллион~ трлн трильйон~"
    " trilyon triliun",
}  # fmt: skip
# A word may follow these without a space.
_CHARACTERS = {
    "十": 1e1, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8, "兆": 1e12,
    "십": 1e1, "백": 1e2, "천": 1e3, "만": 1e4, "억": 1e8, "조": 1e12,
    "พัน": 1e3, "หมื่น": 1e4, "แสน": 1e5, "ล้าน": 1e6,
}  # fmt: skip
_LETTERS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_BIG = 1e4  # 万 and above multiply all that stands before them: 5千万
MOST_DIGITS = 400  # a float ends near 1e308
_MOST_SCALES = 3  # behind one number: 5 hundred thousand million

_SCALE = re.compile(
    "|".join(
        [
            *(
                rf"(?P<w{place}>[ -]?(?i:{'|'.join(words.split())})(?!\w)\.?)".replace("~", r"\w*")
                for place, words in enumerate(_WORDS.values())
            ),
            # Kilograms, megahertz, points of percent and "as much as" are units.
            r"\s?(?P<character>千(?![克米瓦卡赫焦帕])|兆(?![瓦赫帕字])|百(?!分)|만(?!큼)|พัน(?!ธ)"
            r"|[十万萬亿億십백천억조]|หมื่น|แสน|ล้าน)",
            r"(?P<letter>[kKMB])(?!\w)|\s(?P<money>[kKM])(?=\s?[€$£¥₹])",
        ]
    )
)

_PART = re.compile(r"(?P<apart>\s?)(?P<digits>\d{1,3}(?:,\d{3})+|\d+)(?![\d.,/:]*\d)")


@dataclass(frozen=True)
class Scale:
    """The scales behind a number: their `factors` as they stand there, where they `end`, and
    whether they are Chinese, Japanese or Korean ones, which a number may follow: 2万5000."""

    factors: tuple[float, ...]
    end: int
    joins: bool


def _read_scale(text: str, place: int) -> Scale | None:
    """The scales that stand in a prepared text from `place` on, None without any."""
    factors: list[float] = []
    joins = False
    while len(factors) < _MOST_SCALES and (found := _SCALE.match(text, place)):
        if (character := found["character"]) is not None:
            factors.append(_CHARACTERS[character])
            joins = not character.startswith(("พ", "ห", "แ", "ล"))
        elif letter := found["letter"] or found["money"]:
            factors.append(_LETTERS[letter])
        else:
            factors.append(next(of for n, of in enumerate(_WORDS) if found[f"w{n}"]))
        place = found.end()
    return Scale(tuple(factors), place, joins) if factors else None


class Sum:
    """Parts that make one number: 1億2000万, 2千5百万, 2 million 500 thousand."""

    def __init__(self) -> None:
        self._done = self._open = 0.0
        self._limit = math.inf  # the next part has to be smaller than the last scale

    def add(self, value: float, scale: Scale | None) -> bool:
        """Add a part: its number and the scales behind it. False if it belongs to another one."""
        factors = () if scale is None else scale.factors
        small = math.prod(factor for factor in factors if factor < _BIG)
        large = math.prod(factor for factor in factors if factor >= _BIG)
        joined = self._open and scale is not None and scale.joins
        if value * small * (1.0 if joined else large) > self._limit:
            return False
        self._limit = small * large
        self._open += value * small
        if large > 1:
            self._done += self._open * large
            self._open = 0.0
        return True

    @property
    def value(self) -> float:
        return self._done + self._open


def with_scales(text: str, value: float, place: int) -> tuple[float, float | None, int]:
    """A number with the scales that stand behind it, and with the parts that follow those; what it
    is without its scale (None if it has none, or parts); where all that ends."""
    scale = _read_scale(text, place)
    if scale is None:
        return value, None, place
    parts = Sum()
    parts.add(value, scale)
    place = alone = scale.end
    while (part := _PART.match(text, place)) is not None:
        following = _read_scale(text, part.end())
        if not (scale.joins if following is None else following.joins == scale.joins):
            break
        if following is None and part["apart"] and not "가" <= text[scale.end - 1] <= "힣":
            break  # Korean has spaces between the parts
        number = as_float(part["digits"].replace(",", ""))
        if number is None or not parts.add(number, following):
            break
        place = part.end() if following is None else following.end
        if following is None:
            break
        scale = following
    return parts.value, value if place == alone else None, place


def as_float(written: str) -> float | None:
    """None for nothing, and for more digits than a float has."""
    return float(written) if written and len(written) <= MOST_DIGITS else None
