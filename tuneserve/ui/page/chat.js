// The base and the tune side by side: the same messages to both, each with its own answers.

import {button, make} from "./dom.js";
import {send, stream} from "./api.js";
import {markdown} from "./markdown.js";
import {keepTurns, keptTurns} from "./kept.js";
import {fill, link, section} from "./parts.js";

const MODELS = ["base", "tuned"];
const BROKEN = "The answer broke off.";
const REDRAWN_MS = 100;  // an answer that comes is drawn at most so often
const LONGEST = 512;  // tokens: a base that was never taught to end an answer goes on and on

export function chatPart(name) {
  const path = `api/runs/${encodeURIComponent(name)}`;
  const state = make("div"), said = make("p", {className: "bad", role: "alert"});
  const columns = MODELS.map(model => ({model, turns: keptTurns(name, model), shown: make("div",
    {className: "turns", role: "log", "aria-label": `Conversation with ${model}`, tabIndex: 0})}));
  for (const one of columns) for (const turn of one.turns) shownTurn(one, turn);
  const keep = () => {
    if (!keepTurns(name, Object.fromEntries(columns.map(one => [one.model, one.turns]))))
      said.textContent = "This browser has no room to keep the conversation.";
  };
  const prompt = make("textarea", {id: "prompt", rows: 2});
  const temperature = make("input", {type: "number", id: "temperature", min: 0, max: 2, step: "any",
                                     value: 0, required: true});
  const longest = make("input", {type: "number", id: "longest", min: 1, step: 1, value: LONGEST,
                                 required: true});
  const ask = make("button", {textContent: "Ask both", className: "main"});
  let stopper = null;
  const stop = button("Stop", "Stop the answers", () => stopper?.abort());
  const anew = button("New conversation", "New conversation", () => {
    stopper?.abort();
    for (const one of columns) { one.turns = []; one.shown.replaceChildren(); }
    keep();
    prompt.focus();
  });
  stop.disabled = true;
  const form = make("form", {"aria-label": "Your message to both", hidden: true},
    make("div", {className: "beside"}, ...columns.map(one =>
      make("div", {}, make("h3", {textContent: one.model}), one.shown))),
    make("label", {htmlFor: "prompt", textContent: "Message (Enter sends, Shift+Enter: new line)"}),
    prompt, make("div", {className: "actions"}, ask, stop, anew,
      make("label", {className: "inline"}, "temperature ", temperature),
      make("label", {className: "inline"}, "max_tokens ", longest)));
  prompt.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async event => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (!text || stopper) return;
    prompt.value = said.textContent = "";
    stopper = new AbortController();
    ask.disabled = !(stop.disabled = false);
    const sampling = {temperature: Number(temperature.value), max_tokens: Number(longest.value)};
    await Promise.all(columns.map(one => answer(path, one, text, sampling, stopper.signal, keep)));
    stopper = null;
    ask.disabled = !(stop.disabled = true);
  });
  async function act(what) {
    said.textContent = "";
    try {
      show((await send(`${path}/${what}`)).servers);
    } catch (error) {
      said.textContent = error.message;
    }
  }
  function show(servers) {
    fill(state, servers, list => stateOf(list, act));
    form.hidden = servers.length < 2 || servers.some(one => one.state !== "serving");
  }
  const element = section("Chat: base and tune side by side", state, said, form);
  return {
    element,
    refresh(run) {
      element.hidden = !run.stages?.includes("convert");
      show(run.servers ?? []);
    },
  };
}

function stateOf(servers, act) {
  const live = servers.filter(one => one.state !== "ended");
  if (!live.length) {
    const start = button("Serve both", "Serve both the base and the tune, to talk to them",
                         () => act("serve"));
    start.dataset.key = "serve";
    return [make("p", {className: "soft", textContent:
      "Starts a server for each on this machine; both models take their memory."}), start,
      ...servers.filter(one => one.said).map(one => make("pre", {className: "bad", role: "alert",
        textContent: `${one.model}: ${one.said}`}))];
  }
  const end = button("End both", "End both servers", () => act("serve/stop"));
  end.dataset.key = "serve";
  return servers.map(one => make("p", {}, `${one.model}: ${one.state}`,
    ...(one.state === "serving" ? [", ", link("its own page", one.url, {target: "_blank",
      rel: "noopener"})] : []), one.said ? `: ${one.said}` : "")).concat(end);
}

/** Show a turn at the end of a column; what is returned draws its answer anew. */
function shownTurn(column, turn) {
  const text = make("div", {className: "turn", dir: "auto"});
  const note = make("p", {className: "soft note"});
  column.shown.append(
    make("p", {className: "turn user", dir: "auto", textContent: turn.question}), text, note);
  const draw = (meanwhile = turn.note) => {
    text.replaceChildren(markdown(turn.answer));
    note.textContent = meanwhile;
    note.classList.toggle("bad", turn.bad);
    column.shown.scrollTop = column.shown.scrollHeight;
  };
  draw();
  return draw;
}

/** Ask a model, and show its answer as it comes; `keep` keeps all turns as they are. */
async function answer(path, column, question, sampling, signal, keep) {
  const messages = column.turns.filter(one => one.told).flatMap(one => [
    {role: "user", content: one.question}, {role: "assistant", content: one.answer}]);
  // What a page that is left in the middle shows again.
  const turn = {question, answer: "", note: BROKEN, bad: false, told: false};
  column.turns.push(turn);
  const draw = shownTurn(column, turn);
  draw("");
  let thoughts = "", tokens = 0, end = "", timer = 0;
  const drawNow = () => {
    timer = 0;
    draw(turn.answer || !thoughts ? "" : `thinks: …${thoughts.slice(-80)}`);
    keep();
  };
  const started = performance.now();
  try {
    const body = {model: column.model, messages: [...messages, {role: "user", content: question}],
                  ...sampling};
    for await (const event of stream(`${path}/chat`, body, signal)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      thoughts += choice?.delta?.reasoning_content ?? "";
      turn.answer += choice?.delta?.content ?? "";
      end = choice?.finish_reason ?? end;
      tokens = event.usage?.completion_tokens ?? tokens;
      timer ||= setTimeout(drawNow, REDRAWN_MS);
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    if (end) turn.note = `${tokens} tokens in ${seconds} s` +
      (end === "length" ? "; cut at max_tokens, or at the context's end" : "");
    turn.told = true;
  } catch (error) {
    turn.bad = error.name !== "AbortError";
    turn.note = turn.bad ? error.message : "stopped";
    turn.told = !turn.bad && turn.answer !== "";
  }
  clearTimeout(timer);
  draw();
  keep();
}
