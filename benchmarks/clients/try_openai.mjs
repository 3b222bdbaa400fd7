// The openai package for Node: chat, tools, zod schemas, embeddings, responses.

import {
  KEY, MODEL, QUESTION, TOKENS, V1, assert, checkArguments, checkText, load, run,
} from "./checks.mjs";

const { default: OpenAI } = await load("openai");
const { zodResponseFormat, zodTextFormat, zodFunction } = await load("openai/helpers/zod");
const { z } = await load("zod");

const client = new OpenAI({ baseURL: V1, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const Person = z.object({
  name: z.string().max(20),
  age: z.number().int(),
  languages: z.array(z.enum(["English", "Italian"])).max(2),
});
const Weather = z.object({
  city: z.string().max(20),
  days: z.number().int().min(1).max(7),
  unit: z.enum(["celsius", "fahrenheit"]),
});
const tool = zodFunction({ name: "weather", parameters: Weather });
const create = (fields) =>
  client.chat.completions.create({
    model: MODEL, messages, max_completion_tokens: TOKENS, ...fields,
  });

await run("openai for Node", "openai", {
  async chat() {
    checkText((await create({ temperature: 0.7 })).choices[0].message.content);
  },
  async stream() {
    let text = "";
    for await (const chunk of await create({ stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
    checkText(text);
  },
  // The call, and the library's own message sent back.
  async tools() {
    const fields = { tools: [tool], tool_choice: "required", max_completion_tokens: 200 };
    const { message } = (await create(fields)).choices[0];
    const [call] = message.tool_calls;
    checkArguments(call.function.arguments);
    const result = { role: "tool", tool_call_id: call.id, content: "sun" };
    const turns = [...messages, message, result];
    checkText((await create({ messages: turns })).choices[0].message.content);
  },
  async "structured output"() {
    const answer = await client.chat.completions.parse({
      model: MODEL, messages, response_format: zodResponseFormat(Person, "person"),
      max_completion_tokens: 300,
    });
    Person.parse(answer.choices[0].message.parsed);
  },
  async embeddings() {
    const { data } = await client.embeddings.create({ model: MODEL, input: ["one", "two"] });
    assert(data[1].embedding.length > 1, "an empty vector");
  },
  async responses() {
    const answer = await client.responses.create({
      model: MODEL, input: QUESTION, max_output_tokens: TOKENS,
    });
    checkText(answer.output_text);
  },
  async "responses structured"() {
    const answer = await client.responses.parse({
      model: MODEL, input: QUESTION, text: { format: zodTextFormat(Person, "person") },
      max_output_tokens: 300,
    });
    Person.parse(answer.output_parsed);
  },
});
