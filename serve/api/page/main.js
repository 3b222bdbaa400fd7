"use strict";
// The page's own controls, and its start.

async function loadModels() {
  const answer = await call("v1/models");
  if (answer.status === 401) {
    $("keyrow").hidden = false;
    $("status").textContent = "asks for an API key";
    return;
  }
  models = (await jsonOf(answer)).data;
  $("status").textContent = "";
  $("both").checked = models.length > 1;
  $("both").parentElement.hidden = models.length < 2;
  openConversation(currentConversation() ?? conversation);
  const {params} = (await jsonOf(await call("props"))).default_generation_settings;
  for (const [id, name] of Object.entries(SAMPLING)) $(id).placeholder = params[name] ?? "";
}

function showList() {
  const entries = readConversations().map(one => {
    const opens = button(one.title, one.title, () => {
      $("history").open = false;
      if (one.id === conversation.id && one.revision === conversation.revision) return;
      setCurrent(one.id);
      openConversation(one);
    });
    opens.setAttribute("aria-current", one.id === conversation.id);
    opens.title = new Date(one.when).toLocaleString();
    const drops = button("Delete", `Delete: ${one.title}`, () => {
      dropConversation(one.id);
      if (one.id === conversation.id) startAnew();
      showList();
      $("history").querySelector("summary").focus();
    });
    return make("li", {}, opens, drops);
  });
  $("list").replaceChildren(...entries);
  if (!entries.length) $("list").append(make("li", {textContent: "none yet"}));
}

function startAnew() {
  setCurrent("new");
  const count = $("both").checked ? 2 : 1;
  const columns = conversation.columns.slice(0, count).map(({model}) => ({model, turns: []}));
  openConversation({...newConversation(), columns});
  $("prompt").focus();
}

$("form").addEventListener("submit", async event => {
  event.preventDefault();
  if (!models.length) await loadModels();
  const text = $("prompt").value.trim();
  if (!text || stopper || !models.length) return;
  $("prompt").value = "";
  await ask(text);
  $("prompt").focus();
});
// A field that is folded away can't say what is wrong with it.
$("form").addEventListener("invalid", () => { $("options").open = true; }, true);
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector(".menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (edited >= 0) stopEditing();
  else stopper?.abort();
});
addEventListener("click", event => {
  for (const menu of document.querySelectorAll(".menu[open]"))
    if (!menu.contains(event.target) && document.contains(event.target)) menu.open = false;
});
$("attach").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", async () => {
  await attach([...$("files").files]);
  $("files").value = "";  // the same file may be chosen again
});
$("form").addEventListener("dragover", event => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
$("form").addEventListener("drop", event => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  attach([...event.dataTransfer.files]);
});
// What is copied from a table is a text with a picture of it.
$("prompt").addEventListener("paste", event => {
  const {files, types} = event.clipboardData;
  if (!files.length || types.includes("text/plain")) return;
  event.preventDefault();
  attach([...files]);
});
$("stop").addEventListener("click", () => stopper?.abort());
$("reset").addEventListener("click", startAnew);
$("keep").addEventListener("click", () => { stopEditing(); $("prompt").focus(); });
$("forget").addEventListener("click", () => {
  if (!confirm("Delete all conversations that this browser keeps?")) return;
  writeConversations([]);
  startAnew();
});
$("as-markdown").addEventListener("click", () =>
  download("conversation.md", "text/markdown", asMarkdown(conversation)));
$("as-json").addEventListener("click", () =>
  download("conversation.json", "application/json",
           asJson(conversation, model => conversation.system ?? ownSystem(model))));
// The other model has not answered what was asked so far: side by side begins anew.
$("both").addEventListener("change", startAnew);
$("formatted").addEventListener("change", () => {
  for (const column of columns) for (const view of column.views) view.done();
});
$("system").addEventListener("input", () => { conversation.system = $("system").value; showSystem(); });
$("system").addEventListener("change", () => keep());
$("own-system").addEventListener("click", () => {
  conversation.system = null;
  $("system").focus();
  $("system").value = shownSystem();
  showSystem();
  keep();
});
$("key").addEventListener("change", () => loadModels().catch(told));
addEventListener("pagehide", () => {
  if (!stopper) return;
  keep();
  stopper.abort(LEFT);
});
addEventListener("storage", event => {
  if (event.key === CONVERSATIONS || event.key === null) takeOver();
});

for (const id of Object.keys(SAMPLING)) $(id).addEventListener("change", keepSampling);

const told = error => { $("status").textContent = error.message; };
takeSampling();
loadModels().catch(told);
