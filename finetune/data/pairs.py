"""Records of a prompt and its answer, under the names that data sets give them."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from tuneserve.chat.thinking import REASONING
from tuneserve.finetune.data.calls import read_tools, tool_calls
from tuneserve.finetune.data.conversations import conversation, ended, history, is_conversation
from tuneserve.finetune.data.row import Row
from tuneserve.finetune.data.turns import REASONING_KEYS, Turn, answer_checked
from tuneserve.finetune.data.values import (
    BadRecord,
    Findings,
    as_text,
    from_json,
    given,
    listed,
    note_missing_value,
)

PROMPTS = ("instruction", "prompt", "question", "query", "problem", "inputs", "user", "human")
ANSWERS = (
    "output", "completion", "response", "answer", "answers", "solution", "target", "targets",
    "generation", "assistant",
)  # fmt: skip
_CONTEXTS = ("input", "context", "passage")
_PARTNERS = {
    "instruction": "output", "prompt": "completion", "question": "answer", "query": "response",
    "problem": "solution", "inputs": "targets", "user": "assistant", "human": "assistant",
}  # fmt: skip
_ALPACA = "alpaca", "instruction/output"
_NO_INPUT = "<noinput>"
_THOUGHTS = (*REASONING_KEYS, "cot", "complex_cot", "chain_of_thought")
_NOTHING = ": there is nothing to learn from it"
_CHOICES = ("choices", "options", "distractors", "endings")


def keys_of(shape: str, record: Container[str]) -> tuple[list[str], str] | None:
    """The keys of what is asked and of what is answered, in a record that was recognised as a pair;
    None for another shape."""
    prompt, separator, answer = (_ALPACA[1] if shape == _ALPACA[0] else shape).partition("/")
    if not separator:
        return None
    return [prompt, *(key for key in _CONTEXTS if key in record and key != prompt)], answer


def is_pair(row: Row) -> bool:
    """Has a record a prompt or an answer? Beside a text of its own it takes both."""
    prompt, answer = (any(row.has(key) for key in keys) for keys in (PROMPTS, ANSWERS))
    ours = any(row.has(key) for key in (*PROMPTS[:2], *ANSWERS[:2]))
    return ours or (prompt and answer) or ((prompt or answer) and not row.says("text"))


def read_pair(
    row: Row, chosen: Container[str], findings: Findings
) -> tuple[str, list[dict[str, Any]]]:
    """The shape of a record of a prompt and an answer, and its messages. `chosen` are the keys
    that the user named.

    Raises BadRecord if one of the two is missing or empty, or there are several.
    """
    prompt_key = _one_of(row, PROMPTS, chosen, "prompts")
    for key in _CHOICES:
        if row.says(key) and prompt_key not in chosen:
            raise BadRecord(
                f"{key!r} of a multiple-choice question have no place of their own: write them "
                "into the prompt, name it with --fields prompt=KEY, and the right one as the answer"
            )
    answer_key = _one_of(row, ANSWERS, chosen, "answers")
    contexts = [key for key in _CONTEXTS if row.has(key)]
    if prompt_key is None and contexts and answer_key:
        prompt_key = contexts.pop(0)
    if prompt_key is None:
        partners = {answer: prompt for prompt, answer in _PARTNERS.items()}
        raise _missing(row, partners.get(answer_key or "", "instruction"), PROMPTS)
    if answer_key is None:
        raise _missing(row, _PARTNERS.get(prompt_key, "output"), ANSWERS)
    shape = f"{prompt_key}/{answer_key}"
    if shape == _ALPACA[1]:
        shape = _ALPACA[0]
    prompt, answer = _messages_or(row.take(prompt_key)), _messages_or(row.take(answer_key))
    if is_conversation(prompt) or is_conversation(answer):
        before = [{"role": "user", "content": prompt}]
        if is_conversation(prompt):
            before = _context(prompt, prompt_key, findings)
        after = answer if is_conversation(answer) else [{"role": "assistant", "content": answer}]
        return shape, conversation([*before, *after], f"{prompt_key} + {answer_key}", findings)
    text = _prompt(row, prompt, prompt_key, contexts, findings)
    earlier: list[Turn] = []
    if row.says("history"):
        earlier = history(row.take("history"), "history", findings)
    message = _answer(row, answer, answer_key, findings)
    turns: list[Turn] = [*earlier, ({"role": "user", "content": text}, None), (message, None)]
    return shape, ended(turns, prompt_key, findings)


def _context(messages: list[Any], key: str, findings: Findings) -> list[Any]:
    """The messages of a prompt, whose answers are read and not learned: the loss is on what
    completes them. Raises BadRecord if the last one is the beginning of the answer."""
    answers = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    if answers and messages[-1] is answers[-1]:
        raise BadRecord(
            f"{key!r} ends with the beginning of the answer, which can't be read alone: write the "
            "whole answer after the prompt"
        )
    if answers:
        findings.add(f"answers in {key!r} are read and not learned", odd=False)
    return [{"weight": 0, **m} if m in answers else m for m in messages]


def _one_of(row: Row, names: tuple[str, ...], chosen: Container[str], what: str) -> str | None:
    """The key that is there; of several the chosen one. Raises BadRecord if none of them is."""
    found = [key for key in names if row.has(key)]
    telling = [key for key in found if row.says(key)] or found[:1]
    if len(telling) > 1:
        telling = [key for key in telling if key in chosen] or telling
    if len(telling) > 1:
        raise BadRecord(
            f"has several {what}: {listed(telling)}; say which with "
            f"--fields {names[0]}={telling[0]}"
        )
    return next(iter(telling), None)


def _messages_or(value: Any) -> Any:
    """A value, decoded if it is JSON text of messages; other text is text, be it JSON or not."""
    decoded = from_json(value)
    return decoded if is_conversation(decoded, known=True) else value


def _prompt(row: Row, value: Any, key: str, contexts: list[str], findings: Findings) -> str:
    pieces = [_required(value, key, findings)]
    note_missing_value(pieces[0], key, findings)
    for context in contexts:
        text = as_text(row.take(context), context, findings)
        if text.strip() == _NO_INPUT:
            findings.add(f"{context!r} is {_NO_INPUT!r}: left out")
            continue
        note_missing_value(text, context, findings)
        if text.strip():
            pieces.append(text)
    if not "".join(pieces).strip():
        raise BadRecord(f"{key!r} is empty")
    if len(pieces) > 1 and not pieces[0].strip():
        pieces = pieces[1:]
    return "\n\n".join(pieces)


def _answer(row: Row, value: Any, key: str, findings: Findings) -> dict[str, Any]:
    if row.says("tools") and (calls := _called(row, value, key, findings)):
        return {"role": "assistant", "content": None, "tool_calls": calls}
    if key == "answers":
        value = _first_answer(value, findings)
    text = _required(value, key, findings)
    if not text.strip():
        raise BadRecord(f"{key!r} is empty{_NOTHING}")
    note_missing_value(text, key, findings)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    thoughts = [name for name in _THOUGHTS if row.says(name) and isinstance(row.peek(name), str)]
    if thoughts:
        message[REASONING] = as_text(row.take(thoughts[0]), thoughts[0], findings)
    return answer_checked(message, key, findings)


def _called(row: Row, value: Any, key: str, findings: Findings) -> list[dict[str, Any]]:
    """The calls that an answer consists of, where all are of the record's tools."""
    tools = read_tools(row.peek("tools"), "tools") or ()
    functions = [tool.get("function") for tool in tools]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    decoded = from_json(value)
    calls = [decoded] if isinstance(decoded, dict) else decoded
    if not isinstance(calls, list) or not calls:
        return []
    if not all(isinstance(c, dict) and c.get("name") in names and "arguments" in c for c in calls):
        return []
    findings.add(f"{key!r} holds calls of the tools: they are learned as calls", odd=False)
    return tool_calls(calls, key, findings)


def _first_answer(value: Any, findings: Findings) -> Any:
    """One of several right answers: SQuAD's {"text": [...]}, or a list of texts."""
    decoded = from_json(value)
    texts = decoded.get("text") if isinstance(decoded, dict) else decoded
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return value
    if not texts:
        raise BadRecord(f"'answers' is empty{_NOTHING}")
    if len(set(texts)) > 1:
        findings.add("of several 'answers' the first is learned")
    if isinstance(decoded, dict) and any(given(v) for k, v in decoded.items() if k != "text"):
        findings.add("of 'answers' only the text is used", odd=False)
    return texts[0]


def _missing(row: Row, key: str, names: tuple[str, ...]) -> BadRecord:
    """Of the `names` that would do one may be there without a value; else it is `key` that is to be
    there."""
    if empty := next(filter(row.is_empty, (key, *names)), None):
        return BadRecord(f"{empty!r} is empty{_NOTHING if names is ANSWERS else ''}")
    return BadRecord(f"key {key!r} is missing; its keys are {listed(row.names()[:6])}")


def _required(value: Any, key: str, findings: Findings) -> str:
    if value is None:
        raise BadRecord(f"key {key!r} is missing")
    return as_text(value, key, findings)
