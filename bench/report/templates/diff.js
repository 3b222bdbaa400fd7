// What of a text is not in another, word by word; where no spaces part words, character by character.

const WORDS = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Mymr}]\p{M}*|[\p{L}\p{M}\p{N}_]+|\s+|./gsu;
const MOST_EDITS = 1000;

/** Pieces ["same" | "more" | "less", text] that lead from `reference` to `answer`: "more" is only in
 *  the answer, "less" only in the reference. null where the texts differ in too much to be told.
 *  Myers 1986, An O(ND) difference algorithm. */
function difference(reference, answer) {
  const a = reference.match(WORDS) || [], b = answer.match(WORDS) || [];
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = shortestEdit(a.slice(start, a.length - end), b.slice(start, b.length - end));
  if (!middle) return null;
  const before = b.slice(0, start).map(word => ["same", word]);
  const after = b.slice(b.length - end).map(word => ["same", word]);
  return joined([...before, ...middle, ...(end ? after : [])]);
}

function shortestEdit(a, b) {
  const most = Math.min(MOST_EDITS, a.length + b.length), middle = most + 1;
  const reach = new Int32Array(2 * most + 3);  // by diagonal: the furthest place in a
  const trace = [];  // after each number of edits, the part that was in use
  for (let edits = 0; edits <= most; edits++) {
    trace.push(reach.slice(middle - edits - 1, middle + edits + 2));
    for (let k = -edits; k <= edits; k += 2) {
      const left = reach[middle + k - 1], right = reach[middle + k + 1];
      let x = k === -edits || (k !== edits && left < right) ? right : left + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach[middle + k] = x;
      if (x >= a.length && x - k >= b.length) return walkBack(a, b, trace);
    }
  }
  return null;
}

function walkBack(a, b, trace) {
  const pieces = [];
  let x = a.length, y = b.length;
  for (let edits = trace.length - 1; edits >= 0; edits--) {
    const k = x - y, place = k + edits + 1;
    const left = trace[edits][place - 1], right = trace[edits][place + 1];
    const inserted = k === -edits || (k !== edits && left < right);
    const from = inserted ? right : left;
    while (x > Math.max(from, 0) && y > Math.max(from - (inserted ? k + 1 : k - 1), 0)) {
      pieces.push(["same", b[--y]]);
      x--;
    }
    if (edits > 0) pieces.push(inserted ? ["more", b[--y]] : ["less", a[--x]]);
  }
  return pieces.reverse();
}

/** Runs of one kind as one piece. Blanks between two changes belong to both, so that a changed
 *  phrase reads as one; what is gone stands before what is new. */
function joined(pieces) {
  const found = [];
  let less = "", more = "";
  const change = () => {
    if (less) found.push(["less", less]);
    if (more) found.push(["more", more]);
    less = more = "";
  };
  pieces.forEach(([kind, text], place) => {
    const between = kind === "same" && (less || more) && /^\s+$/.test(text) &&
      place + 1 < pieces.length && pieces[place + 1][0] !== "same";
    if (kind === "less" || between) less += text;
    if (kind === "more" || between) more += text;
    if (kind !== "same" || between) return;
    change();
    if (found.length && found.at(-1)[0] === "same") found.at(-1)[1] += text;
    else found.push(["same", text]);
  });
  change();
  return found;
}
