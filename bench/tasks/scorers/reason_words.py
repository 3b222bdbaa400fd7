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
THEREFORE = (
    r"(?:\b(?:thus|hence|therefore|consequently|accordingly|(?:in|to)\s(?:conclusion|conclude|summary|sum\sup)"
    r"|daher|somit|folglich|deshalb|demnach|donc|ainsi(?!\sque)|par\sconséquent|así\sque|por\s(?:lo\s)?tanto"
    r"|por\sende|en\s(?:conclusi[oó]n|resumen|conséquence|consecuencia)|portanto|logo|em\s(?:conclusão|resumo)"
    r"|quindi|pertanto|dunque|in\sconclusione|dus|daarom|alltså|därför|altså|derfor|значит|следовательно|поэтому"
    r"|таким\sобразом|итак|отже|zatem|więc|dlatego|tedy|dolay[ıi]s[ıi]yla|bu\s(?:nedenle|yüzden)|άρα|επομ[έε]νως"
    r"|vì\svậy|do\sđó|jadi|oleh\skarena\situ|إذن|لذلك)\b|इसलिए|अतः|所以|因此|综上(?:所述)?|綜上(?:所述)?"
    r"|だから|したがって|従って|(?<!に)よって|그래서|따라서|그러므로|ดังนั้น)"
)
"""Words of a conclusion, which mean nothing else."""
CONCLUDES = re.compile(
    rf"(?i){THEREFORE}|\b(?:so|total|altogether|i\.e|that is|makes?|equals?|left|remain\w*"
    r"|also|insgesamt|ergibt|übrig|bleib\w*|soit|en tout|rest(?:e|ent)|qued\w+|sobra\w*|riman\w+"
    r"|итого|всего|остал\w+)\b|一共|总共|總共|剩|合計|残|남"
)
"""Such words bring a result of their own: 3 dozen (12 in each of 3 boxes, so 36)."""
