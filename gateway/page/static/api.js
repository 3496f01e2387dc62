// What is asked of the gateway. The token, where there is one, lives in this module alone.

let token = "";
const listeners = new EventTarget();

/** An answer that is none: the server's own sentence, its status and the name of the request. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(value) {
  token = value;
}

/** Call a function whenever the gateway asks for a token. */
export function onTokenNeeded(listener) {
  listeners.addEventListener("token", listener);
}

/** Return the subprotocols of a WebSocket: browsers can send a token in no other way. */
export function socketProtocols() {
  return token ? ["realtime", `openai-insecure-api-key.${token}`] : ["realtime"];
}

export function socketAddress(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

/** Return a good answer; throws `ApiError` for any other. */
export async function ask(path, { headers = {}, ...options } = {}) {
  const named = token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...options, headers: named, cache: "no-store",
    });
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError(0, "The server cannot be reached.");
    throw error;
  }
  if (!response.ok) throw await readError(response);
  return response;
}

export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error instanceof DOMException) throw error;
    throw new ApiError(0, "The answer ended before its end.");
  }
}

export function predict(model, options) {
  return askModel("predictions", model, options);
}

export function explain(model, options) {
  return askModel("explanations", model, options);
}

function askModel(what, model, options) {
  return ask(`${what}/${encodeURIComponent(someModel(model))}`, { method: "POST", ...options });
}

/** Return the name of a model that was chosen; throws an `ApiError` while none is ready. */
export function someModel(name) {
  if (!name) throw new ApiError(0, "No model is ready yet.");
  return name;
}

/** Return options of a request with a JSON body. */
export function jsonBody(content, signal) {
  return { body: JSON.stringify(content), headers: { "Content-Type": "application/json" }, signal };
}

/** Yield the objects of a stream of server-sent events; throws where an error stands at its end. */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let other = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
      else other += line;
    }
    if (done) break;
  }
  if (other) throw new ApiError(response.status, messageIn(other));
}

function messageIn(text) {
  try {
    return JSON.parse(text).message ?? "The answer ended with an error.";
  } catch {
    return "The answer ended before its end.";
  }
}

async function readError(response) {
  const said = await response.json().catch(() => ({}));
  // TorchServe refuses a token with 400.
  const needed = [401, 403].includes(response.status) || /^InvalidKey/.test(said.type);
  if (needed) listeners.dispatchEvent(new Event("token"));
  const nested = typeof said.error === "object" ? said.error?.message : said.error;
  const message = said.message ?? nested ?? `The server answered ${response.status}.`;
  const name = response.headers.get("x-request-id");
  const fault = response.status >= 500 && name ? ` (request ${name})` : "";
  return new ApiError(response.status, `${message}${fault}`);
}
