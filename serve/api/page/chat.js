"use strict";
// The conversation: its columns, one for each model beside the other, and what is done with it.

let models = [];  // {id, system_prompt}
let conversation = newConversation();
let columns = [];  // {element, select, turns, data, views} for each of the conversation's
let stopper = null;
let unkept = false;  // there was no room for what the conversation has become
let edited = -1;  // the place of the message that is asked anew
let draft = "";  // what stood in the field before that

const ownSystem = model => models.find(one => one.id === model)?.system_prompt ?? "";

/** What the field shows: the conversation's system prompt, or that of the first model with one. */
function shownSystem() {
  if (conversation.system !== null) return conversation.system;
  return columns.map(column => ownSystem(column.data.model)).find(Boolean) ?? "";
}

function showSystem() {
  const system = shownSystem();
  if (document.activeElement !== $("system")) $("system").value = system;
  const named = columns.map(column => column.data.model).find(ownSystem);
  const changed = named !== undefined && conversation.system !== null &&
    conversation.system !== ownSystem(named);
  $("of-system").textContent = named === undefined
    ? "The model was trained with none, as far as its file says."
    : changed ? `Not the one that '${named}' has here by default.`
    : `The one that '${named}' has here by default.`;
  $("own-system").hidden = !changed;
}

/** The messages of a column: a model's own system prompt is the server's to add, and what got no
 *  answer is not told. */
function messagesOf({model, turns}) {
  const system = shownSystem();
  const messages = system === ownSystem(model) ? [] : [{role: "system", content: system}];
  turns.forEach((turn, place) => {
    const answered = turn.role === "assistant" ? turn.text : turns[place + 1]?.text;
    if (answered || place === turns.length - 1)
      messages.push({role: turn.role, content: turn.text});
  });
  return messages;
}

/** Show the conversation, with a column for each model that it asks. */
function layOut() {
  const served = models.map(model => model.id);
  const wanted = $("both").checked ? Math.min(2, served.length) : 1;
  for (let place = 0; place < wanted; place++) {
    const others = conversation.columns.map(column => column.model);
    const model = served.find(id => !others.includes(id)) ?? served[0];
    conversation.columns[place] ??= {model, turns: []};
  }
  conversation.columns.length = wanted;
  columns = conversation.columns.map(makeColumn);
  $("columns").replaceChildren(...columns.map(column => column.element));
  columns.forEach(column => column.data.turns.forEach(turn => addView(column, turn).done()));
  showSystem();
}

function makeColumn(data) {
  const served = models.map(model => model.id);
  if (!served.includes(data.model)) data.model = served[0] ?? "";
  const select = make("select", {"aria-label": "Model"});
  for (const id of served) select.add(new Option(id, id, false, id === data.model));
  select.onchange = () => { data.model = select.value; showSystem(); keep(); };
  const turns = make("div", {role: "log", "aria-label": `Conversation with ${data.model}`});
  const heading = make("h2", {className: "unseen", textContent: data.model});
  const element = make("section", {className: "column", "aria-label": data.model}, heading, select,
                       turns);
  return {element, select, turns, data, views: []};
}

function addView(column, turn) {
  const name = turn.role === "user" ? "You" : turn.model || column.data.model;
  const view = showTurn(turn, name, column.turns, () => actsOn(column, turn));
  column.views.push(view);
  return view;
}

const UNFINISHED = ["length", "stopped", "broken", "left"];

/** What can be done with a turn: {text: [label, function]}. */
function actsOn(column, turn) {
  const {turns, model} = column.data;
  const place = turns.indexOf(turn);
  if (turn.role === "user") return {Edit: ["Edit this message", () => edit(place)]};
  if (place !== turns.length - 1) return {};
  const acts = {Retry: [`Retry: ask ${model} again`, () => retry(column)]};
  if (turn.text && (turn.error || UNFINISHED.includes(turn.end)))
    acts.Continue = [`Continue: let ${model} go on`, () => goOn(column)];
  if (turn.at > 0) acts["‹"] = ["The answer before this one", () => turnBy(column, -1)];
  if (turn.at < turn.versions.length - 1) acts["›"] = ["The next answer", () => turnBy(column, 1)];
  return acts;
}

const NOT_AS_USUAL = {
  copied: "Another tab went on with this conversation: what is here is kept as a copy.",
  gone: "This conversation is no longer kept: another tab deleted it, or there was no room. " +
    "It is kept again if you go on with it.",
  full: "This browser keeps no conversations (its storage is full or off).",
};

/** Keep a conversation, a deleted one only if it is `wanted`. */
function keep(one = conversation, wanted = false) {
  if (!one.columns.some(column => column.turns.length)) return;
  const became = keepConversation(one, wanted);
  if (one === conversation) {
    setCurrent(one.id);
    unkept = became === "full";
  }
  if (one === conversation || became === "full") tell(became);
  showList();
}

function tell(became) {
  if (became in NOT_AS_USUAL) $("status").textContent = NOT_AS_USUAL[became];
  else if ($("status").textContent === NOT_AS_USUAL.gone) $("status").textContent = "";
}

/** Another tab has written: show what it did, unless that would undo what is being done here. */
function takeOver() {
  showList();
  if (stopper || edited >= 0 || unkept || document.activeElement === $("system")) return;
  const there = readConversations().find(one => one.id === conversation.id);
  if (there && there.revision !== conversation.revision) openConversation(there);
  else tell(there || !conversation.revision ? "kept" : "gone");
}

/** Have models answer, all at the same time; `jobs`: [column, the view of the turn that grows]. */
async function answer(jobs) {
  const asked = conversation;
  keep(asked, true);
  stopper = new AbortController();
  $("send").disabled = !($("stop").disabled = false);
  toEnd();
  await Promise.all(jobs.map(async ([column, view, continues]) => {
    view.element.setAttribute("aria-busy", "true");
    const told = continues ? column.data.turns : column.data.turns.slice(0, -1);
    const messages = messagesOf({model: column.data.model, turns: told});
    await askModel(column.data.model, messages, view.turn, stopper.signal, view.changed);
    view.element.removeAttribute("aria-busy");
    redraw(column);
  }));
  stopper = null;
  $("send").disabled = !($("stop").disabled = true);
  keep(asked);  // another one may be open by now
}

/** The last turns have other buttons than those before. */
const redraw = column => column.views.slice(-3).forEach(view => view.done());

function newAnswer(column) {
  const turn = asTurn({model: column.data.model});
  turn.end = "";
  column.data.turns.push(turn);
  return [column, addView(column, turn), false];
}

function cutTo(column, length) {
  column.data.turns.length = Math.min(column.data.turns.length, length);
  for (const view of column.views.splice(length)) view.element.remove();
}

async function ask(text) {
  if (edited >= 0) columns.forEach(column => cutTo(column, edited));
  stopEditing();
  conversation.title ||= text.slice(0, 80);
  const jobs = columns.map(column => {
    const turn = asTurn({role: "user", text});
    column.data.turns.push(turn);
    addView(column, turn).done();
    return newAnswer(column);
  });
  await answer(jobs);
}

/** What was answered before is kept as another version. */
async function retry(column) {
  if (stopper) return;
  const former = column.data.turns[column.data.turns.length - 1];
  cutTo(column, column.data.turns.length - 1);
  const job = newAnswer(column), {turn} = job[1];
  if (former.text) turnTo(former, former.at);
  else former.versions.splice(former.at, 1);
  turn.versions = former.versions;
  turn.at = former.versions.length;
  await answer([job]);
}

function turnBy(column, step) {
  if (stopper) return;
  const view = column.views[column.views.length - 1];
  turnTo(view.turn, view.turn.at + step);
  view.done();
  keep();
  // The button that was pressed is another one now, or none.
  const buttons = [...view.element.querySelectorAll(".actions button")];
  const same = buttons.find(one => one.textContent === (step < 0 ? "‹" : "›"));
  (same ?? buttons[buttons.length - 1]).focus();
}

async function goOn(column) {
  if (stopper) return;
  await answer([[column, column.views[column.views.length - 1], true]]);
}

function edit(place) {
  if (stopper) return;
  if (edited < 0) draft = $("prompt").value;
  edited = place;
  $("prompt").value = columns[0].data.turns[place]?.text ?? "";
  $("editing").hidden = false;
  $("prompt").focus();
}

function stopEditing() {
  if (edited < 0) return;
  edited = -1;
  $("prompt").value = draft;
  $("editing").hidden = true;
}

function openConversation(chosen) {
  stopper?.abort();
  stopEditing();
  conversation = chosen;
  unkept = false;
  if (Object.values(NOT_AS_USUAL).includes($("status").textContent)) $("status").textContent = "";
  if (chosen.columns.some(column => column.turns.length))
    $("both").checked = chosen.columns.length > 1 && models.length > 1;
  layOut();
  showList();
  toEnd();
}
