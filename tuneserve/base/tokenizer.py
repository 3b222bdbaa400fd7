"""A GGUF's tokenizer as tokenizer.json and its companions, from the file's own tables.

Byte-level BPE (`tokenizer.ggml.model` = gpt2), sentencepiece (llama) and Gemma 4's BPE. Token ids
are those of llama.cpp by construction: same tokens, same merges, the pre-tokenizer that `pre`
names, special tokens cut out first. No Unicode normalization is written, because llama.cpp does
none: training must see the same ids as serving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.files import write_json, write_text
from tuneserve.gguf.pretokenizers import DEFAULT, by_name
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.sentencepiece import merges_by_score, sentencepiece_steps
from tuneserve.gguf.tokens import NEVER_STRIPPING, TokenType, strips_right

SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write_tokenizer(gguf: GGUFFile, target: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and, if there is one, chat_template.jinja."""
    write_json(target / "tokenizer.json", tokenizer_json(gguf))
    write_json(target / "tokenizer_config.json", tokenizer_config(gguf))
    if template := gguf.get("tokenizer.chat_template"):
        write_text(target / "chat_template.jinja", template)


def tokenizer_json(gguf: GGUFFile) -> dict[str, Any]:
    """The fast tokenizer, in the format of the `tokenizers` library."""
    _check_tables(gguf)
    kind = gguf.require("tokenizer.ggml.model")
    readers = {"gpt2": byte_level, "llama": sentencepiece, "gemma4": spaces_replaced}
    if kind not in readers:
        raise UsageError(
            f"tokenizer model '{kind}' can't be imported",
            where=str(gguf.path),
            hint="Supported: gpt2 (byte-level BPE), llama (sentencepiece), gemma4 (BPE of text "
            "with its spaces replaced).",
        )
    steps, model = readers[kind](gguf)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(gguf),
        **steps,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {
                token: number for number, token in enumerate(gguf.require("tokenizer.ggml.tokens"))
            },
            **model,
        },
    }


def byte_level(gguf: GGUFFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps around the model, and the model's own settings."""
    pre = by_name(gguf.get("tokenizer.ggml.pre", DEFAULT))
    steps = {
        "normalizer": None,
        "pre_tokenizer": pre.to_json(),
        "post_processor": post_processor(gguf) or {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True
        },
    }  # fmt: skip
    merges = [split_merge(merge) for merge in gguf.require("tokenizer.ggml.merges")]
    return steps, {"ignore_merges": pre.ignore_merges, "merges": merges}


def sentencepiece(gguf: GGUFFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps around the model, and the model's own settings."""
    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    cut_out = {entry["content"] for entry in added_tokens(gguf)}
    steps = {
        **sentencepiece_steps(space_prefix=gguf.get("tokenizer.ggml.add_space_prefix", True)),
        "post_processor": post_processor(gguf),
    }
    unknown = int(gguf.get("tokenizer.ggml.unknown_token_id", 0))
    return steps, {
        "unk_token": tokens[unknown],
        "fuse_unk": True,
        "byte_fallback": True,
        "merges": merges_by_score(tokens, gguf.require("tokenizer.ggml.scores"), cut_out),
    }


def spaces_replaced(gguf: GGUFFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps around the model, and the model's own settings: merges as in byte-level BPE, text and
    bytes as in sentencepiece.

    llama.cpp cuts at line feeds, which changes no id: no merge joins one with anything else.
    """
    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    return {
        **sentencepiece_steps(space_prefix=False),
        "post_processor": post_processor(gguf),
    }, {
        "unk_token": tokens[int(gguf.require("tokenizer.ggml.unknown_token_id"))],
        "fuse_unk": True,
        "byte_fallback": True,
        "merges": [split_merge(merge) for merge in gguf.require("tokenizer.ggml.merges")],
    }


def _check_tables(gguf: GGUFFile) -> None:
    """Raise UsageError where the vocabulary contradicts itself."""
    tokens = gguf.require("tokenizer.ggml.tokens")
    problems = []
    for key in ("token_type", "scores"):
        column = gguf.get(f"tokenizer.ggml.{key}")
        if column is not None and len(column) != len(tokens):
            problems.append(f"{len(tokens)} tokens, but {len(column)} in tokenizer.ggml.{key}")
    problems += [
        f"tokenizer.ggml.{key} is {gguf.get(f'tokenizer.ggml.{key}')} of {len(tokens)} tokens"
        for key in SPECIAL_IDS.values()
        if not 0 <= int(gguf.get(f"tokenizer.ggml.{key}", 0)) < len(tokens)
    ]
    problems += [
        f"{merge!r} is no merge" for merge in gguf.get("tokenizer.ggml.merges", ())
        if " " not in merge[1:]
    ]  # fmt: skip
    if len(set(tokens)) != len(tokens):
        problems.append("a token stands there twice")
    if problems:
        raise UsageError(
            "this GGUF's vocabulary is damaged", where=str(gguf.path), problems=problems[:20]
        )


def split_merge(merge: str) -> list[str]:
    """'Ġ t' as ['Ġ', 't']: cut at the first space after the first character."""
    cut = merge.index(" ", 1)
    return [merge[:cut], merge[cut + 1 :]]


def added_tokens(gguf: GGUFFile) -> list[dict[str, Any]]:
    """Tokens that are cut out of the text whole, before the pre-tokenizer: control tokens
    (`special`) and user-defined ones."""
    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    types: list[int] = gguf.require("tokenizer.ggml.token_type")
    cut_out = {TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED}
    strips = strips_right(gguf.get("general.name", ""))
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": strips and token not in NEVER_STRIPPING,
            "normalized": False,
            "special": kind != TokenType.USER_DEFINED,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in cut_out
    ]


def adds_bos(gguf: GGUFFile) -> bool:
    """Does the model want BOS in front? Where the file doesn't say, its pre-tokenizer does."""
    named = gguf.get("tokenizer.ggml.add_bos_token")
    if named is not None:
        return bool(named)
    # llama.cpp's own defaults for files without the key.
    sentencepiece = gguf.get("tokenizer.ggml.model") == "llama"
    return sentencepiece or gguf.get("tokenizer.ggml.pre") in ("llama-bpe", "tekken")


def post_processor(gguf: GGUFFile) -> dict[str, Any] | None:
    """Puts BOS in front where the file says so; None: nothing to do."""
    if not adds_bos(gguf):
        return None
    number = int(gguf.require("tokenizer.ggml.bos_token_id"))
    bos = gguf.require("tokenizer.ggml.tokens")[number]
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def special_ids(gguf: GGUFFile) -> dict[str, int]:
    """Ids of bos_token, eos_token, unk_token and pad_token, as far as the file names them."""
    found = {name: gguf.get(f"tokenizer.ggml.{key}") for name, key in SPECIAL_IDS.items()}
    return {name: int(number) for name, number in found.items() if number is not None}


def tokenizer_config(gguf: GGUFFile) -> dict[str, Any]:
    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(gguf.require(f"{gguf.architecture}.context_length")),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos(gguf),
        **{name: tokens[number] for name, number in special_ids(gguf).items()},
        "added_tokens_decoder": {
            str(row["id"]): {key: value for key, value in row.items() if key != "id"}
            for row in added_tokens(gguf)
        },
    }
    prefix = gguf.get("tokenizer.ggml.add_space_prefix")
    return config if prefix is None else {**config, "add_prefix_space": bool(prefix)}
