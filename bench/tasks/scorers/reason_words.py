"""Words that begin a reason or a conclusion: 8, because 5 and 3 are there; 5 and 3, so 8."""

from __future__ import annotations

import re

BECAUSE = (
    r"(?:\b(?:because|weil|denn|parce\squ[e'’]|puisqu[e'’]|porque|ya\sque|puesto\sque|dado\sque|uma\svez\sque"
    r"|perché|poiché|giacché|omdat|eftersom|fordi|потому|так\sкак|поскольку|тому\sщо|оскільки"
    r"|ponieważ|gdyż|protože|neboť|koska|mert|mivel|deoarece|pentru\scă|επειδ[ήη]|δι[όο]τι|çünkü"
    r"|karena|bởi\svì|لأن\w*|क्योंकि)(?!\w)|因为|因為|由于|由於|なぜなら|왜냐하면|เพราะ)"
)
"""Nothing else can be meant."""
SURELY_SINCE = r"(?:(?:since|car|pois|bo|бо|ведь|siden|vì)(?!\w))"
"""Reasons where they begin a clause behind a number; the others of SINCE say other things there
too: 3 feet, for a distance of 24."""
SINCE = rf"(?:{SURELY_SINCE}|(?:as|da|want|ty|for)(?!\w))"
"""Reasons where they begin a clause."""
REASON = re.compile(rf"(?i)[,;(]?\s(?:{BECAUSE}|{SINCE}\s)")
"""What follows gives the reason, or checks the result."""
CONCLUDES = re.compile(
    r"(?i)\b(?:so|thus|hence|therefore|total|altogether|i\.e|that is|makes?|equals?|left|remain\w*"
    r"|also|insgesamt|ergibt|folglich|übrig|bleib\w*|donc|soit|en tout|rest(?:e|ent)|así que"
    r"|por tanto|qued\w+|portanto|logo|sobra\w*|quindi|riman\w+|dus|alltså|итого|всего|значит"
    r"|поэтому|остал\w+)\b|所以|因此|一共|总共|總共|剩|だから|したがって|合計|残|그래서|따라서|남"
)
"""Such words bring a result of their own: 3 dozen (12 in each of 3 boxes, so 36)."""
