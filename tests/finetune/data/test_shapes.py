"""What people bring: each record is read as it is meant, or refused by name, or a note tells what
became of it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneserve.finetune.data.formats import BadRecord, Parsed, optional_name, parse_record

CALL: dict[str, Any] = {"name": "get_weather", "arguments": {"city": "Bonn"}}
CALLED = [{"type": "function", "function": CALL}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}


def said(parsed: Parsed) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in parsed.messages]


def chat(*messages: Any) -> dict[str, Any]:
    """Messages of 'role: text', or of (role, text, further keys)."""
    turns = []
    for message in messages:
        role, text, more = message if isinstance(message, tuple) else (*message.split(": "), {})
        turns.append({"role": role, "content": text, **more})
    return {"messages": turns}


HELLO = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Hi", "answer": "Hello"},
        {"query": "Hi", "response": "Hello"},
        {"instruction": "Hi", "response": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": "Hi", "output": "Hello"},
        {"input": "Hi", "output": "Hello"},
        {"input": "Hi", "target": "Hello"},
        {"inputs": "Hi", "targets": "Hello"},
        {"problem": "Hi", "solution": "Hello"},
        {"human": "Hi", "assistant": "Hello"},
        {"Instruction": "Hi", " OUTPUT ": "Hello"},
        {"instruction": "", "input": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": None, "output": "Hello", "history": [], "system": ""},
        {"question": "Hi", "answers": {"text": ["Hello", "Hello"], "answer_start": [3, 3]}},
        {"question": "Hi", "answers": ["Hello"]},
        {"messages": [], "instruction": "Hi", "output": "Hello"},
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello"},
        {"prompt": "Hi", "completion": [{"role": "assistant", "content": "Hello"}]},
        {"dialogue": [{"speaker": "USER", "text": "Hi"}, {"speaker": "Bot", "text": "Hello"}]},
        {"conversation": [{"human": "Hi", "assistant": "Hello"}]},
        {"conversation": [{"input": "Hi", "output": "Hello"}]},
        {"turns": [{"user": "Hi"}, {"assistant": "Hello"}]},
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]},
                      {"role": "model", "parts": [{"text": "Hel"}, {"text": "lo"}]}]},
        {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "Bing", "value": "Hello"}]},
        {"conversations": json.dumps([{"from": "human", "value": "Hi"},
                                      {"role": "gpt", "content": "Hello"}])},
        chat(("system", None, {}), "user: Hi", "assistant: Hello"),
        chat(("system", " ", {}), "user: Hi", "assistant: Hello"),
        chat(("user", [{"type": "text", "text": "H"}, {"type": "input_text", "text": "i"}], {}),
             ("assistant", [{"type": "output_text", "text": "Hello", "annotations": []}], {})),
        chat("user: Hi", ("assistant", None, {"refusal": "Hello"})),
        chat("user: Hi", ("assistant", "Hello", {"refusal": None, "audio": None, "weight": None})),
    ],
)  # fmt: skip
def test_a_question_and_its_answer_under_other_names(record: dict[str, Any]) -> None:
    parsed = parse_record(record)
    assert said(parsed) == HELLO
    assert parsed.notes == ()


@pytest.mark.parametrize(
    ("record", "prompt", "answer"),
    [
        ({"instruction": "2+2?", "output": 4}, "2+2?", "4"),
        ({"prompt": 7, "completion": 1.5}, "7", "1.5"),
        ({"instruction": "Spam?", "output": True}, "Spam?", "true"),
        ({"instruction": "Spam?", "output": 0}, "Spam?", "0"),
        (chat(("user", 1, {}), ("assistant", False, {})), "1", "false"),
        ({"conversations": [{"from": "human", "value": "n"}, {"from": "gpt", "value": 3}]},
         "n", "3"),
    ],
)  # fmt: skip
def test_numbers_and_booleans_are_written_out(
    record: dict[str, Any], prompt: str, answer: str
) -> None:
    parsed = parse_record(record)
    assert said(parsed) == [("user", prompt), ("assistant", answer)]
    assert (parsed.notes, "JSON" in parsed.told[0]) == ((), True)


@pytest.mark.parametrize("value", [{"name": "Zoë"}, ["a", 1], {"a": [{"b": None}]}, [{"role": 1}]])
def test_objects_and_lists_are_written_as_json_and_noted(value: Any) -> None:
    for record in ({"instruction": "Extract", "output": value}, chat("user: x")):
        if "messages" in record:
            if isinstance(value, list):
                continue
            record["messages"].append({"role": "assistant", "content": value})
        parsed = parse_record(record)
        text = json.dumps(value, ensure_ascii=False)
        assert parsed.messages[-1]["content"] == text
        assert "JSON text" in parsed.notes[0]


def test_context_stands_below_the_question() -> None:
    record = {"question": "Who?", "context": "Ann came.", "answer": "Ann"}
    assert said(parse_record(record))[0] == ("user", "Who?\n\nAnn came.")


@pytest.mark.parametrize("form", ["pairs", "text", "named", "messages"])
def test_history_is_earlier_turns_and_learned(form: str) -> None:
    history: Any = {
        "pairs": [["Country?", "Norway."]],
        "text": '[["Country?", "Norway."]]',
        "named": [{"user": "Country?", "assistant": "Norway."}],
        "messages": [{"role": "user", "content": "Country?"},
                     {"role": "assistant", "content": "Norway."}],
    }[form]  # fmt: skip
    for names in (("instruction", "output"), ("query", "response")):
        record: dict[str, Any] = dict(zip(names, ("Capital?", "Oslo."), strict=True))
        parsed = parse_record({**record, "system": "Be brief.", "history": history})
        assert said(parsed) == [
            ("system", "Be brief."), ("user", "Country?"), ("assistant", "Norway."),
            ("user", "Capital?"), ("assistant", "Oslo."),
        ]  # fmt: skip
        assert not any("weight" in message for message in parsed.messages)


@pytest.mark.parametrize(
    "flag",
    [{"train": False}, {"training": 0}, {"loss": "false"}, {"weight": 0.0}, {"trainable": "0"},
     {"loss_weight": 0}, {"mask": True}, {"loss": False, "weight": 0}],
)  # fmt: skip
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_an_answer_that_is_not_to_be_learned_is_context(flag: dict[str, Any], key: str) -> None:
    def turn(role: str, text: str, **more: Any) -> dict[str, Any]:
        names = ("role", "content") if key == "messages" else ("from", "value")
        return {names[0]: role, names[1]: text, **more}

    first = [turn("user", "q1", **flag), turn("assistant", "a1", **flag)]
    second = [turn("user", "q2"), turn("assistant", "a2", weight=1)]
    third = [turn("user", "q3"), turn("assistant", "a3", **flag)]
    parsed = parse_record({key: [*first, *second]})
    assert [m.get("weight") for m in parsed.messages] == [None, 0, None, None]
    assert parsed.notes == ()
    parsed = parse_record({key: [*first, *second, *third]})
    assert said(parsed)[-1] == ("assistant", "a2")
    assert parsed.notes == (
        "what follows the last answer that is learned is left out (its weight is 0)",
    )


def test_a_flag_on_every_message_says_nothing() -> None:
    parsed = parse_record(chat(("user", "q", {"weight": 1}), ("assistant", "a", {"weight": 1})))
    assert len(parsed.messages) == 2
    assert "learn every message" in parsed.told[0]


def test_an_answer_that_is_context_may_be_empty() -> None:
    record = chat("user: q1", ("assistant", "", {"weight": 0}), "user: q2", "assistant: a2")
    assert [m["content"] for m in parse_record(record).messages] == ["q1", "", "q2", "a2"]


def test_what_follows_the_last_answer_is_cut_and_noted() -> None:
    parsed = parse_record(chat("user: Hi", "assistant: Hello", "user: Bye", "user: now"))
    assert said(parsed) == HELLO
    assert parsed.notes == (
        "the conversation ends with the user: what follows its last answer is left out",
    )
    parsed = parse_record(chat("user: Hi", ("assistant", None, {"tool_calls": CALLED}), "tool: 11"))
    assert parsed.messages[-1]["tool_calls"] == CALLED
    assert "tool's result" in parsed.notes[0]


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": None, "tool_calls": CALLED},
        {"role": "assistant", "tool_calls": json.dumps(CALLED)},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": CALL},
        {"role": "assistant",
         "tool_calls": [{"name": "get_weather", "parameters": '{"city": "Bonn"}'}]},
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "assistant", "function_call": {**CALL, "arguments": '{"city": "Bonn"}'}},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "get_weather",
                                           "input": CALL["arguments"]}]},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function-call", "value": json.dumps([CALL])},
        {"from": "tool_call", "value": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        {"role": "FUNCTION_CALL", "content": json.dumps(CALLED[0])},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "result",
    [
        {"role": "tool", "content": {"t": 11}},
        {"role": "function", "content": '{"t": 11}'},
        {"from": "observation", "value": '{"t": 11}'},
        {"from": "tool_response", "value": '{"t": 11}'},
        {"from": "function_response", "value": '{"t": 11}'},
        {"role": "ipython", "content": [{"type": "text", "text": '{"t": 11}'}]},
        {"role": "user", "content": [{"type": "tool_result", "content": '{"t": 11}'}]},
    ],
)
def test_calls_and_results_in_every_form(answer: dict[str, Any], result: dict[str, Any]) -> None:
    asked = {"role": "user", "content": "Weather in Bonn?"}
    last = {"role": "assistant", "content": "11 degrees."}
    parsed = parse_record({"conversations": [asked, answer, result, last], "tools": [TOOL]})
    assert [m["role"] for m in parsed.messages] == ["user", "assistant", "tool", "assistant"]
    assert parsed.messages[1]["tool_calls"] == CALLED
    assert parsed.messages[2]["content"] == '{"t": 11}'
    assert (parsed.tools, parsed.notes) == ((TOOL,), ())
    last_call = parse_record({"messages": [asked, answer]})
    assert last_call.messages[-1]["tool_calls"] == CALLED


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL], TOOL, json.dumps([TOOL]), [json.dumps(TOOL)], [TOOL["function"]],
        json.dumps([TOOL["function"]]), [{"type": "function", **TOOL["function"]}],
        [{"name": "get_weather", "input_schema": {"type": "object"}}],
    ],
)  # fmt: skip
def test_tools_in_every_form(tools: Any) -> None:
    record = chat("user: Hi", "assistant: Hello")
    assert parse_record({**record, "tools": tools}).tools == (TOOL,)
    assert parse_record({**record, "functions": tools}).tools == (TOOL,)


@pytest.mark.parametrize("none", [None, "", " ", "[]", [], "{}"])
def test_no_tools_in_every_form(none: Any) -> None:
    parsed = parse_record({**chat("user: Hi", "assistant: Hello"), "tools": none})
    assert (parsed.tools, parsed.notes) == (None, ())


def test_an_answer_of_calls_beside_tools_is_calls() -> None:
    record = {"query": "Weather in Bonn?", "answers": json.dumps([CALL]), "tools": [TOOL]}
    assert parse_record(record).messages[-1]["tool_calls"] == CALLED


def test_thoughts_in_every_form() -> None:
    thinking = [{"type": "thinking", "thinking": "Add.", "signature": "x"},
                {"type": "text", "text": "2"}]  # fmt: skip
    for record in (
        chat("user: 1+1", ("assistant", "2", {"reasoning": "Add."})),
        chat("user: 1+1", ("assistant", "<think>\nAdd.\n</think>\n\n2", {})),
        chat("user: 1+1", ("assistant", "<think>Add.</think>2", {"reasoning_content": "Add."})),
        chat("user: 1+1", ("assistant", thinking, {})),
        {"question": "1+1", "Complex_CoT": "Add.", "Response": "2"},
    ):
        parsed = parse_record(record)
        assert parsed.messages[-1]["content"] == "2"
        assert parsed.messages[-1]["reasoning_content"] == "Add."
        assert parsed.notes == ()
    for empty in ("<think></think>2", "<think>\n\n</think>\n\n2"):
        answer = parse_record({"prompt": "1+1", "completion": empty}).messages[-1]
        assert answer == {"role": "assistant", "content": "2"}


@pytest.mark.parametrize(
    ("record", "note"),
    [
        ({"instruction": "Hi", "output": "Hello", "xyz": 1}, "key 'xyz' is not used"),
        ({**chat("user: Hi", "assistant: Hello"), "instruction": "Other"}, "'instruction'"),
        ({"messages": chat("user: Hi", "assistant: Hello")["messages"], "conversations": [1]},
         "'conversations'"),
        (chat("user: Hi", ("assistant", "Hello", {"refusal": "no"})), "'refusal' of a message"),
        (chat("user: Hi", ("assistant", "Hello", {"xyz": 0})), "'xyz' of a message"),
        (chat("user: Hi", ("assistant", "", {"tool_calls": [{**CALL, "xyz": 1}]})), "'xyz'"),
        (chat("user: Hi", ("assistant", "", {"tool_calls": [{**CALLED[0], "xyz": 1}]})), "'xyz'"),
        ({"instruction": "Hi", "output": "Hello", "rejected": "Go"}, "'rejected'"),
        ({"instruction": "Hi", "output": "<|begin_of_thought|>x"}, "thoughts of another form"),
        ({"instruction": "Hi", "output": "one\r\ntwo"}, "line ends of Windows"),
        ({"instruction": "Hi", "input": "<noinput>", "output": "x"}, "left out"),
        ({"instruction": "Hi", "input": "nan", "output": "x"}, "missing value"),
        ({"instruction": "Hi", "output": "None"}, "missing value"),
        ({"instruction": "Hi", "output": "x", "turns": 2}, "key 'turns' is not used"),
        ({"question": "Hi", "answers": ["a", "b"]}, "the first is learned"),
        ({"text": "<|im_start|>user\nHi<|im_end|>"}, "its prompts too"),
        ({"text": "Once.", "tools": [TOOL]}, "key 'tools' is not used"),
        ({"text": "Once.", "system": "Be brief."}, "key 'system' is not used"),
        ({**chat("system: A", "user: Hi", "assistant: x"), "system": "B"}, "'system' is not used"),
        (chat("user: <image>\nHi", "assistant: x"), "'<image>'"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_noted(record: dict[str, Any], note: str) -> None:
    assert [note in text for text in parse_record(record).notes] == [True]


def test_provenance_and_repetitions_only_inform() -> None:
    record = {"instruction": "Hi", "output": "Hello", "score": 3, "category": "talk",
              "text": "### Instruction: Hi ### Response: Hello"}  # fmt: skip
    parsed = parse_record(record)
    assert parsed.notes == ()
    assert parsed.told == (
        "key 'score' is not used",
        "key 'category' is not used (--fields group=category reports by it)",
        "key 'text' repeats what is trained",
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "--fields output=chosen"),
        ({"prompt": "Hi", "chosen": [{"role": "assistant"}]}, "--fields completion=chosen"),
        ({"chosen": [{"role": "user"}], "rejected": []}, "--fields messages=chosen"),
        ({**chat("user: Hi"), "chosen": {"role": "assistant"}}, "at the end of its messages"),
        ({**chat("user: Hi", "assistant: x"), "rejected_response": "y"}, "preference data"),
        ({"prompt": "Hi", "completion": "x", "label": True}, "KTO"),
        ({"prompt": "Hi", "completion": "x", "label": "False"}, "KTO"),
        ({"text": "Good film", "label": 1}, "--fields instruction=text,output=label"),
        ({**chat("user: Hi", "assistant: x"), "images": ["a.png"]}, "'images'"),
        ({"instruction": "Hi", "output": "x", "image": "a.png"}, "'image'"),
        (chat(("user", "Hi", {"audio": {"id": 1}}), "assistant: x"), "[0]: 'audio'"),
        (chat(("user", [{"type": "image_url", "image_url": {}}], {}), "assistant: x"),
         "messages[0].content[0] is a part of type 'image_url'"),
        (chat(("user", {"type": "input_audio"}, {}), "assistant: x"), "'input_audio'"),
        (chat("user: Hi", ("assistant", [{"type": "redacted_thinking"}], {})), "redacted"),
        (chat("user: Hi", ("assistant", ["x"], {})), "must be text or a list of parts"),
        (chat("user: Hi", "assistant:  ", "user: x", "assistant: y"), "messages[1] is an empty"),
        (chat("user: Hi", "assistant: y", "user: x", ("assistant", None, {})), "[3] is an empty"),
        (chat("user: Hi", ("assistant", "<think>x</think>", {})), "thoughts and nothing after"),
        (chat("user: Hi", ("assistant", "", {"reasoning": "x"})), "thoughts and nothing after"),
        (chat("user: Hi", ("assistant", "<think>x", {})), "messages[1]: an answer opens"),
        (chat("user:  ", "assistant: x"), "messages[0] is an empty message of the user's"),
        (chat("user: Hi", "user: there"), "has no answer"),
        (chat("assistant: Welcome", "user: Hi"), "no message of the user's before"),
        (chat(("user", "Hi", {"train": True}), "assistant: x"), "role 'user'"),
        (chat("user: Hi", ("assistant", "x", {"weight": 0.5})), "messages[1]: 'weight' must be 0"),
        (chat("user: Hi", ("assistant", "x", {"weight": [0]})), "'weight' must be 0 or 1"),
        (chat("user: Hi", ("assistant", "x", {"train": True, "weight": 0})), "disagree"),
        (chat("user: Hi", ("assistant", "x", {"train_detail": [{"train": False}]})), "as a whole"),
        (chat("user: Hi", ("assistant", "x", {"train": False})), "has weight 0"),
        ({"instruction": "Hi", "output": "x", "weight": 0.5}, "'weight' must be 0 or 1"),
        ({**chat("user: Hi", "assistant: x"), "loss": False}, "'loss' says"),
        ({**chat("user: Hi", "assistant: x"), "history": [["a", "b"]]}, "put its turns into"),
        ({**chat("user: Hi", "assistant: x"), "function_call": CALL}, "'function_call' beside"),
        ({**chat("user: Hi", "assistant: x"), "tools": "none"}, "text that is no JSON"),
        (chat(("user", "Hi", {"tool_calls": CALLED}), "assistant: x"), "only the assistant calls"),
        (chat(("user", "Hi", {"tools": [TOOL]}), "assistant: x"), "belong beside"),
        ({"conversations": [{"from": "human", "value": "x"},
                            {"from": "function_call", "value": "get_weather(Bonn)"}]},
         "conversations[1]: a call must be JSON"),
        ({"conversations": ["Hi", "Hello"]}, "doesn't say who speaks"),
        ({"conversations": [["Hi", "Hello"], ["a", "b"]]}, "is a list of lists"),
        ({"instruction": "Hi", "output": "x", "history": [["a"]]}, "history[0] must be [question"),
        ({"instruction": "Hi", "output": "x", "history": [["a", ""]]}, "is an empty answer"),
        ({"instruction": "Hi", "output": "x", "history": "earlier"}, "'history' must be a list"),
        ({"question": "Hi", "answer": "x", "response": "y"}, "several answers"),
        ({"instruction": "Hi", "question": "Ho", "answer": "x"}, "several prompts"),
        ({"question": "Hi", "choices": ["a", "b"], "answer": 1}, "multiple-choice"),
        ({"question": "Hi", "answers": {"text": []}}, "'answers' is empty"),
        ({"instruction": "Hi", "output": float("nan")}, "got nan"),
        ({"instruction": "Hi", "output": {"a": float("inf")}}, "can't be written as JSON"),
        ({"question": "Hi"}, "key 'answer' is missing"),
        ({"input_ids": [1, 2], "labels": [1, 2]}, "token ids"),
        ({"role": "user", "text": "Hi"}, "is one message"),
        ({"data": ["Hi", "Hello"]}, "--fields instruction=KEY,output=KEY"),
        ({"input": {}, "preferred_output": [1], "non_preferred_output": [1]}, "preference data"),
        (["Hi", "Hello"], "expected an object, got a list: write"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(record: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_record(record)
    assert reason in str(caught.value)


@pytest.mark.parametrize(("value", "name"), [(7, "7"), (7.0, "7"), ("a", "a"), ("", None)])
def test_names_may_be_numbers(value: Any, name: str | None) -> None:
    assert optional_name({"id": value}, "id") == name


def test_the_user_says_which_of_several_is_meant() -> None:
    record = {"question": "Hi", "output": "Hello", "response": "y"}
    parsed = parse_record(record, chosen={"output": "output"})
    assert said(parsed) == HELLO
    assert parsed.notes == ("key 'response' is not used",)
    choice = {"prompt": "a or b?", "choices": ["a", "b"], "answer": "a"}
    assert parse_record(choice, chosen={"prompt": "x"}).notes == ("key 'choices' is not used",)


KEYS = [
    "messages", "conversations", "role", "from", "content", "value", "instruction", "input",
    "output", "prompt", "completion", "question", "answer", "answers", "text", "system", "history",
    "tools", "tool_calls", "function_call", "function", "name", "arguments", "type", "weight",
    "train", "label", "reasoning", "thinking", "user", "assistant", "parts", "functions", "refusal",
]  # fmt: skip
NAMES = ["user", "assistant", "system", "tool", "function_call", "text", "thinking", "tool_use",
         "tool_result", "[[\"a\", \"b\"]]", '{"name": "f", "arguments": {}}']  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
turns = st.dictionaries(st.sampled_from(KEYS[2:]), json_values, max_size=4).flatmap(
    lambda more: st.sampled_from(NAMES[:5]).map(lambda role: {"content": "x", **more, "role": role})
)


@settings(max_examples=600, deadline=None)
@given(
    json_values
    | st.dictionaries(st.sampled_from(KEYS), json_values, min_size=1, max_size=6)
    | st.lists(turns, max_size=5).map(lambda listed: {"messages": listed})
)
def test_whatever_a_record_is_it_is_parsed_or_refused(record: Any) -> None:
    try:
        parsed = parse_record(record)
    except BadRecord:
        return
    last = parsed.messages[-1]
    assert last["role"] == "assistant"
    assert last.get("weight") is None
    assert last["content"].strip() or last.get("tool_calls")
    json.dumps(parsed.messages, allow_nan=False, ensure_ascii=False).encode()
    for message in parsed.messages:
        assert isinstance(message["content"], str)
        if message["role"] == "assistant" and message.get("weight") != 0:
            assert message["content"].strip() or message.get("tool_calls")


def well_formed(draw: Any, leaf: Callable[..., str]) -> dict[str, Any]:
    """A record of any shape; every key may be there or not. Each text of `leaf` occurs once."""

    def maybe(record: dict[str, Any], key: str, value: Any) -> None:
        if draw(st.booleans()):
            record[key] = value() if callable(value) else value

    record: dict[str, Any] = {}
    shape = draw(st.sampled_from(["messages", "conversations", "pair"]))
    if shape == "pair":
        names = draw(st.sampled_from([("instruction", "output"), ("prompt", "completion"),
                                      ("question", "answer"), ("query", "response")]))  # fmt: skip
        record.update(zip(names, (leaf(), leaf()), strict=True))
        maybe(record, "input", leaf)
        maybe(record, "history", lambda: [[leaf(), leaf()]])
        maybe(record, "reasoning", leaf)
    else:
        record[shape] = listed = []
        for _ in range(draw(st.integers(1, 3))):
            for role in ("user", "assistant"):
                turn: dict[str, Any] = {"role": role, "content": leaf()}
                if role == "assistant":
                    maybe(turn, "reasoning", leaf)
                    maybe(
                        turn, "tool_calls", lambda: [{"name": leaf(), "arguments": {"a": leaf()}}]
                    )
                maybe(turn, "name", leaf)
                maybe(turn, leaf("key"), leaf)
                listed.append(turn)
        maybe(record, "functions", lambda: [{"name": leaf(), "description": leaf()}])
    maybe(record, "system", leaf)
    maybe(record, "tools", lambda: json.dumps([{"name": leaf(), "parameters": {"t": leaf()}}]))
    maybe(record, leaf("key"), leaf)
    maybe(record, "category", leaf)
    return record


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_every_text_of_a_record_is_trained_or_its_key_is_noted(data: Any) -> None:
    numbers = itertools.count()
    record = well_formed(data.draw, lambda kind="leaf": f"{kind}{next(numbers)}e")
    try:
        parsed = parse_record(record)
    except BadRecord as refused:
        assert "'tools'" in str(refused)
        return
    found = json.dumps([parsed.messages, parsed.tools])
    notes = " ".join((*parsed.notes, *parsed.told))
    unused = {value for noted in (record, *record.get("messages", ()),
              *record.get("conversations", ())) for key, value in noted.items()
              if f"key {key!r} " in notes and isinstance(value, str)}  # fmt: skip
    for text in set(re.findall(r"(?:leaf|key)\d+e", json.dumps(record))):
        assert text in found or text in notes or text in unused


def calling(*ids: str, results: tuple[str, ...], name: str = "look_up") -> dict[str, Any]:
    calls = [{"id": i, "function": {"name": name, "arguments": {}}} for i in ids]
    return {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": i, "content": i} for i in results),
            {"role": "assistant", "content": "Fine."},
        ],
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
    }


@pytest.mark.parametrize(
    ("record", "notes"),
    [
        (calling("a", "b", results=("b", "a")), ()),
        (calling("a", results=("c",)), (
            "a tool's result has the id of no call before it",
            "a call of a tool has no result before the next message",
        )),
        (calling("a", "b", results=("a",)), (
            "a call of a tool has no result before the next message",
        )),
        (calling("a", results=("a",), name="other"), (
            "a call of 'other', which is not among the tools",
        )),
    ],
)  # fmt: skip
def test_calls_and_results_that_do_not_fit_are_noted(
    record: dict[str, Any], notes: tuple[str, ...]
) -> None:
    assert parse_record(record).notes == notes


def test_of_prompt_and_completion_the_completion_is_learned() -> None:
    prompt = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "q1"},
    ]
    completion = [{"role": "assistant", "content": "a1"}]
    parsed = parse_record({"prompt": prompt, "completion": completion})
    assert [message.get("weight") for message in parsed.messages] == [None, 0, None, None]
    assert parsed.told == ("answers in 'prompt' are read and not learned",)
    with pytest.raises(BadRecord, match="ends with the beginning of the answer"):
        parse_record({"prompt": prompt[:2], "completion": completion})


def test_marks_around_a_tools_result_are_left_out() -> None:
    turns = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'},
        {"from": "tool", "value": "<tool_response>\n5\n</tool_response>"},
        {"from": "gpt", "value": "five"},
    ]
    assert parse_record({"conversations": turns}).messages[2]["content"] == "5"


@pytest.mark.parametrize("text", ["### Human: q### Assistant: a", "User: hi\nAssistant: hello"])
def test_a_conversation_written_out_in_a_text_is_noted(text: str) -> None:
    (note,) = parse_record({"text": text}).notes
    assert "looks like a conversation that is written out" in note
