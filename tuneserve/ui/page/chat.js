// The base and the tune side by side: the same messages to both, each with its own answers.

import {button, make} from "./dom.js";
import {send, stream} from "./api.js";
import {fill, link, section} from "./parts.js";

const MODELS = ["base", "tuned"];

export function chatPart(name) {
  const path = `api/runs/${encodeURIComponent(name)}`;
  const state = make("div"), said = make("p", {className: "bad", role: "alert"});
  const columns = MODELS.map(model => ({model, messages: [], turns: make("div", {className: "turns",
    role: "log", "aria-label": `Conversation with ${model}`, tabIndex: 0})}));
  const prompt = make("textarea", {id: "prompt", rows: 2});
  const temperature = make("input", {type: "number", id: "temperature", min: 0, max: 2, step: "any",
                                     value: 0, required: true});
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
      make("label", {className: "inline"}, "temperature ", temperature)));
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
    await Promise.all(columns.map(one => answer(path, one, text, Number(temperature.value),
                                                stopper.signal)));
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
    const start = button("Serve both", "Serve the base and the tune, to talk to both",
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
async function answer(path, column, text, temperature, signal) {
  const asked = [...column.messages, {role: "user", content: text}];
  const turn = make("p", {className: "turn"}), note = make("p", {className: "soft note"});
  column.turns.append(make("p", {className: "turn user", textContent: text}), turn, note);
  let thoughts = "", tokens = 0, end = "";
  const started = performance.now();
  try {
    const body = {model: column.model, messages: asked, temperature};
    for await (const event of stream(`${path}/chat`, body, signal)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      thoughts += choice?.delta?.reasoning_content ?? "";
      turn.textContent += choice?.delta?.content ?? "";
      end = choice?.finish_reason ?? end;
      tokens = event.usage?.completion_tokens ?? tokens;
      note.textContent = turn.textContent || !thoughts ? "" : `thinks: …${thoughts.slice(-80)}`;
      column.turns.scrollTop = column.turns.scrollHeight;
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    note.textContent = end ? `${tokens} tokens in ${seconds} s` +
      (end === "length" ? "; cut: as long as it may be" : "") : "The answer broke off.";
    column.messages = [...asked, {role: "assistant", content: turn.textContent}];
  } catch (error) {
    note.textContent = error.name === "AbortError" ? "stopped" : error.message;
    note.classList.toggle("bad", error.name !== "AbortError");
    if (error.name === "AbortError" && turn.textContent)
      column.messages = [...asked, {role: "assistant", content: turn.textContent}];
  }
  column.turns.scrollTop = column.turns.scrollHeight;
}
