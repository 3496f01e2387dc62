// Small helpers for elements. Whatever comes from a model, a file or a person is set as text.

const SHOW_PROGRESS_AFTER_MS = 2000;

/** Return an element with properties, attributes (in `attributes`) and children. */
export function element(name, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function seconds(value) {
  return `${value.toFixed(2)} s`;
}

/** Return a position in a recording or session: minutes, seconds and tenths. */
export function clock(value) {
  const tenths = Math.round(value * 10);
  const rest = String(Math.floor((tenths % 600) / 10)).padStart(2, "0");
  return `${Math.floor(tenths / 600)}:${rest}.${tenths % 10}`;
}

export function percent(value) {
  return `${(value * 100).toFixed(1)} %`;
}

export function showError(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

/** Fill a choice of models; return whether there is any. */
export function fillModels(select, models) {
  const chosen = select.value;
  select.replaceChildren(
    ...models.map((each) =>
      element("option", { value: each.name, disabled: !each.ready, textContent: each.ready ? each.name : `${each.name} (starting)` }),
    ),
  );
  if (models.some((each) => each.name === chosen && each.ready)) select.value = chosen;
  // With a single model there is nothing to choose.
  select.closest(".model").classList.toggle("single", models.length < 2);
  return models.length > 0;
}

/**
 * Show that something runs, with its progress once that takes over two seconds, and a button that
 * ends it. `run` gets a signal; work that began before at the same place is ended.
 */
export async function withProgress(place, sentence, run) {
  place.stop?.();
  const controller = new AbortController();
  place.stop = () => controller.abort();
  const cancel = element("button", { type: "button", textContent: "Cancel" });
  cancel.addEventListener("click", () => controller.abort());
  const spent = element("span", { className: "spent", attributes: { "aria-hidden": "true" } });
  const said = element("p", { className: "state", textContent: sentence, attributes: { role: "status" } });
  place.replaceChildren(said);
  const started = performance.now();
  const timer = setInterval(() => {
    const past = performance.now() - started;
    if (past < SHOW_PROGRESS_AFTER_MS) return;
    spent.textContent = `${Math.round(past / 1000)} s`;
    if (!cancel.isConnected) place.append(element("progress", { attributes: { "aria-label": sentence } }), spent, cancel);
  }, 250);
  try {
    return await run(controller.signal);
  } finally {
    clearInterval(timer);
    if (place.contains(said)) place.replaceChildren();
  }
}

export function wasStopped(error) {
  return error instanceof DOMException && error.name === "AbortError";
}
