"""The speech corpus: who says what, in training and in the tests, and its synthesised waveforms.

Plans are drawn first and are the same in every run. Held-out sentences are drawn before the
training ones, which then avoid them, so that no test sentence is ever trained on. Synthesis takes
some minutes; waveforms are kept in a workspace folder for as long as the plan stays the same.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torchaudio

from demo_models import command_grammar, espeak, voices
from demo_models.espeak import Int16Waveform, SpokenSentence
from demo_models.progress import Progress

TextDrawer = Callable[[random.Random], str]
Delivery = Callable[[str, random.Random], SpokenSentence]

SEED = 20_240

TRAINING_COUNTS: dict[TextDrawer, int] = {
    command_grammar.command: 22_000,
    command_grammar.word_string: 6_000,
    command_grammar.digit_string: 8_000,
    command_grammar.stuttering_digit_string: 4_000,
}
TEST_COUNTS: dict[TextDrawer, int] = {
    command_grammar.command: 300,
    command_grammar.digit_string: 100,
}
DEVELOPMENT_COUNTS: dict[TextDrawer, int] = {
    command_grammar.command: 75,
    command_grammar.digit_string: 25,
}


@dataclass(frozen=True, eq=False)
class Utterance:
    """A spoken sentence: 16 kHz mono int16 samples, the words and espeak-ng's name of the voice."""

    waveform: Int16Waveform
    text: str
    voice: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / espeak.SAMPLE_RATE_HZ


@dataclass(frozen=True)
class CorpusPlan:
    """Everything that is to be said: for training, while training, and to score the result."""

    training: list[SpokenSentence]
    development: dict[str, list[SpokenSentence]]
    held_out: dict[str, list[SpokenSentence]]


def _by_default_voice(text: str, rng: random.Random) -> SpokenSentence:
    return SpokenSentence(text, rng.choice(voices.DEFAULT_ACCENTS))


def _by_seen_voice(text: str, rng: random.Random) -> SpokenSentence:
    voice = voices.draw_training_voice(rng)
    return SpokenSentence(text, voice, rng.randint(125, 215), rng.randint(25, 75))


def _by_development_voice(text: str, rng: random.Random) -> SpokenSentence:
    voice = voices.draw_development_voice(rng)
    return SpokenSentence(text, voice, rng.randint(120, 220), rng.randint(35, 65))


def _by_unseen_voice(text: str, rng: random.Random) -> SpokenSentence:
    voice = voices.draw_unseen_voice(rng)
    return SpokenSentence(text, voice, rng.randint(115, 225), rng.randint(40, 60))


def _by_training_voice(text: str, rng: random.Random) -> SpokenSentence:
    voice = voices.draw_training_voice(rng)
    if "+" not in voice and rng.random() < 0.5:
        return SpokenSentence(text, voice)  # as espeak-ng speaks when it is told nothing
    word_gap = rng.choice((0, 0, 0, 0, 1, 3, 6))
    return SpokenSentence(text, voice, rng.randint(110, 230), rng.randint(20, 80), word_gap)


def plan(seed: int = SEED) -> CorpusPlan:
    """Draw all sentences and voices; the same seed draws the same."""
    rng = random.Random(seed)
    taken: set[str] = set()
    held_out = {
        "default_voice": _plan_test(TEST_COUNTS, _by_default_voice, taken, rng),
        "seen_voices": _plan_test(TEST_COUNTS, _by_seen_voice, taken, rng),
        "unseen_voices": _plan_test(TEST_COUNTS, _by_unseen_voice, taken, rng),
    }
    development = {
        "seen_voices": _plan_test(DEVELOPMENT_COUNTS, _by_seen_voice, taken, rng),
        "development_voices": _plan_test(DEVELOPMENT_COUNTS, _by_development_voice, taken, rng),
    }
    return CorpusPlan(_plan_training(taken, rng), development, held_out)


def _plan_test(
    counts: dict[TextDrawer, int], delivery: Delivery, taken: set[str], rng: random.Random
) -> list[SpokenSentence]:
    """Draw new sentences of two or more words (every single word is trained on); take them."""
    sentences: list[SpokenSentence] = []
    for draw_text, count in counts.items():
        several_words = (text for text in _untaken(draw_text, taken, rng) if " " in text)
        for text in islice(several_words, count):
            taken.add(text)
            sentences.append(delivery(text, rng))
    return sentences


def _untaken(draw_text: TextDrawer, taken: set[str], rng: random.Random) -> Iterator[str]:
    while True:
        text = draw_text(rng)
        if text not in taken:
            yield text


def _plan_training(taken: set[str], rng: random.Random) -> list[SpokenSentence]:
    sentences: list[SpokenSentence] = []
    for draw_text, count in TRAINING_COUNTS.items():
        texts = list(islice(_untaken(draw_text, taken, rng), count))
        sentences += [_by_training_voice(text, rng) for text in texts]
    return sentences


def training(workspace: Path) -> list[Utterance]:
    """Return the training utterances."""
    return speak_all("training", plan().training, workspace)


def development(workspace: Path) -> dict[str, list[Utterance]]:
    """Return the sets that tell how training goes, by trained and by untrained voices."""
    return {
        name: speak_all(f"development_{name}", sentences, workspace)
        for name, sentences in plan().development.items()
    }


def held_out(workspace: Path) -> dict[str, list[Utterance]]:
    """Return the test sets: `default_voice`, `seen_voices` and `unseen_voices`."""
    return {
        name: speak_all(f"held_out_{name}", sentences, workspace)
        for name, sentences in plan().held_out.items()
    }


def speak_all(
    name: str,
    sentences: Sequence[SpokenSentence],
    workspace: Path,
    variants: Mapping[str, str] | None = None,
) -> list[Utterance]:
    """Load a set's waveforms from the workspace, after synthesising them where they are missing.

    `variants` are those of voices that espeak-ng does not have, by default those of the corpus.
    """
    samples_path = workspace / "corpus" / f"{name}.npy"
    index_path = samples_path.with_suffix(".json")
    planned = [asdict(sentence) for sentence in sentences]
    if not index_path.exists() or json.loads(index_path.read_text())["sentences"] != planned:
        waveforms = _synthesise(name, sentences, workspace, variants)
        samples_path.parent.mkdir(parents=True, exist_ok=True)
        np.save(samples_path, np.concatenate(waveforms))
        index = {"sentences": planned, "lengths": [len(waveform) for waveform in waveforms]}
        index_path.write_text(json.dumps(index))
    ends = np.cumsum(json.loads(index_path.read_text())["lengths"])[:-1]
    waveforms = np.split(np.load(samples_path, mmap_mode="r"), ends)
    return [
        Utterance(waveform, sentence.text, sentence.voice)
        for waveform, sentence in zip(waveforms, sentences, strict=True)
    ]


def _synthesise(
    name: str,
    sentences: Sequence[SpokenSentence],
    workspace: Path,
    variants: Mapping[str, str] | None,
) -> list[Int16Waveform]:
    espeak.install_variants(variants or voices.random_variants(SEED), workspace)
    progress = Progress(f"synthesis of {name}", len(sentences))
    waveforms = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spoken = pool.map(lambda sentence: espeak.speak(sentence, workspace), sentences)
        for done, waveform in enumerate(spoken, start=1):
            waveforms.append(waveform)
            progress.report_now_and_then(done)
    return waveforms


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return substituted, missing and inserted words per 100 reference words, over all pairs."""
    errors = words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += torchaudio.functional.edit_distance(reference.split(), hypothesis.split())
        words += len(reference.split())
    return 100 * errors / words
