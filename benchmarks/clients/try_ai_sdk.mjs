// The AI SDK's createOpenAI: over /v1/responses, as it does by default, and over chat completions.

import {
  KEY, MODEL, QUESTION, TOKENS, V1, assert, checkArguments, checkText, load, run,
} from "./checks.mjs";

const { createOpenAI } = await load("@ai-sdk/openai");
const { Output, embedMany, generateText, streamText, tool } = await load("ai");
const { z } = await load("zod");

const provider = createOpenAI({ baseURL: V1, apiKey: KEY });
const Person = z.object({
  name: z.string().max(20),
  age: z.number().int(),
  languages: z.array(z.enum(["English", "Italian"])).max(2),
});
const weather = tool({
  description: "The weather of a city in the coming days.",
  inputSchema: z.object({
    city: z.string().max(20),
    days: z.number().int().min(1).max(7),
    unit: z.enum(["celsius", "fahrenheit"]),
  }),
});
const common = { prompt: QUESTION, maxRetries: 0, maxOutputTokens: TOKENS };

const checks = (model) => ({
  async chat() {
    checkText((await generateText({ model, ...common })).text);
  },
  async stream() {
    let text = "";
    let failure;
    const { textStream } = streamText({ model, ...common, onError: (e) => (failure = e.error) });
    for await (const part of textStream) text += part;
    if (failure) throw failure;
    checkText(text);
  },
  async tools() {
    const { toolCalls } = await generateText({
      model, ...common, maxOutputTokens: 200, tools: { weather }, toolChoice: "required",
    });
    assert(toolCalls.length > 0, "no call");
    checkArguments(toolCalls[0].input);
  },
  async "structured output"() {
    const { output } = await generateText({
      model, ...common, maxOutputTokens: 300, output: Output.object({ schema: Person }),
    });
    Person.parse(output);
  },
});
const byResponses = Object.fromEntries(
  Object.entries(checks(provider(MODEL))).map(([name, body]) => [`responses ${name}`, body]),
);

await run("ai-sdk", "@ai-sdk/openai", {
  ...checks(provider.chat(MODEL)),
  async embeddings() {
    const model = provider.embedding(MODEL);
    const { embeddings } = await embedMany({ model, values: ["one", "two"] });
    assert(embeddings[1].length > 1, "an empty vector");
  },
  ...byResponses,
});
