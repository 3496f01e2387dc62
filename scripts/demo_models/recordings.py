"""What the demo models are asked to score them: recordings, in batches."""

import io
from collections.abc import Sequence
from typing import Any

import soundfile

from demo_models.espeak import SAMPLE_RATE_HZ
from demo_models.speech_corpus import Utterance
from serving.local import LocalModel

BATCH_SIZE = 8


def answer_all(model: LocalModel, payloads: Sequence[Any]) -> list[Any]:
    """Return the answer to each payload, asked in batches."""
    answers: list[Any] = []
    for start in range(0, len(payloads), BATCH_SIZE):
        rows = [{"body": payload} for payload in payloads[start : start + BATCH_SIZE]]
        answers += [reply.answer for reply in model.answer(rows)]
    return answers


def as_wav(utterance: Utterance) -> bytes:
    """Return an utterance as a recording."""
    file = io.BytesIO()
    soundfile.write(file, utterance.waveform, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()
