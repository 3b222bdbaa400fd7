"""No file, however broken, gives a traceback or trains on nothing.

Good files of every kind and shape are damaged at random, then read, split and turned into tokens
as training does it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from tuneserve.errors import UsageError
from tuneserve.finetune.data.prepare import prepare_examples
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.finetune.tokens.encoder import Encoder, encode_each, problems_with_ends
from tuneserve.settings import DataSettings

COUNT = 12
SUFFIXES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz", ".csv.xz",
    ".txt",
)  # fmt: skip
SHAPES = ("alpaca", "prompt/completion", "messages", "sharegpt", "tools", "thoughts", "text")


def record(shape: str, number: int) -> dict[str, Any]:
    question, answer = f"Question {number * 7919}?", f"Answer {number}."
    match shape:
        case "alpaca":
            return {"instruction": question, "input": "x", "output": answer, "group": "g"}
        case "prompt/completion":
            return {"prompt": question, "completion": answer}
        case "messages":
            return {"messages": turns(question, answer)}
        case "sharegpt":
            pair = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            return {"conversations": pair}
        case "tools":
            call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
            asked = {"role": "assistant", "content": None, "tool_calls": [call]}
            user, last = turns(question, answer)
            told = {"role": "tool", "content": "1"}
            return {"messages": [user, asked, told, last], "tools": [{"type": "function"}]}
        case "thoughts":
            return {"instruction": question, "output": f"<think>\nHm.\n</think>\n\n{answer}"}
    return {"text": f"{question} {answer}"}


def turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@cache
def good_file(suffix: str, shape: str) -> bytes:
    records = [record(shape, number) for number in range(COUNT)]
    match suffix:
        case ".jsonl.gz":
            return gzip.compress(good_file(".jsonl", shape))
        case ".csv.xz":
            return lzma.compress(good_file(".csv", shape))
        case ".arrow":
            rows, stream = pa.Table.from_pylist(records), io.BytesIO()
            with ipc.new_stream(stream, rows.schema) as file:
                file.write_table(rows)
            return stream.getvalue()
        case ".json":
            return json.dumps(records).encode()
        case ".csv" | ".tsv":
            flat = [
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                for row in records
            ]
            text = io.StringIO()
            table = csv.DictWriter(text, list(flat[0]), delimiter="," if suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(flat)
            return text.getvalue().encode()
        case ".parquet":
            sink = io.BytesIO()
            parquet.write_table(pa.Table.from_pylist(records), sink)
            return sink.getvalue()
        case ".txt":
            return "\n\n".join(str(row) for row in records).encode()
    return b"".join(json.dumps(row).encode() + b"\n" for row in records)


def damage(content: bytes, draw: Any) -> bytes:
    """The content with up to four places overwritten, cut out, doubled, or the end missing."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = start + draw(st.integers(0, 12))
        way = draw(st.sampled_from(["overwrite", "cut", "double", "end"]))
        middle = {
            "overwrite": draw(st.binary(min_size=1, max_size=4)),
            "cut": b"",
            "double": content[start:end] * 2,
            "end": b"",
        }[way]
        content = content[:start] + middle + (b"" if way == "end" else content[end:])
    return content


@pytest.mark.slow
@settings(
    max_examples=250, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.data(), st.sampled_from(SUFFIXES), st.sampled_from(SHAPES), st.booleans(),
    st.sampled_from(["train", "mask", "drop"]), st.sampled_from([24, 512]),
)  # fmt: skip
def test_a_damaged_file_is_a_usage_error_or_trains_on_its_answers(
    tmp_path: Path, demo_tokenizer: Any, data: Any, suffix: str, shape: str, skip_bad: bool,
    thoughts: str, max_length: int,
) -> None:  # fmt: skip
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(damage(good_file(suffix, shape), data.draw))
    encoder = Encoder(demo_tokenizer, max_length=max_length, thoughts=thoughts)
    try:
        prepared = prepare_examples(
            DataSettings(file=path, skip_bad=skip_bad, eval_fraction=0, test_fraction=0)
        )
        kept, encoded, problems = encode_each(encoder, prepared.split.train)
        if not (skip_bad and kept):
            raise_problems(problems, len(prepared.split.train), what="trained on")
    except UsageError as error:
        assert str(path) in error.render()
        return
    assert kept
    assert all(item.trained for item in encoded)
    assert problems_with_ends(encoder, kept, encoded) == [] or all(e.truncated for e in encoded)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SUFFIXES[:-1]), st.sampled_from(SHAPES))
def test_an_undamaged_file_gives_every_example(tmp_path: Path, suffix: str, shape: str) -> None:
    path = tmp_path / f"good{suffix}"
    path.write_bytes(good_file(suffix, shape))
    split = prepare_examples(DataSettings(file=path, eval_fraction=0, test_fraction=0)).split
    assert len(split.train) == COUNT
