"use strict";
// A turn of a conversation on the page.

const REDRAWN_MS = 60;  // An answer that comes is drawn at most so often,
const LONG_TEXT = 20000;  // and one of so many characters, which take longer, less often.
const ENDS = {
  length: "Cut: the answer is as long as it may be (max_tokens, or the context).",
  content_filter: "The server left out a part of the answer.",
  stopped: "Stopped.",
  broken: "The answer broke off.",
  left: "The page was left before the answer came to its end.",
};

/** `turn` in `parent`; `acts` are what can be done with it: {text: [label, function]}. Returns
 *  {element, changed, done}: to be called as the turn grows, and when it is whole. */
function showTurn(turn, name, parent, acts) {
  const element = make("article", {"aria-label": name});
  const body = make("div", {className: `turn ${turn.role}`, dir: "auto"});
  const tail = make("div");
  element.append(body, tail);
  parent.append(element);
  let thoughts = null, timer = 0;

  const draw = () => {
    if (turn.thoughts) thoughts ??= addThoughts(element, body);
    if (thoughts) {
      thoughts.textContent = turn.thoughts;
      thoughts.parentElement.hidden = !turn.thoughts;  // another version may have none
    }
    const formatted = turn.role === "assistant" && $("formatted").checked;
    if (formatted) body.replaceChildren(markdown(turn.text));
    else body.textContent = turn.text;
    body.hidden = !turn.text;
    grown();
  };
  const changed = () => {
    timer ||= setTimeout(() => { timer = 0; draw(); },
                         REDRAWN_MS * (1 + Math.floor(turn.text.length / LONG_TEXT)));
  };
  const done = () => {
    clearTimeout(timer);
    timer = 0;
    tail.replaceChildren();
    draw();
    const add = (className, textContent) =>
      textContent && tail.append(make("p", {className, textContent}));
    add("cut", ENDS[turn.end]);
    add("error", turn.error);
    add("figures", turn.figures);
    const versions = Math.max(turn.versions.length, turn.at + 1);
    if (versions > 1) add("figures", `answer ${turn.at + 1} of ${versions}`);
    const row = make("div", {className: "actions"});
    if (turn.text) {
      const copies = button("Copy", `Copy: ${name}`, () => copy(turn.text, copies));
      row.append(copies);
    }
    for (const [text, [label, act]] of Object.entries(acts(turn)))
      row.append(button(text, label, act));
    tail.append(row);
    grown();
  };
  return {element, turn, changed, done};
}

function addThoughts(element, before) {
  const text = make("div", {className: "turn", dir: "auto"});
  element.insertBefore(
    make("details", {className: "thoughts"}, make("summary", {textContent: "Thoughts"}), text),
    before);
  return text;
}

// The page follows what is written, unless its reader has scrolled away.
let following = true;
const END_PX = 120;

addEventListener("scroll", () => {
  following = innerHeight + scrollY >= document.documentElement.scrollHeight - END_PX;
});

function grown() {
  if (following) scrollTo({top: document.documentElement.scrollHeight, behavior: "instant"});
}

function toEnd() {
  following = true;
  grown();
}
