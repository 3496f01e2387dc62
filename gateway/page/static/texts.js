// The text tasks: a form for each, which asks for what the kind of model answers.

import { readEvents } from "./api.js";
import { element, percent } from "./dom.js";
import { showExplanation } from "./explanations.js";
import { labelBars, setUpForms } from "./forms.js";

// A heat map for each new token: more would not be read.
const MAX_EXPLAINED_TOKENS = 8;

/** How each kind is asked and shown: `inputs` and `parameters` as transformers.pipeline has them. */
const TASKS = {
  sequence_classification: {
    request: (fields) => ({ inputs: fields.text.value, parameters: { top_k: null } }),
    explained: (fields) => byWord({ text: fields.text.value }),
    explain: showWords,
    show: (answer) => [labelBars(answer)],
  },
  token_classification: {
    request: (fields) => ({ inputs: fields.text.value, parameters: { aggregation_strategy: "simple" } }),
    explained: (fields) => byWord({ text: fields.text.value }),
    explain: showWords,
    show: (answer, asked) => [marked(asked.inputs, answer.map((each) => ({ ...each, label: each.entity_group })))],
  },
  question_answering: {
    request: (fields) => ({ inputs: { question: fields.question.value, context: fields.context.value } }),
    explained: (fields) => byWord({ question: fields.question.value, context: fields.context.value }),
    explain: showWords,
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
    explained: (fields) => byWord(
      { text: fields.text.value },
      { max_new_tokens: Math.min(fields.max_new_tokens.valueAsNumber, MAX_EXPLAINED_TOKENS) },
    ),
    explain: showWords,
    stream: streamText,
  },
};

export function setUpTexts() {
  const root = document.querySelector("#text");
  return setUpForms(root, TASKS, (any) => {
    root.querySelector(".none").hidden = any;
  });
}

function byWord(content, parameters = {}) {
  return { ...content, parameters: { ...parameters, granularity: "word" } };
}

async function showWords(response) {
  return showExplanation(await response.json());
}

/** Return a text with spans of it marked: `start` and `end` count characters, as Python does. */
function marked(text, spans) {
  const characters = Array.from(text);
  const paragraph = element("p", { className: "marked", dir: "auto" });
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
  const story = element("p", { className: "story", dir: "auto", attributes: { "aria-busy": "true" } }, element("span", { className: "prompt", textContent: prompt }), written);
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
