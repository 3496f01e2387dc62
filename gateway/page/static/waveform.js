// The waveform of a recording: drawn on a canvas in the page's colours, with what was played.

const DRAW_RATE_HZ = 16000;
const COLUMNS = 800;

/** Return the largest and the smallest sample of each column, between -1 and 1. */
export async function readPeaks(file) {
  // A context of this rate resamples what it decodes, so that long recordings stay small.
  const context = new OfflineAudioContext(1, 1, DRAW_RATE_HZ);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  const samples = audio.getChannelData(0);
  const width = Math.max(1, samples.length / COLUMNS);
  return Array.from({ length: Math.min(COLUMNS, samples.length) }, (_, column) => {
    const part = samples.subarray(Math.floor(column * width), Math.ceil((column + 1) * width));
    let high = -1;
    let low = 1;
    for (const sample of part) {
      high = Math.max(high, sample);
      low = Math.min(low, sample);
    }
    return [high, low];
  });
}

/** Draws peaks, again when its size or the colours change, and seeks where it is clicked. */
export class Waveform {
  #canvas;
  #peaks = [];
  #played = 0;

  constructor(canvas, seek) {
    this.#canvas = canvas;
    canvas.addEventListener("click", (event) => seek(event.offsetX / canvas.clientWidth));
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  show(peaks) {
    this.#peaks = peaks;
    this.#played = 0;
    this.#canvas.hidden = peaks.length === 0;
    this.#draw();
  }

  /** Mark a share of the recording as played. */
  set played(share) {
    this.#played = share;
    this.#draw();
  }

  #draw() {
    const canvas = this.#canvas;
    const scale = devicePixelRatio;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const loudest = Math.max(0.01, ...this.#peaks.flat().map(Math.abs));
    const step = canvas.width / this.#peaks.length;
    const middle = canvas.height / 2;
    this.#peaks.forEach(([high, low], column) => {
      const isPlayed = column / this.#peaks.length < this.#played;
      context.fillStyle = style.getPropertyValue(isPlayed ? "--accent" : "--wave");
      const top = middle - (high / loudest) * middle * 0.95;
      const height = ((high - low) / loudest) * middle * 0.95;
      context.fillRect(column * step, top, Math.max(1, step * 0.7), Math.max(scale, height));
    });
  }
}
