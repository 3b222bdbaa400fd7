"""Words that deny what stands right behind or right before them, in many languages.

Parts of patterns without regard to case, for the choices and the numbers of an answer. An
apostrophe is the plain one here.
"""

from __future__ import annotations

BEFORE = (
    r"(?:(?<!\w)(?:not|cannot|never|neither|nor|isn't|aren't|wasn't|rather\sthan|instead\sof"
    r"|(?<!no\s)(?<!without\s)(?<!without\sa\s)doubt(?:\s(?:that|if|whether))?"
    r"(?:\s(?:it|this|that|the\sanswer))?(?:'s|\sis|\sto\sbe)?"
    r"|unlikely(?:\sto\sbe|\sthat\s(?:it|the\sanswer)\sis)"
    r"|nicht|keinesfalls|keineswegs|weder|(?:an)?statt"
    r"|pas|jamais|plutôt\squ[e']|au\slieu\sde|no\s(?:es|son)|nunca|en\s(?:lugar|vez)\sde"
    r"|não(?:\sé|\ssão)?|em\svez\sde|non(?:\sè|\ssono)?|invece\sdi|anziché"
    r"|niet|geen|in\splaats\svan|ikke|inte|ej|ei(?:\sole)?|nem|ne|nije|není|nie(?:\sjest)?"
    r"|nu\s(?:e|este)|ni|né|ani"
    r"|не|вместо|δεν(?:\sε[ίι]ναι)?|[όο]χι|bukan(?:lah)?|không(?:\sphải)?(?:\slà)?|chẳng\sphải(?:\slà)?"
    r"|ليس|ليست|אינה|אינו|לא|(?<![^\n])değil)(?!\w)"
    r"|不是|并非|並非|而非|不会是|不會是|ไม่ใช่)"
)
"""What denies the choice or number that follows it."""
_SURELY = (
    r"(?:(?:definitely|clearly|certainly|simply|just|obviously|also|surely|plainly|still|then"
    r"|therefore|completely|totally|probably|most\slikely|very)\s){0,2}"
)
_RULED_OUT = r"(?:ruled\sout|excluded|eliminated|rejected|discarded|dismissed|crossed\s(?:out|off))"
ALL_WRONG = (
    r"\s(?:are|were|sind|sont|son|são|sono|zijn|är|er|są|jsou|sunt)\s(?:both\s|all\s|alle\s|beide\s)?"
    r"(?:wrong|incorrect|false|invalid|falsch|fausses|faux|incorrect[oa]s|incorrectes|fals[oa]s|errad[oa]s"
    r"|incorret[oa]s|sbagliat[ie]|errat[ei]|fout|onjuist|fel|feil|forkerte?|błędne|špatně|greșite)\b"
)
"""What is said of several that are no answers."""
WRONG = (
    r"(?:(?:the|an?)\s)?(?:wrong|incorrect|false|mistaken|impossible|invalid|unlikely(?!\sto\sbe\s(?:wrong|false|incorrect))|implausible"
    rf"|{_RULED_OUT}|out\sof\sthe\squestion|mistake|error|(?:trap|distractor|decoy|red\sherring)s?"
    r"|(?:worst|poorest|weakest|bad|poor|weak)(?:\s\w+)?\s(?:choice|option|answer|candidate|pick|fit)s?"
    r"|too\s(?:high|low|big|large|small|broad|narrow|vague|extreme|general))\b"
)
"""What is said of something that is no answer."""
BEHIND = (
    rf"(?:\s(?:is|was|seems|looks|would\sbe|must\sbe)\s{_SURELY}{WRONG}"
    rf"|\s(?:can|could|should|must|has|have)\sbe(?:en)?\s(?:\w+ly\s)?{_RULED_OUT}\b"
    rf"|\s(?:can't|cannot|couldn't|wouldn't)\sbe\b(?!\s(?:\w+ly\s)?(?:{_RULED_OUT}|wrong|false))"
    r"|\s(?:does\snot|doesn't|won't|wouldn't)\s(?:fit|work|apply|hold|match|make\ssense)\b"
    r"|\sist\s(?:\w+\s)?(?:falsch|inkorrekt|verkehrt|unmöglich|ausgeschlossen"
    r"|(?:schlechteste|falsche)\s(?:wahl|option|antwort))\b|\sstimmt\snicht\b"
    r"|\sscheidet\saus\b|\sest\s(?:\w+\s)?(?:faux|fausse|incorrecte?|erronée?|impossible|exclue?|piège)\b"
    r"|\s(?:es|está)\s(?:fals[oa]|incorrect[oa]|erróne[oa]|mal|imposible|una\strampa)\b"
    r"|\s(?:é|está)\s(?:fals[oa]|errad[oa]|incorret[oa]|impossível)\b"
    r"|\sè\s(?:fals[oa]|sbagliat[oa]|errat[oa]|scorrett[oa]|impossibile)\b"
    r"|\sis\s(?:fout|onjuist|verkeerd)\b|\sklopt\sniet\b|\s(?:är|er)\s(?:fel|feil|forkert)\b"
    r"|\s(?:jest|to)\s(?:błąd|błęd|nieprawidłow|niepoprawn)\w*|\sje\s(?:špatně|nesprávn\w*)"
    r"|\son\s(?:väärin|väärä)\b|\s(?:hibás|helytelen|rossz)\b|\seste\s(?:greșit|incorect)\w*"
    r"|[\s—–-]{1,3}(?:это\s)?(?:неверн|неправильн|ошиб)\w*|\s(?:değil|yanl[ıi]ş)\w*"
    r"|\sε[ίι]ναι\s(?:λ[άα]θος|λανθασμ[έε]ν)\w*|\sδεν\sε[ίι]ναι\b|\s(?:là\s)?(?:sai|không\sđúng)\b"
    r"|\ssalah\b|\sbukan\b|\s(?:خطأ|خاطئة?|غير\sصحيحة?|ليس(?:ت)?\sصحيح\w*)"
    r"|\s?(?:नहीं|गलत|ग़लत)|\s?(?:ไม่ใช่|ไม่ถูก|ผิด)"
    r"|(?:选项|選項|项|項)?\s?(?:均|都|皆|全都?|全部)?(?:是|就是)?(?:不对|不對|不正确|不正確|错误|錯誤|错|錯|不是|有误|有誤)"
    r"|(?:は|が|で|も)?(?:すべて|全て|どれも|いずれも)?(?:ではな[いく]|ではあり|でな|でもな|じゃな|じゃあり|とは言えな|とはいえな|違います|違う|誤り|不正解"
    r"|正しくな|間違い(?!な|あり|は)|間違って|間違え)"
    r"|(?:적|적이)?(?:이|가|은|는|도)?\s?(?:(?:정답|답)[이은]?\s?)?"
    r"(?:아니(?![,.!?])|아닙|아님|아닌|아녜|틀리|틀렸|틀린|틀립|틀림(?!없)|오답)|(?:적)?이?지\s?(?:않|못))"
)
"""What denies the choice or number that it follows."""
