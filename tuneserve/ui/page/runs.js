// The runs there are, and what is running.

import {make} from "./dom.js";
import {get} from "./api.js";
import {badge, fill, job, link, table} from "./parts.js";

export function runsView() {
  const folder = make("p", {className: "soft"});
  const started = make("div"), found = make("div");
  return {
    title: "Runs",
    elements: [make("h1", {textContent: "Runs", tabIndex: -1}), folder, started, found],
    seconds: 3,
    async refresh() {
      const {folder: path, runs, jobs} = await get("api/state");
      folder.textContent = path;
      // Of each run what was started last.
      const last = jobs.filter((one, place) => jobs.findIndex(o => o.run === one.run) === place);
      fill(started, last.filter(one => one.state !== "done"), list => list.map(one => job(one, true)));
      fill(found, runs, rows => rows.length ? runTable(rows) : nothing());
    },
  };
}

const nothing = () => make("p", {}, "There are no runs here yet. ",
  link("Start a training", "#/start/train"), ".");

function runTable(runs) {
  return table("Runs, the newest first",
    ["run", "base", "state", "eval loss", "right answers", "size"],
    runs.map(run => [
      link(run.name, `#/run/${run.name}`), run.base, state(run.state), run.loss, run.right,
      run.size + (run.spare ? ` (${run.spare} can be removed)` : ""),
    ]));
}

export function state(text) {
  const busy = text.startsWith("at work: ");
  return make("span", {}, ...(busy ? [badge("running"), " ", text.slice(9)] : [text]));
}
