// The rows that are shown, as files made in the page.

/** A row as in answers.jsonl. */
function asRecord(row) {
  const { prompt, reference, answers } = textsOf(row);
  const others = {}, record = {
    task: figures.tasks[figures.task[row]], id: figures.id[row], group: groupOf(row),
    source: sourceOf(row), prompt, reference,
  };
  contenders.forEach((given, number) => {
    if (!answers[number]) return;
    const [text, thought] = answers[number];
    const answer = {
      text, thought, cut_off: given.cut[row] === 1, score: given.score[row],
      strict: given.strict[row], lenient: given.lenient[row], found: given.found[row],
      finish_reason: given.finish[row], generated_tokens: given.tokens[row], read: given.read[row],
      problem: given.problem[row],
    };
    if (given.probabilities[row]) answer.probabilities = given.probabilities[row];
    if (given.nll[row] !== null) {
      Object.assign(answer, { reference_nll: given.nll[row], reference_tokens: given.nll_tokens[row] });
    }
    if (number < 2) record[given.name] = answer;
    else others[given.name] = answer;
  });
  return { ...record, others };
}

const asJsonLines = rows => rows.map(row => JSON.stringify(asRecord(row)) + "\n").join("");

const ANSWER_FIELDS = ["text", "thought", "score", "finish_reason", "generated_tokens", "reference_nll", "reference_tokens"];

function asCsv(rows) {
  const head = ["task", "id", "group", "source", "prompt", "reference"];
  const columns = contenders.flatMap(given => ANSWER_FIELDS.map(field => `${given.name} ${field}`));
  const lines = rows.map(row => {
    const record = asRecord(row), all = { ...record, ...record.others };
    const said = record.prompt.length === 1 ? spoken(record.prompt[0])
      : record.prompt.map(message => `${message.role}: ${spoken(message)}`).join("\n");
    const answers = contenders.flatMap(({ name }) => ANSWER_FIELDS.map(field => all[name]?.[field]));
    return [record.task, record.id, record.group, record.source, said, record.reference, ...answers];
  });
  return "\ufeff" + [[...head, ...columns], ...lines].map(line => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

/** A text that a spreadsheet would take for a formula, also behind blanks that it takes away, gets
 * an apostrophe in front. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[\t\r]|^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(value) ? "'" + value : value;
  return `"${text.replaceAll('"', '""')}"`;
}

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
