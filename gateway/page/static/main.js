// The page: which models there are, and what stands in its sections.

import { ApiError, askJson, onTokenNeeded, setToken } from "./api.js";
import { setUpCaptions } from "./captions.js";
import { setUpRecording } from "./recording.js";
import { setUpSounds } from "./sounds.js";
import { setUpTexts } from "./texts.js";

const LOOK_AGAIN_MS = 5000;
const state = document.querySelector("#server-state");
const tokenForm = document.querySelector("#token-form");
const sections = [setUpCaptions(), setUpRecording(), setUpSounds(), setUpTexts()];
let shown = "";
let timer;

async function lookForModels() {
  clearTimeout(timer);
  let settled = false;
  try {
    const found = await askJson("page/models.json");
    settled = showModels(found);
    tokenForm.hidden = true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.status === 401 ? "This server asks for a token." : error.message);
    state.classList.remove("good");
    settled = !tokenForm.hidden;
  }
  if (!settled) timer = setTimeout(lookForModels, LOOK_AGAIN_MS);
}

/** Show models, unless they are the same; return whether all are ready. */
function showModels(found) {
  const { models } = found;
  const ready = models.filter((each) => each.ready).length;
  say(models.length === 0 ? "No model is served." : `${ready} of ${models.length} models ready`);
  state.classList.toggle("good", ready > 0 && ready === models.length);
  const now = JSON.stringify(found);
  if (now !== shown) for (const section of sections) section(found);
  shown = now;
  return ready > 0 && ready === models.length;
}

function say(sentence) {
  if (state.textContent !== sentence) state.textContent = sentence;
}

onTokenNeeded(() => {
  tokenForm.hidden = false;
});
tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = tokenForm.elements.token;
  setToken(field.value.trim());
  field.value = "";
  document.querySelector("#main").focus();
  lookForModels();
});
// Models come and go while nobody looks.
document.addEventListener("visibilitychange", () => document.hidden || lookForModels());
// A file that misses its place is not opened instead of the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
lookForModels();
