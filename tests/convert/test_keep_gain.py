"""A tune of a base that lies on the quantizer's grid: lost, seen, and kept by what helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.convert.convert_support import PROJECTIONS, copy_tokenizer, make_base
from tests.support import ModulePaths
from tuneserve.base import import_gguf
from tuneserve.bench.conditions import require_same_types
from tuneserve.chat.examples import read_split
from tuneserve.convert import make
from tuneserve.convert.adapter_only import convert_adapter
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO
from tuneserve.convert.gguf.writer import stored_size
from tuneserve.convert.grid import on_grid
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.repair import Option, choose_repair
from tuneserve.convert.result import ConvertResult, Mix, TensorUpdate
from tuneserve.convert.stage import convert
from tuneserve.convert.verify import VerificationError
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

LOSING = ConvertSettings(quantization="Q4_K_M", keep_gain=False)
KEEPING = ConvertSettings(quantization="Q4_K_M")
STEPS = 12


@pytest.fixture(scope="module")
def tuned(tokenizer_directory: Path, module_paths: ModulePaths) -> RunDirectory:
    """A run on a base that was imported from a Q4_K_M GGUF, really tuned: a few steps with small
    updates, whose gain on held-out answers is large."""
    root = module_paths.mktemp("on_grid")
    plain = make_base(root / "plain", tokenizer_directory)
    model = GGUFModel(MergedCheckpoint(plain), plain, name="tiny")
    write_quantized(model, root / "base.gguf", "Q4_K_M", threads=2)
    base = import_gguf(root / "base.gguf", root / "base")
    run = RunDirectory(root / "runs" / "small")
    run.data.mkdir(parents=True)
    rows = [
        {"id": str(n), "messages": [
            {"role": "user", "content": f"Which desk takes ticket {n}?"},
            {"role": "assistant", "content": "Desk K7-LUMEN"},
        ]}
        for n in range(10, 22)
    ]  # fmt: skip
    run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _tune(base, run)
    with run.stage("train") as record:
        trained = TrainedBase(spec=str(base), path=str(base), name="tiny")
        record.result = TrainOutput(base=trained)
    return run


def _tune(base: Path, run: RunDirectory) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=4, target_modules=PROJECTIONS)
    model = get_peft_model(model, config)
    trainer = TrainerTokenizer(base)
    encoded = [trainer.encode_example(example) for example in read_split(run.split("test"))[:2]]
    ids = torch.tensor([item.prompt + item.answer for item in encoded])
    labels = ids.clone()
    labels[:, : len(encoded[0].prompt)] = -100
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    for _ in range(STEPS):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(run.adapter)
    copy_tokenizer(base, run.adapter)


@pytest.fixture
def run(tuned: RunDirectory, tmp_path: Path) -> RunDirectory:
    shutil.copytree(tuned.root, tmp_path / "small")
    return RunDirectory(tmp_path / "small")


def gain_check(error: VerificationError) -> str:
    (check,) = (check for check in error.checks if check.contract == "the gain is kept")
    assert not check.passed
    return check.detail


# Each of these converts a model, which takes seconds.


def test_a_lost_tune_fails_and_names_the_tensors(run: RunDirectory) -> None:
    with pytest.raises(VerificationError) as caught:
        convert(run, LOSING)
    detail = gain_check(caught.value)
    assert "(Q5_0) keeps" in detail
    assert "--adapter-only" in detail
    figures = next(
        check.figures for check in caught.value.checks if check.contract == "the gain is kept"
    )
    assert figures["share"] < 0.6
    assert figures["low"] <= figures["share"] <= figures["high"]
    assert figures["update_kept"] < 0.6
    assert figures["examples"] == 12


def test_finer_types_keep_the_tune_in_both_files(run: RunDirectory) -> None:
    result = convert(run, KEEPING)
    assert result == run.require_stage("convert", ConvertResult)
    assert result.before_repair is not None
    assert result.before_repair.share is not None
    assert result.before_repair.share < 0.6
    assert result.gain is not None
    assert result.gain.share is not None
    assert result.gain.share >= 0.9
    assert result.overrides
    assert not result.as_adapter
    # Base and tuned stay comparable.
    require_same_types(run.base_gguf("Q4_K_M"), run.tuned_gguf("Q4_K_M"))
    assert {update.name for update in result.updates} >= set(result.overrides)
    assert result.updates[0].kept <= 1.1
    # Not called what it no longer is.
    assert result.tuned.called.startswith(f"Q4_K_M, {len(result.overrides)} tensors finer to keep")
    assert result.tuned.called in (run.gguf / "README.md").read_text(encoding="utf-8")


def convert_as_q4_k_m(run: RunDirectory, patch: pytest.MonkeyPatch, limit: str) -> ConvertResult:
    """Convert to auto, where Q4_K_M's types, which lose this tune, are what is chosen."""
    shutil.copy(run.split("test"), run.split("train"))

    def chosen(_: Path, model: GGUFModel, *__: object, **___: object) -> Mix:
        types = {c.name: c.type for c in model.choices("Q4_K_M") if c.type != "F32"}
        size = sum(stored_size(model.sources[c.name].shape, c.type) for c in model.choices(AUTO))
        return Mix(types=types, bytes=size, divergence=0.1, baseline_bytes=size,
                   baseline_divergence=0.1, passes=1)  # fmt: skip

    patch.setattr(make, "choose_mix", chosen)
    return convert(run, ConvertSettings(quantization=AUTO, size_limit=limit, imatrix_tokens=512))


def test_a_repair_of_chosen_types_stays_within_their_size(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = convert_as_q4_k_m(run, monkeypatch, "103%")
    assert result.before_repair is not None
    assert result.overrides
    assert result.mix is not None
    sizes = [tensor.size for tensor in GGUFFile(run.tuned_gguf(AUTO)).tensors.values()]
    assert result.mix.baseline_bytes < sum(sizes) <= 1.03 * result.mix.baseline_bytes


def test_where_no_repair_fits_the_size_it_fails_and_says_which_would(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VerificationError) as caught:
        convert_as_q4_k_m(run, monkeypatch, "100%")
    assert "size_limit = 100% leaves no room" in gain_check(caught.value)
    assert "--size-limit 6M" in gain_check(caught.value)
    assert not any(run.gguf.iterdir())


def test_the_adapter_stays_beside_the_base_where_the_file_may_not_grow(run: RunDirectory) -> None:
    run.gguf.mkdir()
    run.tuned_gguf("Q4_K_M").write_bytes(b"an earlier conversion's")
    result = convert(run, KEEPING.model_copy(update={"max_growth": 1.0}), force=True)
    assert result.as_adapter
    assert result.gain is not None
    assert result.gain.share is not None
    assert result.gain.share >= 0.98
    assert result.files(run) == (run.base_gguf("Q4_K_M"), run.lora_gguf)
    assert not run.tuned_gguf("Q4_K_M").exists()
    assert run.lora_gguf.is_file()
    assert not [path for path in run.gguf.iterdir() if path.name.startswith(".")]


def test_an_adapter_beside_its_base_is_held_to_the_same(run: RunDirectory) -> None:
    result = convert_adapter(run, LOSING)
    assert result.gain is not None
    assert result.gain.share is not None
    assert result.gain.share >= 0.98


def test_a_base_on_the_grid_is_known_before_training(
    tuned: RunDirectory, run: RunDirectory
) -> None:
    base = Path(run.require_stage("train", TrainOutput).base.path)
    assert on_grid(base, "Q4_K_M") == 1.0
    assert on_grid(base, "Q6_K") < 0.5
    assert on_grid(base.parent / "plain", "Q4_K_M") == 0.0


def updates(*rows: tuple[str, float, float]) -> list[TensorUpdate]:
    return [TensorUpdate(name=name, type="Q4_K", kept=kept, size=size) for name, kept, size in rows]


def test_repair_takes_the_most_of_the_update_for_a_byte() -> None:
    lost = updates(("a", 0.1, 10.0), ("b", 0.1, 1.0), ("c", 1.0, 1.0))
    options = {
        "a": [Option("Q6_K", 100, 0.6), Option("Q8_0", 200, 1.0)],
        "b": [Option("Q6_K", 100, 0.6), Option("Q8_0", 200, 1.0)],
    }
    repair = choose_repair(lost, options, room=1000, target=0.9)
    assert repair.overrides == {"a": "Q8_0"}
    assert repair.size == 200
    assert repair.kept == pytest.approx(11.1 / 12)
    assert choose_repair(lost, options, room=1000, target=1.0).overrides == {
        "a": "Q8_0", "b": "Q8_0",
    }  # fmt: skip
    assert choose_repair(lost, options, room=150, target=1.0).overrides == {"a": "Q6_K"}
    assert choose_repair(lost, options, room=50, target=1.0).overrides == {}
    assert choose_repair([], {}, room=50, target=1.0).kept == 1.0
