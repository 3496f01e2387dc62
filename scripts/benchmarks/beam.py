"""Beam search with a language model, beside transformers' with a pool of processes."""

import itertools
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Processor, Wav2Vec2ProcessorWithLM

from benchmarks.side_by_side import time_side_by_side
from demo_models.speech_corpus import word_error_rate
from demo_models.word_model import write_demo_model
from repository import EXAMPLES, ROOT
from speechtext.devices import count_cores
from speechtext.speech.ctc.beam import read_arpa_words
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.frame_models import compute_frames
from tables import print_table

MODEL = ROOT / "demo_models" / "wav2vec2"
RATE_HZ = 16_000
RECORDINGS, SENTENCES_EACH, SIGNAL_TO_NOISE_DB = 64, 4, 3.0
PAUSE_SAMPLES = 3_200
BEAM_WIDTH, LM_WEIGHT, WORD_SCORE = 50, 0.5, 1.5
REPEATS = 5
# What transformers takes for frames behind a recording's last.
NO_FRAME = -100.0


@torch.inference_mode()
def benchmark_beam(threads: int, _long: bool) -> None:
    """Print how long both take for the words of a batch, with their times, out of its emissions."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = copy_model(Path(name))
        numbers = sorted({1, count_cores()})
        recognizers = {number: load_recognizer(folder, number) for number in numbers}
        said, waveforms = noisy_recordings()
        emissions = compute_frames(
            recognizers[1].frame_model, waveforms, Wav2Vec2Settings().windows
        )
        runs: dict[str, Any] = {
            f"ours, beam_processes: {number}": partial(ours, each, emissions)
            for number, each in recognizers.items()
        }
        processor = load_processor(folder)
        for number in numbers:
            pool = ends.enter_context(multiprocessing.get_context("fork").Pool(number))
            runs[f"transformers, a pool of {number}"] = partial(theirs, processor, emissions, pool)
        texts = {way: run() for way, run in runs.items()}
        medians = time_side_by_side(runs, REPEATS)
    print_result(medians, texts, said, sum(map(len, waveforms)) / RATE_HZ)


def load_recognizer(folder: Path, processes: int) -> Wav2Vec2Recognizer:
    """Return the recogniser of a folder, its searches spread over so many processes."""
    settings = Wav2Vec2Settings(
        decoder="beam",
        beam_width=BEAM_WIDTH,
        beam_processes=processes,
        lm="lm.arpa",
        lm_weight=LM_WEIGHT * np.log(10),
        word_score=WORD_SCORE,
    )
    return Wav2Vec2Recognizer.load(folder, settings)


def copy_model(folder: Path) -> Path:
    """Return the folder with the demo recogniser and the language model of its world."""
    for path in MODEL.iterdir():
        (folder / path.name).symlink_to(path)
    write_demo_model(folder / "lm.arpa")
    return folder


def noisy_recordings() -> tuple[list[str], list[torch.Tensor]]:
    """Return what is said in recordings of some sentences each, with white noise, and these."""
    transcripts = json.loads((EXAMPLES / "transcripts.json").read_text(encoding="utf-8"))
    recordings = [(text, *soundfile.read(EXAMPLES / name)) for name, text in transcripts.items()]
    at_rate = [(text, samples) for text, samples, rate_hz in recordings if rate_hz == RATE_HZ]
    generator = np.random.default_rng(0)
    clips = itertools.cycle(at_rate)
    said, waveforms = [], []
    for _ in range(RECORDINGS):
        some = list(itertools.islice(clips, SENTENCES_EACH))
        samples = np.concatenate([np.pad(each, PAUSE_SAMPLES) for _, each in some])
        loudness = samples.std() * 10 ** (-SIGNAL_TO_NOISE_DB / 20)
        noisy = samples + generator.normal(0, loudness, samples.shape)
        said.append(" ".join(text for text, _ in some).upper())
        waveforms.append(torch.from_numpy(noisy).float())
    return said, waveforms


def load_processor(folder: Path) -> Wav2Vec2ProcessorWithLM:
    """Return transformers' processor with pyctcdecode's search and the same language model."""
    from pyctcdecode.decoder import build_ctcdecoder

    processor: Any = Wav2Vec2Processor.from_pretrained(folder)
    vocabulary = processor.tokenizer.get_vocab()
    file = folder / "lm.arpa"
    decoder = build_ctcdecoder(
        sorted(vocabulary, key=vocabulary.__getitem__),
        str(file),
        read_arpa_words(file),
        alpha=LM_WEIGHT,
        beta=WORD_SCORE,
    )
    return Wav2Vec2ProcessorWithLM(processor.feature_extractor, processor.tokenizer, decoder)


def ours(recognizer: Wav2Vec2Recognizer, emissions: Sequence[torch.Tensor]) -> list[str]:
    """Return the transcripts of emissions."""
    found = recognizer.transcribe_emissions(emissions, list(map(len, emissions)))
    return [each.text for each in found]


def theirs(
    processor: Wav2Vec2ProcessorWithLM, emissions: Sequence[torch.Tensor], pool: Pool
) -> list[str]:
    """Return transformers' transcripts of emissions."""
    scores = [each.log_softmax(dim=-1) for each in emissions]
    batch = pad_sequence(scores, batch_first=True, padding_value=NO_FRAME).numpy()
    found = processor.batch_decode(batch, pool, beam_width=BEAM_WIDTH, output_word_offsets=True)
    texts: list[str] = found.text
    return texts


def print_result(
    medians: dict[str, float], texts: dict[str, list[str]], said: list[str], audio_s: float
) -> None:
    """Print the medians, what share of words each has wrong, and how many are as ours."""
    own = next(iter(texts.values()))
    rows = [
        (
            way,
            f"{median_s * 1000:.0f}",
            f"{audio_s / median_s:.0f}",
            f"{word_error_rate(said, texts[way]):.1f}",
            f"{sum(map(str.__eq__, own, texts[way]))} of {len(own)}",
        )
        for way, median_s in medians.items()
    ]
    print(f"\n{len(own)} recordings, {audio_s:.0f} s, beams of {BEAM_WIDTH}:\n")
    print_table(("", "ms", "times real time", "word errors, %", "transcripts as ours"), rows)
