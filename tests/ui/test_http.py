"""What `tuneserve ui` answers, to whom, and what it refuses."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.ui.ui_support import RunningUI
from tuneserve.options import BENCH_FIELDS, bounds
from tuneserve.recipe import section_model
from tuneserve.run import RunDirectory
from tuneserve.ui.app import create_app
from tuneserve.ui.forms import BEGIN, FORMS, described, start_values, write_recipe
from tuneserve.ui.views import told_of_benchmark

pytestmark = pytest.mark.slow


def test_runs_and_one_of_them_are_told(ui: RunningUI) -> None:
    state = ui.get("api/state").json()
    assert state["folder"] == str(ui.folder / "runs")
    rows = {row["name"]: row for row in state["runs"]}
    assert set(rows) == {"first", "second"}
    first = rows["first"]
    assert (first["state"], first["base"], first["loss"], first["right"]) == (
        "trained, converted, benched", "demo", "0.8111", "0.0 → 30.0 %",
    )  # fmt: skip
    assert first["spare"] == "2.0 KiB"
    run = ui.get("api/runs/first").json()
    assert run["bench"][0].startswith("No difference shown: the tuned model gets 30.0 %")
    assert ("token ids", True, "equal on 155 texts") in [
        (check["contract"], check["passed"], check["detail"]) for check in run["checks"]
    ]
    assert ["accuracy tuned", "30.0 %"] in run["figures"]
    # What stands with the training or in the verdict is not said again.
    figures = dict(run["training"]["figures"])
    assert (figures["steps"], figures["eval loss"]) == ("6 of 6", "5.2661 → 0.8111")
    assert (
        not {*figures, "eval loss", "train seconds", "tokens per second"}
        & dict(run["figures"]).keys()
    )
    assert not [one for one in run["bench"][2:] if one in run["bench"][0]]
    sizes = [name for name, _ in run["parts"]]
    assert (sizes[0], ".lock" in sizes) == ("run.json", False)
    assert "data.eval_fraction (default 0.05): 0.2" in run["changed"]
    assert (run["at_work"], run["logs"], run["report"]) == ("", ["convert"], True)
    assert [title for title, _ in run["charts"]] == ["Loss per answer token"]
    assert "<title>step 6: 0.8111</title>" in run["charts"][0][1]


def test_logs_and_reports_are_files_of_the_run(ui: RunningUI) -> None:
    tail = ui.get("api/runs/first/logs/convert").json()
    assert tail == {"text": "$ tuneserve convert\nverified \\x1b[31m<b>&\n", "left_out": 0}
    report = ui.get("runs/first/report.html")
    assert "7 of 9" in report.text
    assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in report.headers["Content-Security-Policy"]
    run = ui.folder / "runs" / "second"
    secret = ui.folder / "secret"
    secret.write_text("secret")
    (run / "bench" / "report.html").symlink_to(secret)
    (run / "logs").mkdir(exist_ok=True)
    os.mkfifo(run / "logs" / "pipe.log")
    for path in ("runs/second/report.html", "api/runs/second/logs/pipe",
                 "api/runs/second/logs/none", "api/runs/first/logs/..%2f..%2frun.json",
                 "api/runs/..%2f..", "api/runs/%2e%2e", "api/runs/none", "static/app.py",
                 "static/..%2fapp.py", "nowhere"):  # fmt: skip
        answer = ui.get(path)
        assert answer.status_code in (400, 404), path
        assert answer.json()["error"]["message"]
        assert "secret" not in answer.text.replace(str(secret), "")
    (run / "bench" / "report.html").unlink()
    (run / "logs" / "pipe.log").unlink()


def test_the_page_loads_nothing_from_elsewhere(ui: RunningUI) -> None:
    page = ui.get("")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    folder = Path(__file__).parents[2] / "tuneserve" / "ui" / "page"
    names = [path.name for path in folder.iterdir() if path.suffix in (".js", ".css")]
    for name in [*names, "dom.js", "events.js", "charts.css"]:
        file = ui.get(f"static/{name}")
        assert file.status_code == 200, name
        assert file.headers["X-Content-Type-Options"] == "nosniff"
        assert file.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "http://" not in file.text
        assert "https://" not in file.text
    assert "export {$, button" in ui.get("static/dom.js").text


def test_foreign_hosts_and_pages_get_nothing(ui: RunningUI) -> None:
    for headers, code in (
        ({"Host": "evil.example"}, "host_refused"),
        ({"Origin": "https://evil.example"}, "origin_refused"),
        ({"Origin": "null"}, "origin_refused"),
    ):
        for method in ("GET", "POST"):
            answer = httpx.request(
                method, f"{ui.url}api/state", headers={"X-Tuneserve-Token": ui.token, **headers}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
            assert "--cors-origins" not in answer.text
    own = ui.url.rstrip("/")
    assert ui.get("api/state", headers={"Origin": own}).status_code == 200
    assert ui.send("api/token", Origin=own).json() == {"ok": True}


def test_whatever_is_not_only_read_needs_the_token(ui: RunningUI) -> None:
    routes: Any = create_app("x").routes
    writing = [route.path for route in routes if "POST" in route.methods]
    assert len(writing) == 9
    for path in writing:
        place = ui.url + path.lstrip("/").format(stage="train", run="first")
        for token in ([], [("X-Tuneserve-Token", "wrong")], [("X-Tuneserve-Token", ui.token)] * 2):
            answer = httpx.post(place, json={}, headers=token)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "token_needed")
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert httpx.request(method, f"{ui.url}api/state").status_code == 403
    assert ui.get("").text.count(ui.token) == 0


def test_a_form_has_the_settings_own_words_defaults_and_bounds() -> None:
    seen = 0
    for stage in FORMS:
        form = described(stage)
        values = start_values(stage, None)
        for section in form["sections"]:
            fields = section_model(section["name"]).model_fields
            for found in section["fields"]:
                field = fields[found["name"]]
                assert found["about"] == field.description
                assert found["bounds"] == bounds(field)
                default = json.loads(json.dumps(field.get_default(), default=str))
                assert found["default"] == default == values[section["name"]][found["name"]]
                assert found["kind"] in ("switch", "choice", "integer", "number", "list",
                                         "numbers", "text")  # fmt: skip
                seen += 1
    assert seen > 100
    bench = {f["name"] for section in described("bench")["sections"] for f in section["fields"]}
    assert bench == BENCH_FIELDS
    train = described("train")["sections"]
    assert {f["name"] for f in train[-1]["fields"]} == {"preflight", "converter", "quantization"}


def test_the_form_of_a_run_begins_with_what_it_was_made_with(ui: RunningUI) -> None:
    record = ui.folder / "runs" / "second" / "run.json"
    content = json.loads(record.read_text())
    content["settings"]["bench"]["scorer"] = "/elsewhere/scorer.py"
    content["settings"]["bench"]["limit"] = 12
    record.write_text(json.dumps(content))
    train = ui.get("api/forms/train?run=second").json()["values"]
    assert (train["train"]["max_steps"], train["data"]["file"]) == (7, "colours.jsonl")
    bench = ui.get("api/forms/bench?run=second").json()["values"]
    # What reaches out of a run has to be said by this user.
    assert (bench["bench"]["limit"], bench["bench"]["scorer"]) == (12, "")
    assert ui.get("api/forms/nothing").status_code == 400
    values = ui.send("api/recipe/train", {"recipe": "sentiment"}).json()["values"]
    assert values["data"]["file"].endswith("sentiment.jsonl")
    refused = ui.send("api/recipe/train", {"recipe": "/etc/hostname"})
    assert refused.status_code == 400


def test_a_refused_start_says_why_and_leaves_nothing(ui: RunningUI) -> None:
    wrong = {"stage": "train", "settings": {"train": {"r": 0, "epochz": 1}}}
    answer = ui.send("api/runs/new/start", wrong)
    assert answer.status_code == 400
    assert "train.epochz" in answer.json()["error"]["message"]
    wrong["settings"] = {"train": {"r": 0}}
    assert "greater than or equal to 1" in ui.send("api/runs/new/start", wrong).text
    unset = {"stage": "train", "settings": {"model": {"load_in_4bit": None}}}
    assert "can't be taken back" in ui.send("api/runs/new/start", unset).text
    for given in ({"stage": "serve"}, {"stage": "train", "settings": {"serve": {"port": 1}}},
                  {"stage": "train", "flags": ["debug"]}, {"stage": "train", "settings": []},
                  {"stage": "train", "flags": "force"}):  # fmt: skip
        assert ui.send("api/runs/new/start", given).status_code == 400, given
    assert ui.send("api/runs/a%20b/start", {"stage": "train"}).status_code == 400
    assert not (ui.folder / "runs" / "new.toml").exists()

    given = {"stage": "train", "settings": {"data": {"file": "nowhere.jsonl"}, "train": {"r": 8}}}
    job = ui.send("api/runs/new/start", given).json()
    assert job["command"] == "tuneserve train --config runs/new.toml --run new"
    again = ui.send("api/runs/new/start", given)
    assert (again.status_code, "is being worked on: process" in again.text) == (409, True)
    told = ui.ended("new")
    assert told["state"] == "refused"
    assert told["said"].startswith("error: nowhere.jsonl: ")
    assert not (ui.folder / "runs" / "new").exists()
    recipe = ui.folder / "runs" / "new.toml"
    assert tomllib.loads(recipe.read_text()) == {
        "data": {"file": "nowhere.jsonl"}, "train": {"r": 8},
    }  # fmt: skip

    recipe.write_text("[train]\nr = 3\n")
    answer = ui.send("api/runs/new/start", given)
    assert "something else than an earlier output" in answer.json()["error"]["message"]


def test_a_recipe_keeps_the_tables_of_other_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESERVE_RUNS", str(tmp_path))
    path = tmp_path / "new.toml"
    tables = "[train]\nr = 3\n[convert]\nquantization = 'Q8_0'\nthreads = 2\n[serve]\nctx = 64\n"
    path.write_text(f"{BEGIN}\n{tables}")
    # Quantization is asked before a training too, threads are not.
    assert write_recipe("train", RunDirectory(tmp_path / "new"), {"train": {"r": 8}}) == path
    assert tomllib.loads(path.read_text()) == {
        "train": {"r": 8}, "convert": {"threads": 2}, "serve": {"ctx": 64},
    }  # fmt: skip


def test_a_later_stage_is_refused_as_the_command_refuses_it(ui: RunningUI) -> None:
    """Its adapter is not the one that was trained: the log stays with the run."""
    ui.send("api/runs/second/start", {"stage": "convert", "flags": ["force"]})
    told = ui.ended("second")
    assert (told["state"], told["code"]) == ("refused", 2)
    assert told["command"] == "tuneserve convert --config runs/second.toml --run second --force"
    assert told["said"].startswith("error: ")
    log = (ui.folder / "runs" / "second" / "logs" / "convert.log").read_text()
    assert log.startswith("$ tuneserve convert --config")
    assert told["said"] in log


def test_a_log_is_not_written_through_a_link(ui: RunningUI) -> None:
    elsewhere = ui.folder / "elsewhere"
    elsewhere.mkdir()
    logs = ui.folder / "runs" / "first" / "logs"
    kept = logs.rename(ui.folder / "kept")
    logs.symlink_to(elsewhere)
    answer = ui.send("api/runs/first/start", {"stage": "bench"})
    assert "link to a folder elsewhere" in answer.json()["error"]["message"]
    assert list(elsewhere.iterdir()) == []
    logs.unlink()
    kept.rename(logs)


def test_a_large_body_is_refused(ui: RunningUI) -> None:
    answer = ui.send("api/runs/first/start", {"stage": "x" * (1 << 20)})
    assert answer.status_code == 413


@pytest.mark.parametrize("kind", ["pipe", "device", "zero", "long", "deep", "folder"])
def test_a_recipe_or_data_that_is_no_file_of_its_size_is_refused(
    ui: RunningUI, kind: str, tmp_path: Path
) -> None:
    place = tmp_path / "x.jsonl"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "device":
            place.symlink_to("/dev/zero")
        case "zero":
            place = tmp_path / "x\0.jsonl"
        case "long":
            with place.open("wb") as file:
                file.truncate(1 << 40)
        case "deep":
            place.write_text("a = " + "[" * 50_000)
        case "folder":
            place.mkdir()
    refused = ui.send("api/recipe/train", {"recipe": str(place)})
    reason = {
        "long": "is too large (1024.0 GiB)", "deep": "nested too deep", "folder": "can't be read",
        "zero": "is no name of a file",
    }.get(kind, "is no file but a device, a pipe or a stream")  # fmt: skip
    assert refused.status_code == 400
    assert reason in refused.json()["error"]["message"]
    if kind in ("pipe", "device", "zero"):
        refused = ui.send("api/preview", {"settings": {"data": {"file": str(place)}}})
        assert refused.status_code == 409
        assert "no file but" in refused.text or "no such data file" in refused.text


def test_a_caution_that_a_verdict_tells_is_not_told_again() -> None:
    found: Any = SimpleNamespace(
        verdict="Better. Caution: 4 % were cut.",
        forgetting="Nothing forgotten. Caution, General questions: 2 % were cut.",
        cautions=("4 % were cut.", "General questions: 2 % were cut.", "The machine was busy."),
    )
    assert told_of_benchmark(found) == [found.verdict, found.forgetting, "The machine was busy."]
