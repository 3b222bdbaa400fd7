// What the scripts of all Node clients share; see checks.py.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const url = process.env.TUNESERVE_URL ?? "http://127.0.0.1:8080";
export const V1 = `${url}/v1`;
export const MODEL = process.env.TUNESERVE_MODEL ?? "demo";
export const KEY = process.env.TUNESERVE_KEY ?? "none";
export const TOKENS = 48;
export const QUESTION = "Say hello to the harbour of Genoa.";

// The packages are installed apart from the scripts, in a folder that git ignores.
const require = createRequire(`${process.env.TUNESERVE_NODE ?? process.cwd()}/package.json`);
export const load = async (name) => import(require.resolve(name));

const version = (name) => {
  const folder = require.resolve.paths(name)[0];
  return JSON.parse(readFileSync(`${folder}/${name}/package.json`, "utf8")).version;
};

export function assert(condition, reason) {
  if (!condition) throw new Error(reason);
}

export function checkText(text) {
  assert(typeof text === "string" && text.length > 0, `no text but ${JSON.stringify(text)}`);
}

export function checkArguments(given) {
  const { city, days, unit } = typeof given === "string" ? JSON.parse(given) : given;
  assert(typeof city === "string", `city ${city}`);
  assert(Number.isInteger(days) && days >= 1 && days <= 7, `days ${days}`);
  assert(["celsius", "fahrenheit"].includes(unit), `unit ${unit}`);
}

/** Run the checks of a client, an object of functions; exit code 1 if one fails. */
export async function run(client, packageName, checks) {
  let failed = 0;
  for (const [check, body] of Object.entries(checks)) {
    const started = performance.now();
    let reason = "";
    try {
      await body();
    } catch (error) {
      const text = `${error?.name}: ${error?.message} ${error?.responseBody ?? ""}`;
      reason = text.replace(/\s+/g, " ").trim().slice(0, 300);
      failed += 1;
    }
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    const line = { client, version: version(packageName), check, ok: !reason, reason, seconds };
    console.log(JSON.stringify(line));
  }
  process.exit(failed ? 1 : 0);
}
