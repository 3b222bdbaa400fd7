"""Words that rule a choice out, weigh it against another, except or concede it: eliminate B; B is
less likely than C; all but B are wrong; although it begins positive, it is negative.

Parts of patterns without regard to case, for choices only: "he discarded 5" is no denial of a
number. An apostrophe is the plain one here.
"""

from __future__ import annotations

REJECTS = (
    r"(?:(?<!\w)(?:(?:ruled?|rules|ruling|cross(?:ed|es|ing)?|strik(?:e|es|ing)|struck)\s(?:out|off)"
    r"|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|exclud(?:e|es|ed|ing)|avoid(?:s|ed|ing)?"
    r"|discard(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|unlike|beats|trumps|outweighs|outperforms"
    r"|schlie(?:ß|ss)(?:e|en|t)|verwerfe\w?|verwirft|streiche\w?|eliminier\w+"
    r"|(?:j')?élimin(?:e|er|ons|ez|ant)|(?:j')?écart(?:e|er|ons|ez|ant)|(?:j')?exclu(?:s|re|ons|ez|ant)|rejet\w+"
    r"|descart(?:o|é|ar|amos|ando|aría)|elimin(?:o|é|ar|are|amos|iamo|ando|aría|ăm)|exclu(?:yo|ir|imos|ye|o|indo|ímos)|rechaz\w+|rejeit\w+|rifiut\w+"
    r"|esclud\w+|scart(?:o|are|iamo|ando|a)|exclud|sluit(?:en)?|elimineer\w*|verwerp\w*"
    r"|uteslut\w*|utelukk\w*|udeluk\w*|förkast\w*|wyklucz\w+|odrzuc\w+|vyluč\w+|vyřa[dzď]\w*"
    r"|исключ(?:аем|аю|ить|им|ил\w?|ая|ив)|отброс\w+|отбрас\w+|отверг\w+|виключ\w+|відкида\w+"
    r"|αποκλεί\w+|kizár(?:om|juk|hat\w+|ható|va)|sulje\w*(?:\spois)?|hylkää\w*|loại\s(?:bỏ|trừ)"
    r"|(?:men)?gesampingkan|kesampingkan|singkirkan|eliminasi\w*|[نأا]?ستبعد\w*)(?!\w)"
    r"|(?<!\w)(?:nothing\sto\sdo\swith|(?:un|not\s)related\sto|irrelevant\sto|no\smention\sof|free\s(?:of|from)"
    r"|nichts\smit|rien\sà\svoir\savec|nada\sque\sver\scon|nada\sa\sver\scom|niente\sa\sche\s(?:fare|vedere)\scon"
    r"|niets\ste\smaken\smet|inget\satt\sgöra\smed|ingenting\så\sgjøre\smed|intet\sat\sgøre\smed"
    r"|nic\swspólnego\sz|не\sимеет\sотношения\sк|не\sсвязан\w*\sс)(?!\w)|排除|淘汰|剔除|ตัด(?:ข้อ)?)"
)
"""Rules out the choice that it stands before."""
_PREFERS = (
    r"(?<!\w)(?:choos\w+|chose|prefer\w*|pick\w*|select\w*|take|favou?r\w*|go\swith)\s"
    r"[^.,;\n]{1,20}\sover(?!\w)|(?<!\w)prefer\w*\s[^.,;\n]{1,20}\sto(?!\w)"
)
PREFERRED_TO = (
    rf"(?:{_PREFERS}|(?<!\w)(?:(?<!no\s)(?<!not\s)(?:more\s\w+|better|likelier|stronger)\sthan"
    r"|(?:wahrscheinlicher|besser|eher|plausibler|passender)\sals"
    r"|(?:plus\s\w+|mieux|meilleure?)\sque|(?:más\s\w+|mejor)\sque|(?:mais\s\w+|melhor)\s(?:do\s)?que"
    r"|(?:più\s\w+|meglio|migliore)\sdi|(?:waarschijnlijker|beter|aannemelijker)\sdan"
    r"|(?:mer\s\w+|bättre|bedre|mere\s\w+|mer\s\w+)\s(?:än|enn|end)"
    r"|(?:более\s\w+|лучше|вероятнее),?\sчем|(?:більш\s\w+|краще),?\sніж"
    r"|(?:bardziej\s\w+|lepsz\w+)\sniż|(?:pravděpodobnější|lepší)\snež)(?!\w))(?:\s(?:both|either)(?!\w))?"
)
"""What is preferred stands before it, so that it denies what stands behind it."""

_JUDGED = (
    r"(?:likely|plausible|probable|convincing|compelling|suitable|appropriate|accurate|relevant"
    r"|fitting|correct|certain|supported|consistent|reasonable|apt|ideal|favou?red)"
)
_LESS_LIKELY = (
    rf"(?:(?:less|least)\s{_JUDGED}|worse|weaker"
    r"|(?:weniger|am\swenigsten)\s(?:wahrscheinlich|plausibel|passend|geeignet|überzeugend|zutreffend)"
    r"|moins\s(?:probable|plausible|vraisemblable|convaincant|adapté|approprié|pertinent|correct)\w*"
    r"|menos\s(?:probable|plausible|convincente|adecuad|apropiad|correct|prováve|plausíve|adequad"
    r"|corret)\w*"
    r"|meno\s(?:probabil|plausibil|convincent|adatt|corrett)\w+"
    r"|minder\s(?:waarschijnlijk|aannemelijk|geschikt|passend)"
    r"|mindre\s(?:sannolik|trolig|sandsynlig|sannsynlig|lämplig)\w*"
    r"|(?:менее|менш)\s(?:вероят|правдоподоб|подходящ|убедит|імовірн|ймовірн)\w*"
    r"|mniej\sprawdopodobn\w*|méně\spravděpodobn\w*|mai\spuțin\sprobabil\w*|kevésbé\svalószínű\w*"
    r"|vähemmän\stodennäköi\w*|λιγ[όο]τερο\sπιθαν\w*)"
)
LESS_THAN = (
    rf"(?:{_LESS_LIKELY},?\s(?:than|als|que|do\sque|di|dan|än|enn|end|чем|ніж|niż|než|decât|mint|kuin"
    r"|από)(?!\w))"
)
"""What is preferred stands behind it: A is less likely than B."""
# With words of degree behind it, none of which takes it back.
_IS = (
    r"(?:\s(?:is|are|was|were|seems?|looks?|appears?|sounds?|feels?|would\sbe|may\sbe|might\sbe"
    r"|ist|sind|wäre|scheint|wirkt|est|sont|serait|semble|paraît|es|son|sería|parece|é|são|seria|è"
    r"|sono|sarebbe|sembra|zijn|lijkt|är|er|verkar|synes|jest|są|je|jsou|este|sunt|on|ovat|ε[ίι]ναι"
    r"|кажется|выглядит|—))?"
    r"\s(?:(?!(?:not|no|nicht|pas|non|não|не|nie|inte|ikke|niet|geen)\s)\w+\s){0,2}?"
)
REJECTED = (
    rf"(?:{_IS}{_LESS_LIKELY}(?!\w)"
    r"|(?:\s(?:is|are))?\sout(?=[.,;!?\s]|\Z)(?!\sof\b)"
    r"|\s(?:kann|können|lässt|schlie(?:ß|ss)\w+)\s(?:(?!nicht)\w+\s){0,3}?(?:aus|ausschlie(?:ß|ss)en)(?!\w)"
    r"|\s(?:fällt\s(?:weg|aus|raus)|entfällt|valt\s(?:af|weg))(?!\w)"
    r"|\s(?:ist|wäre)\s(?:sehr\s|eher\s)?unwahrscheinlich|\sest\s(?:peu\sprobable|improbable)"
    r"|\s(?:es|é|è)\s(?:poco\sprob\w+|pouco\sprov\w+|improb\w+|improv\w+)"
    r"|\sis\sonwaarschijnlijk|\s(?:är|er)\s(?:osannolik|usandsynlig|usannsynlig)\w*"
    r"|\s(?:—\s)?(?:маловероят|малоймовірн|отпада|исключа)\w+|\son\sepätodennäköi\w+"
    r"|\sest\s(?:à\s)?(?:élimin|exclu|écart)\w+|\s(?:è|é|es|está|queda)\s(?:da\s)?"
    r"(?:elimin|esclu|exclu|scart|descart)\w+"
    r"|\s(?:ele(?:n|y|r)\w*|eliyor\w*|daha\saz\solas\w*)"
    r"|\s(?:ít\s(?:có\s)?khả\snăng|kurang\s(?:mungkin|tepat)|أقل\sاحتمال\w*)"
    r"|\s(?:की\sसंभावना\sकम|को\s(?:हटा|बाहर|ख़?ारिज))"
    r"|\s?(?:(?:可以|可)?被?排除|(?:不太|不大)?可能性?(?:很|较|比较|更|較)?(?:小|低)|不(?:太|大)?可能(?!是?[错錯誤误])"
    r"|的可能性(?:很|较|比较|更|較)?(?:小|低))"
    r"|[をはも](?:除外|消去|排除|除[いくけ]|外[しす])|(?:は|の)可能性[がは](?:低|少|小)|より(?:も)?"
    r"|[을를은는]\s?(?:제외|배제|소거|탈락)|(?:은|는|이|가)\s가능성이\s(?:낮|적|작)|보다"
    r"|(?:无关|無關|毫无关系)|とは?(?:無関係|関係[がはの]?な)|[와과]는?\s?(?:(?:관련|관계|상관)[이은]?\s?없|무관))"
)
"""Rules out the choice that it stands behind, or prefers another."""
DISAGREES = (
    r"(?:i\s(?:don't|do\snot)\s(?:think|believe)\sso|(?:probably|definitely|certainly|surely)\snot"
    r"|not\b|hardly|unlikely|(?:eher|sicher|wohl|bestimmt)\snicht|(?:das\s)?glaube\sich\snicht"
    r"|je\sne\s(?:pense|crois)\spas|no\s(?:creo|lo\screo)|non\scredo|(?:não|acho\sque\snão)"
    r"|не\sдумаю|вряд\sли|恐怕不|我不认为|그렇지\s않)"
)
"""Answers a question with no: B? I don't think so."""
_EVERY = (
    r"(?<!\w)(?:all|every|any|each|alle|alla|tou(?:te)?s|tod[oa]s|tutt[ei]|все|всі|wszystk\w+"
    r"|všechny|toate)\s"
)
EXCEPT = (
    rf"(?:{_EVERY}[^.;!?\n]{{0,20}}?(?<!\w)(?:but|except(?:\sfor)?|other\sthan|besides|apart\sfrom|außer|sauf"
    r"|excepté|menos|excepto|salvo|exceto|tranne|eccetto|кроме|крім|behalve|utom|förutom|undtagen|oprócz"
    r"|kromě|în\safară\sde)\s|除了?\s?)"
)
"""Excepts the choice that it stands before from what follows."""
THE_REST_IS_WRONG = (
    r"(?:,?\s(?:неверн|неправильн|невірн)\w*|\s(?:is|ist|est|es|é|è)\s(?:wrong|incorrect|false|falsch)\b"
    r"|(?:以?之?外)?[^。\n]{0,6}?(?:错|錯|不对|不對|不正确|不正確))"
)
EXCEPTED = (
    r"(?:以外[はの]?[^。\n]{0,8}?(?:間違|誤|不正解|違)"
    r"|[을를]?\s?(?:제외하고|제외한|빼고|외에는?)[^.\n]{0,12}?(?:틀|오답|아니|아닙)"
    r"|\s(?:hariç|dışında)[^.\n]{0,16}?yanl[ıi]ş)"
)
"""Excepts the choice that it follows, and says that the others are wrong."""
CONCEDES = (
    r"(?:(?<!\w)(?:(?:even\s)?though|although|while|whilst|whereas|despite|in\sspite\sof|obwohl|obgleich"
    r"|auch\swenn|trotz|während|bien\sque|quoique|malgré|même\ssi|aunque|a\spesar\sde|pese\sa|embora"
    r"|apesar\sde|ainda\sque|sebbene|anche\sse|benché|nonostante|hoewel|ondanks|trots|även\som|хотя"
    r"|несмотря\sна|хоча|chociaż|choć|mimo|i\skdyž|přestože|deși|vaikka|αν\sκαι|meskipun|walaupun"
    r"|mặc\sdù|यद्यपि|हालांकि|رغم)(?!\w)|虽然|雖然|尽管|儘管|แม้)"
)
"""Concedes what stands in its clause: although it begins positive, it is negative."""
CONCEDED = r"[^。、，,.\n]{0,8}?(?:ものの|けれど|です?が、|だが、|지만|rağmen)"
OVERALL = (
    r"(?:(?<!\w)(?:overall|on\sbalance|all\sin\sall|on\sthe\swhole|insgesamt|alles\sin\sallem"
    r"|dans\sl'ensemble|globalement|en\sgeneral|en\sconjunto|no\sgeral|nel\scomplesso|в\sцелом|загалом"
    r"|over\shet\sgeheel|på\sdet\shela\staget|ogólnie|celkově|genel\solarak|secara\skeseluruhan|nhìn\schung)"
    r"(?!\w)|总体|總體|整体|整體|总的来说|全体として|総合的に|전반적으로|전체적으로)"
)
"""Sums up; what follows in its sentence is meant of the whole."""
