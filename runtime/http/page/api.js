// Calls of the server: JSON, and streams of server-sent events over fetch, which can carry a token.

const KEY = "paceline.token";
let token = sessionStorage.getItem(KEY) || "";

/** Use a bearer token for all later calls. */
export function setToken(value) {
  token = value.trim();
  sessionStorage.setItem(KEY, token);
}

/** What the server answered in place of a stream. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function opened(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not in OpenAI's form: the status has to do
  }
  throw new ApiError(response.status, message);
}

/** Yield {name, data} for each event of a stream; data is parsed, or null for [DONE]. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const event = { name: "message", data: "" };
      for (const line of buffer.slice(0, end).split("\n")) {
        if (line.startsWith("event: ")) event.name = line.slice(7);
        else if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      buffer = buffer.slice(end + 2);
      yield { name: event.name, data: event.data === "[DONE]" ? null : JSON.parse(event.data) };
    }
  }
}

/** Follow /events until the server ends it. */
export async function* engineEvents() {
  yield* events(await opened("events", { headers: headers() }));
}

/**
 * Stream an answer, one event for each token that arrives.
 *
 * @param {object} body a request of the chat endpoint if it has messages, else of completions
 * @param {AbortSignal} signal ends the request
 * @yields {{tokens: {bytes: number[], source: string, logprob: number, top: object[]}[], text: string,
 *   reason: ?string, usage: ?object}}
 */
export async function* answer(body, signal) {
  const isChat = "messages" in body;
  const path = isChat ? "v1/chat/completions" : "v1/completions";
  const response = await opened(path, {
    method: "POST",
    signal,
    headers: { ...headers(), "content-type": "application/json" },
    body: JSON.stringify({
      ...body,
      ...(isChat ? { logprobs: true, top_logprobs: 4 } : { logprobs: 4 }),
      stream: true,
      stream_options: { include_usage: true },
      return_token_ids: true,
      return_token_sources: true,
    }),
  });
  for await (const { data } of events(response)) {
    if (data === null) return;
    if (data.error) throw new ApiError(500, data.error.message);
    const choice = data.choices[0];
    if (!choice) {
      yield { tokens: [], text: "", reason: null, usage: data.usage };
      continue;
    }
    yield {
      tokens: isChat ? chatTokens(choice) : completionTokens(choice),
      text: (isChat ? choice.delta.content : choice.text) || "",
      reason: choice.finish_reason,
      usage: null,
    };
  }
  throw new ApiError(502, "the connection to the server broke");
}

function chatTokens(choice) {
  const found = choice.logprobs ? choice.logprobs.content : [];
  return found.map((one, index) => ({
    id: choice.token_ids[index],
    bytes: one.bytes,
    source: choice.token_sources[index],
    logprob: one.logprob,
    top: one.top_logprobs.map((top) => ({ text: top.token, logprob: top.logprob })),
  }));
}

const encoder = new TextEncoder();

/** Return the bytes of a completion's token, whose partial characters are written "bytes:\xe2". */
function bytesOf(text) {
  const parts = /^bytes:((?:\\x[0-9a-f]{2})+)$/.exec(text);
  if (!parts) return [...encoder.encode(text)];
  return parts[1].match(/[0-9a-f]{2}/g).map((digits) => parseInt(digits, 16));
}

function completionTokens(choice) {
  const found = choice.logprobs;
  if (!found) return [];
  return found.tokens.map((text, index) => ({
    id: choice.token_ids[index],
    bytes: bytesOf(text),
    source: choice.token_sources[index],
    logprob: found.token_logprobs[index],
    top: Object.entries(found.top_logprobs[index]).map(([top, logprob]) => ({ text: top, logprob })),
  }));
}
