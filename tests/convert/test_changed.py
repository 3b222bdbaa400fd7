"""What has changed since the training is refused by name, before anything is made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.convert.convert_support import Trained
from tuneserve.convert.plan import checked_models, plan_of
from tuneserve.convert.verify.recorded import TrainedLosses
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import sha256_file
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.finetune.training.trained_files import base_hashes, check_trained_files, run_hashes
from tuneserve.run import RunDirectory
from tuneserve.safetensors import stored_tensors
from tuneserve.settings import ConvertSettings

SETTINGS = ConvertSettings(quantization="Q8_0")


@pytest.fixture
def proven(run: RunDirectory, trained: Trained) -> RunDirectory:
    """A run that recorded what it was trained on and left, with a base of its own."""
    base = run.root / "its-base"
    shutil.copytree(trained.base, base)
    with run.stage("train") as record:
        record.result = TrainOutput(
            base=TrainedBase(spec="x", path=str(base), name="tiny", sha256=base_hashes(base)),
            files=run_hashes(run),
        )
    return run


def edit_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_two_bits(path: Path) -> None:
    first = next(iter(stored_tensors(path).values())).offset
    data = bytearray(path.read_bytes())
    data[first + 3] ^= 0b11
    path.write_bytes(data)


def exchange_rows(path: Path) -> None:
    stored = stored_tensors(path)["model.layers.0.mlp.up_proj.weight"]
    size = stored.row_items * 4
    data = bytearray(path.read_bytes())
    one, two = (slice(stored.offset + n * size, stored.offset + (n + 1) * size) for n in (0, 1))
    data[one], data[two] = data[two], data[one]
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("adapter/adapter_config.json", lambda path: edit_config(path, lora_alpha=16)),
        (
            "adapter/adapter_config.json",
            lambda path: edit_config(path, base_model_name_or_path="owner/other"),
        ),
        ("adapter/adapter_model.safetensors", flip_two_bits),
        ("adapter/tokenizer.json", lambda path: path.write_text(path.read_text() + " ")),
        ("data/test.jsonl", lambda path: path.write_text(path.read_text().replace("2", "3"))),
        ("its-base/model.safetensors", exchange_rows),
        ("its-base/config.json", lambda path: edit_config(path, rope_theta=5000.0)),
        ("its-base/model.safetensors", Path.unlink),
    ],
)
def test_is_refused_by_name(
    proven: RunDirectory, place: str, change: Callable[[Path], object]
) -> None:
    checked_models(plan_of(proven, SETTINGS))
    change(proven.root / place)
    with pytest.raises(TuneserveError) as caught:
        checked_models(plan_of(proven, SETTINGS))
    assert Path(place).name in caught.value.render()
    trained = proven.require_stage("train", TrainOutput)
    if not place.startswith("its-base"):
        # What a benchmark asks: the base itself is not read there.
        with pytest.raises(TuneserveError, match="not as training left it"):
            check_trained_files(proven, trained, base=None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lora_alpha": 17}, "lora_alpha is 17, trained with alpha = 8"),
        ({"r": 8}, "r is 8, trained with r = 4"),
        ({"use_rslora": True}, "use_rslora is True, trained with use_rslora = False"),
        ({"use_dora": True}, "use_dora is True, trained with use_dora = False"),
        ({"alpha_pattern": {"q_proj": 9}}, "'q_proj' has rank 4 and alpha 9 in rank_pattern"),
        ({"rank_pattern": {"q_proj": 2}}, "'q_proj' has rank 2 and alpha 8 in rank_pattern"),
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 16}}, ""),
        ({"use_rslora": None}, ""),
    ],
)
def test_an_adapter_that_contradicts_the_runs_settings_is_refused(
    run: RunDirectory, changes: dict[str, object], told: str
) -> None:
    """Whatever the hashes say."""
    run.update(settings={"train": {"r": 4, "alpha": 8, "use_rslora": False, "use_dora": False}})
    plan = plan_of(run, SETTINGS)
    plan.check_as_trained()
    edit_config(run.adapter / "adapter_config.json", **changes)
    if not told:
        plan.check_as_trained()
        return
    with pytest.raises(UsageError, match="contradicts the settings in run") as caught:
        plan.check_as_trained()
    (problem,) = caught.value.problems
    assert problem.startswith(told)


def test_weights_that_the_training_did_not_read_are_refused(proven: RunDirectory) -> None:
    """Another model.safetensors beside shards, or an index that names other ones."""
    trained = proven.require_stage("train", TrainOutput)
    base = proven.root / "its-base"
    read = {name: digest for name, digest in trained.base.sha256.items() if "safetens" not in name}
    (base / "model-00001-of-00001.safetensors").write_bytes(b"what was read")
    read["model-00001-of-00001.safetensors"] = sha256_file(
        base / "model-00001-of-00001.safetensors"
    )
    of_shards = trained.model_copy(
        update={"base": trained.base.model_copy(update={"sha256": read})}
    )
    with pytest.raises(TuneserveError, match="not as training left it") as caught:
        check_trained_files(proven, of_shards, base)
    assert caught.value.problems == [
        f"{base / 'model.safetensors'}: would be read now, and was not by the training"
    ]


def test_a_base_that_is_named_anew_is_taken_as_it_is(proven: RunDirectory) -> None:
    base = proven.root / "its-base"
    exchange_rows(base / "model.safetensors")
    settings = SETTINGS.model_copy(update={"merge_base": str(base)})
    plan = plan_of(proven, settings)
    checked_models(plan)
    assert plan.recorded == TrainedLosses(proven.data, other_base=True)


def test_a_base_of_another_kind_is_none_to_merge_into(proven: RunDirectory, tmp_path: Path) -> None:
    other = shutil.copytree(proven.root / "its-base", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "olmo2"}))
    settings = SETTINGS.model_copy(update={"merge_base": str(other)})
    with pytest.raises(
        UsageError, match="a model of type 'olmo2'; the adapter belongs to"
    ) as caught:
        plan_of(proven, settings)
    assert caught.value.where == f"merge_base = {other}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rope_theta": 9000.0}, "rope_theta: 9000.0"),
        ({"rope_parameters": {"rope_theta": 9000.0, "rope_type": "default"}}, "rope_theta: 9000.0"),
        (
            {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 1.5}},
            "rope_type: 'yarn'",
        ),
        (
            {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type: 'linear'",
        ),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps: 0.1"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    ],
)
def test_a_base_that_computes_otherwise_is_none_to_merge_into(
    proven: RunDirectory, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    other = shutil.copytree(proven.root / "its-base", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    if "rope_theta" in changes:
        config.pop("rope_parameters", None)
    (other / "config.json").write_text(json.dumps({**config, **changes}))
    settings = SETTINGS.model_copy(update={"merge_base": str(other)})
    with pytest.raises(UsageError, match="another computation") as caught:
        plan_of(proven, settings)
    assert [problem.split(", in")[0] for problem in caught.value.problems] == [told]


def test_what_copies_of_a_base_differ_in_is_let_pass(
    proven: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(proven.root / "its-base", tmp_path / "other")
    edit_config(
        other / "config.json", transformers_version="4.1", torch_dtype="bfloat16",
        quantization_config={"load_in_4bit": True}, unsloth_fixed=True, pad_token_id=3,
    )  # fmt: skip
    settings = SETTINGS.model_copy(update={"merge_base": str(other)})
    checked_models(plan_of(proven, settings))
    assert "not the one that was trained with" not in capsys.readouterr().err
    # Where the training's own is gone or another, nothing can tell.
    edit_config(proven.root / "its-base" / "config.json", transformers_version="4.2")
    checked_models(plan_of(proven, settings))
    assert "not the one that was trained with" in capsys.readouterr().err


def test_a_base_that_is_gone_is_told_once(
    proven: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its configuration nor its weights can be compared then."""
    other = shutil.copytree(proven.root / "its-base", tmp_path / "other")
    edit_config(other / "config.json", transformers_version="4.1")
    shutil.rmtree(proven.root / "its-base")
    settings = SETTINGS.model_copy(update={"merge_base": str(other)})
    checked_models(plan_of(proven, settings))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "can't be read any more" in notes[0]
    assert "only the losses that training recorded tell" in notes[0]


def test_a_run_without_hashes_is_told_so_once(
    run: RunDirectory, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    with run.stage("train") as record:
        base = TrainedBase(spec="x", path=str(trained.base), name="tiny")
        record.result = TrainOutput(base=base)
    checked_models(plan_of(run, SETTINGS))
    assert capsys.readouterr().err.count("no hashes of the adapter and the base") == 1
