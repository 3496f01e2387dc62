// Forms that ask a kind of models something, and show what they answer.

import { explain, jsonBody, predict } from "./api.js";
import { element, fillModels, percent, showError, wasStopped, withProgress } from "./dom.js";

/** Let the forms of a section work; return what shows those that there are models for. */
export function setUpForms(root, tasks, onShown) {
  const forms = [...root.querySelectorAll("form")].map((form) => new TaskForm(form, tasks[form.dataset.kind]));
  return ({ models }) => {
    const shown = forms.map((form) => form.showModels(models));
    onShown(shown.includes(true));
  };
}

/**
 * A form of one kind of models. Its task has `request`, what is asked; `options`, how that is sent
 * (as JSON where it does not say); `show` or `stream` for the answer; and for an explanation, if
 * anything, `explained`, what is asked, and `explain`, which shows it.
 */
class TaskForm {
  #form;
  #models = [];

  constructor(form, task) {
    this.#form = form;
    this.task = task;
    form.append(document.querySelector("#form-places").content.cloneNode(true));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#answer();
    });
    this.#find("[data-explain]")?.addEventListener("click", () => {
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
    const button = this.#find("[data-explain]");
    if (button) button.hidden = !model?.explainable;
  }

  #answer() {
    const { elements } = this.#form;
    const asked = this.task.request(elements);
    return this.#attempt("Answering …", ["[data-answer]", "[data-explanation]"], async (signal) => {
      const response = await predict(elements.model.value, this.#options(asked, signal));
      const place = this.#find("[data-answer]");
      if (this.task.stream) await this.task.stream(place, asked.inputs, response, this.#find("[data-stop]"));
      else place.replaceChildren(...this.task.show(await response.json(), asked));
    });
  }

  #explain() {
    const { elements } = this.#form;
    const asked = this.task.explained(elements);
    return this.#attempt("Explaining …", ["[data-explanation]"], async (signal) => {
      const response = await explain(elements.model.value, this.#options(asked, signal));
      this.#find("[data-explanation]").replaceChildren(...(await this.task.explain(response)));
    });
  }

  #options(asked, signal) {
    return this.task.options?.(asked, signal) ?? jsonBody(asked, signal);
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

/** Return labels with their scores, and a bar for each. */
export function labelBars(labels) {
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
