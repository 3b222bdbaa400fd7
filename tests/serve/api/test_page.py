"""The page at / in a real browser: on a running server, and its functions on made-up streams."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import (
    Browser,
    look_as,
    low_contrast,
    named_controls,
    press,
    running_browser,
    serious_findings,
)
from tests.support import ModulePaths, RunningServer
from tuneserve.gguf.system_prompt import write_with_system_prompt
from tuneserve.serve.api.chat_page import chat_page

pytestmark = pytest.mark.slow

# A server that answers with the parts that `said` holds, and notes what it is asked.
SERVER = """
var asked = [], said = [], finish = "stop", used = 0, trained = "";
window.fetch = async (path, options) => {
  if (path === "v1/models")
    return Response.json({data: [{id: "one", system_prompt: trained},
                                 {id: "two", system_prompt: ""}]});
  if (path === "props")
    return Response.json({default_generation_settings: {params: {temperature: 1, top_p: 1}}});
  asked.push(JSON.parse(options.body));
  if (typeof said === "string")
    return Response.json({error: {message: said}}, {status: 429});
  const events = said.map(delta => ({choices: [{delta}]}));
  if (finish) events.push({choices: [{delta: {}, finish_reason: finish}]});
  if (used) events.push({usage: {completion_tokens: used}});
  return new Response(events.map(one => `data: ${JSON.stringify(one)}\\n\\n`).join(""));
};
const reply = async (parts, end = "stop", tokens = 0) => {
  said = typeof parts === "string" ? parts : parts.map(
    one => typeof one === "object" ? one : {content: one});
  finish = end;
  used = tokens;
};
const say = async text => { $("prompt").value = text; await ask(text); };
const texts = name => [...document.querySelectorAll(name)].map(one => one.textContent);
"""
START = "localStorage.clear(); sessionStorage.clear(); $('both').checked = false"


@pytest.fixture(scope="module")
def shared(module_paths: ModulePaths) -> Iterator[Browser]:
    with running_browser(module_paths.mktemp("profile")) as browser:
        browser.call("Page.enable")
        browser.call("Accessibility.enable")
        yield browser


@pytest.fixture
def page(shared: Browser, tmp_path: Path) -> Browser:
    """The page without a server."""
    path = tmp_path / "page.html"
    path.write_text(chat_page("t"), encoding="utf-8")
    shared.call("Page.navigate", url=path.as_uri())
    shared.wait("typeof loadModels === 'function' && document.readyState === 'complete'")
    run(shared, f"{START}; await loadModels(); $('both').checked = false; startAnew(); return 1")
    return shared


def run(browser: Browser, script: str) -> Any:
    """What an asynchronous function with this body returns in the page with a made-up server."""
    prepare = "" if browser.run("typeof asked !== 'undefined'") else SERVER
    browser.run(prepare + ";0")
    text = browser.run(f"(async () => {{ {script} }})().then(found => JSON.stringify(found))")
    return json.loads(text)


def markdown(browser: Browser, text: str) -> str:
    script = f"return make('div', {{}}, markdown({json.dumps(text)})).innerHTML"
    return str(run(browser, script))


def test_a_tune_and_its_base_side_by_side(
    start_server: Any, demo_gguf: Path, lora_gguf: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned.gguf"
    write_with_system_prompt(demo_gguf, tuned, "Answer with one digit.")
    options = ["--name", "base", "--lora", f"loud={lora_gguf}", "--ctx", "1024"]
    with (
        start_server(tmp_path / "log", str(tuned), *options) as running,
        running_browser(tmp_path / "profile") as browser,
    ):
        policy = httpx.get(running.url).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        icon = httpx.get(f"{running.url}/favicon.ico")
        assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
        browser.call("Page.enable")
        browser.call("Page.navigate", url=running.url)
        browser.wait("document.querySelectorAll('.column select').length === 2")
        chosen = "[...document.querySelectorAll('select')].map(s => s.value).join()"
        assert browser.run(chosen) == "base,loud"
        assert browser.run("$('system').value") == "Answer with one digit."
        browser.wait("$('longest').placeholder === '2048'")
        browser.run("$('temperature').value = 0; $('longest').value = 40")
        for text in ("What is 1+1?", "Count from one to a hundred, one number a line."):
            browser.run(f"$('prompt').value = {json.dumps(text)}; $('form').requestSubmit()")
            browser.wait(
                "stopper === null && document.querySelectorAll('.figures').length % 2 === 0"
            )
            browser.wait("!document.querySelector('[aria-busy]')")
        texts = "[...document.querySelectorAll('.assistant')].map(e => e.textContent)"
        answers = json.loads(browser.run(f"JSON.stringify({texts})"))
        assert len(answers) == 4
        assert answers[0]
        assert answers[2] not in ("", answers[0])
        assert not browser.run("document.querySelectorAll('.error').length")
        # Both answers to the long question were cut, and the page is at their end.
        assert browser.run("document.querySelectorAll('.cut').length") >= 2
        assert browser.run("innerHeight + scrollY >= document.documentElement.scrollHeight - 1")
        assert browser.run("scrollY") > 0
        browser.call("Page.reload")
        browser.wait("document.querySelectorAll('.column select').length === 2")
        assert json.loads(browser.run(f"JSON.stringify({texts})")) == answers
        browser.run("document.getElementById('reset').click()")
        assert not browser.run("document.querySelectorAll('.turn').length")
        assert browser.run("$('list').textContent.includes('What is 1+1?')")


def test_thoughts_are_folded_and_errors_are_shown(page: Browser) -> None:
    found = run(
        page,
        """reply([{reasoning_content: "Hm. "}, {reasoning_content: "Two."}, "<b>2</b>"]);
        await say("1+1?");
        reply("too busy");
        await say("again?");
        reply(["3"]);
        await say("and now?");
        const details = document.querySelector("details.thoughts");
        return [details.open, details.querySelector(".turn").textContent, texts(".assistant"),
                texts(".error"), asked.at(-1).messages.map(one => one.content)];""",
    )
    assert found == [
        False, "Hm. Two.", ["<b>2</b>", "", "3"], ["too busy"], ["1+1?", "<b>2</b>", "and now?"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** ~~d~~ `e`",
         "<p>a <em>b</em> <strong>c</strong> <s>d</s> <code>e</code></p>"),
        ("snake_case_name, 2 * 3 * 4, 2*3*4", "<p>snake_case_name, 2 * 3 * 4, 2*3*4</p>"),
        ("***x*** *a **b** c*",
         "<p><strong><em>x</em></strong> <em>a <strong>b</strong> c</em></p>"),
        ("one\n  two\n\nthree", "<p>one\n  two</p><p>three</p>"),
        ("# T #\ntext", "<h3>T</h3><p>text</p>"),
        ("- a\n- b\n  - c\n\n1. x\n2. y",
         "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>x</li><li>y</li></ol>"),
        ("> q\n> r", "<blockquote><p>q\nr</p></blockquote>"),
        ("``a ` b`` \\*x\\* `` ", "<p><code>a ` b</code> *x* ``</p>"),
        ("---", "<hr>"),
        ("", ""),
    ],
)  # fmt: skip
def test_markdown(page: Browser, text: str, html: str) -> None:
    assert markdown(page, text) == html


def test_code_and_tables(page: Browser) -> None:
    code = markdown(page, "```py\nif a < b:\n    pass\n```\nafter")
    assert "<code>if a &lt; b:\n    pass</code>" in code
    assert "<span>py</span>" in code
    assert code.endswith("<p>after</p>")
    # One that is not closed yet.
    assert "<code>x\n\ny</code>" in markdown(page, "~~~\nx\n\ny")
    table = markdown(page, "| a | b |\n|---|:-:|\n| 1 | x \\| y |\n| 2 |")
    assert "<thead><tr><th>a</th><th>b</th></tr></thead>" in table
    assert "<tr><td>1</td><td>x | y</td></tr><tr><td>2</td><td></td></tr>" in table


def test_links_lead_to_the_web_alone(page: Browser) -> None:
    html = markdown(page, "[a](https://x.example/?q=1) https://y.example/z. [m](mailto:a@b.c)")
    assert html.count("<a ") == 3
    assert html.count('rel="noopener noreferrer nofollow"') == 3
    assert 'href="https://y.example/z"' in html
    for bad in ("javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "/v1/models",
                "//evil.example", "vbscript:x", "java\tscript:x", "file:///x"):  # fmt: skip
        assert "<a " not in markdown(page, f"[x]({bad}) ![y]({bad}) <{bad}>"), bad


HOSTILE = [
    "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>",
    "```html\n<script>window.hacked = 1</script>\n```", "`<img src=x onerror=hacked=1>`",
    "| <svg onload=hacked=1> |\n|---|\n| <iframe srcdoc='<script>hacked=1</script>'> |",
    '[x](https://a.example/"onmouseover="hacked=1)', "[<img src=x onerror=hacked=1>](https://a.b)",
    "# <style>*{display:none}</style>", "&lt;script&gt;hacked=1&lt;/script&gt;",
    "```<img src=x onerror=hacked=1>\nx\n```", "</p></div></main><script>hacked=1</script>",
]  # fmt: skip
ALLOWED = {"DIV", "P", "EM", "STRONG", "S", "CODE", "PRE", "FIGURE", "FIGCAPTION", "SPAN", "BUTTON",
           "A", "UL", "OL", "LI", "BLOCKQUOTE", "HR", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD",
           "H3", "H4", "H5", "H6"}  # fmt: skip


def test_an_answer_is_no_html(page: Browser) -> None:
    for text in HOSTILE:
        run(page, f"reply([{json.dumps(text)}]); await say({json.dumps(text)}); return 1")
    found = run(
        page,
        """const inside = [...document.querySelectorAll("#columns .turn *")];
        return [inside.map(one => one.tagName), inside.flatMap(one => one.getAttributeNames()),
                typeof window.hacked, asJson(conversation, () => "").length > 0];""",
    )
    assert set(found[0]) <= ALLOWED
    assert set(found[1]) <= {"class", "type", "aria-label", "role", "tabindex", "href", "title",
                             "target", "rel"}  # fmt: skip
    assert found[2:] == ["undefined", True]
    # And as it is read back from the browser's store.
    run(page, "openConversation(currentConversation()); return 1")
    assert page.run("typeof window.hacked") == "undefined"


def test_texts_of_marks_alone_take_no_longer_than_others(page: Browser) -> None:
    """Milliseconds for 100,000 characters; a search from each mark would take minutes."""
    script = """const took = {};
      for (const mark of ["*", "**a ", "_a ", "[", "[a](", "`", "`a``", "\\\\", "~~a ", "h", "- ",
                          "> ", "|", "#", "https://", "*a_b`[", "![a](b ", "1. a\\n", "\\n"]) {
        const text = mark.repeat(100000 / mark.length), started = performance.now();
        markdown(text);
        took[mark] = performance.now() - started;
      }
      return took;"""
    took = run(page, script)
    print(took)
    assert max(took.values()) < 3000


@pytest.mark.parametrize(
    ("end", "mark"),
    [("length", "Cut: the answer is as long as it may be"), ("", "The answer broke off."),
     ("content_filter", "left out a part"), ("stop", None)],
)  # fmt: skip
def test_why_an_answer_ended_is_told(page: Browser, end: str, mark: str | None) -> None:
    marks = run(
        page,
        f"""reply(["One"], {json.dumps(end)}); await say("x");
        const shown = texts(".cut"); openConversation(currentConversation());
        return [shown, texts(".cut")];""",
    )
    assert [len(one) for one in marks] == [bool(mark)] * 2
    assert all(mark in one[0] for one in marks if mark)


def test_an_answer_that_was_cut_goes_on(page: Browser) -> None:
    found = run(
        page,
        """reply(["One, "], "length"); await say("Count");
        reply(["two."], "stop", 3); await goOn(columns[0]);
        return [texts(".assistant"), texts(".cut"), asked.at(-1).messages,
                texts(".figures").map(one => one.split(",")[0])];""",
    )
    told = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One, "}]
    assert found == [["One, two."], [], told, ["3 more tokens"]]


@pytest.mark.parametrize(
    ("ended", "told"),
    [('reply(["One, "], ""); await say("Count")', ["The answer broke off."]),
     ("""const whole = fetch;
         window.fetch = async () => new Response(
           'data: {"choices": [{"delta": {"content": "One, "}}]}\\n\\n' +
           'data: {"error": {"message": "too slow"}}\\n\\n');
         await say("Count"); window.fetch = whole""", ["The answer broke off.", "too slow"]),
     ("""reply(["One, "], ""); await say("Count");
         conversation.columns[0].turns[1].end = ""; keep(); openConversation(currentConversation())
      """, ["The page was left before the answer came to its end."])],
)  # fmt: skip
def test_an_answer_that_broke_off_goes_on(page: Browser, ended: str, told: list[str]) -> None:
    found = run(
        page,
        f"""{ended};
        const shown = texts(".cut, .error");
        reply(["two."]);
        [...document.querySelectorAll(".actions button")]
          .find(one => one.textContent === "Continue").click();
        while (stopper) await new Promise(done => setTimeout(done, 10));
        return [shown, texts(".assistant"), texts(".cut, .error"),
                asked.at(-1).messages.map(one => one.content)];""",
    )
    assert found == [told, ["One, two."], [], ["Count", "One, "]]


class _Slow(BaseHTTPRequestHandler):
    """The page, with a model whose answers don't end."""

    def do_GET(self) -> None:
        model = {"data": [{"id": "one"}], "default_generation_settings": {"params": {}}}
        self._begin("application/json" if self.path != "/" else "text/html")
        self.wfile.write((json.dumps(model) if self.path != "/" else chat_page("t")).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._begin("text/event-stream")
        with suppress(ConnectionError):  # the page is left
            while True:
                self.wfile.write(b'data: {"choices": [{"delta": {"content": "on "}}]}\n\n')
                time.sleep(0.1)

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


LOADED = "typeof models !== 'undefined' && models.length"


def test_a_page_that_is_loaded_again_during_an_answer_says_so(slow: str, shared: Browser) -> None:
    shared.call("Page.navigate", url=slow)
    shared.wait(LOADED)
    shared.run("$('prompt').value = 'x'; $('form').requestSubmit()")
    shared.wait("conversation.columns[0].turns[1]?.text.length > 6")
    shared.run("setTimeout(() => location.reload(), 0); models = []; 0")
    shared.wait(f"{LOADED} && document.querySelector('.assistant') !== null")
    told = shared.run("[...document.querySelectorAll('.cut, .error')].map(one => one.textContent)")
    assert told == ["The page was left before the answer came to its end."]
    assert shared.run("document.body.innerText.includes('Continue')")


def test_retry_and_edit_ask_anew(page: Browser) -> None:
    found = run(
        page,
        """reply(["first"]); await say("a"); reply(["second"]); await say("b");
        reply(["third"]); await retry(columns[0]);
        const retried = texts(".turn");
        edit(0);
        const filled = $("prompt").value;
        reply(["fourth"]); await say("c");
        return [retried, filled, $("editing").hidden, texts(".turn"),
                asked.at(-1).messages.map(one => one.content),
                readConversations().map(one => one.columns[0].turns.length)];""",
    )
    assert found == [["a", "first", "b", "third"], "a", True, ["c", "fourth"], ["c"], [2]]


def test_answers_that_were_asked_for_again_are_kept(page: Browser) -> None:
    found = run(
        page,
        """reply([{reasoning_content: "Hm."}, "first"]); await say("a");
        reply("broken"); await retry(columns[0]);
        reply(["second"]); await retry(columns[0]);
        const press = text => [...document.querySelectorAll(".actions button")]
          .find(one => one.textContent === text).click();
        const shown = () => [texts(".assistant")[0], texts(".figures").at(-1),
                             document.querySelector(".thoughts")?.checkVisibility() ?? false];
        const second = shown();
        press("‹");
        const first = [shown(), document.activeElement.textContent];
        openConversation(currentConversation());
        const again = shown();
        reply(["more"]); await say("b");
        return [second, first, again, texts(".actions button").includes("›"),
                asked.at(-1).messages.map(one => one.content)];""",
    )
    first = ["first", "answer 1 of 2", True]
    assert found[:3] == [["second", "answer 2 of 2", False], [first, "›"], first]
    assert found[3:] == [False, ["a", "first", "b"]]


def test_text_files_become_a_part_of_the_message(page: Browser) -> None:
    found = run(
        page,
        """const give = async (...files) => {
          const held = new DataTransfer();
          for (const [name, parts] of files) held.items.add(new File(parts, name));
          $("files").files = held.files;
          $("files").dispatchEvent(new Event("change"));
          while ($("files").files.length) await new Promise(done => setTimeout(done, 10));
          return [$("prompt").value, $("status").textContent];
        };
        $("prompt").value = "Sum up:";
        return [await give(["a.csv", ["x;y\\n"]], ["b.md", ["```\\ncode\\n```"]]),
                (await give(["c.png", [new Uint8Array([137, 80, 255])]]))[1],
                (await give(["d.txt", ["x".repeat(2 ** 20 + 1)]]))[1]];""",
    )
    message = "Sum up:\n\na.csv:\n```\nx;y\n```\n\nb.md:\n````\n```\ncode\n```\n````\n"
    assert found == [
        [message, ""], "c.png is no text in UTF-8.", "d.txt is larger than 1 MiB.",
    ]  # fmt: skip


def test_the_system_prompt_is_sent_where_it_is_not_the_models_own(page: Browser) -> None:
    found = run(
        page,
        """trained = "Be brief."; await loadModels(); $("both").checked = true; startAnew();
        reply(["x"]);
        const systems = [];
        const heard = async () => {
          asked = []; await say("a");
          systems.push(asked.map(one => one.messages.filter(m => m.role === "system")
                                                    .map(m => m.content)));
        };
        const write = text => { $("system").value = text;
                                $("system").dispatchEvent(new Event("input"));
                                $("system").dispatchEvent(new Event("change"));
                                systems.push(readConversations()[0].system); };
        await heard();
        write("Be long."); await heard();
        write(""); await heard();
        $("own-system").click();
        systems.push($("system").value); await heard();
        return systems;""",
    )
    assert found == [
        [[], ["Be brief."]],  # the server adds the tune's own
        "Be long.",
        [["Be long."], ["Be long."]],
        "",
        [[""], []],
        "Be brief.",
        [[], ["Be brief."]],
    ]


def test_sampling_fields_are_sent(page: Browser) -> None:
    found = run(
        page,
        """reply(["x"]); await say("a");
        for (const [id, value] of Object.entries({temperature: "0", top_p: "0.9", top_k: "40",
             min_p: "0.05", repeat_penalty: "1.1", longest: "7", seed: "3"})) $(id).value = value;
        await say("b");
        return asked.slice(-2).map(
          ({messages, stream, stream_options, model, ...rest}) => rest);""",
    )
    given = {"temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
             "max_tokens": 7, "seed": 3}  # fmt: skip
    assert found == [{"temperature": 0.7}, given]


def test_sampling_fields_are_there_after_a_reload(slow: str, shared: Browser) -> None:
    shared.call("Page.navigate", url=slow)
    shared.wait(LOADED)
    change = "dispatchEvent(new Event('change'))"
    shared.run(f"$('temperature').value = ''; $('longest').value = 40; $('longest').{change}")
    shared.run("setTimeout(() => location.reload(), 0); models = []; 0")
    shared.wait(LOADED)
    assert shared.run("JSON.stringify(sampling())") == '{"max_tokens":40}'
    # What stands there may be anybody's.
    for kept in ("{", "null", '{"longest": {}}'):
        shared.run(f"localStorage.setItem(KEPT_SAMPLING, {json.dumps(kept)}); takeSampling()")
    assert shared.run("JSON.stringify(sampling())") == '{"max_tokens":40}'
    shared.run("localStorage.clear()")


def test_conversations_are_kept_listed_and_deleted(page: Browser) -> None:
    found = run(
        page,
        """reply(["1"]); await say("first talk"); startAnew();
        reply(["2"]); await say("second talk");
        const listed = texts("#list button:first-child");
        document.querySelectorAll("#list button:first-child")[1].click();
        const opened = texts(".turn");
        document.querySelector("#list [aria-current=true]").nextSibling.click();
        const left = [texts("#list button:first-child"), texts(".turn")];
        // Another tab has written; what is damaged or has been changed is no error.
        localStorage.setItem(CONVERSATIONS, "{");
        const damaged = readConversations();
        const strange = [null, {columns: [{turns: [{text: 3}]}]}];
        localStorage.setItem(CONVERSATIONS, JSON.stringify(strange));
        openConversation(readConversations()[1]);
        return [listed, opened, left, damaged, texts(".turn")];""",
    )
    assert found == [
        ["second talk", "first talk"], ["first talk", "1"], [["second talk"], []], [], [""],
    ]  # fmt: skip


def test_two_tabs_lose_nothing_of_each_other(page: Browser) -> None:
    found = run(
        page,
        """// Another tab has read the conversation, and goes on with it.
        const elsewhere = text => {
          const read = readConversations().find(one => one.id === conversation.id);
          read.columns[0].turns.push(asTurn({role: "user", text}));
          keepConversation(read);
        };
        const heard = () => dispatchEvent(new StorageEvent("storage", {key: CONVERSATIONS}));
        const kept = () => readConversations().map(
          one => [one.title, one.columns[0].turns.map(turn => turn.text).join()]);
        reply(["1"]); await say("a");
        elsewhere("theirs"); reply(["2"]); await say("mine"); await say("more");
        const both = [kept(), $("status").textContent,
                      currentConversation().id === conversation.id];
        elsewhere("again"); heard();
        const taken = texts(".turn");
        // Not while something is done here.
        edit(0); elsewhere("meanwhile"); heard(); stopEditing();
        return [both, taken, texts(".turn").length - taken.length, $("status").textContent];""",
    )
    assert found == [
        [
            [["a (copy)", "a,1,mine,2,more,2"], ["a", "a,1,theirs"]],
            "Another tab went on with this conversation: what is here is kept as a copy.",
            True,
        ],
        ["a", "1", "mine", "2", "more", "2", "again"],
        0,
        "",
    ]


@pytest.mark.parametrize("which", ["this one", "all"])
def test_what_is_deleted_during_its_answer_stays_deleted(page: Browser, which: str) -> None:
    found = run(
        page,
        f"""const whole = window.fetch, confirmed = window.confirm;
        window.confirm = () => true;
        window.fetch = (path, {{signal}}) => new Promise((_, refuse) => {{
          signal.onabort = () => refuse(new DOMException("left", "AbortError"));
        }});
        const asking = say("x");
        const listed = texts("#list button:first-child");
        if ({json.dumps(which)} === "all") $("forget").click();
        else document.querySelector("#list [aria-current=true]").nextSibling.click();
        await asking;
        window.fetch = whole; window.confirm = confirmed;
        return [listed, readConversations(), texts("#list li"), $("status").textContent];""",
    )
    assert found == [["x"], [], ["none yet"], ""]


def test_what_another_tab_deleted_is_kept_again_only_if_one_goes_on(page: Browser) -> None:
    found = run(
        page,
        """reply(["1"]); await say("x");
        writeConversations([]);
        dispatchEvent(new StorageEvent("storage", {key: CONVERSATIONS}));
        const told = $("status").textContent;
        keep();
        const count = readConversations().length;
        await say("y");
        return [told, count, readConversations().length, $("status").textContent];""",
    )
    assert found[0].startswith("This conversation is no longer kept")
    assert found[1:] == [0, 1, ""]


def test_an_answer_that_comes_while_the_page_is_left_is_kept(page: Browser) -> None:
    found = run(
        page,
        """const whole = window.fetch;
        let hold;
        window.fetch = async (path, options) => {
          const body = await (await whole(path, options)).text();
          const held = new Promise(resolve => { hold = resolve; });
          return new Response(new ReadableStream({async start(controller) {
            controller.enqueue(new TextEncoder().encode(body));
            await held;
            controller.close();
          }}));
        };
        reply(["so far"], "");
        const asking = say("x");
        while (!conversation.columns[0].turns[1]?.text)
          await new Promise(resolve => setTimeout(resolve, 10));
        dispatchEvent(new Event("pagehide"));
        const kept = currentConversation().columns[0].turns[1];
        hold(); await asking; window.fetch = whole;
        return [kept.text, kept.end];""",
    )
    assert found == ["so far", "left"]


def test_a_full_store_loses_the_oldest_and_an_unkept_conversation_is_told(page: Browser) -> None:
    found = run(
        page,
        """const long = "x".repeat(1e6);
        for (let n = 0; n < 8; n++)
          keepConversation({...newConversation(), title: String(n),
                            columns: [{model: "m", turns: [asTurn({role: "user", text: long})]}]});
        const kept = readConversations().map(one => one.title);
        reply(["x".repeat(6e6)]); $("formatted").checked = false; await say("too long");
        $("formatted").checked = true;
        return [kept, $("status").textContent, readConversations().map(one => one.title)];""",
    )
    assert found[0][0] == "7"
    assert 0 < len(found[0]) < 8
    assert "keeps no conversations" in found[1]
    assert found[2][:2] == ["too long", "7"]  # what was kept before stays


def test_export(page: Browser) -> None:
    found = run(
        page,
        """reply(["**4**"], "length"); await say("2+2?");
        return [asMarkdown(conversation), JSON.parse(asJson(conversation, () => "S"))];""",
    )
    assert "**You**\n\n2+2?\n" in found[0]
    assert "**one**\n\n**4**\n\n*Cut: " in found[0]
    assert found[1]["columns"][0]["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "**4**", "finish_reason": "length"},
    ]


def test_the_page_follows_the_answer_until_its_reader_scrolls_away(page: Browser) -> None:
    ends = "innerHeight + scrollY >= document.documentElement.scrollHeight - 1"
    run(page, "reply([Array(90).fill('line').join('\\n\\n')]); await say('x'); return 1")
    page.wait(ends, 5)
    assert page.run("scrollY") > 1000
    page.run("scrollTo({top: 0, behavior: 'instant'})")
    page.wait("!following", 5)
    run(page, "reply(['more']); columns[0].views[1].turn.text += '\\n\\nmore'; "
              "columns[0].views[1].done(); return 1")  # fmt: skip
    assert page.run("scrollY") == 0
    run(page, "await say('y'); return 1")  # whoever asks wants to see the answer
    page.wait(ends, 5)


def test_keys(page: Browser) -> None:
    run(page, "reply(['x']); $('prompt').focus(); $('prompt').value = 'by key'; return 1")
    press(page, "Enter")
    page.wait("document.querySelectorAll('.assistant').length === 1", 5)
    page.run("$('history').open = true")
    press(page, "Escape")
    assert page.run("$('history').open") is False
    assert page.run("document.activeElement.textContent") == "Conversations"
    # However editing ends, the draft is there again.
    run(page, "$('prompt').value = 'a draft'; edit(0); return 1")
    assert page.run("$('prompt').value") == "by key"
    press(page, "Escape")
    assert page.run("$('editing').hidden")
    assert page.run("$('prompt').value") == "a draft"
    page.run("edit(0); edit(0); $('keep').click()")
    assert page.run("$('editing').hidden")
    assert page.run("$('prompt').value") == "a draft"
    page.run("edit(0)")
    press(page, "Enter")
    page.wait("stopper === null && $('editing').hidden", 5)
    assert page.run("$('prompt').value") == "a draft"
    page.run("$('prompt').focus()")
    press(page, "Tab")
    assert page.run("document.activeElement.id") == "send"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_for_everybody(page: Browser, width: int, scheme: str, axe: str, tmp_path: Path) -> None:
    """Names for screen readers, contrast, nothing that axe-core calls serious, and no scrolling
    sideways."""
    look_as(page, width, scheme)
    run(
        page,
        """$("both").checked = true; startAnew();
        reply([{reasoning_content: "Hm."}, "# T\\n\\n[l](https://a.example) `c`\\n\\n```py\\n" +
               "x".repeat(300) + "\\n```\\n\\n| a | b |\\n|---|---|\\n|" + "y".repeat(200) + "|z|"],
              "length");
        await say("x".repeat(300)); reply("broken"); await say("y");
        for (const one of document.querySelectorAll("details")) one.open = true;
        $("export").open = false;
        return 1""",
    )
    page.screenshot(tmp_path / "page.png")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert low_contrast(page) == []
    assert serious_findings(page, axe) == []
    controls = named_controls(page)
    assert len(controls) > 30
    assert [one for one in controls if not one[1]] == []
    page.call("Emulation.clearDeviceMetricsOverride")


def test_the_description_for_everybody(server: RunningServer, shared: Browser, axe: str) -> None:
    shared.call("Page.navigate", url=f"{server.url}/docs")
    shared.wait("document.querySelectorAll('details').length > 20")
    shared.run("for (const one of document.querySelectorAll('details')) one.open = true")
    for width in (400, 1100):
        for scheme in ("light", "dark"):
            look_as(shared, width, scheme)
            assert shared.run("document.documentElement.scrollWidth <= innerWidth"), width
            assert serious_findings(shared, axe) == [], (width, scheme)
    shared.call("Emulation.clearDeviceMetricsOverride")
