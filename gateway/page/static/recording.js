// A recording, by picker or drop: its words with times and confidence, which play where chosen.

import { ApiError, explain, predict } from "./api.js";
import { clock, element, fillModels, percent, seconds, showError, wasStopped, withProgress } from "./dom.js";
import { readPeaks, Waveform } from "./waveform.js";

// A longer recording has words and a player, but no waveform: it would take the tab's memory.
const MAX_DRAWN_S = 900;
const MEDIA_TYPES = { srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };
const SURE = 0.9;
const LIKELY = 0.6;

export function setUpRecording() {
  const view = new RecordingView(document.querySelector("#recording"));
  return (found) => view.showModels(found);
}

class RecordingView {
  #root;
  #models = [];
  #maxBytes = Infinity;
  #shown = null; // what is transcribed: file, model and answer
  #words = [];
  #address = "";

  constructor(root) {
    this.#root = root;
    this.select = this.#find("#recording-model");
    this.player = this.#find("#player");
    this.waveform = new Waveform(this.#find("#waveform"), (share) => {
      if (this.player.duration) this.#play(share * this.player.duration);
    });
    this.#listenForFiles();
    this.#listenToPlayer();
    for (const button of root.querySelectorAll("[data-download]")) {
      button.addEventListener("click", () => this.#download(button.dataset.download));
    }
    this.#find("#align").addEventListener("click", () => this.#showAlignment());
  }

  showModels({ models, max_body_bytes: maxBytes }) {
    this.#maxBytes = maxBytes;
    this.#models = models.filter((each) => each.kind === "speech_recognition");
    const any = fillModels(this.select, this.#models);
    this.#find(".none").hidden = any;
    this.#find(".body").hidden = !any;
    this.#offerSpeakers();
    this.#offerAlignment();
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  #listenForFiles() {
    const input = this.#find("#file");
    const drop = this.#find("#drop");
    input.addEventListener("change", () => {
      if (input.files.length) this.#transcribe(input.files[0]);
      // So that the same file may be chosen again.
      input.value = "";
    });
    this.select.addEventListener("change", () => this.#offerSpeakers());
    this.#find("#diarize").addEventListener("change", () => {
      if (this.#shown) this.#transcribe(this.#shown.file);
    });
    this.select.addEventListener("change", () => {
      if (this.#shown) this.#transcribe(this.#shown.file);
    });
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    for (const name of ["dragleave", "drop"]) {
      drop.addEventListener(name, () => drop.classList.remove("over"));
    }
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) this.#transcribe(file);
    });
  }

  #listenToPlayer() {
    const { player } = this;
    player.addEventListener("timeupdate", () => {
      if (!player.duration) return;
      this.waveform.played = player.currentTime / player.duration;
      for (const { button, word } of this.#words) {
        const now = !player.paused && word.start <= player.currentTime && player.currentTime < word.end;
        button.classList.toggle("now", now);
      }
    });
    player.addEventListener("error", () => {
      player.hidden = true;
      this.#find("#player-note").hidden = false;
    });
  }

  async #transcribe(file) {
    const model = this.select.value;
    this.#clear();
    await this.#attempt("#recording > .body > .error", "#recording > .body > [data-work]", `Transcribing ${file.name} …`, async (signal) => {
      if (file.size > this.#maxBytes) {
        throw new ApiError(413, `Expected at most ${this.#maxBytes} bytes, got a file of ${file.size}.`);
      }
      const answer = await (await predict(model, this.#formOf(file, "json", signal))).json();
      this.#shown = { file, model, answer };
      this.#showTranscript();
    });
  }

  #clear() {
    this.#shown = null;
    this.player.pause();
    this.#find("#transcript").hidden = true;
    this.#find("#alignment").hidden = true;
    showError(this.#find("#align-error"), null);
    this.#find("#align-work").stop?.();
  }

  #showTranscript() {
    const { file, answer } = this.#shown;
    this.#find("#transcript").hidden = false;
    this.#find("#file-name").textContent = file.name;
    this.#offerAlignment();
    this.#showPlayer(file);
    this.#words = (answer.words ?? []).map((word) => ({ word, button: this.#wordButton(word) }));
    const items = this.#words.flatMap(({ word, button }, place) => [
      ...this.#turn(word, this.#words[place - 1]?.word), element("li", {}, button),
    ]);
    const silent = element("li", { className: "hint", textContent: "No word was heard." });
    this.#find("#words").replaceChildren(...(items.length ? items : [silent]));
    this.#drawWaveform(file, answer.duration);
  }

  /** Who begins to speak with a word, if somebody else spoke before. */
  #turn(word, before) {
    if (!word.speaker || word.speaker === before?.speaker) return [];
    return [element("li", { className: "speaker", textContent: word.speaker })];
  }

  #wordButton(word) {
    const sure = word.confidence >= SURE ? "c2" : word.confidence >= LIKELY ? "c1" : "c0";
    const times = `${seconds(word.start)} to ${seconds(word.end)}`;
    const button = element("button", {
      type: "button", className: `word ${sure}`, title: `${times}, confidence ${percent(word.confidence)}`,
      attributes: { "aria-label": `${word.word}, ${times}, confidence ${percent(word.confidence)}` },
    }, word.word);
    button.addEventListener("click", () => this.#play(word.start));
    return button;
  }

  #showPlayer(file) {
    URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(file);
    this.#find("#player-note").hidden = true;
    this.player.hidden = false;
    this.player.src = this.#address;
  }

  async #drawWaveform(file, duration) {
    this.waveform.show([]);
    if (duration > MAX_DRAWN_S) return;
    // A format that the browser cannot decode has no waveform; the player says so.
    const peaks = await readPeaks(file).catch(() => []);
    if (this.#shown?.file !== file) return;
    this.waveform.show(peaks);
    this.#find("#waveform").setAttribute("aria-label", `Waveform of ${clock(duration)}`);
  }

  #play(time) {
    this.player.currentTime = time;
    // Where it cannot be played, its error has been shown.
    this.player.play().catch(() => {});
  }

  #offerSpeakers() {
    const model = this.#models.find((each) => each.name === this.select.value);
    this.#find("#speakers-choice").hidden = !model?.speakers;
  }

  #formOf(file, format, signal) {
    const form = formOf(file, format, signal);
    const model = this.#models.find((each) => each.name === this.select.value);
    if (model?.speakers && this.#find("#diarize").checked) form.body.set("diarize", "true");
    return form;
  }

  #offerAlignment() {
    const model = this.#models.find((each) => each.name === this.#shown?.model);
    this.#find("#align").hidden = !model?.explainable;
  }

  async #download(format) {
    const { file, model, answer } = this.#shown;
    await this.#attempt("#align-error", "#align-work", "Writing the file …", async (signal) => {
      const type = MEDIA_TYPES[format];
      // Subtitles are the server's, which knows where lines break.
      const content = format === "json"
        ? JSON.stringify(answer, null, 2)
        : await (await predict(model, this.#formOf(file, format, signal))).text();
      save(new Blob([content], { type }), `${file.name.replace(/\.[^.]*$/, "")}.${format}`);
    });
  }

  async #showAlignment() {
    const { file, model, answer } = this.#shown;
    const figure = this.#find("#alignment");
    const picture = figure.querySelector("img");
    figure.hidden = true;
    await this.#attempt("#align-error", "#align-work", "Aligning …", async (signal) => {
      const blob = await (await explain(model, formOf(file, "png", signal))).blob();
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(blob);
      picture.alt = `Alignment of “${answer.text}” with the recording`;
      figure.hidden = false;
    });
  }

  /** Run something with its progress, and say why where it fails. */
  async #attempt(errorPlace, workPlace, sentence, run) {
    const place = document.querySelector(errorPlace);
    showError(place, null);
    try {
      await withProgress(document.querySelector(workPlace), sentence, run);
    } catch (error) {
      if (!wasStopped(error)) showError(place, error);
    }
  }
}

function formOf(file, format, signal) {
  const body = new FormData();
  body.set("response_format", format);
  // Its name is no concern of the server's.
  body.set("file", file, "recording");
  return { body, signal };
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
