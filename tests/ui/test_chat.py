"""Base and tune side by side: two real servers of a real model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import running_browser
from tests.run_support import write_run
from tests.support import ModulePaths
from tests.ui.ui_support import RunningUI, running_ui
from tuneserve.files import sha256_file, write_json
from tuneserve.run import RunDirectory

pytestmark = pytest.mark.slow

# A page that is read again has no form for a moment.
READY = "document.querySelector('form[aria-label=\"Your message to both\"]')?.hidden === false"
ANSWERS = (
    "[...document.querySelectorAll('.turns .note')]"
    ".filter(note => note.textContent.includes(' tokens in '))"
)


@pytest.fixture(scope="module")
def served(module_paths: ModulePaths, demo_gguf: Path) -> Iterator[RunningUI]:
    """A run whose base and tune are the demo model."""
    folder = module_paths.mktemp("chat")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run("mine")
    run = RunDirectory(folder / "runs" / "mine")
    record = json.loads(run.record_path.read_text())
    result = record["stages"]["convert"]["result"]
    for model, path in (("base", run.base_gguf("Q4_K_M")), ("tuned", run.tuned_gguf("Q4_K_M"))):
        path.unlink()
        try:
            os.link(demo_gguf, path)
        except OSError:  # on another disk
            shutil.copyfile(demo_gguf, path)
        result[model] |= {"path": str(path), "sha256": sha256_file(path)}
    record["settings"]["serve"] |= {"ctx": 512, "slots": 1, "threads": 1}
    write_json(run.record_path, record)
    with running_ui(folder) as running:
        yield running


def test_both_answer_in_their_columns_and_end_with_the_page(
    served: RunningUI, tmp_path: Path
) -> None:
    refused = served.send("api/runs/mine/chat", {"model": "base", "messages": []})
    assert (refused.status_code, "is not served" in refused.text) == (409, True)
    with running_browser(tmp_path / "profile") as page:
        page.call("Page.navigate", url=f"{served.url}#token={served.token}")
        page.wait("document.querySelector('tbody a') !== null", 20)
        page.run("document.querySelector('tbody a').click()")
        page.wait("document.querySelector('[data-key=serve]') !== null", 20)
        page.run("document.querySelector('[data-key=serve]').click()")
        page.wait(READY, 60)
        page.run("document.querySelector('#prompt').value = 'What is 1+1? Answer briefly.'")
        page.run("document.querySelector('#prompt').form.requestSubmit()")
        page.wait(f"{ANSWERS}.length === 2", 60)
        texts = page.run("[...document.querySelectorAll('.turns')].map(t => t.innerText)")
        page.call("Page.reload")  # the token and the conversation are kept
        page.wait(READY, 60)
        kept = page.run("[...document.querySelectorAll('.turns')].map(t => t.innerText)")
        assert kept == texts
        page.run("document.querySelector('#prompt').value = 'And 2+2?'")
        page.run("document.querySelector('#prompt').form.requestSubmit()")
        page.wait(f"{ANSWERS}.length === 4", 60)
        page.run("[...document.querySelectorAll('button')]"
                 ".find(one => one.textContent === 'New conversation').click()")  # fmt: skip
        page.call("Page.reload")
        page.wait(READY, 60)
        assert page.run("document.querySelectorAll('.turn').length") == 0
        strange = {"base": [{"question": 1, "answer": {}, "note": None}, 7], "tuned": "x"}
        page.run(
            f"localStorage.setItem('tuneserve.ui.chat.mine', {json.dumps(json.dumps(strange))})"
        )
        page.call("Page.reload")
        page.wait(READY, 60)
        assert page.run("document.querySelectorAll('.turn.user').length") == 2
    # The same model, greedily: the same answer, behind the same question.
    lines = [text.splitlines() for text in texts]
    assert lines[0][0] == lines[1][0] == "What is 1+1? Answer briefly."
    assert len(lines[0]) > 2
    assert lines[0][:-1] == lines[1][:-1]
    told = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    cut = served.send("api/runs/mine/chat", told)
    assert '"finish_reason":"length"' in cut.text.replace(" ", "")
    servers = served.get("api/runs/mine").json()["servers"]
    assert {one["model"]: one["state"] for one in servers} == {
        "base": "serving",
        "tuned": "serving",
    }
    assert served.send("api/runs/mine/serve/stop").json() == {"servers": []}
    for one in servers:
        with pytest.raises(httpx.ConnectError):
            httpx.get(one["url"])
    served.send("api/runs/mine/serve")  # and again; these end with the page's server
    started = re.findall(r"started process (\d+): tuneserve serve", served.log())
    assert len(started) == 4
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0
    assert [number for number in started if Path(f"/proc/{number}").exists()] == []
