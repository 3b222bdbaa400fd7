// The table: a list of rows of one height, of which only those in sight are in the page, and one
// open row with everything about its prompt.

const list = document.getElementById("list");
const canvas = document.getElementById("rows");
const OVERSCAN = 6, SNIPPET = 280;
const MARKS = { won: "▲ won", lost: "▼ lost", right: "✓ both right", wrong: "✗ both wrong", alike: "= alike", "": "–" };

let shown = [];        // rows after filters, in order
let active = 0;        // place in `shown`
let open = null;       // the open row's element and place: {place, element, height}
let rowHeight = 80;     // as the style sheet says
const drawn = new Map();  // place -> element

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const titled = name => name[0].toUpperCase() + name.slice(1);
/** A contender's name at the beginning: names of runs and files stay as they are. */
const called = name => ["base", "tuned", "base again", "endpoint"].includes(name) ? titled(name) : name;
const scoreMark = score => score === null ? "–" : score === 1 ? "✓" : score === 0 ? "✗" : score.toFixed(2);
const scoreStyle = score => score === 1 ? "right" : score === 0 ? "wrong" : "part";

function snippet(text) {
  const short = text.length > SNIPPET ? text.slice(0, SNIPPET) + "…" : text;
  return short.replace(/\s+/g, " ");
}

/** What is to be known about how an answer ended. */
function endingsOf(given, row) {
  const found = [];
  if (endings.thought(given, row)) found.push("thought never ended");
  else if (endings.cut(given, row)) found.push("cut off");
  if (endings.failed(given, row)) found.push("failed");
  else if (endings.empty(given, row)) found.push("empty");
  else if (endings.unread(given, row)) found.push("nothing found");
  else if (endings.unclassed(given, row)) found.push("no class");
  if (endings.several(given, row)) found.push("several found");
  return found;
}

function badges(given, row) {
  return endingsOf(given, row).flatMap(text => [make("span", { className: "badge" }, text), " "]);
}

const topOf = place => place * rowHeight + (open && place > open.place ? open.height : 0);

function makeRow(place) {
  const row = shown[place], { reference, answers } = textsOf(row), start = sharedStart(figures.task[row]);
  const outcome = outcomeOf(row, chosen.ours, chosen.theirs);
  const cell = (name, ...children) => make("div", { role: "gridcell", className: name, dir: "auto" }, ...children);
  const element = make("div", {
    role: "row", id: `row-${place}`, className: `answer-row is-${outcome}`, "aria-level": 1,
    "aria-rowindex": place + 2, "aria-expanded": String(open?.place === place),
  },
  cell("outcome", MARKS[outcome]),
  cell("asked", snippet(askedIn(row).slice(start) && (start ? "… " : "") + askedIn(row).slice(start))),
  cell("wanted", make("i", {}, "Reference "), snippet(reference)),
  ...contenders.map((given, number) => {
    const score = given.score[row];
    if (score === null || !answers[number]) return cell("given", make("i", {}, called(given.name) + " "), "not asked");
    return cell("given", make("i", {}, called(given.name) + " "),
      make("b", { className: scoreStyle(score) }, scoreMark(score)), " ",
      ...badges(given, row), snippet(answers[number][0]));
  }));
  element.addEventListener("click", () => { activate(place); toggle(place); });
  return element;
}

/** The place of the row, or of the open row's details, at a height. */
function placeAt(y) {
  const after = open && y > topOf(open.place) + rowHeight;
  return Math.floor((after ? Math.max(y - open.height, (open.place + 1) * rowHeight) : y) / rowHeight);
}

/** The places of the rows in sight and around, and of the active one, which has to be there. */
function placesToDraw() {
  const top = list.scrollTop, places = [];
  const first = Math.max(0, placeAt(top) - OVERSCAN);
  const last = Math.min(shown.length - 1, placeAt(top + list.clientHeight) + OVERSCAN);
  if (active < first && active < shown.length) places.push(active);
  for (let place = first; place <= last; place++) places.push(place);
  if (active > last && active < shown.length) places.push(active);
  return places;
}

/** Puts the rows in sight into the page and takes the others out. */
function draw() {
  const wanted = placesToDraw(), kept = new Set(wanted);
  for (const [place, element] of drawn) {
    if (!kept.has(place)) { element.remove(); drawn.delete(place); }
  }
  let next = null;
  for (const place of wanted.reverse()) {
    let element = drawn.get(place);
    if (!element) {
      element = makeRow(place);
      drawn.set(place, element);
      canvas.insertBefore(element, next);
    }
    element.style.top = `${topOf(place)}px`;
    element.classList.toggle("active", place === active);
    element.setAttribute("aria-expanded", String(open?.place === place));
    next = element;
  }
  if (open) {
    open.element.style.top = `${topOf(open.place) + rowHeight}px`;
    const after = drawn.get(open.place + 1) || null;
    if (open.element.parentNode !== canvas) canvas.insertBefore(open.element, after);
  }
  canvas.style.height = `${shown.length * rowHeight + (open ? open.height : 0)}px`;
  if (drawn.has(active)) list.setAttribute("aria-activedescendant", `row-${active}`);
  else list.removeAttribute("aria-activedescendant");
  markFound();
}

/** Lays everything out again: other rows, or rows of another height. */
function layOut() {
  const probe = make("div", { className: "answer-row" });
  canvas.append(probe);
  rowHeight = probe.offsetHeight;
  probe.remove();
  drawn.forEach(element => element.remove());
  drawn.clear();
  list.setAttribute("aria-rowcount", shown.length + 1);
  draw();
}

const roomForRows = () => list.clientHeight - document.getElementById("head").offsetHeight;
let roomBefore = 0;    // when the list was last measured

/** Lays everything out again for a list of another size. The active row with its details, if it is
 *  in sight, stays there; else the first row in sight does. */
function fit() {
  const sightAt = topOf(active) - list.scrollTop;
  const inSight = sightAt < roomBefore && sightAt + rowHeight + (open?.place === active ? open.height : 0) > 0;
  const anchor = inSight ? active : Math.max(0, placeAt(list.scrollTop));
  const offset = topOf(anchor) - list.scrollTop;
  if (open) open.height = open.element.offsetHeight;
  layOut();
  roomBefore = roomForRows();
  list.scrollTop = topOf(anchor) - Math.max(0, Math.min(offset, roomBefore - rowHeight));
  draw();
}

function activate(place) {
  active = Math.max(0, Math.min(shown.length - 1, place));
  const top = topOf(active), room = roomForRows();
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + rowHeight > list.scrollTop + room) list.scrollTop = top + rowHeight - room;
  draw();
}

function close() {
  if (!open) return;
  const held = open.element.contains(document.activeElement);
  sizes.unobserve(open.element);
  open.element.remove();
  open = null;
  if (held) list.focus();
  draw();
}

function toggle(place) {
  const again = open?.place === place;
  close();
  if (again || !shown.length) return;
  const element = makeDetail(shown[place]);
  open = { place, element, height: 0 };
  canvas.append(element);
  open.height = element.offsetHeight;
  sizes.observe(element);
  const room = roomForRows();
  const end = topOf(place) + rowHeight + open.height;
  list.scrollTop = Math.min(topOf(place), Math.max(list.scrollTop, end - room));
  draw();
}

// In the next frame: to lay out amid the notice would be noticed again.
const sizes = new ResizeObserver(entries => requestAnimationFrame(() => {
  for (const { target } of entries) {
    if (target === list) fit();
    else if (open && target === open.element && open.height !== target.offsetHeight) {
      open.height = target.offsetHeight;
      draw();
    }
  }
}));
sizes.observe(list);
list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });

list.addEventListener("keydown", event => {
  if (event.key === "Escape" && open) { close(); event.preventDefault(); return; }
  if (event.target !== list || event.ctrlKey || event.metaKey || event.altKey) return;
  // A row that is seen in part at the end of a page begins the next one.
  const page = Math.max(1, Math.floor(roomForRows() / rowHeight));
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -shown.length, End: shown.length };
  if (event.key in steps) {
    const reading = open !== null;
    close();
    if (event.key.startsWith("Page")) list.scrollTop += steps[event.key] * rowHeight;
    activate(active + steps[event.key]);
    if (reading) toggle(active);
  } else if (event.key === "Enter" || event.key === " ") toggle(active);
  else if (event.key === "ArrowRight" && open?.place !== active) toggle(active);
  else if (event.key === "ArrowLeft" && open) close();
  else return;
  event.preventDefault();
});
