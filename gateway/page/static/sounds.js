// What else models say of recordings: labels, who or what is active when, whether voices are one.

import { element, percent, seconds } from "./dom.js";
import { labelBars, setUpForms } from "./forms.js";

// More labels would not be read.
const MAX_LABELS = 5;

const TASKS = {
  audio_classification: {
    request: (fields) => ({ file: fields.file, top_k: MAX_LABELS }),
    options: formBody,
    show: (labels) => [labelBars(labels)],
    explained: (fields) => ({ file: fields.file, response_format: "png" }),
    explain: async (response) => [await picture(response, "The waveform, and how much each stretch counts for the label")],
  },
  frame_classification: {
    request: (fields) => ({ file: fields.file }),
    options: formBody,
    show: (segments) => [timeline(segments)],
  },
  speaker_embedding: {
    request: (fields) => ({ file: fields.file, other: fields.other }),
    options: formBody,
    show: (answer) => [likeness(answer)],
  },
};

export function setUpSounds() {
  const root = document.querySelector("#sound");
  // None of these models is served unless it is named.
  return setUpForms(root, TASKS, (any) => {
    root.hidden = !any;
    document.querySelector("nav [href='#sound']").hidden = !any;
  });
}

/** Return options of a request with a form: files of inputs, and texts. */
function formBody(asked, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(asked)) {
    // The name of a file is no concern of the server's.
    if (value.files) body.set(name, value.files[0], "recording");
    else body.set(name, value);
  }
  return { body, signal };
}

async function picture(response, alt) {
  const image = element("img", { alt, src: URL.createObjectURL(await response.blob()) });
  for (const name of ["load", "error"]) image.addEventListener(name, () => URL.revokeObjectURL(image.src), { once: true });
  return element("figure", { className: "picture" }, image);
}

/** Return a row for each label, with a bar for each stretch in which it is active. */
function timeline(segments) {
  if (!segments.length) return element("p", { className: "hint", textContent: "Nothing was heard." });
  const end = Math.max(...segments.map((each) => each.end));
  const labels = [...new Set(segments.map((each) => each.label))].sort();
  const rows = labels.map((label) => {
    const own = segments.filter((each) => each.label === label);
    const track = element("span", { className: "track", attributes: { "aria-hidden": "true" } }, ...own.map((each) => bar(each, end)));
    const times = own.map((each) => `${seconds(each.start)} to ${seconds(each.end)}`).join(", ");
    return element("li", {}, element("span", { textContent: label }), track, element("span", { className: "time", textContent: times }));
  });
  const list = element("ol", { className: "timeline", attributes: { "aria-label": "Who or what is active when" } }, ...rows);
  const span = element("p", { className: "hint", textContent: `The rows go from 0.00 s to ${seconds(end)}, the end of the last.` });
  return element("div", { className: "result" }, list, span);
}

function bar({ start, end, score }, whole) {
  const made = element("span", { title: `${seconds(start)} to ${seconds(end)}, ${percent(score)}` });
  made.style.setProperty("--from", start / whole);
  made.style.setProperty("--share", (end - start) / whole);
  return made;
}

function likeness({ cosine, threshold, same_speaker: same }) {
  const answer = element("strong", { textContent: same ? "One voice" : "Two voices" });
  const detail = ` cosine ${cosine.toFixed(2)}, one voice from ${threshold.toFixed(2)} on`;
  return element("p", { className: "answer" }, answer, detail);
}
