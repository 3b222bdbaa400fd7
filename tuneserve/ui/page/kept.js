// The conversation with a run's models, kept in this browser (localStorage). What is read may be
// anybody's: it is made anew.
//
// A turn: {question, answer, note, bad, told}. `note` says how the answer came or why it did not;
// `told`: is it part of the conversation that goes to the model?

const keyOf = run => `tuneserve.ui.chat.${run}`;
const textOf = value => typeof value === "string" ? value : "";

const asTurn = value => ({question: textOf(value?.question), answer: textOf(value?.answer),
  note: textOf(value?.note), bad: value?.bad === true, told: value?.told === true});

/** A model's turns; none where none were kept. */
export function keptTurns(run, model) {
  try {
    const turns = JSON.parse(localStorage.getItem(keyOf(run)) ?? "{}")?.[model];
    return Array.isArray(turns) ? turns.map(asTurn) : [];
  } catch {
    return [];  // none, or no storage: keeping says so
  }
}

/** Keep the turns of each model by its name; false if they can't be kept. */
export function keepTurns(run, turns) {
  try {
    if (Object.values(turns).some(some => some.length))
      localStorage.setItem(keyOf(run), JSON.stringify(turns));
    else localStorage.removeItem(keyOf(run));
    return true;
  } catch {
    return false;
  }
}
