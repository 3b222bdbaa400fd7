// The open row: the whole prompt, the reference, every contender's answer and how it differs.

function makeDetail(row) {
  const { prompt, reference, answers } = textsOf(row);
  const where = [figures.id[row], groupOf(row), sourceOf(row) && `source ${sourceOf(row)}`].filter(Boolean);
  const parts = [
    make("small", {}, where.join(" · ")),
    ...prompt.map(message => part(prompt.length === 1 ? "Prompt" : titled(message.role), spoken(message))),
  ];
  const columns = [make("article", {}, part("Reference", reference)), ...contenders.map((given, number) => answers[number] && answerOf(row, given, answers[number], reference))];
  const cell = make("div", { role: "gridcell", "aria-colspan": contenders.length + 3, tabIndex: 0 },
    ...parts, make("div", { className: "columns" }, ...columns.filter(Boolean)));
  cell.setAttribute("aria-label", `Prompt ${figures.id[row]} with all answers`);
  return make("div", { role: "row", className: "detail", "aria-level": 2 }, cell);
}

function part(title, text) {
  return make("section", {}, make("h4", {}, title), make("div", { className: "said", dir: "auto" }, text));
}

function answerOf(row, given, [text, thought], reference) {
  const score = given.score[row];
  const facts = given.problem[row] ? [given.problem[row]] : [];
  const strict = given.strict[row], lenient = given.lenient[row];
  if (strict !== null && (strict !== score || lenient !== score)) {
    facts.push(`strictly ${scoreMark(strict)}, leniently ${scoreMark(lenient)}`);
  }
  if (given.tokens[row]) facts.push(`${given.tokens[row]} tokens`);
  const likely = surprise(given, row);
  if (likely !== null) facts.push(`reference: ${likely.toFixed(3)} nats a token, perplexity ${Math.exp(likely).toPrecision(4)}`);
  const choices = Object.entries(given.probabilities[row] || {}).sort((a, b) => b[1] - a[1]);
  if (choices.length) facts.push(choices.slice(0, 5).map(([name, share]) => `${name} ${(100 * share).toFixed(1)} %`).join(", "));
  if (given.read[row] && given.read[row] !== text) facts.push(`read as ${given.read[row]}`);
  const article = make("article", {},
    make("h4", {}, called(given.name) + " ", make("b", { className: scoreStyle(score) }, scoreMark(score)), " ", ...badges(given, row)),
    make("div", { className: "said", dir: "auto" }, ...marked(reference, text)));
  if (thought) article.append(make("details", {}, make("summary", {}, "Thoughts"), make("div", { className: "said", dir: "auto" }, thought)));
  article.append(make("small", {}, facts.join(" · ")));
  return article;
}

/** The answer with what the reference has not and what it lacks marked, if that is wished. */
function marked(reference, text) {
  if (!text) return [make("i", {}, "(no answer)")];
  if (!document.getElementById("marked").checked || text === reference) return [text];
  const pieces = difference(reference.trim(), text);
  if (!pieces) return [text, make("small", {}, " (too different from the reference to mark)")];
  if (!pieces.some(([kind, piece]) => kind === "same" && /\S/.test(piece))) return [text];
  const tags = { more: "ins", less: "del" };
  return pieces.map(([kind, piece]) => kind === "same" ? piece : make(tags[kind], {}, piece));
}
