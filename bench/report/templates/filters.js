// Filters, search, order and downloads: what they choose, and the counts beside them.

const form = document.getElementById("filters");
const field = name => form.elements[name];

function options(select, names, values = names.map((_, number) => number)) {
  names.forEach((name, place) => select.append(make("option", { value: values[place] }, name)));
  if (select.options.length < 2) select.closest("label").hidden = true;
}

function fillFilters() {
  options(field("task"), figures.tasks);
  options(field("group"), figures.groups.names);
  options(field("source"), figures.sources.names);
  options(field("who"), contenders.map(({ name }) => called(name)));
  const pairs = contenders.flatMap((_, a) => contenders.map((_, b) => [a, b])).filter(([a, b]) => a > b);
  options(field("pair"), pairs.map(([a, b]) => `${called(contenders[a].name)} against ${contenders[b].name}`),
    pairs.map(pair => pair.join()));
  field("task").value = "0";
}

/** Takes up what the form says and shows it. */
function apply() {
  for (const name of ["task", "group", "source", "ending", "who", "order"]) chosen[name] = field(name).value;
  chosen.typed = field("typed").value;
  chosen.outcome = field("outcome").value;
  [chosen.ours, chosen.theirs] = field("pair").value.split(",").map(Number);
  chosen.descending = field("descending").getAttribute("aria-pressed") === "true";
  const kept = keptRows(), counts = countOutcomes(kept);
  const rows = chosen.outcome === "all" ? kept
    : kept.filter(row => outcomeOf(row, chosen.ours, chosen.theirs) === chosen.outcome);
  close();
  shown = ordered(rows);
  active = 0;
  list.scrollTop = 0;
  for (const chip of form.querySelectorAll("[name=outcome]")) {
    const count = chip.value === "all" ? kept.length : counts[chip.value];
    chip.nextElementSibling.lastElementChild.textContent = count.toLocaleString("en");
    chip.parentNode.hidden = chip.value === "alike" && !count && !chip.checked;
  }
  document.getElementById("count").textContent =
    `${shown.length.toLocaleString("en")} of ${rowCount.toLocaleString("en")} prompts`;
  document.getElementById("none").hidden = shown.length > 0;
  const cell = document.getElementById("cell");
  cell.hidden = !chosen.cell;
  if (chosen.cell) {
    const { model, reference, answer } = chosen.cell;
    cell.textContent = `${reference ?? "no class"}, of which ${contenders[model].name} says ${answer || "none of the classes"} ✕`;
  }
  layOut();
}

/** Marks what was searched for in the rows in sight, as the search finds it. */
function markFound() {
  if (!("highlights" in CSS)) return;
  CSS.highlights.delete("found");
  const words = wordsTyped();
  if (!words.length) return;
  const ranges = [], texts = document.createTreeWalker(canvas, NodeFilter.SHOW_TEXT, isSearched);
  while (texts.nextNode() && ranges.length < 2000) {
    const node = texts.currentNode, folded = fold(node.data);
    const found = words.filter(word => placeOf(word, folded) >= 0);
    if (found.length) ranges.push(...found.flatMap(word => rangesOf(word, node)));
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

/** Not what the page says about a row: its outcome, ids, scores, headings. */
const isSearched = node => node.parentNode.closest(".outcome, .badge, small, h4, i, b, summary")
  ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT;

const places = new WeakMap();

function rangesOf(word, node) {
  if (!places.has(node)) places.set(node, foldedPlaces(node.data));
  const { units, starts, ends } = places.get(node), ranges = [];
  for (let at = placeOf(word, units); at >= 0; at = placeOf(word, units, at + word.length)) {
    const range = new Range();
    range.setStart(node, starts[at]);
    range.setEnd(node, ends[at + word.length - 1]);
    ranges.push(range);
  }
  return ranges;
}

form.addEventListener("input", apply);
form.addEventListener("submit", event => event.preventDefault());
field("descending").addEventListener("click", event => {
  const button = event.currentTarget, pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", pressed);
  button.textContent = pressed ? "↓" : "↑";
  apply();
});
document.getElementById("cell").addEventListener("click", () => { chosen.cell = null; apply(); field("typed").focus(); });
document.getElementById("csv").addEventListener("click", () => download(`${figures.run}.csv`, "text/csv", asCsv(shown)));
document.getElementById("jsonl").addEventListener("click", () =>
  download(`${figures.run}.jsonl`, "application/jsonl", asJsonLines(shown)));
// From the search into the rows found.
field("typed").addEventListener("keydown", event => {
  if (event.key !== "ArrowDown" || !shown.length) return;
  event.preventDefault();
  list.focus();
});
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
  event.preventDefault();
  field("typed").focus();
});
// A cell of a confusion matrix shows its prompts.
for (const button of document.querySelectorAll("button[data-model]")) {
  button.addEventListener("click", () => {
    form.reset();
    field("task").value = "0";
    const { model, reference, answer } = button.dataset;
    chosen.cell = {
      model: contenders.findIndex(given => given.name === model),
      reference: reference === "" ? null : reference, answer,
    };
    apply();
    document.getElementById("answers").scrollIntoView();
    list.focus({ preventScroll: true });
  });
}
fillFilters();
apply();
document.documentElement.classList.add("interactive");
// Searching starts at once where the texts were made ready while nothing else was to do.
let ready = 0;
function prepare(deadline) {
  while (ready < rowCount && deadline.timeRemaining() > 2) searchable(ready++);
  if (ready < rowCount) requestIdleCallback(prepare);
}
if (window.requestIdleCallback) requestIdleCallback(prepare);
