"""A converted run goes to a hub, to LM Studio and to Ollama as run.json describes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.convert.handover.hub_double import Hub, running_hub
from tests.support import Runner
from tuneserve.convert.handover.files import HandedFile, handed_files, sums_of
from tuneserve.convert.handover.hub import check_repository
from tuneserve.convert.handover.local import to_lm_studio
from tuneserve.convert.handover.published import published
from tuneserve.convert.result import ConvertInputs, ConvertResult, GGUFRecord, MergedInto
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import sha256_file
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.run import RunDirectory

TOKEN = "hf_secretsecret"


@pytest.fixture
def converted(tmp_path: Path) -> RunDirectory:
    """A run with a record and files of a conversion; what is in the files does not matter here."""
    run = RunDirectory(tmp_path / "runs" / "small")
    contents = {
        run.tuned_gguf("Q8_0"): b"GGUF" + bytes(9000), run.base_gguf("Q8_0"): b"GGUF" + bytes(8000),
        run.adapter / "adapter_model.safetensors": bytes(5000),
        run.adapter / "adapter_config.json": b"{}",
        run.gguf / "README.md": b"---\ntags: [gguf]\n---\n# small\n",
        run.gguf / "Modelfile": b"FROM ./small-Q8_0.gguf\n",
        run.gguf / "small.imatrix.gguf": b"GGUF" + bytes(6000),
    }  # fmt: skip
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def record(path: Path) -> GGUFRecord:
        size = path.stat().st_size
        return GGUFRecord(
            path=str(path), size_bytes=size, sha256=sha256_file(path), quantization="Q8_0"
        )

    adapter = {path.name: sha256_file(path) for path in run.adapter.iterdir()}
    with run.stage("train") as running:
        base = TrainedBase(spec="b/l", path=str(tmp_path / "b" / "l"), name="l")
        running.result = TrainOutput(base=base)
    with run.stage("convert") as running:
        running.result = ConvertResult(
            tuned=record(run.tuned_gguf("Q8_0")), base=record(run.base_gguf("Q8_0")),
            tensor_types={}, fallbacks={}, verification=[], sample="", seconds={}, settings={},
            inputs=ConvertInputs(base="b", adapter=adapter),
            handover_sha256={
                name: sha256_file(run.gguf / name) for name in ("README.md", "Modelfile")
            },
            merged_into=MergedInto(path="b", weights="F32"),
        )  # fmt: skip
    return run


SENT = {"small-Q8_0.gguf", "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
        "README.md", "Modelfile", "small.imatrix.gguf", "SHA256SUMS"}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as made:
        yield made


class Pushing:
    """`tuneserve push` against the hub on this machine."""

    def __init__(self, tuneserve: Runner, run: RunDirectory, hub: Hub) -> None:
        self._tuneserve, self._folder = tuneserve, run.root.parents[1]
        # Its own home: the token of whoever runs the tests is not read.
        home = str(self._folder / "home")
        self._env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": home,
                     "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip

    def __call__(self, *more: str, to: str = "me/small-GGUF", **env: str) -> Any:
        done = self._tuneserve(
            "push", "small", "--to", to, *more, cwd=self._folder, env={**self._env, **env}
        )
        assert TOKEN not in done.stdout + done.stderr
        return done


@pytest.fixture
def push(tuneserve: Runner, converted: RunDirectory, hub: Hub) -> Pushing:
    return Pushing(tuneserve, converted, hub)


def test_a_run_hands_over_nothing_that_it_only_points_to(converted: RunDirectory) -> None:
    """What is in a run directory may be anybody's, and the files beside it are this user's."""
    secret = converted.root.parent / "secret"
    secret.write_text("mine")
    (converted.gguf / "Modelfile").unlink()
    (converted.gguf / "Modelfile").symlink_to(secret)
    with pytest.raises(UsageError) as caught:
        handed_files(converted)
    assert caught.value.problems == [f"{converted.gguf / 'Modelfile'} is a link"]


def test_push_sends_each_file_once(push: Pushing, converted: RunDirectory, hub: Hub) -> None:
    done = push("--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["commit"] == f"{hub.url}/me/small-GGUF/commit/1"
    files = hub.repositories["me/small-GGUF"]
    assert set(files) == SENT == set(result["files"])
    assert files["small-Q8_0.gguf"] == converted.tuned_gguf("Q8_0").read_bytes()
    assert files["adapter/adapter_config.json"] == b"{}"
    hashed = {name for name in SENT if name.startswith(("small-", "adapter/"))}
    listed = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert listed == {name: hashlib.sha256(files[name]).hexdigest() for name in hashed}
    assert hub.private == {"me/small-GGUF": True}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    # A second push finds the repository and what it has.
    sent = list(hub.uploads)
    done = push("--with-base", "--public")
    assert done.returncode == 0, done.stderr
    assert len(hub.uploads) == len(sent) + 1
    assert "base-Q8_0.gguf" in hub.repositories["me/small-GGUF"]
    assert b"base-Q8_0.gguf" in hub.repositories["me/small-GGUF"]["SHA256SUMS"]


def test_a_dry_run_uses_no_network(push: Pushing, hub: Hub) -> None:
    done = push("--dry-run")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert all(name in shown for name in SENT)
    assert "8.8 KiB" in shown
    assert "nothing was sent" in shown
    assert hub.requests == hub.uploads == []


def test_what_is_refused(push: Pushing, converted: RunDirectory, hub: Hub) -> None:
    done = push(to="nobody")
    assert done.returncode == 2
    assert "a repository is named owner/name" in done.stderr
    hub.refuse = 403
    done = push()
    assert done.returncode == 1
    assert "the hub does not take the files" in done.stderr
    assert "Traceback" not in done.stderr
    hub.refuse = 0
    done = push(HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    with converted.tuned_gguf("Q8_0").open("r+b") as file:
        file.write(b"gguf")
    hub.requests.clear()
    done = push()
    assert done.returncode == 2
    assert "small-Q8_0.gguf is not the file that was verified" in done.stderr
    assert "tuneserve convert --run" in done.stderr
    assert hub.requests == []


def test_an_edited_card_or_modelfile_is_sent_and_told(
    tuneserve: Runner, push: Pushing, converted: RunDirectory, hub: Hub
) -> None:
    assert "note: " not in push("--dry-run").stderr
    with (converted.gguf / "README.md").open("a") as file:
        file.write("What it is for.\n")
    done = push("--json")
    assert done.returncode == 0, done.stderr
    assert "note: not as convert wrote it: README.md\n" in done.stderr
    assert json.loads(done.stdout)["edited"] == ["README.md"]
    assert hub.repositories["me/small-GGUF"]["README.md"].endswith(b"What it is for.\n")
    ollama = ("export", "ollama", "small")
    assert "note: " not in tuneserve(*ollama, cwd=converted.root.parents[1]).stderr
    (converted.gguf / "Modelfile").write_text("FROM ./small-Q8_0.gguf\nPARAMETER temperature 1\n")
    assert "README.md, Modelfile" in push("--dry-run").stderr
    assert "wrote it: Modelfile" in tuneserve(*ollama, cwd=converted.root.parents[1]).stderr


CARD = """---
tags: [gguf, lora]
---
# small

| quantization | file | size | model |
|---|---|---|---|
| Q8_0 | `small-Q8_0.gguf` | 9.0 KiB | fine-tuned |
| Q8_0 | `base-Q8_0.gguf` | 8.0 KiB | base, for comparison |

## Made of
"""


def test_a_card_lists_what_is_sent(push: Pushing, converted: RunDirectory, hub: Hub) -> None:
    path = converted.gguf / "README.md"
    path.write_text(CARD)
    record = json.loads(converted.record_path.read_text())
    record["stages"]["convert"]["result"]["handover_sha256"]["README.md"] = sha256_file(path)
    converted.record_path.write_text(json.dumps(record))
    without = CARD.replace("| Q8_0 | `base-Q8_0.gguf` | 8.0 KiB | base, for comparison |\n", "")
    done = push("--json")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["me/small-GGUF"]["README.md"].decode() == without
    assert json.loads(done.stdout)["files"]["README.md"] == len(without)
    assert push("--with-base").returncode == 0
    assert hub.repositories["me/small-GGUF"]["README.md"].decode() == CARD
    assert path.read_text() == CARD
    path.write_text(f"{CARD}Mine.\n")
    assert "note: README.md names what is not sent: base-Q8_0.gguf" in push("--dry-run").stderr


@pytest.mark.parametrize(
    ("spec", "folder", "named"),
    [
        ("b/l", "b/l", None), ("./l", "b/l", None), ("demo", "cache/smol", None),
        ("x/y.gguf", "cache/y", None),
        ("owner/name", "models--owner--name/snapshots/1", "owner/name"),
    ],
)  # fmt: skip
def test_the_adapter_names_a_repository_or_no_base(
    converted: RunDirectory, tmp_path: Path, spec: str, folder: str, named: str | None
) -> None:
    trained = TrainedBase(spec=spec, path=str(tmp_path / folder), name="l")
    with converted.stage("train", keep=True) as running:
        running.result = TrainOutput(base=trained)
    config = {"base_model_name_or_path": str(tmp_path / folder), "r": 4}
    path = converted.adapter / "adapter_config.json"
    path.write_text(json.dumps(config))
    given = HandedFile(path, "adapter/adapter_config.json", sha256_file(path))
    (sent,) = published(converted, [given])
    assert sent.content is not None
    assert json.loads(sent.content) == {"base_model_name_or_path": named, "r": 4}
    assert sums_of([sent]).startswith(hashlib.sha256(sent.content).hexdigest())
    assert sent.size == len(sent.content)
    assert json.loads(path.read_text()) == config


@given(
    st.one_of(
        st.sampled_from(["me/..", "-x/y", "me/x.git", "me/x--y", "me/x.", ".a/b", "me/", "a/b/c",
                         "x" * 96 + "/y", "x" * 97 + "/y", "me/_x_", "me/x.gitx"]),
        st.text("aZ9_-./é", min_size=1, max_size=12),
    )
)  # fmt: skip
def test_a_repositorys_name_is_checked_as_the_client_does(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        right = "/" in name
    except HFValidationError:
        right = False
    try:
        check_repository(name)
        taken = True
    except UsageError:
        taken = False
    assert taken == right


def test_a_missing_file_is_named(converted: RunDirectory) -> None:
    (converted.adapter / "adapter_config.json").unlink()
    with pytest.raises(UsageError, match=r"not what its run\.json describes") as caught:
        handed_files(converted)
    assert [problem.endswith("is missing") for problem in caught.value.problems] == [True]
    assert "tuneserve train --run" in str(caught.value.hint)


def test_lm_studio_finds_the_file(converted: RunDirectory, tmp_path: Path) -> None:
    tuned = handed_files(converted)[0]
    models = tmp_path / "models"
    target = to_lm_studio(tuned, publisher="me", name="small", models=models)
    assert target == models / "me" / "small" / "small-Q8_0.gguf"
    assert target.samefile(tuned.path)
    assert to_lm_studio(tuned, publisher="me", name="small", models=models) == target
    target.unlink()
    target.write_bytes(b"other")
    with pytest.raises(OutputExistsError):
        to_lm_studio(tuned, publisher="me", name="small", models=models)
    to_lm_studio(tuned, publisher="me", name="small", models=models, force=True)
    assert target.read_bytes() == tuned.path.read_bytes()
    target.unlink()
    target.symlink_to("nowhere")
    with pytest.raises(OutputExistsError):
        to_lm_studio(tuned, publisher="me", name="small", models=models)
    target.unlink()
    target.mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        to_lm_studio(tuned, publisher="me", name="small", models=models, force=True)
    with pytest.raises(UsageError):
        to_lm_studio(tuned, publisher="../x", name="small", models=models)


def test_lm_studio_gets_the_system_prompt_as_a_preset(
    tuneserve: Runner, converted: RunDirectory, tmp_path: Path
) -> None:
    presets = tmp_path / "presets"
    command = ["export", "lmstudio", "small", "--models", str(tmp_path / "models"),
               "--presets", str(presets)]  # fmt: skip
    done = tuneserve(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not presets.exists()  # it was trained without one
    converted.update(settings={"data": {"system": "Sei höflich."}})
    done = tuneserve(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    preset = json.loads((presets / "small.preset.json").read_text("utf-8"))
    assert preset["identifier"] == "@local:small"
    fields = preset["operation"]["fields"]
    assert fields == [{"key": "llm.prediction.systemPrompt", "value": "Sei höflich."}]
    assert tuneserve(*command, cwd=tmp_path).returncode == 0  # the same again
    converted.update(settings={"data": {"system": "Anders."}})
    done = tuneserve(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "small.preset.json" in done.stderr
    assert tuneserve(*command, "--force", cwd=tmp_path).returncode == 0
    assert "Anders." in (presets / "small.preset.json").read_text("utf-8")


def test_ollama_is_told_how(tuneserve: Runner, converted: RunDirectory, tmp_path: Path) -> None:
    done = tuneserve("export", "ollama", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ollama create small -f" in done.stdout + done.stderr
    (converted.gguf / "Modelfile").unlink()
    for written, told in (
        (["Modelfile"], "the Modelfile that convert wrote is gone"),
        ([], "no Modelfile was written"),
    ):
        record = json.loads((converted.root / "run.json").read_text())
        record["stages"]["convert"]["result"]["handover"] = written
        (converted.root / "run.json").write_text(json.dumps(record))
        done = tuneserve("export", "ollama", "small", cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr
