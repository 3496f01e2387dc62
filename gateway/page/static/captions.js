// Live captions: what the microphone hears, as it is said.

import { askJson, someModel } from "./api.js";
import { clock, element, fillModels, showError } from "./dom.js";
import { openMicrophone } from "./microphone.js";
import { LiveTranscription } from "./realtime.js";

const STATES = { connecting: "Connecting …", listening: "Listening", reconnecting: "The connection was lost; connecting again …" };
// So that an evening of captions does not fill the tab.
const MOST_CAPTIONS = 2000;

export function setUpCaptions() {
  const root = document.querySelector("#live");
  const view = new CaptionsView(root);
  return ({ models }) => {
    const any = fillModels(view.select, models.filter((each) => each.kind === "live_speech"));
    root.querySelector(".none").hidden = any;
    root.querySelector(".body").hidden = !any;
  };
}

class CaptionsView {
  #root;
  #microphone = null;
  #transcription = null;

  constructor(root) {
    this.#root = root;
    this.select = this.#find("model");
    this.button = this.#find("start");
    this.button.addEventListener("click", () => (this.#transcription ? this.#stop() : this.#start()));
    this.#find("clear").addEventListener("click", () => {
      this.#find("captions").replaceChildren();
      this.#showNewest();
    });
  }

  #find(name) {
    return this.#root.querySelector(`#live-${name}`);
  }

  async #start() {
    showError(this.#find("error"), null);
    this.button.disabled = true;
    this.#say("Opening the microphone …");
    try {
      const transcription = new LiveTranscription(someModel(this.select.value), {
        state: (name) => this.#say(STATES[name]),
        partial: (text) => this.#showPartial(text),
        completed: (segment) => this.#add(segment),
        error: (message) => showError(this.#find("error"), new Error(message)),
        ended: () => this.#stop(),
      });
      this.#microphone = await openMicrophone((samples) => this.#hear(samples), () => this.#stop());
      this.#transcription = transcription;
      transcription.open();
      this.#showRunning(true);
    } catch (error) {
      showError(this.#find("error"), error);
      this.#say("");
      await this.#microphone?.close();
      this.#microphone = this.#transcription = null;
    }
    this.button.disabled = false;
  }

  #hear(samples) {
    this.#transcription?.append(samples);
    let loudest = 0;
    for (const sample of samples) loudest = Math.max(loudest, Math.abs(sample));
    this.#find("level").style.setProperty("--share", (loudest / 32768).toFixed(3));
  }

  async #stop() {
    const [microphone, transcription] = [this.#microphone, this.#transcription];
    if (!transcription || this.button.disabled) return;
    this.button.disabled = true;
    this.#say("Finishing …");
    await microphone.close();
    await transcription.finish();
    this.#microphone = this.#transcription = null;
    this.#showRunning(false);
    this.#say("Stopped");
    this.button.disabled = false;
    // A WebSocket does not tell why it was refused; a missing token is asked for by this.
    if (!this.#find("error").hidden) askJson("page/models.json").catch(() => {});
  }

  #showRunning(running) {
    this.#root.classList.toggle("running", running);
    this.button.textContent = running ? "Stop" : "Start the microphone";
    this.select.disabled = running;
    if (!running) this.#find("level").style.setProperty("--share", 0);
  }

  #add({ text, start, end }) {
    const times = start === undefined ? [] : [element("span", { className: "time", textContent: clock(start) + (end === undefined ? "" : `–${clock(end)}`) }), " "];
    const list = this.#find("captions");
    list.append(element("li", {}, ...times, element("span", { textContent: text, dir: "auto" })));
    while (list.childElementCount > MOST_CAPTIONS) list.firstElementChild.remove();
    this.#showNewest();
  }

  #showPartial(text) {
    this.#find("partial").textContent = text;
    this.#showNewest();
  }

  #showNewest() {
    const box = this.#find("box");
    box.scrollTop = box.scrollHeight;
    const nothing = !this.#find("captions").childElementCount && !this.#find("partial").textContent;
    this.#find("empty").hidden = !nothing;
  }

  #say(sentence) {
    this.#find("state").textContent = sentence;
  }
}
