// The page's rows: figures in columns, texts in blocks that are parsed when they are first needed;
// what filters keep, and in which order.

const figures = JSON.parse(document.getElementById("figures").textContent);
const contenders = figures.contenders;
const rowCount = figures.id.length;
const blocks = [...document.querySelectorAll("script.texts")];
const parsed = [], folded = [];

/** A row's texts: its messages, the reference and every contender's [answer, thoughts] or null. */
function textsOf(row) {
  const number = Math.floor(row / figures.block_rows);
  if (!parsed[number]) {
    parsed[number] = JSON.parse(blocks[number].textContent);
    blocks[number].textContent = "";
  }
  const [prompt, reference, answers] = parsed[number][row % figures.block_rows];
  return { prompt, reference, answers };
}

/** Text as it is searched: without case, width or what is not seen. Upper case, as ß and ς have no
 * other partners; the Turkish İ is an I, as its ı is, and the capital ẞ two S, as its ß is. Greek
 * loses its accents, which capitals are written without. */
const fold = text => withoutAccents(text.replace(UNSEEN, "").replace(APOSTROPHES, "'")).normalize("NFKC")
  .toUpperCase().replace(/\u0130|I\u0307/g, "I").replaceAll("\u1e9e", "SS");

// Soft hyphens, joiners, spaces of no width, marks of direction; and what is typed as an apostrophe.
const UNSEEN = /\p{Default_Ignorable_Code_Point}/gu, APOSTROPHES = /[\u00b4\u02bc\u2018\u2019\u201b\u2032]/g;

function withoutAccents(text) {
  if (!/\p{sc=Greek}/u.test(text)) return text;
  return text.normalize("NFD").replace(/(\p{sc=Greek})[\u0300-\u0344\u0346-\u036f]+/gu, "$1");
}

// What is folded by itself: a character with its marks, the letters of a Korean syllable, each with
// what is not seen in it.
const FOLDED_ALONE = /[\u1100-\u11ff][\u1100-\u11ff\p{Default_Ignorable_Code_Point}]*|\P{M}[\p{M}\p{Default_Ignorable_Code_Point}]*|\p{M}+/gsu;

/** A text as it is searched, and where in the text each of its units begins and ends. */
function foldedPlaces(text) {
  const starts = [], ends = [];
  let units = "";
  for (const { 0: piece, index } of text.matchAll(FOLDED_ALONE)) {
    const more = fold(piece);
    for (let unit = 0; unit < more.length; unit++) {
      starts.push(index);
      ends.push(index + piece.length);
    }
    units += more;
  }
  return { units, starts, ends };
}

/** What was typed into the search, as it is searched: words, and what stands in quotes. */
const wordsTyped = () => (chosen.typed.match(/"[^"]+"|\S+/g) || [])
  .map(word => fold(word.replaceAll('"', ""))).filter(Boolean);

/** Where a word is next found in a folded text from a place on, or -1: anywhere in a word, since not
 * every script parts them, but a number only where one begins (17 is not in 117). */
function placeOf(word, text, from = 0) {
  let at = text.indexOf(word, from);
  if (/\p{Nd}/u.test(word[0])) {
    while (at > 0 && /\p{Nd}/u.test(text[at - 1])) at = text.indexOf(word, at + 1);
  }
  return at;
}

/** What a reader sees of a row, as it is searched: the prompt, the reference and the answers. */
function searchable(row) {
  if (folded[row] === undefined) {
    const { prompt, reference, answers } = textsOf(row);
    const parts = [...prompt.map(spoken), reference, ...answers.flatMap(given => given || [])];
    folded[row] = fold(parts.join("\n"));
  }
  return folded[row];
}

/** What a message says; calls of tools and other parts as JSON. */
function spoken(message) {
  const { role, content, ...rest } = message;
  const text = typeof content === "string" || content == null ? content || "" : JSON.stringify(content);
  return Object.keys(rest).length ? `${text}\n${JSON.stringify(rest)}`.trim() : text;
}

/** The last message of the prompt, which asks. */
const askedIn = row => textsOf(row).prompt.map(spoken).at(-1) || "";

const starts = [];

/** How many characters most prompts of a task begin with alike: an instruction that is in the way
 *  where rows have little room. Told from up to 40 of them; 0 where it is short. */
function sharedStart(task) {
  if (starts[task] !== undefined) return starts[task];
  const rows = figures.task.flatMap((number, row) => number === task ? [row] : []);
  const step = Math.ceil(rows.length / 40);
  const texts = rows.filter((_, place) => place % step === 0).map(askedIn);
  let length = texts.length > 2 ? Math.min(...texts.map(text => text.length)) : 0;
  while (length && texts.some(text => !text.startsWith(texts[0].slice(0, length)))) length--;
  while (length && /\S/.test(texts[0][length - 1])) length--;
  return starts[task] = length < 24 ? 0 : length;
}

const nameIn = column => row => column.rows[row] === null ? null : column.names[column.rows[row]];
const groupOf = nameIn(figures.groups), sourceOf = nameIn(figures.sources);

/** "won", "lost", "right", "wrong" (both), "alike" (the same score between), or "" if not asked. */
function outcomeOf(row, ours, theirs) {
  const a = contenders[ours].score[row], b = contenders[theirs].score[row];
  if (a === null || b === null) return "";
  if (a !== b) return a > b ? "won" : "lost";
  return a === 1 ? "right" : a === 0 ? "wrong" : "alike";
}

const endings = {
  cut: (given, row) => given.finish[row] === "length" || given.cut[row] === 1,
  thought: (given, row) => given.cut[row] === 1,
  empty: (given, row) => given.empty[row] === 1,
  unread: (given, row) => given.found[row] === "none",
  unclassed: (given, row) => given.read[row] === "" && given.found[row] !== "none",
  several: (given, row) => given.found[row] === "several",
  failed: (given, row) => given.problem[row] !== "",
};

/** Nats per token of the reference; null where it was not measured. */
function surprise(given, row) {
  return given.nll[row] === null ? null : given.nll[row] / Math.max(1, given.nll_tokens[row]);
}

const chosen = {
  outcome: "all", task: "0", group: "", source: "", ending: "", who: "", typed: "",
  cell: null, ours: 1, theirs: 0, order: "file", descending: false,
};

/** Rows that all filters but the outcome's keep. */
function keptRows() {
  const words = wordsTyped();
  const asked = chosen.who === "" ? contenders : [contenders[chosen.who]];
  const ends = endings[chosen.ending], cell = chosen.cell;
  const kept = [];
  for (let row = 0; row < rowCount; row++) {
    if (chosen.task !== "" && figures.task[row] !== +chosen.task) continue;
    if (chosen.group !== "" && figures.groups.rows[row] !== +chosen.group) continue;
    if (chosen.source !== "" && figures.sources.rows[row] !== +chosen.source) continue;
    if (ends && !asked.some(given => given.score[row] !== null && ends(given, row))) continue;
    if (cell && (figures.reference_class[row] !== cell.reference ||
        contenders[cell.model].read[row] !== cell.answer)) continue;
    if (words.length && !words.every(word => placeOf(word, searchable(row)) >= 0)) continue;
    kept.push(row);
  }
  return kept;
}

const orders = {
  file: null,
  difference: row => contenders[chosen.ours].score[row] - contenders[chosen.theirs].score[row],
  ours: row => contenders[chosen.ours].score[row],
  theirs: row => contenders[chosen.theirs].score[row],
  likelihood: row => {
    const a = surprise(contenders[chosen.ours], row), b = surprise(contenders[chosen.theirs], row);
    return a === null || b === null ? -Infinity : b - a;
  },
  length: row => contenders[chosen.ours].tokens[row],
  prompt: askedIn,
  reference: row => textsOf(row).reference,
};

/** The rows in the chosen order; rows that are equal in it stay in the file's. */
function ordered(rows) {
  const key = orders[chosen.order];
  const sign = chosen.descending ? -1 : 1;
  if (!key) return chosen.descending ? rows.reverse() : rows;
  const keys = new Map(rows.map(row => [row, key(row)]));
  const collator = new Intl.Collator(undefined, { numeric: true });
  const compare = typeof keys.values().next().value === "string" ? collator.compare : (a, b) => a - b || 0;
  return rows.sort((a, b) => sign * compare(keys.get(a), keys.get(b)) || a - b);
}

/** How many of the rows have each outcome. */
function countOutcomes(rows) {
  const counts = { won: 0, lost: 0, right: 0, wrong: 0, alike: 0 };
  for (const row of rows) counts[outcomeOf(row, chosen.ours, chosen.theirs)]++;
  return counts;
}
