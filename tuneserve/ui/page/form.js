// A form of a stage's settings: their descriptions, defaults and bounds are the settings' own.

import {$, button, make} from "./dom.js";
import {get, send} from "./api.js";
import {previewed} from "./preview.js";

const TITLES = {train: "New training", convert: "Convert", bench: "Benchmark"};
const STARTS = {train: "Start the training", convert: "Start the conversion", bench: "Start the benchmark"};
const NOT_SET = "(not set)";

export async function formView(stage, run) {
  const asked = run ? `?run=${encodeURIComponent(run)}` : "";
  const found = await get(`api/forms/${stage}${asked}`);
  const fields = found.sections.flatMap(one => one.fields.map(field =>
    fieldOf(one.name, field, found.values[one.name][field.name])));
  const title = run ? `${TITLES[stage] === "New training" ? "Train" : TITLES[stage]} ${run}`
    : TITLES[stage];
  const said = make("pre", {className: "bad", role: "alert", hidden: true});
  const shown = make("div", {"aria-live": "polite"});
  /** Take away what was wrong with what was tried before. */
  const forget = () => {
    said.hidden = true;
    if (shown.querySelector(".bad")) shown.replaceChildren();
  };
  const name = run ? null : make("input", {id: "run-name", required: true, maxLength: 100,
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", autocomplete: "off", spellcheck: false});
  const form = make("form", {className: "settings", "aria-label": title},
    ...(name ? [row("run-name", "Name of the run", "Letters, digits, '.', '_' and '-'.", name)] : []),
    ...(stage === "train" ? [recipeRow(found.recipes, stage, fields, forget, said)] : []),
    ...found.sections.map(one => sectionOf(one, fields.filter(field => field.section === one.name))),
    flagsOf(found.flags));
  const start = make("button", {textContent: STARTS[stage], className: "main"});
  const preview = stage === "train" ? [button("Preview the data", "Preview the data", event => {
    forget();
    previewed(shown, event.target, () => send("api/preview", {settings: chosen(fields)}));
  })] : [];
  form.append(make("div", {className: "actions"}, start, ...preview), said);
  // A field that is folded away can't say what is wrong with it.
  form.addEventListener("invalid", event => {
    for (const one of form.querySelectorAll("details")) if (one.contains(event.target)) one.open = true;
  }, true);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    start.disabled = true;
    forget();
    const target = run ?? name.value;
    try {
      await send(`api/runs/${encodeURIComponent(target)}/start`, {stage, settings: chosen(fields),
        flags: found.flags.map(one => one.name).filter(one => $(`flag-${one}`).checked)});
      location.hash = `#/run/${encodeURIComponent(target)}`;
    } catch (error) {
      said.textContent = error.message;
      said.hidden = false;
    }
    start.disabled = false;
  });
  return {title, elements: [make("h1", {textContent: title, tabIndex: -1}), form, shown]};
}

/** What is neither the default nor as the form began. */
function chosen(fields) {
  const tables = {};
  for (const field of fields) {
    const value = field.read(), text = JSON.stringify(value);
    if (text !== JSON.stringify(field.default) || text !== JSON.stringify(field.began))
      (tables[field.section] ??= {})[field.name] = value;
  }
  return tables;
}

function sectionOf(one, fields) {
  const first = fields.filter(field => field.first), others = fields.filter(field => !field.first);
  const more = others.length ? [make("details", {}, make("summary", {textContent:
    `${first.length ? "All other" : "All"} settings of [${one.name}] (${others.length})`}),
    ...others.map(field => field.element))] : [];
  return make("fieldset", {}, make("legend", {textContent: one.about.replace(/\.$/, "")}),
    ...first.map(field => field.element), ...more);
}

function flagsOf(flags) {
  return make("fieldset", {}, make("legend", {textContent: "Earlier results"}),
    ...flags.map(one => make("label", {className: "inline"},
      make("input", {type: "checkbox", id: `flag-${one.name}`}), ` ${one.does} (--${one.name})`)));
}

function row(id, label, about, input, note = "") {
  input.setAttribute("aria-describedby", `${id}-about`);
  return make("div", {className: "field"}, make("label", {htmlFor: id, textContent: label}), input,
    make("p", {id: `${id}-about`, className: "soft", textContent: [about, note].filter(Boolean)
      .join(" ")}));
}

function fieldOf(section, field, value) {
  const id = `${section}-${field.name}`, kind = KINDS[field.kind] ?? KINDS.text;
  const input = kind.make(field);
  input.id = id;
  const made = {...field, section, began: value, read: () => kind.read(input, field),
                write: now => kind.write(input, now, field)};
  made.write(value);
  made.element = row(id, field.name.replaceAll("_", " "), field.about, input, noteOf(field));
  return made;
}

function noteOf(field) {
  const {ge, gt, le, lt} = field.bounds;
  const low = ge !== undefined ? `from ${count(ge)}` : gt !== undefined ? `above ${count(gt)}` : "";
  const high = le !== undefined ? `to ${count(le)}` : lt !== undefined ? `below ${count(lt)}` : "";
  const word = Object.entries(field.words).find(([, number]) => number === field.default)?.[0];
  const shown = Array.isArray(field.default) ? field.default.join(", ") : field.default ?? "not set";
  return [`[--${field.option}`, [low, high].filter(Boolean).join(" "),
          shown === "" ? "" : `default ${word ?? shown}`].filter(Boolean).join("; ") + "]";
}

const count = number => Math.abs(number) < 10000 ? String(number) : number.toLocaleString("en");
const options = (names) => names.map(text => make("option", {value: text, textContent: text}));
const text = value => value === null ? "" : String(value);

/** How a setting of each kind is shown, read and written. */
const KINDS = {
  switch: {
    make: field => field.optional ? make("select", {}, ...options([NOT_SET, "true", "false"]))
      : make("input", {type: "checkbox"}),
    read: (input, field) => !field.optional ? input.checked
      : input.value === NOT_SET ? null : input.value === "true",
    write: (input, value, field) => {
      if (field.optional) input.value = value === null ? NOT_SET : String(value);
      else input.checked = value;
    },
  },
  choice: {
    make: field => make("select", {},
      ...options([...(field.optional ? [NOT_SET] : []), ...field.choices])),
    read: input => input.value === NOT_SET ? null : input.value,
    write: (input, value) => { input.value = value ?? NOT_SET; },
  },
  number: {make: numberInput, read: numberOf, write: writeNumber},
  integer: {make: numberInput, read: numberOf, write: writeNumber},
  list: {
    make: () => make("textarea", {rows: 2, spellcheck: false, placeholder: "one a line"}),
    read: input => input.value.split("\n").map(one => one.trim()).filter(Boolean),
    write: (input, value) => { input.value = value.join("\n"); },
  },
  numbers: {
    make: () => make("input", {spellcheck: false, placeholder: "numbers between commas"}),
    read: input => input.value.split(",").map(one => one.trim()).filter(Boolean).map(Number),
    write: (input, value) => { input.value = value.join(", "); },
  },
  text: {
    make: field => field.name === "system" ? make("textarea", {rows: 2})
      : make("input", {spellcheck: false, autocomplete: "off"}),
    read: (input, field) => input.value === "" && field.optional ? null : input.value,
    write: (input, value) => { input.value = text(value); },
  },
};

function numberInput(field) {
  if (Object.keys(field.words).length)
    return make("input", {pattern: `-?\\d+|${Object.keys(field.words).join("|")}`, required: true,
                          title: `a number, or ${Object.keys(field.words).join(", ")}`});
  const {ge, le} = field.bounds;
  return make("input", {type: "number", step: field.kind === "integer" ? "1" : "any",
    required: !field.optional, ...(ge === undefined ? {} : {min: ge}),
    ...(le === undefined ? {} : {max: le})});
}

function numberOf(input, field) {
  if (input.value.trim() === "") return null;
  return field.words[input.value.trim()] ?? Number(input.value);
}

function writeNumber(input, value, field) {
  input.value = Object.entries(field.words).find(([, one]) => one === value)?.[0] ?? text(value);
}

/** Fill the form with a recipe. */
function recipeRow(recipes, stage, fields, forget, said) {
  const input = make("input", {id: "recipe", spellcheck: false, autocomplete: "off"});
  input.setAttribute("list", "recipes");
  const load = button("Fill in", "Fill in from the recipe", async () => {
    forget();
    try {
      const {values} = await send(`api/recipe/${stage}`, {recipe: input.value});
      for (const field of fields) field.write(values[field.section][field.name]);
    } catch (error) {
      said.textContent = error.message;
      said.hidden = false;
    }
  });
  const list = make("datalist", {id: "recipes"}, ...options(recipes));
  const made = row("recipe", "Start from a recipe",
    `A TOML file (of tuneserve init, perhaps), or a shipped one: ${recipes.join(", ")}.`, input);
  input.after(load, list);
  return made;
}
