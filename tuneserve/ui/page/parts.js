// What several views are made of.

import {make} from "./dom.js";

/** Show `data` in an element, by what `build` makes of it; nothing is touched where it is shown
 *  already. What has the keyboard's focus keeps it, if it has a `data-key`. */
export function fill(element, data, build) {
  const text = JSON.stringify(data) ?? "";
  if (element.shown === text) return;
  element.shown = text;
  const key = element.contains(document.activeElement) && document.activeElement.dataset.key;
  element.replaceChildren(...[build(data)].flat().filter(Boolean));
  element.hidden = !element.childNodes.length;
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

export function section(title, ...children) {
  return make("section", {}, make("h2", {textContent: title}), ...children);
}

/** A table; cells are texts or elements, the first of a row names it. */
export function table(caption, columns, rows) {
  const head = columns.map(text => make("th", {scope: "col", textContent: text}));
  const body = rows.map(row => make("tr", {}, ...row.map((cell, place) => {
    const made = make(place ? "td" : "th", place ? {} : {scope: "row"});
    made.append(cell);
    made.dataset.label = columns[place];
    return made;
  })));
  return make("div", {className: "wide", tabIndex: 0, role: "region", "aria-label": caption},
    make("table", {}, make("caption", {textContent: caption}),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}

/** Names with values beside them. */
export function pairs(rows) {
  return make("dl", {}, ...rows.map(([name, value]) =>
    make("div", {}, make("dt", {textContent: name}), make("dd", {textContent: value}))));
}

/** Texts or elements, one a line. */
export function lines(texts) {
  return make("ul", {className: "plain"}, ...texts.map(text => make("li", {}, text)));
}

/** A chart as the server draws it: its own figures and words, never a text of the data. */
export function chart([title, html]) {
  const found = new DOMParser().parseFromString(html, "text/html").body;
  return make("figure", {}, make("figcaption", {textContent: title}), ...found.childNodes);
}

export function link(text, href, properties = {}) {
  const made = make("a", {textContent: text, href, ...properties});
  made.dataset.key = `${text} ${href}`;
  return made;
}

/** A text of several lines, as it is. */
export function block(text, label) {
  return make("pre", {textContent: text, tabIndex: 0, role: "region", "aria-label": label});
}

const WORDS = {running: "is running", stopping: "is stopping", done: "is done", stopped: "was stopped",
               refused: "was refused", failed: "failed"};

/** What became of a stage that was started here. */
export function job(one, named) {
  const sentence = `${one.stage}${named ? ` of ${one.run}` : ""} ${WORDS[one.state]}` +
    (one.state === "failed" ? ` (exit code ${one.code})` : "");
  const head = make("p", {}, badge(one.state), " ",
    named ? link(sentence, `#/run/${one.run}`) : sentence);
  const bad = ["refused", "failed"].includes(one.state);
  const said = bad || one.state === "stopped" ? make("pre", {className: bad ? "bad" : "",
    textContent: one.said, tabIndex: 0, role: bad ? "alert" : "region",
    "aria-label": `What ${one.stage} said`}) : "";
  const command = make("p", {className: "soft command", textContent: `$ ${one.command}`});
  const now = one.last_line ? make("p", {className: "command", textContent: one.last_line}) : "";
  return make("div", {className: `job ${one.state}`}, head, command, now, said);
}

const COLOURS = {running: "busy", stopping: "busy", refused: "bad", failed: "bad", done: "good"};

export function badge(text) {
  return make("span", {className: `badge ${COLOURS[text] ?? ""}`, textContent: text});
}
