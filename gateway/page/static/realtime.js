// A session of OpenAI's Realtime API that transcribes, and is opened again where it is lost.

import { socketAddress, socketProtocols } from "./api.js";
import { RATE_HZ } from "./microphone.js";

const PREFIX = "conversation.item.input_audio_transcription";
// The server goes or is full, or the connection was lost (1006): another one may be had.
const OPEN_AGAIN = new Set([1001, 1006, 1011, 1012, 1013]);
const ATTEMPTS = 6;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
// A session that lasted so long was a good one, and the next attempts count anew.
const GOOD_SESSION_MS = 10_000;
const FINISH_TIMEOUT_MS = 15_000;
// What is said meanwhile is sent later; of a longer gap, its end.
const MOST_WAITING_SAMPLES = 30 * RATE_HZ;
const BASE64_STEP = 8192;

/**
 * Sends samples and tells what was heard: `tell.state(name)`, `tell.partial(text)`,
 * `tell.completed({ text, start, end })` in seconds from the first sample, `tell.error(message)`,
 * and `tell.ended()` where it ends by itself.
 */
export class LiveTranscription {
  #model;
  #tell;
  #socket;
  #ready = false;
  #ended = false;
  #attempt = 0;
  #began = 0;
  #waiting = [];
  #waitingSamples = 0;
  #heardSamples = 0;
  #offset = 0;
  #items = new Map();
  #finished = null;

  constructor(model, tell) {
    this.#model = model;
    this.#tell = tell;
  }

  /** Open a session; throws an `Error` where that cannot be. */
  open() {
    this.#tell.state(this.#attempt ? "reconnecting" : "connecting");
    let wasOpen = false;
    const socket = openSocket();
    this.#socket = socket;
    socket.addEventListener("open", () => {
      wasOpen = true;
    });
    socket.addEventListener("message", ({ data }) => this.#receive(JSON.parse(data)));
    socket.addEventListener("close", ({ code, reason }) => this.#lose(code, reason, wasOpen));
  }

  append(samples) {
    this.#waiting.push(samples);
    this.#waitingSamples += samples.length;
    this.#heardSamples += samples.length;
    while (this.#waitingSamples > MOST_WAITING_SAMPLES) this.#waitingSamples -= this.#waiting.shift().length;
    if (this.#listens()) this.#sendWaiting();
  }

  /** Return when the text of all that was appended is there, or is not to be had. */
  async finish() {
    if (this.#listens()) {
      await new Promise((resolve) => {
        this.#finished = resolve;
        setTimeout(resolve, FINISH_TIMEOUT_MS);
        this.#send({ type: "input_audio_buffer.commit" });
      });
    }
    this.#ended = true;
    this.#ready = false;
    this.#keepPartial();
    this.#socket.close(1000);
  }

  /** Tell whether what is sent is heard: a socket that is closing takes it and loses it. */
  #listens() {
    return this.#ready && this.#socket.readyState === WebSocket.OPEN;
  }

  #send(event) {
    this.#socket.send(JSON.stringify(event));
  }

  #sendWaiting() {
    for (const samples of this.#waiting) this.#send({ type: "input_audio_buffer.append", audio: toBase64(samples) });
    this.#waiting = [];
    this.#waitingSamples = 0;
  }

  #receive(event) {
    const item = this.#item(event.item_id);
    switch (event.type) {
      case "session.created":
        this.#send({
          type: "session.update",
          session: {
            type: "transcription",
            audio: {
              input: {
                format: { type: "audio/pcm", rate: RATE_HZ },
                transcription: { model: this.#model },
                turn_detection: { type: "server_vad" },
              },
            },
          },
        });
        break;
      case "session.updated":
        this.#begin();
        break;
      case "input_audio_buffer.speech_started":
        item.start = this.#offset + event.audio_start_ms / 1000;
        break;
      case "input_audio_buffer.speech_stopped":
        item.end = this.#offset + event.audio_end_ms / 1000;
        break;
      case "input_audio_buffer.committed":
        item.committed = true;
        break;
      case `${PREFIX}.delta`:
        item.text += event.delta;
        this.#tell.partial(this.#partial());
        break;
      case `${PREFIX}.completed`:
        this.#complete(event.item_id, { ...item, text: event.transcript });
        break;
      case `${PREFIX}.failed`:
        this.#tell.error(event.error.message);
        this.#complete(event.item_id, item);
        break;
      case "error":
        this.#refuse(event.error);
        break;
      default: // further events change nothing that is shown
    }
  }

  #item(id) {
    if (!id) return null;
    if (!this.#items.has(id)) this.#items.set(id, { text: "" });
    return this.#items.get(id);
  }

  #begin() {
    // Times of a session count from its first sample.
    this.#offset = (this.#heardSamples - this.#waitingSamples) / RATE_HZ;
    this.#ready = true;
    this.#began = performance.now();
    this.#tell.state("listening");
    this.#sendWaiting();
  }

  #partial() {
    return [...this.#items.values()].map((each) => each.text.trim()).filter(Boolean).join(" ");
  }

  #complete(id, { text, start, end }) {
    this.#items.delete(id);
    this.#tell.partial(this.#partial());
    if (text.trim()) this.#tell.completed({ text: text.trim(), start, end });
    // Behind a commit, what it ended is the last.
    if (![...this.#items.values()].some((each) => each.committed)) this.#finished?.();
  }

  #refuse(error) {
    const nothingLeft = this.#finished && error.code === "input_audio_buffer_commit_empty";
    if (!nothingLeft) this.#tell.error(error.message);
    this.#finished?.();
    // Without a model nothing is heard; where the server is full, it closes the session itself.
    if (!this.#ready && error.type === "invalid_request_error") this.#end();
  }

  #end() {
    this.#ended = true;
    this.#socket.close(1000);
    this.#tell.ended();
  }

  /** Keep what was told of items that are not to be completed. */
  #keepPartial() {
    for (const [id, item] of this.#items) this.#complete(id, item);
  }

  #lose(code, reason, wasOpen) {
    if (this.#ended) return;
    // Places of a model that is full are missed only with the first samples.
    if (this.#ready && performance.now() - this.#began > GOOD_SESSION_MS) this.#attempt = 0;
    this.#ready = false;
    this.#keepPartial();
    this.#finished?.();
    const hopeful = OPEN_AGAIN.has(code) && (wasOpen || this.#attempt > 0);
    if (hopeful && this.#attempt < ATTEMPTS) {
      const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempt++);
      this.#tell.state("reconnecting");
      setTimeout(() => this.#ended || this.open(), wait);
      return;
    }
    this.#ended = true;
    const why = reason || (wasOpen ? `closed with code ${code}` : "it could not be opened");
    this.#tell.error(`The connection was lost: ${why}.`);
    this.#tell.ended();
  }
}

/** Return a WebSocket; throws an `Error` where the token cannot be named as a subprotocol. */
function openSocket() {
  try {
    return new WebSocket(socketAddress("v1/realtime?intent=transcription"), socketProtocols());
  } catch (error) {
    if (error.name !== "SyntaxError") throw error;
    throw new Error("Browsers cannot send a token with / or = in it for live captions.");
  }
}

function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += BASE64_STEP) {
    text += String.fromCharCode(...bytes.subarray(at, at + BASE64_STEP));
  }
  return btoa(text);
}
