"use strict";
// This server's API, as its own page calls it.

const tokenOf = page => page.querySelector("meta[name=page-token]")?.content ?? "";
let token = tokenOf(document);

const headers = () => {
  const key = $("key").value;
  return {"Content-Type": "application/json", ...(key ? {Authorization: "Bearer " + key} : {}),
          ...(token ? {"X-Tuneserve-Page": token} : {})};
};

/** A call of this page's. Its token is of one process: where the server was started again since,
 *  the page asks for the new one. */
async function call(path, options = {}) {
  const answer = await fetch(path, {...options, headers: headers()});
  if (answer.status !== 403 || (await answer.clone().json()).error?.code !== "page_token_needed")
    return answer;
  const page = await fetch(location.pathname, {cache: "no-store"});
  token = tokenOf(new DOMParser().parseFromString(await page.text(), "text/html"));
  return fetch(path, {...options, headers: headers()});
}

/** The JSON of an answer; throws with what the server says. */
async function jsonOf(answer) {
  if (answer.ok) return answer.json();
  let reason = `HTTP status ${answer.status}`;
  try { reason = (await answer.json()).error.message; } catch { /* no JSON: a proxy's page */ }
  throw new Error(reason);
}

const SAMPLING = {temperature: "temperature", top_p: "top_p", top_k: "top_k", min_p: "min_p",
                  repeat_penalty: "repeat_penalty", longest: "max_tokens", seed: "seed"};

/** What the fields say; an empty one is left to the server. */
function sampling() {
  const given = {};
  for (const [id, name] of Object.entries(SAMPLING))
    if ($(id).value.trim() !== "") given[name] = Number($(id).value);
  return given;
}

const LEFT = "the page is left";  // why its answers are aborted then

const KEPT_SAMPLING = "tuneserve.sampling";

function keepSampling() {
  const fields = Object.fromEntries(Object.keys(SAMPLING).map(id => [id, $(id).value]));
  try {
    localStorage.setItem(KEPT_SAMPLING, JSON.stringify(fields));
  } catch { /* no storage: keeping the conversation says so */ }
}

/** Fill the fields as they were left. */
function takeSampling() {
  let fields = null;
  try {
    fields = JSON.parse(localStorage.getItem(KEPT_SAMPLING));
  } catch { /* no storage, or not ours */ }
  for (const id of Object.keys(SAMPLING))
    if (typeof fields?.[id] === "string") $(id).value = fields[id];
}

/** Ask for a model's next turn, and note it in `turn` as it comes; `changed` is called each time. */
async function askModel(model, messages, turn, signal, changed) {
  const started = performance.now();
  let first = 0, usage = null;
  const goesOn = Boolean(turn.text);
  turn.end = turn.error = turn.figures = "";
  try {
    const response = await call("v1/chat/completions", {
      method: "POST", signal,
      body: JSON.stringify({model, messages, stream: true, stream_options: {include_usage: true},
                            ...sampling()}),
    });
    if (!response.ok) await jsonOf(response);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) usage = event.usage;
      const choice = event.choices?.[0];
      if (choice?.delta?.reasoning_content) turn.thoughts += choice.delta.reasoning_content;
      if (choice?.delta?.content) turn.text += choice.delta.content;
      if (choice?.finish_reason) turn.end = choice.finish_reason;
      if (!first && (choice?.delta?.content || choice?.delta?.reasoning_content))
        first = performance.now();
      changed();
    }
    turn.end ||= "broken";
  } catch (error) {
    // A browser that leaves the page may have broken the connection before it said so.
    if (signal.aborted) turn.end ||= signal.reason === LEFT ? "left" : "stopped";
    else {
      turn.error = error.message;
      if (turn.text) turn.end ||= "broken";
    }
  }
  if (usage) {
    const rate = 1000 * (usage.completion_tokens - 1) / (performance.now() - first);
    turn.figures = `${usage.completion_tokens} ${goesOn ? "more " : ""}tokens, first after ` +
      `${((first - started) / 1000).toFixed(2)} s` +
      (usage.completion_tokens > 1 ? `, then ${rate.toFixed(1)} tokens/s` : "");
  }
}
