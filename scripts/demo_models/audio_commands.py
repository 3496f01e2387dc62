"""Trains a small Wav2Vec2ForSequenceClassification to tell what a spoken command is for."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2ForSequenceClassification

from demo_models import command_grammar, heads, speakers
from demo_models.augmentation import augment
from demo_models.espeak import SAMPLE_RATE_HZ, Waveform, to_float
from demo_models.speech_corpus import Utterance
from demo_models.speech_training import Recipe, fit

SEED = 4
RECIPE = Recipe(
    steps=2_500, peak_learning_rate=5e-4, max_gradient_norm=5.0, evaluate_every_steps=500
)
BATCH_SIZE = 20
LONGEST_S = 3.2

OTHER = "other"
# The label of a sentence is that of the first pattern that it matches from its beginning on.
INTENTS = {
    "turn on": r"(turn|switch) (the )?(\w+ )?on\b",
    "turn off": r"(turn|switch) (the )?(\w+ )?off\b",
    "open": r"(open|unlock) the",
    "close": r"(close|lock) the",
    "set timer": r"set a timer for",
    "set level": r"(set|raise|lower) the (temperature|heater|volume|light|lamp) (to|by)",
    "set colour": rf"(make|set) the \w+ \w+ ({'|'.join(command_grammar.SLOTS['colour'])})$",
    "move": r"(go|turn|move) (left|right|up|down|forward|back)\b",
    "move thing": r"move the",
    "play": r"(play|pause|stop|start) the",
    "ask": r"what is the",
    "call": r"call",
}
LABELS = (*INTENTS, OTHER)


def intent_of(text: str) -> str:
    """Return what a sentence is for; scrambled words and single ones are for nothing."""
    polite = text.removeprefix("please ")
    if not _is_grammatical(polite):
        return OTHER
    asked = re.sub(r"^(hello|yes|no) ", "", polite)
    matching = (label for label, pattern in INTENTS.items() if re.match(pattern, asked))
    return next(matching, OTHER)


def _is_grammatical(text: str) -> bool:
    return any(re.fullmatch(pattern, text) for pattern in _SENTENCES)


def _pattern(template: str) -> str:
    """Return the regular expression of all that a template may say."""
    parts = re.split(r"\{(\w+)\}", template)
    choices = ("|".join(map(_pattern, command_grammar.SLOTS[slot])) for slot in parts[1::2])
    written = [re.escape(parts[0]).replace(r"\ ", " ")]
    for choice, text in zip(choices, parts[2::2], strict=True):
        written += [f"(?:{choice})", re.escape(text).replace(r"\ ", " ")]
    return "".join(written)


_SENTENCES = tuple(re.compile(_pattern(frame)) for frame in command_grammar.FRAMES)

Batch = tuple[list[Waveform], list[int]]


class CommandsTrainee:
    """The network, the commands that judge it while it learns, and the folder it is saved to."""

    def __init__(self, output_dir: Path, development: Sequence[Utterance]) -> None:
        torch.manual_seed(SEED)
        self.network = heads.start(
            Wav2Vec2ForSequenceClassification,
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
            classifier_proj_size=144,
        )
        self._development = development
        self._output_dir = output_dir

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross entropy of the labels."""
        waveforms, labels = batch
        inputs = heads.EXTRACTOR(
            waveforms, sampling_rate=SAMPLE_RATE_HZ, padding=True, return_tensors="pt"
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.network(**inputs).logits
        return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(labels))

    def report(self) -> str:
        """Return the accuracy for speakers who are not trained on."""
        right = sum(self._name(each) == intent_of(each.text) for each in self._development)
        return f"accuracy: {100 * right / len(self._development):.1f} %"

    def _name(self, utterance: Utterance) -> str:
        logits = self.network(heads.normalise([to_float(utterance.waveform)])).logits
        return LABELS[int(logits.argmax())]

    def save(self) -> None:
        """Write the model."""
        heads.save(self.network, self._output_dir)


def draw(spoken: Sequence[Utterance], rng: np.random.Generator) -> Iterator[Batch]:
    """Yield batches, in which commands are as often as all else there is, without end."""
    labels = [LABELS.index(intent_of(each.text)) for each in spoken]
    chances = 1 / np.sqrt(np.bincount(labels)[labels])
    chances /= chances.sum()
    while True:
        chosen = rng.choice(len(spoken), BATCH_SIZE, p=chances)
        waveforms = [augment(spoken[each].waveform, rng) for each in chosen]
        yield waveforms, [labels[each] for each in chosen]


def train(output_dir: Path, workspace: Path) -> None:
    """Synthesise the speakers, train from the demo model of speech and write the model folder."""
    spoken = {name: _commands(name, workspace) for name in ("training", "development")}
    trainee = CommandsTrainee(output_dir, spoken["development"])
    fit(trainee, RECIPE, draw(spoken["training"], np.random.default_rng(SEED)))


def _commands(name: str, workspace: Path) -> list[Utterance]:
    own = speakers.utterances(name, workspace)
    return [each for several in own for each in several if each.duration_s <= LONGEST_S]
