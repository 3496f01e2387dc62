"""The speakers of the demo models of labels, voices and conversations, and what each of them says.

A speaker is a voice of espeak-ng with a pitch and a pace of its own. Those of the three sets have
no voice in common, so that scores are of voices that were never heard.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_models import command_grammar, voices
from demo_models.espeak import SpokenSentence
from demo_models.speech_corpus import SEED, Utterance, speak_all

RANDOM_VARIANTS = 900
# Which of the random variants are in which set.
TRAINING, DEVELOPMENT, HELD_OUT = range(800), range(800, 840), range(840, 900)
SENTENCES = {"training": 15, "development": 8, "held_out": 16}
COMMAND_SHARE = 0.8


@dataclass(frozen=True)
class Speaker:
    """A voice, as of `-v`, and how it speaks."""

    voice: str
    speed_wpm: int
    pitch: int


def plan() -> Mapping[str, Sequence[Speaker]]:
    """Draw the speakers of each set; they are the same in every run."""
    rng = random.Random(SEED)
    named = {
        "training": voices.TRAINING_VARIANTS,
        "development": voices.DEVELOPMENT_VARIANTS,
        "held_out": voices.UNSEEN_VARIANTS,
    }
    drawn = {"training": TRAINING, "development": DEVELOPMENT, "held_out": HELD_OUT}
    return {
        name: [
            _draw(variant, rng) for variant in (*variants, *(f"random{n:03d}" for n in drawn[name]))
        ]
        for name, variants in named.items()
    }


def _draw(variant: str, rng: random.Random) -> Speaker:
    accent = rng.choice(voices.TRAINING_ACCENTS)
    return Speaker(f"{accent}+{variant}", rng.randint(130, 210), rng.randint(30, 70))


def say(name: str, speakers: Sequence[Speaker], taken: Collection[str]) -> list[SpokenSentence]:
    """Draw what the speakers of a set say, one after the other, other than what is `taken`."""
    rng = random.Random(f"{SEED} {name}")
    sentences = []
    for speaker in speakers:
        for _ in range(SENTENCES[name]):
            text = next(text for text in _draw_texts(rng) if text not in taken)
            speed_wpm = speaker.speed_wpm + rng.randint(-10, 10)
            pitch = speaker.pitch + rng.randint(-4, 4)
            sentences.append(SpokenSentence(text, speaker.voice, speed_wpm, pitch))
    return sentences


def _draw_texts(rng: random.Random) -> Iterator[str]:
    while True:
        is_command = rng.random() < COMMAND_SHARE
        yield (command_grammar.command if is_command else command_grammar.digit_string)(rng)


def utterances(name: str, workspace: Path) -> list[list[Utterance]]:
    """Return what each speaker of a set says; what is missing in the workspace is spoken first."""
    planned = plan()
    sentences = say("training", planned["training"], ())
    if name != "training":
        sentences = say(name, planned[name], {sentence.text for sentence in sentences})
    variants = voices.random_variants(SEED, RANDOM_VARIANTS)
    spoken = speak_all(f"speakers_{name}", sentences, workspace, variants)
    each = SENTENCES[name]
    return [spoken[start : start + each] for start in range(0, len(spoken), each)]
