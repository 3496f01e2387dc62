"""Writes the recordings in ``examples/``: sentences that the speech models were not trained on.

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
# Two of them in turn, twice, with pauses between.
CONVERSATION = "conversations/two_speakers.wav"
CONVERSATION_PAUSE_S = 0.8
STEREO_SAMPLE_RATE_HZ = 44_100
TELEPHONE_SAMPLE_RATE_HZ = 8_000


def write(output_dir: Path, workspace: Path) -> None:
    """Synthesise the recordings and write them with ``transcripts.json`` (file name -> text)."""
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
    _write_conversation(output_dir / CONVERSATION, waveforms[2:4])
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


def _write_conversation(path: Path, waveforms: Sequence[Int16Waveform]) -> None:
    """Write recordings one after the other, twice; the pauses are not quite silent."""
    samples = int(CONVERSATION_PAUSE_S * SAMPLE_RATE_HZ)
    pause = np.random.default_rng(0).normal(0, 8, samples).astype(np.int16)
    parts = [part for waveform in [*waveforms, *waveforms] for part in (waveform, pause)]
    path.parent.mkdir(exist_ok=True)
    espeak.write_wav(path, np.concatenate(parts))
