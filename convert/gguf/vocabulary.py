"""The trainer's tokenizer as GGUF metadata (`tokenizer.*`).

Byte-level BPE, sentencepiece and Gemma 4's BPE. Tokens, merges and types come from tokenizer.json,
the pre-tokenizer's name from its structure, special ids and the chat template from the gguf
package's own reader. Nothing is guessed: what is not understood is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneserve.base.tokenizer_files import check_tokenizer_files
from tuneserve.convert.gguf.merges import merges_give_every_token
from tuneserve.convert.gguf.stripping import template_is_stripped
from tuneserve.convert.gguf.token_tables import (
    byte_level_tokens,
    sentencepiece_tokens,
    spaces_replaced_tokens,
)
from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.gguf.pretokenizers import recognise
from tuneserve.gguf.sentencepiece import LOWEST_SCORE, has_space_prefix
from tuneserve.gguf.tokens import NEVER_STRIPPING, Token, TokenType, strips_right

Value = tuple[str, Any]
# Architectures whose files always say whether a space is put in front, if the tokenizer's do.
_SAYS_NO_PREFIX = ("granitemoehybrid",)  # whatever it becomes in a GGUF
_LLAMA_LIKE = ("llama", "smollm3", "granite", "granitemoe", "mistral3")
# Special tokens that tokenizer_config.json does not name; of GLM the next turn's head ends an
# answer. (llama.cpp's converter takes Gemma's by its number, 107, in whatever vocabulary.)
_TOKENS_OF: dict[str, dict[str, str]] = {
    "gemma": {"eot": "<end_of_turn>"},
    "glm4": {"bos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"},
    "glm4moe": {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>",
                "eom": "<|observation|>"},
}  # fmt: skip


class Vocabulary:
    """A tokenizer directory: `tokens` by id, and `metadata`."""

    def __init__(
        self, directory: Path, *, rows: int, architecture: str, config: Mapping[str, Any]
    ) -> None:
        """Read it for an embedding of `rows` rows; `config`, the model's config.json, names the
        special ids that the tokenizer doesn't.

        Ids without a token are filled with unused placeholders. Raises UsageError if the
        tokenizer is of another kind, or has more tokens than the embedding has rows.
        """
        self.directory, self.architecture, self.config = directory, architecture, config
        self.json = check_tokenizer_files(directory)
        config_path = directory / "tokenizer_config.json"
        self.tokenizer_config = read_json(config_path) if config_path.exists() else {}
        model = self.json["model"]
        if model.get("type") != "BPE":
            raise UsageError(
                f"a tokenizer of type {model.get('type')} can't be converted",
                where=str(directory / "tokenizer.json"),
                hint="Supported: byte-level BPE, sentencepiece's BPE.",
            )
        # llama.cpp's converter tells Gemma 4 by its architecture as well.
        self.kind = "gemma4" if architecture == "gemma4" else "gpt2"
        if model.get("byte_fallback") and self.kind != "gemma4":
            self.kind = "llama"
        self.strips_right = self._check_stripping()
        if self.kind == "gemma4":
            has_space_prefix(self.json, str(directory / "tokenizer.json"))
            tokens = spaces_replaced_tokens(self.json)
        elif self.is_sentencepiece:
            tokens = sentencepiece_tokens(directory, self.json, architecture=architecture)
        else:
            self._check_normalizer()
            tokens = byte_level_tokens(self.json)
        self.tokens = self._padded(tokens, rows)

    @property
    def is_sentencepiece(self) -> bool:
        return self.kind == "llama"

    def metadata(self) -> dict[str, Value]:
        """`tokenizer.*` keys in llama.cpp's order, as key → (GGUF value type, value)."""
        return dict(self._metadata)

    @cached_property
    def _metadata(self) -> dict[str, Value]:
        """Made once for all files of a conversion: the merges are read anew for it."""
        from gguf import GGUFWriter

        writer = GGUFWriter(None, "")
        prefix = self._space_prefix()
        if prefix is not None and self.architecture != "gemma3":
            writer.add_add_space_prefix(prefix)
        special = self._special()
        writer.add_tokenizer_model(self.kind)
        if self.kind != "gemma4":
            writer.add_tokenizer_pre(self._pre(special.add_special_token["bos"]))
        writer.add_token_list([token.text for token in self.tokens])
        if self.kind != "gpt2":
            writer.add_token_scores([token.score for token in self.tokens])
        writer.add_token_types([token.type for token in self.tokens])
        special.add_to_gguf(writer, quiet=True)
        if self.kind == "gemma4":
            writer.add_add_space_prefix(False)
            writer.add_add_bos_token(True)
        elif prefix is not None and self.architecture == "gemma3":
            writer.add_add_space_prefix(prefix)
        return {
            key: (value.type.name, value.value)
            for key, value in writer.kv_data[0].items()
            if key.startswith("tokenizer.")
        }

    def model_name(self, name: str) -> str:
        """`name`, changed where llama.cpp would draw a wrong conclusion from it about whitespace
        behind special tokens."""
        if self.strips_right and not strips_right(name):
            return f"{name} (Phi-3)"
        if strips_right(name) and not self.strips_right:
            return re.sub("(?i)(phi)-?3", r"\1_3", name)
        return name

    def _pre(self, adds_bos: bool) -> str:
        if self.is_sentencepiece:
            return "default"
        return recognise(
            self.json.get("pre_tokenizer"),
            ignore_merges=bool(self.json["model"].get("ignore_merges")),
            adds_bos=adds_bos,
            vocabulary={token.text for token in self.tokens},
            merges_suffice=lambda: merges_give_every_token(self.json),
        ).name

    def _space_prefix(self) -> bool | None:
        """The value of add_space_prefix; None where the key can be left out."""
        named = self.tokenizer_config.get("add_prefix_space")
        if self.config.get("model_type") in _SAYS_NO_PREFIX:
            named = None
        if self.is_sentencepiece:
            prefix = has_space_prefix(self.json, str(self.directory / "tokenizer.json"))
            # llama.cpp's default is True.
            written = not prefix or (self.architecture in _LLAMA_LIKE and named is not None)
            return prefix if written else None
        return bool(named) if self.architecture in _LLAMA_LIKE and named is not None else None

    def _special(self) -> Any:
        """Special ids, what is added around a text, chat template (gguf.SpecialVocab)."""
        from gguf import SpecialVocab

        # It notes that BOS comes before the second text of a pair too, which nobody converts.
        logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
        special = SpecialVocab(
            self.directory, load_merges=not self.is_sentencepiece, n_vocab=len(self.tokens)
        )
        special_ids = {token["content"]: token["id"] for token in self.json["added_tokens"]}
        processor = self.json.get("post_processor") or {}
        steps: list[dict[str, Any]] = processor.get("processors", [processor])
        adds_bos = any("SpecialToken" in (step.get("single") or [{}])[0] for step in steps)
        special.add_special_token.setdefault("bos", adds_bos)
        if any(step.get("type") == "ByteLevel" for step in steps):
            special.add_special_token.setdefault("eos", False)
        for kind, text in _TOKENS_OF.get(self.architecture, {}).items():
            number = special_ids.get(text)
            if number is not None:
                special.special_token_ids.setdefault(kind, number)
        for kind in special.special_token_types:
            number = self.config.get(f"{kind}_token_id")
            if isinstance(number, int) and 0 <= number < len(self.tokens):
                special.special_token_ids.setdefault(kind, number)
        return special

    def _padded(self, by_id: Mapping[int, Token], rows: int) -> list[Token]:
        if by_id and max(by_id) >= rows:
            raise UsageError(
                f"the tokenizer has ids up to {max(by_id)}, the embedding only {rows} rows",
                where=str(self.directory / "tokenizer.json"),
                hint="Tokens were added without resizing the model; train with a resized "
                "embedding, or use the base's own tokenizer.",
            )
        return [
            by_id.get(number) or Token(f"[PAD{number}]", TokenType.UNUSED, LOWEST_SCORE)
            for number in range(rows)
        ]

    def _check_stripping(self) -> bool:
        """Do special tokens take away the whitespace behind them? llama.cpp does that for Phi-3's
        set of tokens alone; UsageError for others, unless the chat template has none there."""
        added = self.json["added_tokens"]
        stripping = {entry["content"] for entry in added if entry.get("rstrip")}
        left = {entry["content"] for entry in added if entry.get("lstrip")}
        cut_out = {entry["content"] for entry in added}
        if not left and not stripping:
            return False
        if self.architecture == "phi3" and not left and stripping == cut_out - NEVER_STRIPPING:
            return True
        # What the examples' own texts have beside these tokens is checked as they are encoded.
        if not template_is_stripped(self.directory):
            return False
        raise UsageError(
            "special tokens that swallow the whitespace beside them are unknown to llama.cpp, and "
            "the chat template has whitespace there",
            where=str(self.directory / "tokenizer.json"), problems=sorted(left | stripping),
        )  # fmt: skip

    def _check_normalizer(self) -> None:
        # llama.cpp normalizes nothing. NFC is accepted because text is nearly always NFC already;
        # anything else would give other ids for ordinary text.
        normalizer = self.json.get("normalizer")
        steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
        kinds = {step.get("type") for step in steps}
        if kinds - {"NFC"}:
            raise UsageError(
                f"the tokenizer's normalizer '{', '.join(sorted(map(str, kinds)))}' is unknown to "
                "llama.cpp",
                where=str(self.directory / "tokenizer.json"),
            )
