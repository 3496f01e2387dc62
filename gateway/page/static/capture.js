// In the audio thread: from what the microphone gives to pieces of 16-bit samples at 24 kHz.

const RATE_HZ = 24000;
const PIECE = RATE_HZ / 10;

class Capture extends AudioWorkletProcessor {
  #piece = new Int16Array(PIECE);
  #filled = 0;
  // Where the context has another rate, each sample is the mean of those that it stands for.
  #ratio = sampleRate / RATE_HZ;
  #missing = this.#ratio;
  #sum = 0;
  #stopped = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#send(true);
      this.#stopped = true;
    };
  }

  process([[channel]]) {
    for (const sample of channel ?? []) this.#take(sample);
    return !this.#stopped;
  }

  #take(sample) {
    let left = 1;
    while (left >= this.#missing) {
      this.#put((this.#sum + sample * this.#missing) / this.#ratio);
      left -= this.#missing;
      this.#missing = this.#ratio;
      this.#sum = 0;
    }
    this.#sum += sample * left;
    this.#missing -= left;
  }

  #put(value) {
    this.#piece[this.#filled++] = Math.round(Math.max(-1, Math.min(1, value)) * 32767);
    if (this.#filled === PIECE) this.#send(false);
  }

  #send(last) {
    const samples = this.#piece.slice(0, this.#filled);
    this.#filled = 0;
    this.port.postMessage({ samples, last }, [samples.buffer]);
  }
}

registerProcessor("capture", Capture);
