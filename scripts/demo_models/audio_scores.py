"""Held-out scores of the demo models of labels, voices and speakers, beside plain baselines.

All speakers are of voices that no training heard; what they say, in other words, neither.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo_models import speakers
from demo_models.audio_commands import intent_of
from demo_models.audio_speakers import GRID, SPEAKERS, sentences
from demo_models.audio_voiced import draw_scene, frames_spoken
from demo_models.conversations import Conversation, converse
from demo_models.espeak import SAMPLE_RATE_HZ, to_float
from demo_models.recordings import answer_all, as_wav
from demo_models.speaker_scores import diarization_error_rate, find_equal_error
from demo_models.speaker_words import count_wrong
from demo_models.speech_corpus import Utterance
from serving.local import LocalModel
from speechtext.speech.rnnt.features import MEL_BINS, LogMelFeatures, whole_features
from speechtext.speech.transcripts import Word

SEED = 7
SCENES, SCENE_S = 100, 8.0
CONVERSATIONS_EACH, CONVERSATION_S = 10, 60.0
"""Of each number of speakers, from two to four."""


def score_commands(model: LocalModel, workspace: Path) -> dict[str, float]:
    """Return the accuracy of labels, of the most frequent one and of the nearest mean spectrum."""
    held_out = list(chain.from_iterable(speakers.utterances("held_out", workspace)))
    labels = [intent_of(each.text) for each in held_out]
    answers = answer_all(model, list(map(as_wav, held_out)))
    named = [answer[0]["label"] for answer in answers]
    trained = list(chain.from_iterable(speakers.utterances("training", workspace)))[::4]
    usual, _ = Counter(intent_of(each.text) for each in trained).most_common(1)[0]
    count = f"{len(held_out)} commands"
    return {
        f"accuracy %, {count}": _percent(named, labels),
        "accuracy % of the most frequent label": _percent([usual] * len(labels), labels),
        "accuracy % of the nearest mean spectrum": _percent(
            _nearest_spectrum(trained, held_out), labels
        ),
    }


def _percent(named: Sequence[str], labels: Sequence[str]) -> float:
    right = sum(one == other for one, other in zip(named, labels, strict=True))
    return 100 * right / len(labels)


def spectrum_of(utterance: Utterance) -> Tensor:
    """Return the mean and deviation of each mel bin, shape (2 bins,): a plain baseline."""
    front_end = LogMelFeatures(torch.zeros(MEL_BINS), torch.ones(MEL_BINS))
    frames = whole_features(front_end, torch.from_numpy(to_float(utterance.waveform)))
    return torch.cat([frames.mean(dim=0), frames.std(dim=0)])


def _nearest_spectrum(trained: Sequence[Utterance], asked: Sequence[Utterance]) -> list[str]:
    known = torch.stack(list(map(spectrum_of, trained)))
    mean, spread = known.mean(dim=0), known.std(dim=0)
    names = [intent_of(each.text) for each in trained]
    centres = {
        name: ((known[[own == name for own in names]] - mean) / spread).mean(dim=0)
        for name in sorted(set(names))
    }
    asked_for = (torch.stack(list(map(spectrum_of, asked))) - mean) / spread
    distances = torch.cdist(asked_for, torch.stack(list(centres.values())))
    return [list(centres)[place] for place in distances.argmin(dim=1).tolist()]


def score_voiced(model: LocalModel, workspace: Path) -> dict[str, float]:
    """Return the F1 of frames that are speech, and that of the best threshold of loudness."""
    spoken, rng = sentences("held_out", workspace), np.random.default_rng(SEED)
    scenes = [draw_scene(spoken, SCENE_S, rng) for _ in range(SCENES)]
    answers = answer_all(model, [_as_wav(scene) for scene in scenes])
    frames = GRID.count_frames(int(SCENE_S * SAMPLE_RATE_HZ))
    true = np.concatenate([frames_spoken(scene, frames) > 0 for scene in scenes])
    said = np.concatenate([_frames_of(answer, frames, ["speech"])[:, 0] for answer in answers])
    loudness = np.concatenate([_loudness(scene, frames) for scene in scenes])
    thresholds = np.quantile(loudness, np.linspace(0.02, 0.98, 49))
    return {
        f"F1 of frames %, {SCENES} scenes of {SCENE_S:.0f} s": _f1(said, true),
        "F1 of frames % of the best threshold of loudness": max(
            _f1(loudness > each, true) for each in thresholds
        ),
    }


def _f1(said: Any, true: Any) -> float:
    return float(200 * (said & true).sum() / (said.sum() + true.sum()))


def _loudness(scene: Conversation, frames: int) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(scene.waveform, GRID.field)
    return np.log(np.square(windows[:: GRID.stride][:frames]).mean(axis=1) + 1e-12)


def _frames_of(answer: Sequence[Mapping[str, Any]], frames: int, labels: Sequence[str]) -> Any:
    """Return which labels hold in each frame of an answer's segments, shape (frames, labels)."""
    active = np.zeros((frames, len(labels)), dtype=bool)
    for segment in answer:
        first, stop = (round(segment[key] / GRID.frame_s) for key in ("start", "end"))
        active[first:stop, labels.index(segment["label"])] = True
    return active


def score_speakers(model: LocalModel, workspace: Path) -> dict[str, float]:
    """Return the diarisation error rate of conversations, beside that of one speaker for all."""
    labels = [f"speaker {number}" for number in range(1, SPEAKERS + 1)]
    scores = {}
    for count, talks in _conversations(workspace).items():
        answers = answer_all(model, [_as_wav(each) for each in talks])
        frames = GRID.count_frames(int(CONVERSATION_S * SAMPLE_RATE_HZ))
        true = [each.activity(frames, GRID.stride, GRID.field, SPEAKERS) > 0 for each in talks]
        said = [_frames_of(answer, frames, labels) for answer in answers]
        alone = [each.any(axis=1, keepdims=True) for each in true]
        name = f"diarisation error rate %, {count} speakers, {len(talks)} of {CONVERSATION_S:.0f} s"
        scores[name] = 100 * diarization_error_rate(said, true)
        scores[f"{name}, one speaker for all speech"] = 100 * diarization_error_rate(alone, true)
    return scores


def _conversations(workspace: Path) -> dict[int, list[Conversation]]:
    spoken, rng = sentences("held_out", workspace), np.random.default_rng(SEED)
    return {
        count: [
            converse(
                [spoken[each] for each in rng.choice(len(spoken), count, replace=False)],
                CONVERSATION_S,
                rng,
            )
            for _ in range(CONVERSATIONS_EACH)
        ]
        for count in (2, 3, 4)
    }


def score_voices(model: LocalModel, workspace: Path) -> dict[str, float]:
    """Return the equal error rate of voices never heard, and that of mean spectra."""
    own = speakers.utterances("held_out", workspace)
    held_out = list(chain.from_iterable(own))
    names = [number for number, several in enumerate(own) for _ in several]
    answers = answer_all(model, list(map(as_wav, held_out)))
    voices = torch.tensor([answer["data"][0]["embedding"] for answer in answers])
    spectra = torch.stack(list(map(spectrum_of, held_out)))
    plain = torch.nn.functional.normalize((spectra - spectra.mean(0)) / spectra.std(0), dim=1)
    found = find_equal_error(voices, names)
    return {
        f"equal error rate %, {len(own)} voices, {len(held_out)} recordings": 100 * found.rate,
        "cosine at which it is": found.threshold,
        "equal error rate % of mean spectra": 100 * find_equal_error(plain, names).rate,
    }


def score_words(model: LocalModel, workspace: Path) -> dict[str, float]:
    """Return how many words of conversations have a wrong speaker, and if all were of one."""
    scores = {}
    for count, talks in _conversations(workspace).items():
        for told, fields in (("found", {}), ("given", {"num_speakers": count})):
            rows = [{"data": _as_wav(each), **_form(diarize=True, **fields)} for each in talks]
            accept = [{"Accept": "application/json"}]
            answers = [model.answer([row], accept)[0].answer for row in rows]
            name = f"words of wrong speakers %, {count} speakers, their number {told}"
            scores[name] = _wrong_percent(answers, talks)
    return scores


def _form(**fields: Any) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in fields.items()}


def _wrong_percent(answers: Sequence[Any], talks: Sequence[Conversation]) -> float:
    wrong = told = 0
    for answer, talk in zip(answers, talks, strict=True):
        words = [
            Word(each["word"], each["start"], each["end"], 1.0, each["speaker"])
            for each in answer["words"]
        ]
        counts = count_wrong(words, talk)
        wrong, told = wrong + counts[0], told + counts[1]
    return 100 * wrong / told


def _as_wav(conversation: Conversation) -> bytes:
    samples = (conversation.waveform * 32_767).astype(np.int16)
    return as_wav(Utterance(samples, "", ""))


SCORES: Mapping[str, Callable[[LocalModel, Path], dict[str, float]]] = {
    "wav2vec2_commands": score_commands,
    "wav2vec2_voiced": score_voiced,
    "wav2vec2_speakers": score_speakers,
    "wav2vec2_voices": score_voices,
}
