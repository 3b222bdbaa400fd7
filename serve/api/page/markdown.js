"use strict";
// Markdown's blocks, as elements (see inline.js): paragraphs, headings, lists, quotations, code,
// tables. Line breaks and spaces in a paragraph stay, as in what models write.

const MOST_NESTED = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const QUOTE = /^ {0,3}> ?/;
const CODE = /^(?: {4}|\t)/;

const isBlank = line => line.trim() === "";
const isRule = line => /^(?:-{3,}|\*{3,}|_{3,})$/.test(line.replace(/[ \t]/g, ""));
const isTable = (line, next) =>
  line.includes("|") && next !== undefined && next.includes("-") && /^[ \t|:-]+$/.test(next) &&
  next.includes("|");
const starts = (line, next) =>
  isBlank(line) || FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || isRule(line) ||
  ITEM.test(line) || isTable(line, next);

/** A text as a fragment. */
function markdown(text) {
  const fragment = document.createDocumentFragment();
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), fragment, 0);
  return fragment;
}

function blocks(lines, parent, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (isBlank(line)) at++;
    else if (FENCE.test(line)) at = fenced(lines, at, parent);
    else if (HEADING.test(line)) at = heading(lines, at, parent);
    else if (isRule(line)) { parent.append(make("hr")); at++; }
    else if (depth < MOST_NESTED && QUOTE.test(line)) at = quotation(lines, at, parent, depth);
    else if (depth < MOST_NESTED && ITEM.test(line)) at = list(lines, at, parent, depth);
    else if (isTable(line, lines[at + 1])) at = table(lines, at, parent);
    else if (CODE.test(line)) at = indented(lines, at, parent);
    else at = paragraph(lines, at, parent);
  }
}

function codeBlock(text, language) {
  const copies = button("Copy", "Copy the code", () => copy(text, copies));
  const pre = make("pre", {tabIndex: 0, role: "group", "aria-label": "Code"},
                   make("code", {textContent: text}));
  return make("figure", {className: "code"},
              make("figcaption", {}, make("span", {textContent: language}), copies), pre);
}

/** A fence that is not closed yet ends with the text. */
function fenced(lines, at, parent) {
  const [, mark, language] = FENCE.exec(lines[at]);
  const indent = lines[at].length - lines[at].trimStart().length;
  const held = [];
  for (at++; at < lines.length; at++) {
    const line = lines[at].trim();
    if (line.length >= mark.length && line === mark[0].repeat(line.length)) break;
    const spaces = lines[at].length - lines[at].trimStart().length;
    held.push(lines[at].slice(Math.min(indent, spaces)));
  }
  parent.append(codeBlock(held.join("\n"), language));
  return at + 1;
}

function indented(lines, at, parent) {
  const held = [];
  while (at < lines.length && (CODE.test(lines[at]) || isBlank(lines[at])))
    held.push(lines[at++].replace(CODE, ""));
  while (isBlank(held[held.length - 1])) held.pop();
  parent.append(codeBlock(held.join("\n"), ""));
  return at;
}

/** The page's own headings stand above them: its name, and the column's. */
function heading(lines, at, parent) {
  const level = HEADING.exec(lines[at])[1].length;
  let text = lines[at].trim().slice(level).trim();
  while (text.endsWith("#")) text = text.slice(0, -1);
  const element = make(`h${Math.min(6, level + 2)}`);
  inline(text.trim(), element);
  parent.append(element);
  return at + 1;
}

function quotation(lines, at, parent, depth) {
  const held = [];
  while (at < lines.length && (QUOTE.test(lines[at]) ||
                               (held.length && !starts(lines[at], lines[at + 1]))))
    held.push(lines[at++].replace(QUOTE, ""));
  const element = make("blockquote");
  blocks(held, element, depth + 1);
  parent.append(element);
  return at;
}

function list(lines, at, parent, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const element = make(ordered ? "ol" : "ul");
  if (ordered && first[2] !== "1." && first[2] !== "1)") element.start = parseInt(first[2], 10);
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || isRule(lines[at]) || item[1].length < base || item[1].length > base + 1 ||
        /\d/.test(item[2]) !== ordered) break;
    const width = base + item[2].length + 1;
    const held = [lines[at++].slice(item[0].length)];
    let empty = false;
    for (; at < lines.length; at++) {
      const line = lines[at];
      const inside = line.length - line.trimStart().length >= base + 2;
      if (isBlank(line)) empty = true;
      else if (!inside && (empty || starts(line, lines[at + 1]))) break;
      else empty = false;
      held.push(inside ? line.slice(Math.min(width, line.length - line.trimStart().length)) : line);
    }
    const loose = held.slice(0, -1).some(isBlank);
    const entry = make("li");
    blocks(held, entry, depth + 1);
    const only = entry.firstElementChild;
    if (!loose && only?.tagName === "P") only.replaceWith(...only.childNodes);
    element.append(entry);
  }
  parent.append(element);
  return at;
}

const cells = line => {
  const found = [""];
  const text = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\" && text[at + 1] === "|") found[found.length - 1] += text[++at];
    else if (text[at] === "|") found.push("");
    else found[found.length - 1] += text[at];
  }
  return found.map(cell => cell.trim());
};

function table(lines, at, parent) {
  const columns = cells(lines[at]).length;
  const row = (line, tag) => {
    const element = make("tr");
    const held = cells(line);
    for (let column = 0; column < columns; column++) {
      const cell = make(tag);
      inline(held[column] ?? "", cell);
      element.append(cell);
    }
    return element;
  };
  const body = make("tbody");
  const made = make("table", {}, make("thead", {}, row(lines[at], "th")), body);
  for (at += 2; at < lines.length && lines[at].includes("|"); at++) body.append(row(lines[at], "td"));
  parent.append(make("div", {className: "wide", tabIndex: 0, role: "group",
                             "aria-label": "Table"}, made));
  return at;
}

function paragraph(lines, at, parent) {
  const held = [lines[at++].trim()];
  while (at < lines.length && !starts(lines[at], lines[at + 1])) held.push(lines[at++].trimEnd());
  const element = make("p");
  inline(held.join("\n"), element);
  parent.append(element);
  return at;
}
