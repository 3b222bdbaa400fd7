"""Does a chat template put whitespace beside special tokens that swallow it?"""

from __future__ import annotations

from pathlib import Path

from tuneserve.base.fast_tokenizer import load_fast_tokenizer, without_stripping
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import FastTokenizer, encode
from tuneserve.errors import TuneserveError

_USER = {"role": "user", "content": "a"}
_ANSWER = {"role": "assistant", "content": "b"}
_SYSTEM = {"role": "system", "content": "c"}
_CONVERSATIONS = ((_USER, _ANSWER), (_SYSTEM, _USER, _ANSWER), (_USER, _ANSWER, _USER, _ANSWER))


def template_is_stripped(directory: Path) -> bool:
    """Do the special tokens' `lstrip` and `rstrip` change a token id of what the template writes?

    True as well where there is no template to ask. A template that refuses a system prompt is asked
    without.
    """
    tokenizer = load_fast_tokenizer(directory)
    if not tokenizer.chat_template:
        return True
    stripping, plain = FastTokenizer(tokenizer), FastTokenizer(without_stripping(tokenizer))
    template = stripping.template()
    asked = False
    for messages in _CONVERSATIONS:
        example = Example("asked", messages)
        try:
            one, other = (encode(fast, template, example) for fast in (stripping, plain))
        except TuneserveError:
            continue
        asked = True
        if (one.prompt, one.answer) != (other.prompt, other.answer):
            return True
    return not asked
