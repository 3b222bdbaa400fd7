"""A loaded GGUF: its vocabulary and metadata, for contexts to compute with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.reader import check_is_gguf
from tuneserve.llama.library import (
    backend,
    built_with_amx,
    forget_errors,
    free_gpu_memory,
    last_error,
    load_mode,
)
from tuneserve.llama.special_texts import (
    BLANKS,
    SpecialText,
    SpecialTexts,
    TooManyTokensError,
)
from tuneserve.llama.trial import check_loadable
from tuneserve.settings import SplitMode

SHORT_TEXT = 4096
FEW_SPECIAL = 256
"""llama.cpp itself is fast enough for texts of so many bytes, or of so few special tokens."""
LONGEST_KNOWN = 64
MOST_KNOWN = 4096
"""Texts between special tokens are often the same: what so many of them, of at most so many bytes,
were tokenized into is remembered while a text is read."""


class LlamaModel:
    """A loaded GGUF. Close it, or use it as a context manager."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        tensor_split: Sequence[float] = (),
        split_mode: SplitMode = "layer",
        main_gpu: int = 0,
        mmap: bool = True,
        mlock: bool = False,
        vocab_only: bool = False,
        repack: bool = True,
        tried: bool = False,
    ) -> None:
        """Load `path`; `gpu_layers` = -1 offloads all; `repack`: copy weights into the layout that
        is fastest on this CPU; the rest is as ServeSettings says. `tried`: this process has just
        written it, or knows that llama.cpp can be given it.

        Raises UsageError for a split that this machine's GPUs can't have, and for a file that can't
        be a working model; TuneserveError if the file can't be loaded.
        """
        if tried:
            check_is_gguf(path)
        else:
            check_loadable(path, weights=not vocab_only)
        self.path = path
        self._api = backend()
        if split_mode == "tensor" and not free_gpu_memory():
            raise UsageError(
                "there is no GPU that tensors could be split over",
                where="split_mode",
                hint="Leave it out, or install llama-cpp-python for this machine's GPUs.",
            )
        params = self._api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if gpu_layers >= 0 else 1 << 20
        params.split_mode = getattr(self._api, f"LLAMA_SPLIT_MODE_{split_mode.upper()}")
        params.main_gpu = main_gpu
        shares = self._tensor_split(tensor_split)
        params.tensor_split = shares
        params.load_mode = load_mode(mmap=mmap, mlock=mlock)
        params.vocab_only = vocab_only
        params.use_extra_bufts = repack and not built_with_amx()
        forget_errors()
        self.handle = self._api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise TuneserveError(
                f"llama.cpp can't load it: {last_error()}",
                where=str(path),
                hint="The file may be truncated or made for another llama.cpp; make it again.",
            )
        self.vocab = self._api.llama_model_get_vocab(self.handle)
        self.n_vocab = int(self._api.llama_vocab_n_tokens(self.vocab))
        self.n_ctx_train = int(self._api.llama_model_n_ctx_train(self.handle))
        self.n_layer = int(self._api.llama_model_n_layer(self.handle))
        self.n_embd = int(self._api.llama_model_n_embd(self.handle))

    def _tensor_split(self, shares: Sequence[float]) -> Any:
        """A float for every device llama.cpp could have; None leaves the split to it."""
        if not shares:
            return None
        most = int(self._api.llama_max_devices())
        if len(shares) > most:
            raise UsageError(
                f"{len(shares)} shares for at most {most} devices", where="tensor_split"
            )
        return (ctypes.c_float * most)(*shares)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.handle:
            self._api.llama_model_free(self.handle)
            self.handle = None

    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        most: int | None = None,
    ) -> list[int]:
        """Token ids; `add_special` adds BOS/EOS as the model says, `parse_special` reads
        special tokens written out in the text. Raises TooManyTokensError, early, for a text that
        plainly has more than `most` tokens."""
        data = text.encode("utf-8", "surrogatepass")
        if most is not None and len(data) > most and (least := self._least_tokens(data)) > most:
            raise TooManyTokensError(least, most)
        special = self.special_texts(parse_special)
        short = len(data) <= SHORT_TEXT or add_special
        if short or not special.has_more_than(FEW_SPECIAL, data):
            return self._tokenize(data, add_special, parse_special)
        ids: list[int] = []
        known: dict[bytes, list[int]] = {}
        for piece in special.cut(data, most):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            found = known.get(piece)
            if found is None:
                found = self._tokenize(piece, False, False)
                if len(piece) <= LONGEST_KNOWN and len(known) < MOST_KNOWN:
                    known[piece] = found
            ids += found
            if most is not None and len(ids) > most:
                raise TooManyTokensError(len(ids), most)
        return ids

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        room = len(data) + 2
        while True:
            ids = (self._api.llama_token * room)()
            count = self._api.llama_tokenize(
                self.vocab, data, len(data), ids, room, add_special, parse_special
            )
            if count >= 0:
                return list(ids[:count])
            room = -count

    def _least_tokens(self, data: bytes) -> int:
        """A number of tokens that a text surely has."""
        api = self._api
        kind = int(api.llama_vocab_type(self.vocab))
        if kind not in (api.LLAMA_VOCAB_TYPE_SPM, api.LLAMA_VOCAB_TYPE_BPE):
            return 0  # they may leave white space out
        size = len(data)
        if self._all_special_texts.strips:
            size = len(data.translate(None, BLANKS))
        return -(-size // self._longest_token)

    @cached_property
    def _longest_token(self) -> int:
        return max(1, *(len(self.token_bytes(token)) for token in range(self.n_vocab)))

    def special_texts(self, parse_special: bool) -> SpecialTexts:
        """What llama_tokenize looks for in a text before anything else."""
        return self._all_special_texts if parse_special else self._user_defined_texts

    @cached_property
    def _all_special_texts(self) -> SpecialTexts:
        api = self._api
        wanted = (
            api.LLAMA_TOKEN_ATTR_CONTROL
            | api.LLAMA_TOKEN_ATTR_USER_DEFINED
            | api.LLAMA_TOKEN_ATTR_UNKNOWN
        )
        return self._texts_with(wanted)

    @cached_property
    def _user_defined_texts(self) -> SpecialTexts:
        api = self._api
        return self._texts_with(
            api.LLAMA_TOKEN_ATTR_USER_DEFINED,
            api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN,
        )

    def _texts_with(self, wanted: int, unwanted: int = 0) -> SpecialTexts:
        """The tokens that have one of the `wanted` attributes and none of the others."""
        api = self._api
        found: dict[bytes, SpecialText] = {}
        for token in range(self.n_vocab):
            has = int(api.llama_vocab_get_attr(self.vocab, token))
            if has & wanted and not has & unwanted:
                left, right = api.LLAMA_TOKEN_ATTR_LSTRIP, api.LLAMA_TOKEN_ATTR_RSTRIP
                text = bytes(api.llama_vocab_get_text(self.vocab, token))
                found.setdefault(text, SpecialText(token, bool(has & left), bool(has & right)))
        return SpecialTexts(found)

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The bytes a token stands for (half a character, perhaps); b'' for a special token
        unless `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._api.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def token_text(self, token: int) -> str:
        """A token's text as stored in the vocabulary; '' for -1 (no such token)."""
        if token < 0:
            return ""
        text: bytes = self._api.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does this token end a generation (EOS, end of turn, …)?"""
        return bool(self._api.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end a generation."""
        return tuple(token for token in range(self.n_vocab) if self.is_end(token))

    def is_special(self, token: int) -> bool:
        """Is this a control token: one that stands for no text, such as an end of turn?"""
        control = self._api.llama_vocab_is_control(self.vocab, token)
        return bool(control) or self.is_end(token)

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """The texts of all control tokens."""
        ids = range(self.n_vocab)
        control = self._api.llama_vocab_is_control
        return tuple(self.token_text(token) for token in ids if control(self.vocab, token))

    @property
    def mtp_layers(self) -> int:
        """Layers behind the others that predict tokens beyond the next one. They are not loaded:
        to run them takes functions that are not in llama.cpp's public API."""
        architecture = self.metadata("general.architecture")
        return int(self.metadata(f"{architecture}.nextn_predict_layers") or 0)

    @property
    def bos(self) -> int:
        return int(self._api.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        return int(self._api.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(self._api.llama_vocab_get_add_bos(self.vocab))

    def metadata(self, key: str) -> str | None:
        """A metadata value as text, e.g. 'general.name'; None where the key is absent."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(self._api.llama_model_meta_val_str(self.handle, key.encode(), buffer, room))
            if count < 0:
                return None
            if count < room:
                return buffer.value.decode("utf-8", "replace")
            room = count + 1
