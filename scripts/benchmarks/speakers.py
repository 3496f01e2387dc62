"""What telling speakers apart adds to a transcript, with voice models of two sizes."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForAudioXVector, Wav2Vec2FeatureExtractor

from benchmarks.full_size_models import write_base_960h
from benchmarks.recordings import SAMPLE_RATE_HZ
from repository import ROOT
from speechtext.devices import CPU, choose_dtype
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.diarization import Diarizer, group_voices
from speechtext.speech.transcripts import Transcript, Word
from tables import print_table

SHORT_S, LONG_S = 180, 3600
# A speaker who never pauses, at a usual pace.
WORDS_PER_S = 2.5
THRESHOLD = 0.3


def benchmark_speakers(threads: int, long: bool) -> None:
    """Time a transcript, and what speakers add; with `long` of an hour, else of three minutes."""
    torch.set_num_threads(threads)
    duration_s = LONG_S if long else SHORT_S
    chance = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(duration_s * SAMPLE_RATE_HZ, generator=chance)
    with tempfile.TemporaryDirectory() as workspace:
        rows = list(_rows(Path(workspace), waveform, duration_s))
    print(f"\nWho said what, {duration_s} s of speech without a pause, {threads} thread(s):\n")
    print_table(("", "s", "times the transcript alone"), rows)


def _rows(folder: Path, waveform: torch.Tensor, duration_s: int) -> Iterator[tuple[str, str, str]]:
    dtype = choose_dtype("auto", CPU)
    (folder / "base").mkdir()
    write_base_960h(folder / "base")
    recognizer = Wav2Vec2Recognizer.load(folder / "base", Wav2Vec2Settings(dtype="auto"))
    started_s = time.perf_counter()
    recognizer.transcribe([waveform])
    plain_s = time.perf_counter() - started_s
    name = str(dtype).removeprefix("torch.")
    yield f"transcript, Wav2Vec2-base, {name}", f"{plain_s:.1f}", "1.00"
    transcript = _talk(duration_s)
    write_voices(folder / "voices")
    models = {
        "the demo model's size": ROOT / "demo_models" / "wav2vec2_voices",
        "Wav2Vec2-base": folder / "voices",
    }
    for size, voices in models.items():
        diarizer = Diarizer.load(voices, THRESHOLD, dtype="auto")
        started_s = time.perf_counter()
        diarizer.name_words(transcript, waveform)
        added_s = time.perf_counter() - started_s
        share = f"{(plain_s + added_s) / plain_s:.2f}"
        yield f"with speakers, voices of {size}, {name}", f"{plain_s + added_s:.1f}", share
    yield _group_an_hour()


def _talk(duration_s: int) -> Transcript:
    """Return a transcript of words without a pause: what random weights say has no sense."""
    step_s = 1 / WORDS_PER_S
    count = int(duration_s * WORDS_PER_S)
    words = [Word("word", n * step_s, (n + 0.8) * step_s, 1.0) for n in range(count)]
    return Transcript("", float(duration_s), words)


def write_voices(folder: Path) -> None:
    """Write an x-vector model of full size with random weights."""
    torch.manual_seed(0)
    AutoModelForAudioXVector.from_config(AutoConfig.for_model("wav2vec2")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _group_an_hour() -> tuple[str, str, str]:
    """Time how the stretches of an hour are grouped."""
    chance = torch.Generator().manual_seed(0)
    voices = torch.nn.functional.normalize(torch.randn(2_600, 96, generator=chance), dim=1)
    started_s = time.perf_counter()
    group_voices(voices, [1.4] * len(voices), THRESHOLD)
    return "grouping 2,600 stretches alone", f"{time.perf_counter() - started_s:.1f}", ""
