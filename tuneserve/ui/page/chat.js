// The base and the tune side by side: the same messages to both, each with its own answers.

import {button, make} from "./dom.js";
import {send, stream} from "./api.js";
import {markdown} from "./markdown.js";
import {fill, link, section} from "./parts.js";

const MODELS = ["base", "tuned"];
const REDRAWN_MS = 100;  // an answer that comes is drawn at most so often
const LONGEST = 512;  // tokens: a base that was never taught to end an answer goes on and on

export function chatPart(name) {
  const path = `api/runs/${encodeURIComponent(name)}`;
  const state = make("div"), said = make("p", {className: "bad", role: "alert"});
  const columns = MODELS.map(model => ({model, messages: [], turns: make("div", {className: "turns",
    role: "log", "aria-label": `Conversation with ${model}`, tabIndex: 0})}));
  const prompt = make("textarea", {id: "prompt", rows: 2});
  const temperature = make("input", {type: "number", id: "temperature", min: 0, max: 2, step: "any",
                                     value: 0, required: true});
  const longest = make("input", {type: "number", id: "longest", min: 1, step: 1, value: LONGEST,
                                 required: true});
  const ask = make("button", {textContent: "Ask both", className: "main"});
  let stopper = null;
  const stop = button("Stop", "Stop the answers", () => stopper?.abort());
  const anew = button("New conversation", "New conversation", () => {
    for (const one of columns) { one.messages = []; one.turns.replaceChildren(); }
    prompt.focus();
  });
  stop.disabled = true;
  const form = make("form", {"aria-label": "Your message to both", hidden: true},
    make("div", {className: "beside"}, ...columns.map(one =>
      make("div", {}, make("h3", {textContent: one.model}), one.turns))),
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
    prompt.value = "";
    stopper = new AbortController();
    ask.disabled = !(stop.disabled = false);
    const sampling = {temperature: Number(temperature.value), max_tokens: Number(longest.value)};
    await Promise.all(columns.map(one => answer(path, one, text, sampling, stopper.signal)));
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

/** Ask a model, and show its answer as it comes. */
async function answer(path, column, text, sampling, signal) {
  const asked = [...column.messages, {role: "user", content: text}];
  const turn = make("div", {className: "turn", dir: "auto"});
  const note = make("p", {className: "soft note"});
  column.turns.append(make("p", {className: "turn user", dir: "auto", textContent: text}), turn, note);
  let said = "", thoughts = "", tokens = 0, end = "", timer = 0;
  const draw = () => {
    timer = 0;
    turn.replaceChildren(markdown(said));
    column.turns.scrollTop = column.turns.scrollHeight;
  };
  const started = performance.now();
  try {
    const body = {model: column.model, messages: asked, ...sampling};
    for await (const event of stream(`${path}/chat`, body, signal)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      thoughts += choice?.delta?.reasoning_content ?? "";
      said += choice?.delta?.content ?? "";
      end = choice?.finish_reason ?? end;
      tokens = event.usage?.completion_tokens ?? tokens;
      note.textContent = said || !thoughts ? "" : `thinks: …${thoughts.slice(-80)}`;
      timer ||= setTimeout(draw, REDRAWN_MS);
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    note.textContent = end ? `${tokens} tokens in ${seconds} s` +
      (end === "length" ? "; cut at max_tokens, or at the context's end" : "") : "The answer broke off.";
    column.messages = [...asked, {role: "assistant", content: said}];
  } catch (error) {
    note.textContent = error.name === "AbortError" ? "stopped" : error.message;
    note.classList.toggle("bad", error.name !== "AbortError");
    if (error.name === "AbortError" && said)
      column.messages = [...asked, {role: "assistant", content: said}];
  }
  clearTimeout(timer);
  draw();
}
