"""Types chosen by measurement: the file is as small as asked for, passes every check, and says what
it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, write_held_out
from tuneserve.convert.adapter_only import convert_adapter
from tuneserve.convert.gguf.quantization import AUTO, Choice, file_type
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.mixture import check_limit, choose, choose_mix
from tuneserve.convert.mixture.answers import Answer
from tuneserve.convert.mixture.limit import size_limit
from tuneserve.convert.mixture.trial import Trial
from tuneserve.convert.plan import checked_models, plan_of
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.stage import convert
from tuneserve.convert.verify.logits import file_logits
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

# With a common beginning of five tokens.
ANSWERS = [
    Answer([5, 6, 7, 8, 9, *range(40, 70)], 20),
    Answer([5, 6, 7, 8, 9, *range(900, 915)], 8),
]


def settings(**changes: Any) -> ConvertSettings:
    small = {"mix_tokens": 100, "mix_tries": 10, "imatrix_tokens": 512, "max_quantized_kld": 10}
    return ConvertSettings(quantization="auto", **{**small, **changes})


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_trial_measures_what_a_file_of_these_types_gives(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    model = trained.model()
    path, rounded = tmp_path / "whole.gguf", tmp_path / "rounded.gguf"
    write_quantized(model, path, kind, threads=2)
    before = path.read_bytes()
    columns = model.sources["blk.1.ffn_down.weight"].shape[-1]
    importance = {"blk.1.ffn_down.weight": np.linspace(0.1, 2, columns, dtype=np.float32)}
    types = {"blk.1.ffn_down.weight": "Q4_1", "token_embd.weight": "Q5_0"}
    with Trial(path, model.sources, importance, threads=2) as trial:
        trial.compare_on(ANSWERS)
        assert trial.harm({}) == 0.0
        halfway = trial.half_back(
            {"blk.1.ffn_down.weight": trained.base_model().sources["blk.1.ffn_down.weight"]}
        )
        assert trial.harm({}) == 0.0
        trial.harm({"token_embd.weight": "Q5_0", "blk.0.attn_q.weight": "Q4_0"})
        found = trial.harm(types)
    assert path.read_bytes() == before

    choices = [Choice(c.name, types.get(c.name, c.type)) for c in model.choices(kind)]
    write_gguf(
        rounded, model.metadata(kind), model.sources, choices, threads=1, importance=importance
    )
    ids = [answer.ids for answer in ANSWERS]
    expected = divergence(
        *(
            [rows[a.start :] for rows, a in zip(logits, ANSWERS, strict=True)]
            for logits in (file_logits(p, ids, threads=1) for p in (path, rounded))
        )
    )
    assert found > 1e-4
    assert halfway > 1e-6
    assert found == pytest.approx(expected.mean, rel=0.05)


def test_a_conversion_to_chosen_types(run: RunDirectory) -> None:
    write_held_out(run.split("train"), count=40)
    write_held_out(run.split("eval"), count=4)
    result = convert(run, settings(size_limit="5M"))
    assert all(check.passed for check in result.verification)
    mix = result.mix
    assert mix is not None
    assert mix.bytes <= mix.baseline_bytes
    assert mix.divergence <= mix.baseline_divergence
    card = (run.gguf / "README.md").read_text()
    assert "within size_limit = 5M; " in card
    assert f"{mix.divergence:.2e} nats, Q4_K_M's {mix.baseline_divergence:.2e}" in card
    for path in (run.tuned_gguf(AUTO), run.base_gguf(AUTO)):
        assert path.stat().st_size <= 5_000_000
        gguf = GGUFFile(path)
        assert {name: gguf.type_name(name) for name in mix.types} == mix.types
        begin = min(tensor.offset for tensor in gguf.tensors.values())
        assert path.stat().st_size == begin + mix.bytes  # padding included
        assert gguf.get("quantize.imatrix.file")
    assert {path.name for path in run.gguf.iterdir() if path.suffix == ".gguf"} == {
        "small-auto.gguf", "base-auto.gguf", "small.imatrix.gguf"
    }  # fmt: skip


def test_the_smallest_file_within_a_divergence(
    run: RunDirectory, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "BISECTIONS", 4)
    write_held_out(run.split("train"), count=40)
    model, path = trained.model(), tmp_path / "f16.gguf"
    write_quantized(model, path, "F16", threads=2)
    matrix = ImportanceMatrix({}, 1)
    fine, coarse = (
        choose_mix(
            path,
            model,
            trained.base_model(),
            run,
            matrix,
            settings(max_divergence=limit),
            threads=2,
        )
        for limit in (1e-2, 1e-1)
    )
    assert fine.divergence <= 1e-2
    assert coarse.divergence <= 1e-1
    assert coarse.bytes < fine.bytes


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("100%", 1000),
        ("80 %", 800),
        ("12.5%", 125),
        ("900B", 860),
        ("2kB", 1960),
        ("1MiB", 1048536),
    ],
)
def test_a_limit_is_a_share_of_q4_k_m_or_the_bytes_of_a_file(limit: str, expected: int) -> None:
    assert size_limit(settings(size_limit=limit), 1000, header_bytes=40) == expected


def test_what_does_not_fit_is_refused(run: RunDirectory) -> None:
    for limit in ("10%", "1000kB"):
        with pytest.raises(UsageError, match="smallest types take") as caught:
            convert(run, settings(size_limit=limit))
        # Of the whole file, in the unit that was given; less than this does not fit.
        assert "for header and vocabulary" in caught.value.message
        # It may fail verification: that it can be written is all that is known of it.
        assert caught.value.hint.startswith("The smallest that can be written (")
        least = caught.value.hint.rpartition(" ")[2]
        number, unit = float(least.rstrip("%kB")), limit.lstrip("0123456789")
        assert least.endswith(unit)
        model = checked_models(plan_of(run, settings()))[0]
        check_limit(model, settings(size_limit=least))
        with pytest.raises(UsageError, match="smallest types take"):
            check_limit(model, settings(size_limit=f"{number - 0.1:.2f}{unit}"))
    assert not any(run.gguf.glob("*.gguf"))
    with pytest.raises(UsageError, match="merged"):
        convert_adapter(run, settings())
    with pytest.raises(UsageError, match="importance matrix"):
        convert(run, ConvertSettings(quantization="IQ2_XS"))


def test_the_file_type_is_that_of_most_weights() -> None:
    shapes = {"a": (8, 32), "b": (4, 32), "c": (2, 32), "n": (9,)}
    kinds = {"a": "IQ4_NL", "b": "Q8_0", "c": "Q8_0", "n": "F32"}
    assert file_type([Choice(*item) for item in kinds.items()], shapes) == 25


def test_a_file_of_finer_types_has_their_file_type(trained: Trained) -> None:
    model = trained.model()

    def number(overrides: dict[str, str]) -> int:
        return int(model.metadata("Q4_K_M", overrides=overrides)["general.file_type"][1])

    one = {"blk.0.attn_q.weight": "Q8_0"}
    every = dict.fromkeys((n for n, s in model.sources.items() if len(s.shape) > 1), "Q5_1")
    assert (number({}), number(one), number(every)) == (15, 15, 9)
