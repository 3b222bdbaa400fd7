// Which view is shown, and when it is drawn anew.

import {$, make} from "./dom.js";
import {checkToken, takeToken, useToken} from "./api.js";
import {formView} from "./form.js";
import {runView} from "./run.js";
import {runsView} from "./runs.js";

// Of the time, at most a part goes into drawing anew: a training may need the machine.
const SHARE = 1 / 20;

let view = null, timer = 0, turn = 0;

async function viewOf(hash) {
  const [kind, ...names] = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (kind === "run" && names[0]) return runView(names[0]);
  if (kind === "start" && names[0]) return formView(...names);
  return runsView();
}

async function open() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const opened = await viewOf(location.hash);
    if (mine !== turn) return;
    view = opened;
    tell("");
  } catch (error) {
    if (mine !== turn) return;
    view = {title: "tuneserve", elements: [make("h1", {textContent: "Not shown", tabIndex: -1}),
      make("pre", {className: "bad", role: "alert", textContent: error.message})]};
  }
  document.title = view.title === "tuneserve" ? view.title : `${view.title} · tuneserve`;
  $("content").replaceChildren(...view.elements);
  for (const one of document.querySelectorAll("nav a")) {
    if (one.hash === (location.hash || "#/")) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  view.elements[0].focus({preventScroll: true});
  await refresh(mine);
}

/** Draw the view anew, now and every few seconds while the page is looked at. */
async function refresh(mine) {
  if (mine !== turn || !view.refresh) return;
  clearTimeout(timer);
  const started = performance.now();
  try {
    if (!document.hidden) await view.refresh();
    if (mine === turn) tell("");
  } catch (error) {
    if (mine === turn) tell(error.message);
  }
  if (mine === turn) {
    const took = performance.now() - started;
    timer = setTimeout(() => refresh(mine), Math.max(1000 * view.seconds, took / SHARE));
  }
}

/** What is wrong with reaching the server; nothing is read aloud twice. */
function tell(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

$("token-form").addEventListener("submit", async event => {
  event.preventDefault();
  useToken($("token").value);
  $("token").value = "";
  await checkToken();
});
$("skip").addEventListener("click", event => {
  event.preventDefault();  // the address says which view is shown
  $("content").focus();
});
addEventListener("hashchange", () => { takeToken(); checkToken(); open(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(turn); });

takeToken();
checkToken();
open();
