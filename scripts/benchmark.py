"""Compare the handlers with what people run today: full-size models of random weights, one run."""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import AutoModelForCTC, AutoProcessor

from build_archives import HANDLER_FOLDER, ArchiveConfig, read_configs
from full_size_models import write_base_960h
from local_serving import LocalModel, build_with_settings, load_archive

SAMPLE_RATE_HZ = 16_000
CLIP_S = 10
REPEATS = 7
LONG_S = {"2 min": 120, "60 min": 3600}
GPU_BATCHES = (1, 8, 32)


def noise(duration_s: int, seed: int) -> bytes:
    """Return a recording of noise as a 16-bit FLAC file."""
    generator = np.random.default_rng(seed)
    file = io.BytesIO()
    samples = generator.normal(0, 0.1, duration_s * SAMPLE_RATE_HZ).astype(np.float32)
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def time_side_by_side(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return each run's median seconds; they take turns, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started_s = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started_s)
        print(f"  turn {turn} of {repeats}", file=sys.stderr, flush=True)
    return {name: statistics.median(each) for name, each in seconds.items()}


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


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def benchmark_wav2vec2(threads: int, long: bool) -> None:
    """Time 10 s clips against the plain loop; with `long`, memory and time of long recordings."""
    config = read_configs()["wav2vec2"]
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace) / "wav2vec2-base-960h"
        folder.mkdir()
        write_base_960h(folder)
        if torch.cuda.is_available():
            _time_on_gpu(config, folder)
            return
        models = {
            dtype: load_archive(
                build_with_settings(config, folder, folder.parent, dtype=dtype, threads=threads)
            )
            for dtype in ("float32", "auto")
        }
        _time_clips(models, plain_loop(folder))
        if long:
            _time_long(models["auto"])


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


def _time_on_gpu(config: ArchiveConfig, folder: Path) -> None:
    clips = [{"body": noise(CLIP_S, seed)} for seed in range(max(GPU_BATCHES))]
    rows = []
    for dtype in ("float32", "bfloat16"):
        archive = build_with_settings(config, folder, folder.parent, dtype=dtype, threads=None)
        model = load_archive(archive, gpu_id=0)
        for size in GPU_BATCHES:
            run = partial(model.answer, clips[:size])
            each = time_side_by_side({dtype: run}, REPEATS)[dtype]
            factor = each / (size * CLIP_S)
            rows.append((dtype, str(size), f"{each * 1000:.1f}", f"{factor:.5f}"))
    print(f"\nWav2Vec2-base on {torch.cuda.get_device_name()}, clips of {CLIP_S} s:\n")
    print_table(("dtype", "batch", "ms", "real-time factor"), rows)


def _time_long(model: LocalModel) -> None:
    rows = []
    for name, duration_s in LONG_S.items():
        recording = noise(duration_s, seed=1)
        before_mb = _reset_peak_mb()
        started_s = time.perf_counter()
        model.answer([{"body": recording}])
        seconds = time.perf_counter() - started_s
        added_mb = _peak_mb() - before_mb
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


def _reset_peak_mb() -> float:
    """Let Linux count the peak of resident memory anew; return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


BENCHMARKS: dict[str, Callable[[int, bool], None]] = {"wav2vec2": benchmark_wav2vec2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(BENCHMARKS))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each side")
    parser.add_argument("--long", action="store_true", help="also an hour of audio (minutes)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - set(BENCHMARKS))
    if unknown:
        parser.error(f"expected models among {', '.join(BENCHMARKS)}; got {', '.join(unknown)}")
    for name in options.models or BENCHMARKS:
        BENCHMARKS[name](options.threads, options.long)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(HANDLER_FOLDER))
    sys.exit(main())
