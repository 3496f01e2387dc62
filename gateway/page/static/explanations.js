// What an answer depends on: each word shaded by its attribution, with the number under it.

import { element, percent } from "./dom.js";

/** Return the explanation of any text task, a heat map for each target. */
export function showExplanation(answer) {
  const rows = readRows(answer);
  if (rows.length === 0) return [element("p", { className: "hint", textContent: "There is nothing to explain: no name was found." })];
  return [
    element("h4", { textContent: "What the answer depends on" }),
    element("p", { className: "hint" }, "What each word adds: ",
      element("span", { className: "key for", textContent: "for" }), " ",
      element("span", { className: "key against", textContent: "against" })),
    ...rows.map((row) => heatMap(answer.words.map(readable), row)),
  ];
}

/** Return title, importances and delta of each target, whatever the task. */
function readRows(answer) {
  if (answer.entities) {
    return answer.entities.map((each) => ({ ...each, title: `${each.word}: ${each.target}${chance(each.probability)}` }));
  }
  if (answer.generated) {
    return answer.generated.map((token, index) => ({
      title: `“${readable(token)}”`, importances: answer.importances[index], delta: answer.delta[index],
    }));
  }
  if (answer.importances_answer_start) {
    return ["start", "end"].map((edge) => ({
      title: `The ${edge} of “${answer.answer}”${chance(answer[`probability_${edge}`])}`,
      importances: answer[`importances_answer_${edge}`], delta: answer[`delta_${edge}`],
    }));
  }
  return [{ ...answer, title: `${answer.target}${chance(answer.probability)}` }];
}

function chance(probability) {
  return probability === undefined ? "" : `, ${percent(probability)}`;
}

/** Return a token of a byte-level vocabulary as it is read. */
function readable(token) {
  return token.replace(/^[Ġ▁]/u, "").replace(/Ċ/gu, "↵");
}

function heatMap(words, { title, importances, delta }) {
  const largest = Math.max(...importances.map(Math.abs)) || 1;
  const items = words.map((word, index) => {
    const item = element("li", { className: importances[index] < 0 ? "against" : "for" },
      element("span", { textContent: word }), element("small", { textContent: signed(importances[index]) }));
    item.style.setProperty("--strength", (Math.abs(importances[index]) / largest).toFixed(3));
    return item;
  });
  return element("div", { className: "heat" },
    element("h5", { textContent: title }),
    element("ol", { attributes: { "aria-label": `Words and what each adds to ${title}` } }, ...items),
    element("p", { className: "hint", textContent: `Convergence delta ${delta.toPrecision(2)}` }));
}

function signed(value) {
  const shown = Math.abs(value).toFixed(2);
  return value < 0 && Number(shown) ? `−${shown}` : shown;
}
