// The microphone, as pieces of 16-bit samples at 24 kHz.

export const RATE_HZ = 24000;
// A recogniser hears a voice best as it is.
const WANTED = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const FLUSH_TIMEOUT_MS = 1000;
const REASONS = {
  NotAllowedError: "The microphone was not allowed. The browser's address bar has its permission.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone cannot be read; another program may have it.",
};

/** Return an open microphone; throws an `Error` that says why there is none. */
export async function openMicrophone(onSamples, onEnded) {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone to pages over HTTPS or of this machine alone.");
  // Before the microphone, so that no first word is lost.
  const context = await openContext({ sampleRate: RATE_HZ });
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
  } catch (error) {
    await context.close();
    throw new Error(REASONS[error.name] ?? `The microphone cannot be opened: ${error.message}`);
  }
  stream.getAudioTracks()[0].addEventListener("ended", onEnded);
  const [connected, source] = await connect(context, stream);
  return new Microphone(stream, connected, source, onSamples);
}

async function openContext(options) {
  const context = new AudioContext(options);
  await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
  return context;
}

/** Return a context and a stream as its source; Firefox has that at the stream's own rate alone. */
async function connect(context, stream) {
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    await context.close();
    const own = await openContext({});
    return [own, own.createMediaStreamSource(stream)];
  }
}

class Microphone {
  #stream;
  #onSamples;
  #context;
  #node;

  constructor(stream, context, source, onSamples) {
    this.#stream = stream;
    this.#onSamples = onSamples;
    this.#context = context;
    this.#node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
    this.#node.port.onmessage = ({ data }) => onSamples(data.samples);
    source.connect(this.#node);
  }

  /** Stop, once the last samples were given. */
  async close() {
    await this.#flush();
    for (const track of this.#stream.getTracks()) track.stop();
    await this.#context.close();
  }

  #flush() {
    const { port } = this.#node;
    return new Promise((resolve) => {
      port.onmessage = ({ data }) => {
        this.#onSamples(data.samples);
        if (data.last) resolve();
      };
      port.postMessage("stop");
      // A context that the system has suspended answers nothing.
      setTimeout(resolve, FLUSH_TIMEOUT_MS);
    });
  }
}
