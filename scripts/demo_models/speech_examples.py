"""Writes the recordings in `examples/`: sentences that the speech models were not trained on.

Some are spoken by voices that they never heard. Two come in other formats than the models' own, for
a server to convert.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio

from demo_models import espeak
from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, SpokenSentence

SENTENCES = (
    SpokenSentence("turn on the kitchen lights"),
    SpokenSentence("please set a timer for twenty seconds", "en-us"),
    SpokenSentence("call five five one seven nine", "en-us+f2"),
    SpokenSentence("close the bathroom window", "en-gb-scotland+m3"),
    SpokenSentence("what is the weather tomorrow", "en-gb+Annie"),
    SpokenSentence("move the purple box left", "en-us+m5"),
    SpokenSentence("set the volume to forty percent", "en-gb-x-gbclan+Andrea"),
    SpokenSentence("seven three three zero one", "en-gb+m8"),
)
# Conversations of two: of sentences above, and of voices that are easier to tell apart.
TURNS = (SENTENCES[2], SENTENCES[3]) * 2
OTHER_TURNS = (
    SpokenSentence("what is the weather tomorrow", "en-us+f5"),
    SpokenSentence("turn on the kitchen lights", "en-gb+m8"),
    SpokenSentence("set a timer for twenty minutes", "en-us+f5"),
    SpokenSentence("call five five one seven nine", "en-gb+m8"),
)
CONVERSATIONS = {"two_speakers": TURNS, "other_voices": OTHER_TURNS}
CONVERSATION_PAUSE_S = 0.8
STEREO_SAMPLE_RATE_HZ = 44_100
TELEPHONE_SAMPLE_RATE_HZ = 8_000


def write(output_dir: Path, workspace: Path) -> None:
    """Synthesise the recordings and write them with `transcripts.json` (file name -> text)."""
    espeak.install_variants({}, workspace)
    output_dir.mkdir(parents=True, exist_ok=True)
    waveforms = [espeak.speak(sentence, workspace) for sentence in SENTENCES]
    transcripts = {}
    for sentence, waveform in zip(SENTENCES, waveforms, strict=True):
        path = _path(output_dir, sentence)
        espeak.write_wav(path, waveform)
        transcripts[path.name] = sentence.text
    stereo_path = _path(output_dir, SENTENCES[0], "_stereo_44100_hz")
    _write_stereo(stereo_path, waveforms[0])
    transcripts[stereo_path.name] = SENTENCES[0].text
    telephone_path = _path(output_dir, SENTENCES[1], "_8000_hz")
    _write_telephone(telephone_path, waveforms[1])
    transcripts[telephone_path.name] = SENTENCES[1].text
    for name, turns in CONVERSATIONS.items():
        spoken = [espeak.speak(turn, workspace) for turn in turns]
        write_conversation(output_dir / "conversations" / f"{name}.wav", turns, spoken)
    (output_dir / "transcripts.json").write_text(json.dumps(transcripts, indent=2) + "\n")


def _path(output_dir: Path, sentence: SpokenSentence, suffix: str = "") -> Path:
    return output_dir / f"{sentence.text.replace(' ', '_')}{suffix}.wav"


def _write_stereo(path: Path, waveform: Int16Waveform) -> None:
    """Write two channels, the right one at half the level, so that mixing them down matters."""
    left = _resample(waveform, STEREO_SAMPLE_RATE_HZ)
    espeak.write_wav(path, np.stack([left, left // 2], axis=1), STEREO_SAMPLE_RATE_HZ)


def _write_telephone(path: Path, waveform: Int16Waveform) -> None:
    telephone = _resample(waveform, TELEPHONE_SAMPLE_RATE_HZ)
    espeak.write_wav(path, telephone, TELEPHONE_SAMPLE_RATE_HZ)


def _resample(waveform: Int16Waveform, sample_rate_hz: int) -> Int16Waveform:
    samples = torch.from_numpy(espeak.to_float(waveform))
    resampled = torchaudio.functional.resample(samples, SAMPLE_RATE_HZ, sample_rate_hz)
    return espeak.to_int16(resampled)


def write_conversation(
    path: Path, turns: Sequence[SpokenSentence], waveforms: Sequence[Int16Waveform]
) -> None:
    """Write turns one after the other, and who says what when; the pauses are not quite silent."""
    noise = np.random.default_rng(0)
    parts: list[Int16Waveform] = []
    told = []
    for turn, waveform in zip(turns, waveforms, strict=True):
        start_s = sum(map(len, parts)) / SAMPLE_RATE_HZ
        end_s = start_s + len(waveform) / SAMPLE_RATE_HZ
        told.append({"speaker": turn.voice, "text": turn.text, "start": start_s, "end": end_s})
        pause = noise.normal(0, 8, int(CONVERSATION_PAUSE_S * SAMPLE_RATE_HZ)).astype(np.int16)
        parts += [waveform, pause]
    path.parent.mkdir(exist_ok=True)
    espeak.write_wav(path, np.concatenate(parts))
    path.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n")
