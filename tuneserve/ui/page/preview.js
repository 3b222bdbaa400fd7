// Examples with what is trained, counts, and what was changed or left out.

import {make} from "./dom.js";
import {lines, table} from "./parts.js";

/** Ask for a preview, and show it, or why there is none. */
export async function previewed(shown, asker, ask) {
  asker.disabled = true;
  const began = Date.now();
  // Seconds that count up are not read aloud each time.
  const passed = make("span", {"aria-hidden": "true"});
  const count = setInterval(() => {
    passed.textContent = ` ${Math.round((Date.now() - began) / 1000)} s`;
  }, 1000);
  shown.replaceChildren(make("p", {className: "soft"},
    "Reading the data, and encoding it as the base's tokenizer does…", passed));
  shown.scrollIntoView({block: "nearest"});
  try {
    shown.replaceChildren(...preview(await ask()));
  } catch (error) {
    shown.replaceChildren(make("pre", {className: "bad", role: "alert", textContent: error.message}));
  }
  clearInterval(count);
  shown.scrollIntoView({block: "nearest"});
  asker.disabled = false;
}

function preview(found) {
  const refusal = found.refusal ? [make("pre", {className: "bad", role: "alert",
    textContent: found.refusal})] : [];
  const legend = make("p", {className: "legend-words"}, make("mark", {textContent: "is trained"}), " ",
    make("span", {className: "special", textContent: "special token"}), " ",
    make("span", {className: "context", textContent: "is only read"}));
  return [...refusal, ...found.shown.length ? [legend] : [], ...found.shown.map(example), counts(found),
    table("Kinds of examples", ["kind", "train", "eval", "test"], found.kinds.map(one =>
      [one.name, ...["train", "eval", "test"].map(part => (one.examples[part] ?? 0).toLocaleString())])),
    lines([...found.notes, ...count(found.duplicates, "removed as duplicates"),
      ...count(found.near_duplicates, "removed as near duplicates of held-out ones"),
      ...reasons(found.near), ...count(found.unusable, "left out as unusable (skip_bad)"),
      ...reasons(found.refused)])];
}

const count = (number, what) => number ? [`${number.toLocaleString()} x ${what}`] : [];
const MOST_REASONS = 20;

/** Below what was counted: of which, and why. */
function reasons(texts) {
  const more = texts.length - MOST_REASONS;
  return [...texts.slice(0, MOST_REASONS), ...more > 0 ? [`… and ${more} more`] : []]
    .map(text => make("span", {className: "reason", textContent: text}));
}

function example(one) {
  const cut = one.length_before_cut > one.tokens ? `, cut from ${one.length_before_cut}` : "";
  const held = one.part === "train" ? "" : `; held out for '${one.part}'`;
  const text = make("pre", {className: "example", tabIndex: 0, role: "region",
    "aria-label": `Example: ${one.kind}`});
  for (const piece of one.pieces) {
    const tag = piece.trained ? "mark" : "span";
    text.append(make(tag, {className: piece.kind === "special" ? "special" : "context",
      textContent: piece.text}));
  }
  return make("figure", {}, make("figcaption", {textContent: `${one.kind} · ${one.where} · ` +
    `${one.tokens} tokens, ${one.trained_tokens} of them trained${cut}${held}`}), text);
}

function counts(found) {
  const rows = Object.entries(found.counts).filter(([, part]) => part.examples).map(([name, part]) =>
    [name, part.examples, part.tokens, part.trained_tokens, part.truncated ?? 0,
     part.trained_tokens_lost ?? 0].map(one => one.toLocaleString()));
  return table("What will be trained", ["split", "examples", "tokens", "trained", "cut",
    "trained tokens lost"], rows);
}
