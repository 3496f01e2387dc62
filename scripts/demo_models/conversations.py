"""Conversations of several speakers, made of what each of them says, with who spoke when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo_models.augmentation import add_noise
from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, Waveform, to_float

# How long the next speaker waits; who begins before the other has ended does so this early.
LONGEST_PAUSE_S, LONGEST_OVERLAP_S = 1.0, 0.8
OVERLAP_CHANCE = 0.4
SAME_SPEAKER_CHANCE = 0.5
NOISE_DB = (12.0, 35.0)
LOUDNESS_DB = 4.0


class Turn(NamedTuple):
    """What one speaker says without a break, as samples of a conversation."""

    start: int
    stop: int
    speaker: int
    text: str = ""


@dataclass(frozen=True, eq=False)
class Conversation:
    """Samples at 16 kHz, and the turns in them in the order of their starts."""

    waveform: Waveform
    turns: Sequence[Turn]

    def activity(self, frames: int, stride: int, field: int, speakers: int) -> Waveform:
        """Return who speaks at the middle of each frame, shape (frames, speakers)."""
        active = np.zeros((frames, speakers), dtype=np.float32)
        for turn in self.turns:
            ends = (math.ceil((each - field // 2) / stride) for each in (turn.start, turn.stop))
            first, stop = (max(0, each) for each in ends)
            active[first:stop, turn.speaker] = 1.0
        return active


class Spoken(NamedTuple):
    """A sentence without the silence at its ends."""

    samples: Int16Waveform
    text: str


def converse(
    spoken: Sequence[Sequence[Spoken]], length_s: float, rng: np.random.Generator
) -> Conversation:
    """Return a conversation of so many seconds between speakers, in noise.

    `spoken` has the sentences of each; all of them speak where there is time. A sentence that
    would go on after the end is cut there.
    """
    samples = int(length_s * SAMPLE_RATE_HZ)
    mixed = np.zeros(samples, dtype=np.float32)
    turns: list[Turn] = []
    speaker, start = 0, int(rng.uniform(0, 0.5) * SAMPLE_RATE_HZ)
    gains = 10 ** (rng.uniform(-LOUDNESS_DB, LOUDNESS_DB, len(spoken)) / 20)
    while start < samples:
        said = spoken[speaker][int(rng.integers(len(spoken[speaker])))]
        stop = min(samples, start + len(said.samples))
        mixed[start:stop] += _level(said.samples, gains[speaker])[: stop - start]
        turns.append(Turn(start, stop, speaker, said.text))
        following = _next_speaker(speaker, len(spoken), turns, rng)
        start = _next_start(turns, following, rng)
        speaker = following
    noisy = add_noise(mixed, rng.uniform(*NOISE_DB), is_dark=rng.random() < 0.5, rng=rng)
    return Conversation((noisy / max(1.0, np.abs(noisy).max())).astype(np.float32), sorted(turns))


def _level(samples: Int16Waveform, gain: float) -> Waveform:
    waveform = to_float(samples)
    return waveform * np.float32(0.08 * gain / (np.sqrt(np.mean(waveform**2)) + 1e-6))


def _next_speaker(speaker: int, count: int, turns: Sequence[Turn], rng: np.random.Generator) -> int:
    if silent := sorted(set(range(count)) - {turn.speaker for turn in turns}):
        return int(rng.choice(silent))
    if count == 1 or rng.random() < SAME_SPEAKER_CHANCE:
        return speaker
    return int(rng.choice([other for other in range(count) if other != speaker]))


def _next_start(turns: Sequence[Turn], speaker: int, rng: np.random.Generator) -> int:
    """Return when the next turn begins, never before the last of its own speaker has ended."""
    last = turns[-1]
    wait_s = rng.uniform(0, LONGEST_PAUSE_S)
    if rng.random() < OVERLAP_CHANCE and last.speaker != speaker:
        wait_s = -rng.uniform(0, LONGEST_OVERLAP_S)
    own = max((turn.stop for turn in turns if turn.speaker == speaker), default=0)
    start = max(last.start, last.stop + int(wait_s * SAMPLE_RATE_HZ))
    return max(start, own + SAMPLE_RATE_HZ // 10) if own else start
