"""The table of pre-tokenizers: llama.cpp's name for each, its `tokenizers` structure, and twins.

Sources: the `tokenizer.json` files of the model families, and llama.cpp's `llm_tokenizer_bpe`.
Where the two differ, or a family's file was not at hand, the steps are what llama.cpp does: every
row's ids are its own on random texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Step = Mapping[str, Any]

_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
    "\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90"
    "-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
    "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_CJK_HANGUL = "\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff"
_HAN_KANA = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff"
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b"
    "\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-"
    "\u30ff]+"
)
_AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-"
    "\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00"
    "-\ud7af\u1100-\u11ff]+"
)
_STOPS = ".,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_NAMED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_WORDS = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"

GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_REGEX = rf"{CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
QWEN2_REGEX = rf"{CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_TAIL}"
QWEN35_REGEX = (
    rf"{CONTRACTIONS}|{_LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MINICPM_REGEX = rf"{CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}+|{_TAIL}"
TURKISH_REGEX = rf"{_LEAD}\p{{L}}+|\p{{N}}|{_TAIL}"
SEED_REGEX = (
    rf"{CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BAILING_REGEX = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
EXAONE_MOE_REGEX = (
    rf"{CONTRACTIONS}|{_LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
JAIS2_REGEX = (
    rf"{CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    + "".join(rf"\s{{{2**power}}}(?!\S)|" for power in range(9, 1, -1))
    + r"\s{1,2}(?!\S)|\s{1}"
)
# llama.cpp's splitter knows the case of ASCII letters alone, takes other letters for either case,
# and no mark for a letter. An import writes that; the models' own patterns are recognised too, but
# cut otherwise at combining marks, and at a change of case in words of other letters.
_ANY_UPPER, _ANY_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED_WORDS = rf"{_LEAD}{_ANY_UPPER}*{_ANY_LOWER}+@|{_LEAD}{_ANY_UPPER}+{_ANY_LOWER}*@"
TEKKEN_ASCII_REGEX = rf"{_CASED_WORDS.replace('@', '')}|\p{{N}}|{_CASED_TAIL}"
GPT4O_ASCII_REGEX = rf"{_CASED_WORDS.replace('@', CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_CASED_TAIL}"
TEKKEN_REGEX = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_TAIL}"
_O200K_WORDS = rf"{_LEAD}{_UPPER}*{_LOWER}+{CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{CONTRACTIONS}?"
GPT4O_REGEX = rf"{_O200K_WORDS}|\p{{N}}{{1,3}}|{_CASED_TAIL}"
_UNCASED_WORDS = rf"{_LEAD}[\p{{L}}\p{{M}}]+{CONTRACTIONS}?"
YOUTU_REGEX = rf"{_UNCASED_WORDS}|\p{{N}}|{_CASED_TAIL}"
TINY_AYA_REGEX = rf"{_UNCASED_WORDS}|\p{{N}}{{1,3}}|{_CASED_TAIL}"
# llama.cpp's: ideographs, without the numerals and marks that Unicode counts to the script.
_HAN = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ebef"
    "\U0002f800-\U0002fa1f"
)
KIMI_REGEX = rf"[{_HAN}]+|{_LEAD}[\p{{L}}&&[^{_HAN}]]+{CONTRACTIONS}?|\p{{N}}{{1,3}}|{_TAIL}"
# Groups of three digits from the right, the first with all that stands in front of it.
DIGIT_GROUPS = r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
DEEPSEEK_V3_REGEX = (
    rf"{_NAMED}|{_WORDS}" "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
).replace(r"[^\r\n\p{L}\p{P}\p{S}]", "[^\r\n\\p{L}\\p{P}\\p{S}]")
SPARK_REGEX = DEEPSEEK_V3_REGEX.replace(
    "[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+", "[\\p{P}\\p{S}]+|[\r\n]"
)
AFMOE_REGEX = rf"{_NAMED}|{_WORDS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM_REGEX = rf" ?[^(\s|{_STOPS})]+"

COVERING = frozenset({LLAMA3_REGEX, QWEN2_REGEX, QWEN35_REGEX, TEKKEN_REGEX, GPT4O_REGEX})
"""Patterns that match every character: to keep what they match is to isolate it."""


def split(regex: str) -> Step:
    """The step that cuts out every match of a pattern."""
    return {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_GPT2_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}
_STARCODER = (_SINGLE_DIGITS, _GPT2_WORDS)
_LLAMA3 = (split(LLAMA3_REGEX), BYTES)
_QWEN2 = (split(QWEN2_REGEX), BYTES)
_GPT4O = (split(GPT4O_ASCII_REGEX), BYTES)
_DEEPSEEK_V3 = (
    split(r"\p{N}{1,3}"), split(f"[{_HAN_KANA}]+"), split(DEEPSEEK_V3_REGEX), BYTES,
)  # fmt: skip


def _deepseek_llm(marks: str, *, single_digits: bool = False) -> tuple[Step, ...]:
    return (
        split("[\r\n]"), split(rf"\s?[{_CASED}]+"), split(rf"\s?[{marks}]+"), split(r"\s+$"),
        split(f"[{_CJK_HANGUL}]+"), {"type": "Digits", "individual_digits": single_digits}, BYTES,
    )  # fmt: skip


@dataclass(frozen=True)
class PreTokenizer:
    """One row: llama.cpp's name, the steps that do the same, and what tells twins apart.

    `also`: other steps that are recognised as this row. They give other ids for rare text.
    `ignore_merges`: a piece that is a token as a whole is not put through the merges.
    `adds_bos`: the tokenizer puts BOS in front (None: either way).
    `marker`: a token of the vocabulary that marks this family among rows with equal steps; the
    row without a marker is taken where none fits.
    """

    name: str
    steps: tuple[Step, ...]
    ignore_merges: bool = False
    adds_bos: bool | None = None
    marker: str = ""
    also: tuple[tuple[Step, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of a tokenizer.json."""
        steps: list[dict[str, Any]] = [
            {**step, "trim_offsets": True} if step["type"] == "ByteLevel" else dict(step)
            for step in self.steps
        ]
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (_GPT2_WORDS,)),
    PreTokenizer("smollm", _STARCODER),
    PreTokenizer("starcoder", _STARCODER, marker="<fim_prefix>"),
    PreTokenizer("refact", _STARCODER, marker="<|start_of_role|>"),  # Granite 3
    PreTokenizer("command-r", _STARCODER, marker="<|START_OF_TURN_TOKEN|>"),
    PreTokenizer("exaone", _STARCODER, marker="[|assistant|]"),
    PreTokenizer("llama-bpe", _LLAMA3, ignore_merges=True),
    PreTokenizer("glm4", _LLAMA3, ignore_merges=True, marker="[gMASK]"),
    PreTokenizer("dbrx", _LLAMA3),
    PreTokenizer("chatglm-bpe", _LLAMA3, marker="[gMASK]"),
    PreTokenizer(
        "minicpm5", (split(r"\p{N}{1,3}"), split(MINICPM_REGEX), BYTES), ignore_merges=True
    ),
    PreTokenizer("jais-2", (split(JAIS2_REGEX), BYTES)),
    PreTokenizer("qwen2", _QWEN2),
    PreTokenizer("deepseek-r1-qwen", _QWEN2, adds_bos=True),
    PreTokenizer("qwen35", (split(QWEN35_REGEX), BYTES)),
    PreTokenizer("ufakzeka", (split(TURKISH_REGEX), BYTES)),
    PreTokenizer("laguna", (split(r"[^\n]+|[\n]+"), *_QWEN2)),
    PreTokenizer("seed-coder", (split(SEED_REGEX), BYTES)),
    PreTokenizer("bailingmoe", (split(BAILING_REGEX), BYTES)),
    PreTokenizer("exaone-moe", (split(EXAONE_MOE_REGEX), BYTES)),
    PreTokenizer(
        "tekken", (split(TEKKEN_ASCII_REGEX), BYTES), ignore_merges=True,
        also=((split(TEKKEN_REGEX), BYTES),),
    ),
    PreTokenizer("gpt-4o", _GPT4O),
    PreTokenizer("llama4", _GPT4O, marker="<|header_start|>"),
    PreTokenizer("minimax-m2", _GPT4O, marker="]~b]"),
    # The files of these models, and of gpt-oss and Phi-4-mini: this name alone keeps marks with
    # their letters.
    PreTokenizer("granite-embed-multi-97m", (split(GPT4O_REGEX), BYTES), ignore_merges=True),
    PreTokenizer("kimi-k2", (split(KIMI_REGEX), BYTES)),
    PreTokenizer(
        "youtu", (split(_YOUTU_SCRIPTS), split(YOUTU_REGEX), BYTES), ignore_merges=True
    ),
    PreTokenizer(
        "deepseek-llm", _deepseek_llm(_MARKS.replace("\u3000-", "\u3001-")),
        # Rare: an ideographic space behind other whitespace. No token has two digits.
        also=(_deepseek_llm(_MARKS), _deepseek_llm(_MARKS, single_digits=True)),
    ),
    PreTokenizer(
        "deepseek-coder",
        (
            split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(f"[{_CJK_HANGUL}]+"),
            _SINGLE_DIGITS, BYTES,
        ),
    ),
    PreTokenizer("deepseek-v3", _DEEPSEEK_V3),
    PreTokenizer("hunyuan-dense", _DEEPSEEK_V3, marker="<\uff5chy_User\uff5c>"),
    PreTokenizer(
        "spark2_5",
        (
            split(r"\p{N}{1,3}"), split(f"[{_HAN_KANA}]+"), split(SPARK_REGEX), split(r"\p{N}"),
            BYTES,
        ),
    ),
    PreTokenizer(
        "afmoe",
        (
            split(DIGIT_GROUPS), split(_AFMOE_SCRIPTS), split(AFMOE_REGEX),
            BYTES,
        ),
    ),
    PreTokenizer("tiny_aya", (split(DIGIT_GROUPS), split(TINY_AYA_REGEX), BYTES)),
    PreTokenizer("superbpe", (split(r"\p{N}+"), split(r"(?=([0-9]{3})+(?![0-9]))"), BYTES)),
    PreTokenizer("poro-chat", (split(BLOOM_REGEX), BYTES)),
    PreTokenizer("viking", (split(BLOOM_REGEX), _SINGLE_DIGITS, BYTES)),
    PreTokenizer(
        "falcon",
        (
            split(r"[\p{P}\$\+<=>\^~\|`]+"), split(GPT2_REGEX), split("[0-9][0-9][0-9]"), BYTES,
        ),
        also=(
            (
                {"type": "Punctuation", "behavior": "Contiguous"}, _GPT2_WORDS,
                {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"),
            ),
        ),
    ),
    # What llama.cpp does with a file that names none, whatever the model was trained with.
    PreTokenizer(
        "default",
        (
            split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2_REGEX), split(r"\p{N}+"),
            split("[0-9][0-9][0-9]"), BYTES,
        ),
    ),
)  # fmt: skip

# Other names that llama.cpp treats as one of the rows above.
SAME_AS = {
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe",
    "falcon-h1": "llama-bpe",
    "pixtral": "llama-bpe", "midm-2.0": "llama-bpe", "lfm2": "llama-bpe",
    "smaug-bpe": "dbrx", "glm5": "glm4",
    "codeshell": "smollm", "minerva-7b": "smollm", "mellum2": "smollm",
    "mpt": "gpt-2", "olmo": "gpt-2", "phi-2": "gpt-2", "jais": "gpt-2", "trillion": "gpt-2",
    "exaone4": "gpt-2", "a.x-4.0": "gpt-2", "gigachat": "gpt-2", "mellum": "gpt-2",
    "granite-docling": "gpt-2",
    "megrez": "qwen2", "stablelm2": "qwen2", "hunyuan": "qwen2", "solar-open": "qwen2",
    "grok-2": "qwen2", "kormo": "qwen2", "f2llmv2": "qwen2",
    "kanana2": "gpt-4o", "talkie": "gpt-4o", "cohere2moe": "tiny_aya",
    "bailingmoe2": "bailingmoe", "llada-moe": "bailingmoe",
    "joyai-llm": "deepseek-v3", "hy_v4": "deepseek-v3",
    "bloom": "poro-chat", "gpt3-finnish": "poro-chat",
}  # fmt: skip
