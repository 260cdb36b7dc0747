// Asks a server with OpenAI's client for Node, and prints what it got as one JSON object.
//
//     node node_client.mjs http://127.0.0.1:8000/v1
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const prompt = "w1 w2 w3";
const messages = [{ role: "user", content: prompt }];
const fields = { model: "toy", max_tokens: 16, temperature: 0.8, seed: 5, return_token_ids: true };
const found = {};

found.completion = await client.completions.create({ ...fields, prompt });
found.samples = await client.completions.create({ ...fields, prompt, n: 2, stop: ["w7"] });
found.chat = await client.chat.completions.create({
  ...fields, messages, logprobs: true, top_logprobs: 2,
});

found.streamed = [];
for await (const chunk of await client.completions.create({ ...fields, prompt, stream: true })) {
  found.streamed.push(chunk.choices[0]);
}
found.streamedChat = [];
const options = { include_usage: true };
const stream = await client.chat.completions.create({
  ...fields, messages, stream: true, stream_options: options,
});
for await (const chunk of stream) found.streamedChat.push(chunk);

found.models = (await client.models.list()).data.map((model) => model.id);

found.errors = {};
for (const [name, wrong] of [["temperature", { temperature: -1 }], ["model", { model: "other" }]]) {
  try {
    await client.completions.create({ ...fields, prompt, ...wrong });
  } catch (error) {
    found.errors[name] = {
      kind: error.constructor.name, status: error.status, code: error.code, message: error.message,
    };
  }
}

const long = await client.completions.create({ ...fields, prompt, max_tokens: 300, stream: true });
for await (const chunk of long) {
  found.left = chunk.choices[0].token_ids.length;
  break; // the client disconnects
}
console.log(JSON.stringify(found));
