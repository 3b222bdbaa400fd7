// One run: how its training goes, what it has become, its data, its logs.

import {button, make} from "./dom.js";
import {get, send} from "./api.js";
import {block, chart, fill, job, lines, link, pairs, section, table} from "./parts.js";
import {chatPart} from "./chat.js";
import {previewed} from "./preview.js";
import {state} from "./runs.js";

const BUSY_SECONDS = 2, IDLE_SECONDS = 5;

export function runView(name) {
  const parts = Object.fromEntries(["about", "actions", "jobs", "training", "bench", "gate",
    "record"].map(one => [one, make("div")]));
  const talk = chatPart(name);
  const data = section("Data", ...dataPart(name)), log = logPart(name);
  // What there is of them is known with the first answer.
  for (const one of [talk.element, data, log.element]) one.hidden = true;
  const view = {
    title: name,
    elements: [make("h1", {textContent: name, tabIndex: -1}), parts.about, parts.actions, parts.jobs,
      parts.bench, talk.element, parts.training, parts.gate, data, log.element, parts.record],
    seconds: BUSY_SECONDS,
    async refresh() {
      const run = await get(`api/runs/${encodeURIComponent(name)}`);
      const busy = Boolean(run.at_work) || run.jobs.some(one => !["done", "stopped", "refused",
        "failed"].includes(one.state));
      // What was started here stands with its command below.
      const told = run.jobs[0]?.state === "running" || run.jobs[0]?.state === "stopping";
      const loads = (run.servers ?? []).some(one => one.state === "loading");
      view.seconds = busy || loads ? BUSY_SECONDS : IDLE_SECONDS;
      data.hidden = !run.begun;
      fill(parts.about, [run.state, run.base, run.data, run.created, run.path,
        run.begun || run.jobs, told], () => about(run, told));
      fill(parts.actions, [busy, run.begun, run.stages], () => actions(name, run, busy));
      fill(parts.jobs, run.jobs.slice(0, 1), list => list.map(one => job(one, false)));
      fill(parts.training, [run.training, run.charts, run.at_work], () => training(run));
      fill(parts.bench, [run.bench, run.report], () => bench(name, run));
      fill(parts.gate, [run.checks, run.gain, run.sample, run.ggufs], () => gate(run));
      talk.refresh(run);
      fill(parts.record, [run.figures, run.changed, run.parts, run.removable], () => record(run));
      await log.refresh(run.logs ?? run.jobs.map(one => one.stage), busy);
    },
  };
  return view;
}

function about(run, told) {
  if (!run.begun) {
    const begins = run.jobs.some(one => one.state === "running") ? "begins" : "has not begun";
    return make("p", {className: "soft", textContent: `${run.path}: ${begins}`});
  }
  const begun = run.created ? new Date(run.created).toLocaleString() : "";
  return [told ? "" : make("p", {}, state(run.state)),
    make("p", {className: "soft", textContent: [run.base && `base ${run.base}`,
      run.data.length && `data ${run.data.join(", ")}`, begun && `begun ${begun}`, run.path]
      .filter(Boolean).join(" · ")})];
}

function actions(name, run, busy) {
  const said = make("p", {className: "bad", role: "alert"});
  if (busy) {
    const stop = button("Stop", `Stop what works on ${name}`, async () => {
      stop.disabled = true;
      try {
        said.className = "soft";
        said.textContent = (await send(`api/runs/${encodeURIComponent(name)}/stop`)).said;
      } catch (error) {
        said.className = "bad";
        said.textContent = error.message;
      }
      stop.disabled = false;
    });
    stop.dataset.key = "stop";
    return make("div", {className: "actions"}, stop, said);
  }
  const stages = run.stages ?? [];
  const next = ["train", "convert", "bench"].find(stage => !stages.includes(stage));
  const to = (text, stage) => link(text, `#/start/${stage}/${encodeURIComponent(name)}`,
    {className: stage === next ? "button main" : "button"});
  return make("div", {className: "actions"},
    to(stages.includes("train") ? "Train again…" : "Train…", "train"),
    ...(stages.includes("train") ? [to("Convert…", "convert")] : []),
    ...(stages.includes("convert") ? [to("Benchmark…", "bench")] : []));
}

function training(run) {
  const told = run.training;
  if (!told?.figures) return [];
  const busy = run.at_work === "train";
  const bar = busy ? [make("progress", {max: 1, value: told.share,
    "aria-label": "Steps that are done"}), make("p", {className: "soft",
    textContent: `${Math.round(100 * told.share)} %` +
      (told.evaluating ? `, evaluating ${told.evaluating}` : "")})] : [];
  const [first, ...others] = run.charts.map(chart);
  const more = others.length ? [make("div", {className: "beside"}, ...others)] : [];
  return section(busy ? "Training, live" : "Training", ...bar,
    ...(told.figures.length ? [pairs(told.figures)] : []), ...(first ? [first] : []), ...more);
}

function bench(name, run) {
  if (!run.bench?.length) return [];
  const parts = run.bench.map(text => make("p", {textContent: text}));
  if (run.report) {
    const address = `runs/${encodeURIComponent(name)}/report.html`;
    const inner = make("details", {}, make("summary", {textContent: "Show the report here"}));
    inner.addEventListener("toggle", () => {
      if (inner.open && !inner.querySelector("iframe")) {
        const frame = make("iframe", {src: address, title: `Benchmark report of ${name}`});
        frame.setAttribute("sandbox", "allow-scripts allow-downloads");
        inner.append(frame);
      }
    });
    parts.push(make("p", {}, link("Open the report", address, {target: "_blank", rel: "noopener"})),
      inner);
  }
  return section("Benchmark", ...parts);
}

function gate(run) {
  if (!run.checks?.length) return [];
  const all = run.checks.every(one => one.passed);
  const checked = make("details", {open: !all},
    make("summary", {textContent: `What was checked (${run.checks.length})`}),
    table("What was checked", ["check", "holds", "found"],
      run.checks.map(one => [one.contract, one.passed ? "yes" : "NO", one.detail])));
  return section(all ? "Conversion: verified" : "Conversion: not verified",
    table("GGUFs", ["model", "file", "quantization", "size"], run.ggufs),
    ...(run.gain ? [make("p", {textContent: run.gain})] : []),
    make("p", {}, make("strong", {textContent: "Sample answer: "}), run.sample), checked);
}

function record(run) {
  if (!run.begun) return [];
  const others = [...run.removable.map(text => `can be removed (tuneserve clean): ${text}`)];
  return [
    ...(run.figures.length ? [section("Figures", pairs(run.figures))] : []),
    section("Settings that are not the defaults", lines(run.changed)),
    section("On disk", pairs(run.parts), lines(others)),
  ];
}

function dataPart(name) {
  const shown = make("div", {"aria-live": "polite"});
  const show = button("Show the data as the model sees it", "Show the data as the model sees it", () =>
    previewed(shown, show, () => send(`api/runs/${encodeURIComponent(name)}/preview`, {examples: 6})));
  return [make("p", {className: "soft", textContent:
    "Reads the files that the run was made with, as tuneserve preview does."}), show, shown];
}

/** The end of a log, which follows it as it grows, unless its reader has scrolled away. */
function logPart(name) {
  const choice = make("select", {id: "log-of"});
  const text = block("", "Log");
  text.classList.add("log");
  const element = section("Log", make("label", {className: "inline"}, "Stage ", choice), text);
  const part = {
    element,
    async refresh(stages, busy) {
      element.hidden = !stages.length;
      if (!stages.length) return;
      fill(choice, stages, names => names.map(one => make("option", {textContent: one})));
      const open = choice.value;
      if (!busy && part.of === open && part.read) return;
      const tail = await get(`api/runs/${encodeURIComponent(name)}/logs/${open}`).catch(() => null);
      if (!tail) { element.hidden = true; return; }
      const follows = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
      const shown = (tail.left_out ? `… ${tail.left_out} bytes before …\n` : "") + tail.text;
      if (text.textContent !== shown) text.textContent = shown;
      if (follows || part.of !== open) text.scrollTop = text.scrollHeight;
      part.of = open;
      part.read = !busy;
    },
  };
  choice.addEventListener("change", () => { part.read = false; part.refresh([...choice.options].map(
    one => one.value), false); });
  return part;
}
