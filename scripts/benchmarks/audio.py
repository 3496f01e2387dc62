"""Labels of recordings beside the pipeline of transformers, in two families."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from benchmarks.recordings import CLIP_S, REPEATS, SAMPLE_RATE_HZ
from benchmarks.side_by_side import time_side_by_side
from speechtext.devices import CPU, choose_dtype
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.heads.audio_classification import AudioClassification
from tables import print_table

FAMILIES = ("wav2vec2", "wavlm")
LABELS = 12
BATCHES = (1, 8)


def benchmark_audio(threads: int, _long: bool) -> None:
    """Time clips of 10 s, one and eight at a time, in each dtype that the processor has."""
    torch.set_num_threads(threads)
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_classifier(folder, family)
            runs = {**_pipelines(folder), **_tasks(folder)}
            rows = [row for count in BATCHES for row in _time(runs, count)]
        print(f"\nLabels of {family}-base, clips of {CLIP_S} s, {threads} thread(s):\n")
        print_table(("", "clips", "ms", "times as fast"), rows)


def write_classifier(folder: Path, family: str) -> None:
    """Write a classifier of full size with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, num_labels=LABELS)
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _dtypes() -> dict[str, torch.dtype]:
    fast = choose_dtype("auto", CPU)
    return {"float32": torch.float32, **({"bfloat16": fast} if fast != torch.float32 else {})}


def _pipelines(folder: Path) -> dict[str, Callable[[list[torch.Tensor]], Any]]:
    def ask(pipe: Any, clips: list[torch.Tensor]) -> Any:
        return pipe([clip.numpy() for clip in clips], batch_size=len(clips))

    return {
        f"pipeline, {name}": partial(
            ask, pipeline("audio-classification", model=str(folder), dtype=dtype)
        )
        for name, dtype in _dtypes().items()
    }


def _tasks(folder: Path) -> dict[str, Callable[[list[torch.Tensor]], Any]]:
    def ask(task: AudioClassification, clips: list[torch.Tensor]) -> Any:
        return task.answer(clips, [task.read_parameters({})] * len(clips))

    return {
        f"task, {name}": partial(ask, AudioClassification.load(folder, _settings(name)))
        for name in _dtypes()
    }


def _settings(dtype: Any) -> AudioSettings:
    return AudioSettings(mode="audio_classification", dtype=dtype)


def _time(
    runs: Mapping[str, Callable[[list[torch.Tensor]], Any]], count: int
) -> list[tuple[str, ...]]:
    chance = torch.Generator().manual_seed(count)
    clips = [0.1 * torch.randn(CLIP_S * SAMPLE_RATE_HZ, generator=chance) for _ in range(count)]
    medians = time_side_by_side({name: partial(run, clips) for name, run in runs.items()}, REPEATS)
    slowest = medians["pipeline, float32"]
    return [
        (name, str(count), f"{each * 1000:.0f}", f"{slowest / each:.2f}")
        for name, each in medians.items()
    ]
