// promptfoo: its command, with the chat, completion, embedding and responses providers.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KEY, MODEL, QUESTION, TOKENS, V1, assert, run } from "./checks.mjs";

const folder = mkdtempSync(join(tmpdir(), "promptfoo-"));
const program = join(process.env.TUNESERVE_NODE ?? ".", "node_modules/promptfoo/dist/src/main.js");

function evaluate(id, config = {}, asserts = [{ type: "javascript", value: "output.length > 0" }]) {
  const provider = { id, config: { apiBaseUrl: V1, apiKey: KEY, max_tokens: TOKENS, ...config } };
  const test = { vars: { q: QUESTION }, assert: asserts };
  const file = join(folder, "config.json");
  const output = join(folder, "output.json");
  writeFileSync(
    file,
    JSON.stringify({ prompts: ["{{q}}"], providers: [provider], tests: [test], ...config.suite }),
  );
  const command = [program, "eval", "-c", file, "-o", output, "--no-cache", "--no-write",
    "--no-table", "--no-progress-bar"];
  const environment = {
    ...process.env, PROMPTFOO_CONFIG_DIR: folder, PROMPTFOO_DISABLE_TELEMETRY: "1",
    PROMPTFOO_DISABLE_UPDATE: "1", PROMPTFOO_PASS_RATE_THRESHOLD: "0", OPENAI_API_KEY: KEY,
  };
  try {
    execFileSync("node", command, { env: environment, timeout: 200_000, stdio: "pipe" });
  } catch (error) {
    throw new Error(`${error.stderr ?? ""}`.slice(-250) || `${error}`);
  }
  const [result] = JSON.parse(readFileSync(output, "utf8")).results.results;
  assert(result.success, result.error ?? JSON.stringify(result.gradingResult));
}

const schema = {
  type: "object", required: ["age"], additionalProperties: false,
  properties: { age: { type: "integer", minimum: 0, maximum: 150 } },
};

await run("promptfoo", "promptfoo", {
  async chat() {
    evaluate(`openai:chat:${MODEL}`, { temperature: 0.7 });
  },
  async "structured output"() {
    const format = { type: "json_schema", json_schema: { name: "person", strict: true, schema } };
    evaluate(`openai:chat:${MODEL}`, { response_format: format }, [{ type: "is-json" }]);
  },
  async "text completion"() {
    evaluate(`openai:completion:${MODEL}`);
  },
  async responses() {
    evaluate(`openai:responses:${MODEL}`, { max_output_tokens: TOKENS });
  },
});
