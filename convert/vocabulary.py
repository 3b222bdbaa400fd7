"""The trainer's tokenizer as GGUF metadata (`tokenizer.*`).

Byte-level BPE. Tokens, merges and types come from tokenizer.json, the pre-tokenizer's name from
its structure, special ids and the chat template from the gguf package's own reader. Nothing is
guessed: what is not understood is an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuneserve.base.tokenizer import TokenType
from tuneserve.errors import UsageError
from tuneserve.pretokenizers import recognise

Value = tuple[str, Any]
_LOOK_SPECIAL = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


class Vocabulary:
    """A tokenizer directory: `tokens` (text and type of each id) and `metadata`."""

    def __init__(self, directory: Path, *, rows: int) -> None:
        """Read it for an embedding of `rows` rows.

        Ids without a token are filled with unused placeholders. Raises UsageError if the
        tokenizer is of another kind, or has more tokens than the embedding has rows.
        """
        self.directory = directory
        self.json = _read_tokenizer_json(directory)
        model = self.json["model"]
        if model.get("type") != "BPE" or model.get("byte_fallback"):
            raise UsageError(
                f"a tokenizer of type {model.get('type')} (byte_fallback: "
                f"{bool(model.get('byte_fallback'))}) can't be converted",
                where=str(directory / "tokenizer.json"),
                hint="Supported: byte-level BPE.",
            )
        self._check_normalizer()
        self.tokens = self._all_tokens(rows)

    def metadata(self, *, space_prefix: bool = False) -> dict[str, Value]:
        """`tokenizer.*` keys in llama.cpp's order, as key → (GGUF value type, value).

        `space_prefix`: write the tokenizer's `add_prefix_space`, as Llama's files have it.
        """
        from gguf import GGUFWriter, SpecialVocab

        special = SpecialVocab(self.directory, load_merges=True, n_vocab=len(self.tokens))
        adds_bos = special.add_special_token.setdefault("bos", self._writes_bos())
        if any(step.get("type") == "ByteLevel" for step in self._post_processing()):
            special.add_special_token.setdefault("eos", False)
        pre = recognise(
            self.json.get("pre_tokenizer"),
            ignore_merges=bool(self.json["model"].get("ignore_merges")),
            adds_bos=adds_bos,
            vocabulary={token for token, _ in self.tokens},
        )
        writer = GGUFWriter(None, "")
        prefix = self._config().get("add_prefix_space") if space_prefix else None
        if prefix is not None:
            writer.add_add_space_prefix(bool(prefix))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre.name)
        writer.add_token_list([token for token, _ in self.tokens])
        writer.add_token_types([kind for _, kind in self.tokens])
        special.add_to_gguf(writer, quiet=True)
        return {
            key: (value.type.name, value.value)
            for key, value in writer.kv_data[0].items()
            if key.startswith("tokenizer.")
        }

    def _config(self) -> dict[str, Any]:
        path = self.directory / "tokenizer_config.json"
        if not path.is_file():
            return {}
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config

    def _all_tokens(self, rows: int) -> list[tuple[str, TokenType]]:
        by_id: dict[int, tuple[str, TokenType]] = {
            number: (token, TokenType.NORMAL)
            for token, number in self.json["model"]["vocab"].items()
        }
        for entry in self.json["added_tokens"]:
            control = entry["special"] or looks_special(entry["content"])
            kind = TokenType.CONTROL if control else TokenType.USER_DEFINED
            by_id[entry["id"]] = (entry["content"], kind)
        if by_id and max(by_id) >= rows:
            raise UsageError(
                f"the tokenizer has ids up to {max(by_id)}, the embedding only {rows} rows",
                where=str(self.directory / "tokenizer.json"),
                hint="Tokens were added without resizing the model; train with a resized "
                "embedding, or use the base's own tokenizer.",
            )
        return [by_id.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(rows)]

    def _check_normalizer(self) -> None:
        # llama.cpp normalizes nothing. NFC is accepted because text is nearly always NFC already;
        # anything else would give other ids for ordinary text.
        normalizer = self.json.get("normalizer")
        kind = normalizer and normalizer.get("type")
        if kind not in (None, "NFC"):
            raise UsageError(
                f"the tokenizer's normalizer '{kind}' is unknown to llama.cpp",
                where=str(self.directory / "tokenizer.json"),
            )

    def _writes_bos(self) -> bool:
        steps = self._post_processing()
        return any("SpecialToken" in (step.get("single") or [{}])[0] for step in steps)

    def _post_processing(self) -> list[dict[str, Any]]:
        processor = self.json.get("post_processor") or {}
        steps: list[dict[str, Any]] = processor.get("processors", [processor])
        return steps


def looks_special(token: str) -> bool:
    """Is this added token a control token that was not flagged as special?

    Some models' tokenizer.json leave the flag out; llama.cpp goes by the same looks.
    """
    return token in _LOOK_SPECIAL or any(
        token.startswith(left) and token.endswith(right) for left, right in _BRACKETS
    )


def _read_tokenizer_json(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"not valid JSON: {error}", where=str(path)) from error
    return content
