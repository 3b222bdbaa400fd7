"use strict";
// Elements, and what is copied and saved.

const $ = id => document.getElementById(id);

/** An element with these properties and children; texts stay texts. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function button(text, label, act) {
  const made = make("button", {type: "button", textContent: text, onclick: act});
  if (label !== text) made.setAttribute("aria-label", label);
  return made;
}

/** Copy a text. Without TLS, browsers give no clipboard but that of a selection. */
async function copy(text, from) {
  let copied = false;
  try {
    await navigator.clipboard.writeText(text);
    copied = true;
  } catch {
    const area = make("textarea", {value: text, className: "unseen"});
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
    from.focus();
  }
  const former = from.textContent;
  from.textContent = copied ? "Copied" : "Not copied";
  setTimeout(() => { from.textContent = former; }, 1500);
}

/** Have the browser save a text as a file. */
function download(name, type, text) {
  const link = make("a", {download: name, href: URL.createObjectURL(new Blob([text], {type}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
