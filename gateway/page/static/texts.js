// The text tasks: a form for each, which asks for what the kind of model answers.

import { explain, jsonBody, predict, readEvents } from "./api.js";
import { element, fillModels, percent, showError, wasStopped, withProgress } from "./dom.js";
import { showExplanation } from "./explanations.js";

// A heat map for each new token: more would not be read.
const MAX_EXPLAINED_TOKENS = 8;

/** How each kind is asked and shown: `inputs` and `parameters` as transformers.pipeline has them. */
const TASKS = {
  sequence_classification: {
    request: (fields) => ({ inputs: fields.text.value, parameters: { top_k: null } }),
    explained: (fields) => ({ text: fields.text.value }),
    show: (answer) => [labelBars(answer)],
  },
  token_classification: {
    request: (fields) => ({ inputs: fields.text.value, parameters: { aggregation_strategy: "simple" } }),
    explained: (fields) => ({ text: fields.text.value }),
    show: (answer, asked) => [marked(asked.inputs, answer.map((each) => ({ ...each, label: each.entity_group })))],
  },
  question_answering: {
    request: (fields) => ({ inputs: { question: fields.question.value, context: fields.context.value } }),
    explained: (fields) => ({ question: fields.question.value, context: fields.context.value }),
    show: (answer, asked) => [
      element("p", { className: "answer" }, element("strong", { textContent: answer.answer || "No answer" }), ` ${percent(answer.score)}`),
      marked(asked.inputs.context, answer.answer ? [{ ...answer, label: "answer" }] : []),
    ],
  },
  text_generation: {
    request: (fields) => ({
      inputs: fields.text.value,
      parameters: { max_new_tokens: fields.max_new_tokens.valueAsNumber, do_sample: fields.do_sample.checked },
      stream: true,
    }),
    explained: (fields) => ({
      text: fields.text.value,
      parameters: { max_new_tokens: Math.min(fields.max_new_tokens.valueAsNumber, MAX_EXPLAINED_TOKENS) },
    }),
    stream: streamText,
  },
};

export function setUpTexts() {
  const root = document.querySelector("#text");
  const forms = [...root.querySelectorAll("form")].map((form) => new TaskForm(form));
  return ({ models }) => {
    const shown = forms.map((form) => form.showModels(models));
    root.querySelector(".none").hidden = shown.includes(true);
  };
}

class TaskForm {
  #form;
  #models = [];

  constructor(form) {
    this.#form = form;
    this.task = TASKS[form.dataset.kind];
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#answer();
    });
    this.#find("[data-explain]").addEventListener("click", () => {
      if (form.reportValidity()) this.#explain();
    });
    this.#find("[data-stop]")?.addEventListener("click", () => this.#find("[data-work]").stop?.());
    form.elements.model.addEventListener("change", () => this.#offerExplanation());
  }

  /** Show the models of this kind, and whether there are any. */
  showModels(models) {
    this.#models = models.filter((each) => each.kind === this.#form.dataset.kind);
    const any = fillModels(this.#form.elements.model, this.#models);
    this.#form.hidden = !any;
    this.#offerExplanation();
    return any;
  }

  #find(selector) {
    return this.#form.querySelector(selector);
  }

  #offerExplanation() {
    const model = this.#models.find((each) => each.name === this.#form.elements.model.value);
    this.#find("[data-explain]").hidden = !model?.explainable;
  }

  #answer() {
    const { elements } = this.#form;
    const asked = this.task.request(elements);
    return this.#attempt("Answering …", ["[data-answer]", "[data-explanation]"], async (signal) => {
      const response = await predict(elements.model.value, jsonBody(asked, signal));
      const place = this.#find("[data-answer]");
      if (this.task.stream) await this.task.stream(place, asked.inputs, response, this.#find("[data-stop]"));
      else place.replaceChildren(...this.task.show(await response.json(), asked));
    });
  }

  #explain() {
    const { elements } = this.#form;
    const { parameters = {}, ...content } = this.task.explained(elements);
    const asked = { ...content, parameters: { ...parameters, granularity: "word" } };
    return this.#attempt("Explaining …", ["[data-explanation]"], async (signal) => {
      const response = await explain(elements.model.value, jsonBody(asked, signal));
      this.#find("[data-explanation]").replaceChildren(...showExplanation(await response.json()));
    });
  }

  /** Run something with its progress in place of older results, and say why where it fails. */
  async #attempt(sentence, places, run) {
    const errorPlace = this.#find(":scope > .error");
    for (const each of places) this.#find(each).replaceChildren();
    showError(errorPlace, null);
    try {
      await withProgress(this.#find("[data-work]"), sentence, run);
    } catch (error) {
      if (!wasStopped(error)) showError(errorPlace, error);
    }
  }
}

function labelBars(labels) {
  const items = labels.map(({ label, score }) => {
    const bar = element("span", { className: "bar", attributes: { "aria-hidden": "true" } });
    bar.style.setProperty("--share", Math.min(1, Math.max(0, score)));
    return element("li", {}, element("span", { textContent: label }), element("span", { textContent: shownScore(score) }), bar);
  });
  return element("ol", { className: "labels", attributes: { "aria-label": "Labels" } }, ...items);
}

/** Return a probability as a percentage, and what a regression gives as a number. */
function shownScore(score) {
  return score >= 0 && score <= 1 ? percent(score) : score.toFixed(2);
}

/** Return a text with spans of it marked: `start` and `end` count characters, as Python does. */
function marked(text, spans) {
  const characters = Array.from(text);
  const paragraph = element("p", { className: "marked" });
  let at = 0;
  for (const { start, end, label, score } of [...spans].sort((a, b) => a.start - b.start)) {
    if (start < at) continue;
    paragraph.append(characters.slice(at, start).join(""));
    const note = element("small", { textContent: label });
    paragraph.append(element("mark", { title: `${label}, ${percent(score)}` }, characters.slice(start, end).join(""), "\u00a0", note));
    at = end;
  }
  paragraph.append(characters.slice(at).join(""));
  if (!spans.length) return element("div", {}, paragraph, element("p", { className: "hint", textContent: "Nothing was found." }));
  return paragraph;
}

/** Write tokens as they come; the button ends it. */
async function streamText(place, prompt, response, stop) {
  const written = element("span");
  const story = element("p", { className: "story", attributes: { "aria-busy": "true" } }, element("span", { className: "prompt", textContent: prompt }), written);
  const state = element("p", { className: "state", attributes: { role: "status" } });
  place.replaceChildren(story, state);
  let tokens = 0;
  let reason = "stopped";
  stop.disabled = false;
  try {
    for await (const event of readEvents(response)) {
      tokens += 1;
      if (!event.token.special) written.append(event.token.text);
      reason = event.details?.finish_reason ?? reason;
    }
    if (reason === "stopped") throw new Error("The answer ended before its end.");
  } finally {
    stop.disabled = true;
    story.removeAttribute("aria-busy");
    state.textContent = `${tokens} tokens (${ENDINGS[reason] ?? reason})`;
  }
}

const ENDINGS = { length: "as many as asked for", eos_token: "its end", stop_sequence: "a stop sequence", stopped: "stopped" };
