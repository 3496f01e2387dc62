"""Wav2Vec2 beside the loop that tutorials show."""

import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import AutoModelForCTC, AutoProcessor

from archives.configs import read_configs
from benchmarks.full_size_models import write_base_960h
from benchmarks.recordings import CLIP_S, REPEATS, noise, time_long, time_on_gpu
from benchmarks.side_by_side import time_side_by_side
from serving.local import LocalModel, build_with_settings, load_archive
from tables import print_table


def plain_loop(folder: Path) -> Callable[[bytes], str]:
    """Return the way that tutorials show: processor, model and argmax, one request at a time."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32).eval()

    def transcribe(recording: bytes) -> str:
        samples, rate_hz = soundfile.read(io.BytesIO(recording), dtype="float32")
        inputs = processor(samples, sampling_rate=rate_hz, return_tensors="pt")
        with torch.no_grad():
            labels = model(inputs.input_values).logits.argmax(dim=-1)
        text: str = processor.batch_decode(labels)[0]
        return text

    return transcribe


def benchmark_wav2vec2(threads: int, long: bool) -> None:
    """Time 10 s clips against the plain loop; with `long`, memory and time of long recordings."""
    config = read_configs()["wav2vec2"]
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace) / "wav2vec2-base-960h"
        folder.mkdir()
        write_base_960h(folder)
        if torch.cuda.is_available():
            print(f"\nWav2Vec2-base on {torch.cuda.get_device_name()}, clips of {CLIP_S} s:\n")
            time_on_gpu(
                {
                    dtype: build_with_settings(
                        config, folder, folder.parent, dtype=dtype, threads=None
                    )
                    for dtype in ("float32", "bfloat16")
                }
            )
            return
        models = {
            dtype: load_archive(
                build_with_settings(config, folder, folder.parent, dtype=dtype, threads=threads)
            )
            for dtype in ("float32", "auto")
        }
        _time_clips(models, plain_loop(folder))
        if long:
            time_long(models["auto"])


def _time_clips(models: dict[str, LocalModel], competitor: Callable[[bytes], str]) -> None:
    clip = noise(CLIP_S, seed=0)
    runs: dict[str, Callable[[], Any]] = {"plain loop, float32": partial(competitor, clip)}
    for dtype, model in models.items():
        runs[f"handler, {dtype}"] = partial(model.answer, [{"body": clip}])
    medians = time_side_by_side(runs, REPEATS)
    slowest = medians["plain loop, float32"]
    rows = [
        (name, f"{each * 1000:.0f}", f"{each / CLIP_S:.3f}", f"{slowest / each:.2f}")
        for name, each in medians.items()
    ]
    print(f"\nWav2Vec2-base, one clip of {CLIP_S} s, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "ms", "real-time factor", "times as fast"), rows)
