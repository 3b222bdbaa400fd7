"use strict";
// The conversations, kept in this browser (localStorage), the newest first.
//
// A conversation: {id, title, when, revision, system, columns}. `revision` is another each time that
// it is kept, and '' before; `system` is null where the models' own system prompts hold; a column is
// {model, turns}, a turn {role, model, text, thoughts, end, figures, error, versions, at}. `end`: why an answer ended, '' while it comes; `versions`: the answers to the same
// question, if there are several, of which the turn shows the one `at` this place. What is read may
// be anybody's: it is made anew.

const CONVERSATIONS = "tuneserve.conversations", CURRENT = "tuneserve.current";
const MOST_KEPT = 100;

const listed = value => Array.isArray(value) ? value : [];
const textOf = value => typeof value === "string" ? value : "";

const OF_ANSWER = ["model", "text", "thoughts", "end", "figures", "error"];

const answerOf = value => Object.fromEntries(OF_ANSWER.map(name => [name, textOf(value?.[name])]));

function asTurn(value) {
  const turn = {role: value?.role === "user" ? "user" : "assistant", ...answerOf(value)};
  if (turn.role === "assistant" && !turn.end && !turn.error) turn.end = "left";
  turn.versions = listed(value?.versions).map(answerOf);
  turn.at = Math.min(Math.max(0, Math.trunc(Number(value?.at)) || 0), turn.versions.length);
  return turn;
}

/** Have a turn show another of its versions. */
function turnTo(turn, at) {
  turn.versions[turn.at] = answerOf(turn);
  Object.assign(turn, turn.versions[at], {at});
}

function asConversation(value) {
  return {
    id: textOf(value?.id) || newId(),
    title: textOf(value?.title),
    when: Number(value?.when) || 0,
    revision: textOf(value?.revision) || "none",
    system: typeof value?.system === "string" ? value.system : null,
    columns: listed(value?.columns).slice(0, 2).map(
      column => ({model: textOf(column?.model), turns: listed(column?.turns).map(asTurn)})),
  };
}

// Where a page is not served with TLS or from this machine, there is no crypto.randomUUID.
const newId = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

const newConversation = () =>
  ({id: newId(), title: "", when: 0, revision: "", system: null, columns: []});

function readConversations() {
  try {
    const read = JSON.parse(localStorage.getItem(CONVERSATIONS) ?? "[]");
    return Array.isArray(read) ? read.map(asConversation) : [];
  } catch {
    return [];  // none, or no storage: writing says so
  }
}

/** Write them, without the oldest where there is no room; false, and what was kept stays, if the
 *  first has none alone. */
function writeConversations(list) {
  for (let kept = list.slice(0, MOST_KEPT); ; kept = kept.slice(0, -1)) {
    try {
      localStorage.setItem(CONVERSATIONS, JSON.stringify(kept));
      return true;
    } catch {
      if (kept.length <= 1) return false;
    }
  }
}

/** Keep a conversation in front of what other tabs have written meanwhile. Where another tab has
 *  changed it since it was read, it becomes one of its own; where it was deleted, it stays so unless
 *  `wanted`. Returns what became of it: "kept", "copied", "gone" or "full". */
function keepConversation(conversation, wanted = false) {
  const kept = readConversations();
  const {id, title, revision} = conversation;
  const there = kept.find(one => one.id === id);
  if (!there && revision && !wanted) return "gone";
  const copied = there !== undefined && there.revision !== revision;
  const written = {...conversation, when: Date.now(), revision: newId(),
                   ...(copied ? {id: newId(), title: `${title} (copy)`} : {})};
  if (!writeConversations([written, ...kept.filter(one => one.id !== written.id)])) return "full";
  Object.assign(conversation, written);
  return copied ? "copied" : "kept";
}

const dropConversation = id =>
  writeConversations(readConversations().filter(one => one.id !== id));

/** The conversation of this tab, or of the last one; null: none. */
function currentConversation() {
  let id = null;
  try { id = sessionStorage.getItem(CURRENT); } catch { /* no storage */ }
  const kept = readConversations();
  if (id === "new") return null;
  return kept.find(one => one.id === id) ?? kept[0] ?? null;
}

function setCurrent(id) {
  try { sessionStorage.setItem(CURRENT, id); } catch { /* no storage */ }
}

/** A conversation as Markdown, column by column. */
function asMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}\n`];
  for (const {model, turns} of conversation.columns) {
    parts.push(`## ${model}\n`);
    if (conversation.system !== null) parts.push(`**System**\n\n${conversation.system}\n`);
    for (const turn of turns)
      parts.push(`**${turn.role === "user" ? "You" : turn.model || model}**\n\n${turn.text}\n`,
                 ...(ENDS[turn.end] ? [`*${ENDS[turn.end]}*\n`] : []));
  }
  return parts.join("\n");
}

/** The same as messages of the API, for programs. */
function asJson(conversation, systemOf) {
  const columns = conversation.columns.map(({model, turns}) => ({
    model,
    messages: [
      ...(systemOf(model) ? [{role: "system", content: systemOf(model)}] : []),
      ...turns.map(turn => ({
        role: turn.role, content: turn.text,
        ...(turn.thoughts ? {reasoning_content: turn.thoughts} : {}),
        ...(turn.end && turn.end !== "stop" ? {finish_reason: turn.end} : {}),
      })),
    ],
  }));
  return JSON.stringify({title: conversation.title, columns}, null, 2) + "\n";
}
