"""Pre-tokenizers of byte-level BPE: llama.cpp's name for each and its `tokenizers` structure.

A GGUF only names how text is cut before the merges run (`tokenizer.ggml.pre`); a tokenizer.json
spells it out. This table is read in both directions: an import writes the structure that a name
stands for, a conversion recognises the name by the structure. A structure or name that is not in
the table is an error: a wrong guess gives a model that loads and talks nonsense.

Sources: the `tokenizer.json` files of the model families, and llama.cpp's `llm_tokenizer_bpe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from tuneserve.errors import UsageError

Step = Mapping[str, Any]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA3_REGEX = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
QWEN2_REGEX = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_TAIL}"
TEKKEN_REGEX = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_TAIL}"
GPT4O_REGEX = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_CASED_TAIL}"
)


def _split(regex: str) -> Step:
    return {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_GPT2_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}


@dataclass(frozen=True)
class PreTokenizer:
    """One row: llama.cpp's name, the steps that do the same, and what tells twins apart.

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

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of a tokenizer.json."""
        steps: list[dict[str, Any]] = [
            {**step, "trim_offsets": True} if step["type"] == "ByteLevel" else dict(step)
            for step in self.steps
        ]
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (_GPT2_WORDS,)),
    PreTokenizer("smollm", (_SINGLE_DIGITS, _GPT2_WORDS)),
    PreTokenizer("starcoder", (_SINGLE_DIGITS, _GPT2_WORDS), marker="<fim_prefix>"),
    PreTokenizer("command-r", (_SINGLE_DIGITS, _GPT2_WORDS), marker="<|START_OF_TURN_TOKEN|>"),
    PreTokenizer("llama-bpe", (_split(LLAMA3_REGEX), _BYTES), ignore_merges=True),
    PreTokenizer("dbrx", (_split(LLAMA3_REGEX), _BYTES)),
    PreTokenizer("qwen2", (_split(QWEN2_REGEX), _BYTES)),
    PreTokenizer("deepseek-r1-qwen", (_split(QWEN2_REGEX), _BYTES), adds_bos=True),
    PreTokenizer("tekken", (_split(TEKKEN_REGEX), _BYTES), ignore_merges=True),
    PreTokenizer("gpt-4o", (_split(GPT4O_REGEX), _BYTES)),
)

# Other names that llama.cpp treats as one of the rows above.
_SAME_AS = {
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe", "pixtral": "llama-bpe",
    "lfm2": "llama-bpe", "smaug-bpe": "dbrx", "refact": "starcoder", "mpt": "gpt-2",
    "olmo": "gpt-2", "phi-2": "gpt-2", "megrez": "qwen2", "stablelm2": "qwen2",
    "llama4": "gpt-4o",
}  # fmt: skip


def by_name(name: str) -> PreTokenizer:
    """The row for a GGUF's `tokenizer.ggml.pre`. Raises UsageError if there is none."""
    wanted = _SAME_AS.get(name, name)
    for row in PRE_TOKENIZERS:
        if row.name == wanted:
            return row
    known = sorted({row.name for row in PRE_TOKENIZERS} | set(_SAME_AS))
    raise UsageError(
        f"unknown pre-tokenizer '{name}' (tokenizer.ggml.pre)", hint=f"Known: {', '.join(known)}."
    )


def recognise(
    pre_tokenizer: Mapping[str, Any] | None,
    *,
    ignore_merges: bool,
    adds_bos: bool,
    vocabulary: Set[str],
) -> PreTokenizer:
    """The row whose steps a tokenizer.json's `pre_tokenizer` has.

    Twins (equal steps) are told apart by `ignore_merges`, `adds_bos` and marker tokens. Raises
    UsageError for steps that are in no row.
    """
    steps = _canonical(pre_tokenizer)
    rows = [row for row in PRE_TOKENIZERS if list(map(dict, row.steps)) == steps]
    rows = [row for row in rows if row.ignore_merges == ignore_merges]
    if not rows:
        raise UsageError(
            "the tokenizer's pre-tokenizer is unknown to llama.cpp, as far as this table goes: "
            f"{steps}, ignore_merges={ignore_merges}",
            hint=f"Known: {', '.join(row.name for row in PRE_TOKENIZERS)}.",
        )
    rows = [row for row in rows if row.adds_bos == adds_bos] or [
        row for row in rows if row.adds_bos is None
    ]
    marked = [row for row in rows if row.marker and row.marker in vocabulary]
    return (marked or [row for row in rows if not row.marker])[0]


def _canonical(pre_tokenizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps, flattened, without what does not change ids, with left-out defaults filled in."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _canonical(part)]
    step = {key: value for key, value in pre_tokenizer.items() if key != "trim_offsets"}
    if step["type"] == "ByteLevel":
        step = {"add_prefix_space": True, "use_regex": True, **step}
    return [step]
