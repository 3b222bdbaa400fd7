"""A checkpoint's tokenizer in transformers: tokenizer.json as it stands, read and written.

`AutoTokenizer` goes by the class that tokenizer_config.json names. Classes of transformers 5
(`LlamaTokenizer`, `LlamaTokenizerFast`, `GemmaTokenizer`) take vocabulary and merges from
tokenizer.json and put a normalizer and pre-tokenizer of their own around them, which gives other
ids where the file has other steps (byte-level BPE under a Llama class; sentencepiece that puts a
space in front of every text). The file is what the model was trained with, and what conversion
reads; so it is loaded by the one class that changes nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuneserve.base.tokenizer_files import TOKEN_FLAGS, check_tokenizer_files
from tuneserve.base.tokenizer_trial import check_usable
from tuneserve.errors import UsageError, rust_failure
from tuneserve.files import read_json, write_json
from tuneserve.gguf.tokens import NEVER_STRIPPING

_CLASS = "PreTrainedTokenizerFast"
# What from_pretrained was called with, which save_pretrained writes down as if it were the model's.
_MISTRAL = "fix_mistral_regex"
_CALL = ("is_local", "local_files_only", _MISTRAL)


def load_fast_tokenizer(directory: Path) -> Any:
    """transformers' PreTrainedTokenizerFast of tokenizer.json, with the special tokens, the chat
    template and the added tokens that the files beside it name.

    Raises UsageError if there is no tokenizer.json, or none that the library reads.
    """
    from transformers import PreTrainedTokenizerFast

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            "its tokenizer has no fast version (tokenizer.json)",
            where=str(directory),
            hint="A tokenizer.model alone is not read: the steps around it are in tokenizer.json. "
            "Take both from the same model, or train on a GGUF of the base.",
        )
    content = check_tokenizer_files(directory)
    check_usable(path)
    checked = {} if _may_be_mistral(directory) else {_MISTRAL: False}
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            directory, local_files_only=True, **checked
        )
        _keep_flags(tokenizer, content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the tokenizer can't be read: {error}", where=str(path)) from error
    except BaseException as error:
        if (reason := rust_failure(error)) is None:
            raise
        raise UsageError(f"no tokenizer of tokenizers: {reason}", where=str(path)) from error
    return tokenizer


def _may_be_mistral(directory: Path) -> bool:
    """Is the model one of those that transformers warns of, for some were published with a wrong
    regular expression? Of any other with more than 100,000 tokens it warns too, where config.json
    doesn't name the transformers that wrote it."""
    config = directory / "config.json"
    kind = str(read_json(config).get("model_type", "")) if config.is_file() else ""
    return "stral" in kind or kind == "voxtral"


def _keep_flags(tokenizer: Any, content: Mapping[str, Any]) -> None:
    """Give the file's added tokens its own flags: otherwise tokenizer_config.json's win."""
    given = {
        entry["content"]: {key: entry[key] for key in TOKEN_FLAGS}
        for entry in content["added_tokens"]
    }
    now = {
        token.content: {key: getattr(token, key) for key in TOKEN_FLAGS}
        for token in tokenizer.added_tokens_decoder.values()
    }
    if any(now.get(text, flags) != flags for text, flags in given.items()):
        _change_flags(tokenizer, lambda text: given.get(text, {}))


def _change_flags(tokenizer: Any, flags: Callable[[str], Mapping[str, bool]]) -> None:
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for entry in content["added_tokens"]:
        entry.update(flags(entry["content"]))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))


def save_fast_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write it so that `AutoTokenizer` loads tokenizer.json as it stands, by the class's name that
    every version of transformers knows."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    config = {key: value for key, value in read_json(path).items() if key not in _CALL}
    write_json(path, {**config, "tokenizer_class": _CLASS})


def swallows_whitespace(tokenizer: Any) -> bool:
    """Do special tokens take away whitespace beside them, otherwise than llama.cpp does?

    Whitespace behind them, by all of Phi-3's tokens but for three, it takes away as well.
    """
    added = tokenizer.added_tokens_decoder.values()
    stripping = {token.content for token in added if token.rstrip}
    if any(token.lstrip for token in added):
        return True
    return bool(stripping) and stripping != {t.content for t in added} - NEVER_STRIPPING


def without_stripping(tokenizer: Any) -> Any:
    """A copy whose added tokens leave the whitespace beside them alone, as llama.cpp's do."""
    changed = copy.copy(tokenizer)
    _change_flags(changed, lambda text: {"lstrip": False, "rstrip": False})
    return changed
