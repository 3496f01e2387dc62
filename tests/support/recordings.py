"""Recordings that tests make out of the examples."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np

from speechtext.errors import RequestError
from speechtext.speech.audio import decode_audio
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from support.common import EXAMPLES

RATE_HZ = 16_000
Samples = np.ndarray[Any, np.dtype[np.int16]]


def read_samples(path: Path) -> Samples:
    """Return the samples of a file, shape (samples,)."""
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels()) == (RATE_HZ, 1)
        return np.frombuffer(recording.readframes(recording.getnframes()), np.int16)


def write_wav(samples: Samples) -> bytes:
    """Return a file of samples at 16 kHz, shape (samples,)."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(RATE_HZ)
        recording.writeframes(samples.tobytes())
    return file.getvalue()


def read_turns(name: str = "two_speakers") -> list[tuple[str, Samples]]:
    """Return what the two speakers of an example say in turn, as text and samples."""
    path = EXAMPLES / "conversations" / f"{name}.wav"
    samples = read_samples(path)
    return [
        (each["text"], samples[round(each["start"] * RATE_HZ) : round(each["end"] * RATE_HZ)])
        for each in json.loads(path.with_suffix(".json").read_text())
    ]


def join_turns(*numbers: int, name: str = "two_speakers") -> bytes:
    """Return a recording of some of the turns of an example, a second apart."""
    pause = np.random.default_rng(1).normal(0, 10, RATE_HZ).astype(np.int16)
    turns = read_turns(name)
    return write_wav(np.concatenate([part for n in numbers for part in (turns[n][1], pause)]))


def join_examples(times: int = 1, pause_s: float = 1.5) -> bytes:
    """Return all examples at 16 kHz one after the other, with a pause behind each.

    It is not quite silent, as no microphone is.
    """
    noise = np.random.default_rng(1).normal(0, 10, int(pause_s * RATE_HZ))
    pause = noise.astype(np.int16)
    names = [path for path in sorted(EXAMPLES.glob("*.wav")) if "hz" not in path.name]
    parts = [part for path in names for part in (read_samples(path), pause)]
    return write_wav(np.concatenate(parts * times))


def add_noise(path: Path, level: float) -> bytes:
    """Return an example with noise of so large a deviation, always the same."""
    samples = read_samples(path)
    noise = np.random.default_rng(1).normal(0, level, len(samples))
    return write_wav((samples + noise).clip(-32768, 32767).astype(np.int16))


def transcribe_alone(model_folder: Path, recordings: Path) -> dict[str, str]:
    """Return what the library alone hears in each WAV file of a folder, by its path there.

    Files that are no recordings are left out.
    """
    recognizer = Wav2Vec2Recognizer.load(model_folder)
    heard = {}
    for path in sorted(recordings.rglob("*.wav")):
        try:
            waveform = decode_audio(path.read_bytes(), RATE_HZ, 3600)
        except RequestError:
            continue
        (transcript,) = recognizer.transcribe([waveform])
        heard[str(path.relative_to(recordings))] = transcript.text
    return heard
