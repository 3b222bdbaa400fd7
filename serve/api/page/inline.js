"use strict";
// Markdown within a line, as elements. What a model wrote may be anything: it becomes text nodes and
// the elements made here, never HTML, and a link leads to http, https or mailto alone.

const DEEPEST = 6;
const LONGEST_LINK = 2000;

function safeAddress(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;  // also what is relative: it would lead to this server
  }
}

function link(address, ...children) {
  return make("a", {href: address, title: address, target: "_blank",
                    rel: "noopener noreferrer nofollow"}, ...children);
}

/** Append a text to an element. Each mark that opens something is looked for once: one that is
 *  closed nowhere is remembered, so that a text of such marks takes no longer. */
function inline(text, parent, depth = 0) {
  const unclosed = new Set();
  let plain = "", at = 0;
  const flush = () => { if (plain) parent.append(plain); plain = ""; };
  const add = element => { flush(); parent.append(element); };

  const closing = (mark, from) => {
    if (unclosed.has(mark)) return -1;
    const [sign] = mark;
    for (let end = text.indexOf(mark, from); end !== -1; end = text.indexOf(mark, end + 1)) {
      let after = end + mark.length;
      while (text[after] === sign) after++;
      const run = after - end;
      const inWord = sign === "_" && /[\p{L}\p{N}]/u.test(text[after] ?? "");
      // Of a longer run the last marks close; of one that is not this mark's, none does.
      if (end > from && !inWord && !/\s/.test(text[end - 1]) && (mark.length > 1 || run !== 2))
        return after - mark.length;
      end = after - 1;
    }
    unclosed.add(mark);
    return -1;
  };

  const code = () => {
    let marks = 1;
    while (text[at + marks] === "`") marks++;
    const mark = "`".repeat(marks);
    let end = unclosed.has(mark) ? -1 : text.indexOf(mark, at + marks);
    while (end !== -1 && text[end + marks] === "`") {
      let next = end + marks;
      while (text[next] === "`") next++;
      end = text.indexOf(mark, next);
    }
    if (end === -1) {
      unclosed.add(mark);
      plain += mark;
      at += marks;
      return;
    }
    const held = text.slice(at + marks, end);
    const spaced = held.length > 2 && held.startsWith(" ") && held.endsWith(" ");
    add(make("code", {textContent: spaced ? held.slice(1, -1) : held}));
    at = end + marks;
  };

  const emphasis = (mark, tag) => {
    const from = at + mark.length;
    // One mark within a word or a sum (snake_case, 2*3*4) is none.
    const inWord = mark.length === 1 && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "");
    const end = inWord || /\s|^$/.test(text[from] ?? "") ? -1 : closing(mark, from);
    if (end === -1 || depth >= DEEPEST) return false;
    const element = make(tag);
    inline(text.slice(from, end), element, depth + 1);
    add(element);
    at = end + mark.length;
    return true;
  };

  const named = () => {
    const found = /^!?\[([^[\]]*)\]\(\s*<?([^\s<>()]+)>?(?:\s+"[^"]*")?\s*\)/.exec(
      text.slice(at, at + LONGEST_LINK));
    const address = found && safeAddress(found[2]);
    if (!address) return false;
    const element = link(address);
    inline(found[1] || address, element, DEEPEST);
    add(element);
    at += found[0].length;
    return true;
  };

  while (at < text.length) {
    const here = text[at];
    if (here === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (here === "`") {
      code();
    } else if ((here === "[" || (here === "!" && text[at + 1] === "[")) && depth < DEEPEST &&
               named()) {
      continue;
    } else if (here === "*" || here === "_" || here === "~") {
      const twice = text[at + 1] === here;
      const mark = twice ? here + here : here;
      const tag = here === "~" ? twice && "s" : twice ? "strong" : "em";
      if (!tag || !emphasis(mark, tag)) {
        plain += mark;
        at += mark.length;
      }
    } else if (here === "h" && depth < DEEPEST && /^https?:\/\//.test(text.slice(at, at + 8))) {
      const whole = /^[^\s<>()"'`*]+/.exec(text.slice(at, at + LONGEST_LINK))[0];
      const address = whole.replace(/[.,;:!?]{1,20}$/, "");
      const safe = safeAddress(address);
      if (safe) add(link(safe, address)); else plain += address;
      at += address.length;
    } else {
      plain += here;
      at++;
    }
  }
  flush();
}
