"""What recognisers make of sentences with pauses between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, to_float
from demo_models.speech_corpus import Utterance
from speechtext.speech.transcripts import Transcript, Word

PAUSES_S = (0.5, 1.0, 2.0)
# What fills a pause: nothing, and what a quiet room sounds like.
NOISE_LEVELS_DB = {"silence": None, "noise 40 dB below the speech": -40.0}
SENTENCES = 3
# Every fourth of the held-out sentences is enough.
EVERY = 4
Transcribe = Callable[[Sequence[torch.Tensor]], Sequence[Transcript]]


@dataclass(frozen=True, eq=False)
class Joined:
    """Sentences with pauses between them, and when the middle of each pause is."""

    waveform: Int16Waveform
    seams_s: Sequence[float]


def join(
    utterances: Sequence[Utterance], pause_s: float, level_db: float | None, seed: int
) -> Joined:
    """Return utterances with pauses of silence, or of white noise so far below the speech."""
    generator = np.random.default_rng(seed)
    samples = round(pause_s * SAMPLE_RATE_HZ)
    loudness = 0.0
    if level_db is not None:
        speech = np.concatenate([each.waveform for each in utterances])
        loudness = float(speech.std()) * 10 ** (level_db / 20)
    parts: list[Int16Waveform] = []
    seams_s: list[float] = []
    length = 0
    for utterance in utterances:
        if parts:
            parts.append(generator.normal(0, loudness, samples).round().astype(np.int16))
            seams_s.append((length + samples / 2) / SAMPLE_RATE_HZ)
            length += samples
        parts.append(utterance.waveform)
        length += len(utterance.waveform)
    return Joined(np.concatenate(parts), seams_s)


def count_glued(words: Sequence[Word], seams_s: Sequence[float]) -> int:
    """Return in how many pauses a word goes on: its letters are of both sides."""
    return sum(any(word.start_s < seam_s < word.end_s for word in words) for seam_s in seams_s)


def score_pauses(
    transcribe: Transcribe, held_out: Mapping[str, Sequence[Utterance]]
) -> dict[str, float]:
    """Return in how many percent of the pauses between sentences a word goes on, by the pause."""
    chosen = [utterances[::EVERY] for utterances in held_out.values()]
    triples = [
        utterances[first : first + SENTENCES]
        for utterances in chosen
        for first in range(0, len(utterances) - SENTENCES + 1, SENTENCES)
    ]
    return {
        f"words glued across {pause_s} s of {filling} %": _share(
            transcribe, triples, pause_s, level
        )
        for filling, level in NOISE_LEVELS_DB.items()
        for pause_s in PAUSES_S
    }


def _share(
    transcribe: Transcribe,
    triples: Sequence[Sequence[Utterance]],
    pause_s: float,
    level_db: float | None,
) -> float:
    glued = seams = 0
    for seed, utterances in enumerate(triples):
        joined = join(utterances, pause_s, level_db, seed)
        (transcript,) = transcribe([torch.from_numpy(to_float(joined.waveform))])
        glued += count_glued(transcript.words, joined.seams_s)
        seams += len(joined.seams_s)
    return 100 * glued / seams
