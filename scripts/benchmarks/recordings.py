"""Recordings of any length, and how recognisers of any kind fare with them."""

import io
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.peak_memory import peak_mb, reset_peak_mb
from benchmarks.side_by_side import time_side_by_side
from serving.local import LocalModel, load_archive
from tables import print_table

SAMPLE_RATE_HZ = 16_000
CLIP_S = 10
REPEATS = 7
LONG_S = {"2 min": 120, "60 min": 3600}
GPU_BATCHES = (1, 8, 32)


def noise(duration_s: float, seed: int) -> bytes:
    """Return a recording of noise as a 16-bit FLAC file."""
    generator = np.random.default_rng(seed)
    file = io.BytesIO()
    samples = generator.normal(0, 0.1, round(duration_s * SAMPLE_RATE_HZ)).astype(np.float32)
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def time_on_gpu(archives: Mapping[str, Path]) -> None:
    """Print how fast batches of clips are on a GPU, for the archive of each dtype."""
    clips = [{"body": noise(CLIP_S, seed)} for seed in range(max(GPU_BATCHES))]
    rows = []
    for dtype, archive in archives.items():
        model = load_archive(archive, gpu_id=0)
        for size in GPU_BATCHES:
            run = partial(model.answer, clips[:size])
            each = time_side_by_side({dtype: run}, REPEATS)[dtype]
            factor = each / (size * CLIP_S)
            rows.append((dtype, str(size), f"{each * 1000:.1f}", f"{factor:.5f}"))
    print_table(("dtype", "batch", "ms", "real-time factor"), rows)


def time_long(model: LocalModel) -> None:
    """Print the time and memory of long recordings."""
    rows = []
    for name, duration_s in LONG_S.items():
        recording = noise(duration_s, seed=1)
        before_mb = reset_peak_mb()
        started_s = time.perf_counter()
        model.answer([{"body": recording}])
        seconds = time.perf_counter() - started_s
        added_mb = peak_mb() - before_mb
        samples_mb = duration_s * SAMPLE_RATE_HZ * 4 / 1e6
        rows.append(
            (
                name,
                f"{seconds:.0f}",
                f"{seconds / duration_s:.4f}",
                f"{added_mb:.0f}",
                f"{samples_mb:.0f}",
            )
        )
    print("\nLong recordings, dtype auto:\n")
    print_table(("", "s", "s per s of audio", "MB added at the peak", "MB of samples in it"), rows)
