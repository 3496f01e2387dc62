"""Compare the handlers with what people run today: full-size models of random weights, one run."""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from transformers import AutoModelForCTC, AutoProcessor

from build_archives import HANDLER_FOLDER, ArchiveConfig, read_configs
from full_size_models import BUNDLE_PIECES, write_base_960h, write_bundle
from live_benchmark import benchmark_live
from local_serving import LocalModel, build_with_settings, load_archive
from model_sources import local_bundle
from side_by_side import peak_mb, print_table, reset_peak_mb, time_side_by_side
from speechtext.speech.audio import decode_audio
from speechtext.speech.rnnt.features import MEL_BINS, RIGHT_CONTEXT_FRAMES
from speechtext.speech.rnnt.transducer import CPU_SEGMENTS
from text_benchmark import (
    time_explanations,
    time_generation,
    time_saturated_server,
    time_understanding,
)

SAMPLE_RATE_HZ = 16_000
CLIP_S = 10
REPEATS = 7
LONG_S = {"2 min": 120, "60 min": 3600}
GPU_BATCHES = (1, 8, 32)
FRAMES_PER_S = 100
REDUCTION = 4
# Multiplications and additions of the base model's matrices for a frame of 40 ms, with the copies
# of right contexts: 20 layers of 4 * 512 * 512 and 2 * 512 * 2048 weights, 5 frames for each 4.
FRAME_GFLOP = 20 * (4 * 512 * 512 + 2 * 512 * 2048) * 2 * 5 / 4 / 1e9
# Durations, and how often each is timed.
ENCODED_S = {10: 5, 60: 3, 180: 1}
# Duration, requests in a batch, and how often each is timed.
REQUESTS = ((10, 1, 7), (10, 8, 3), (180, 1, 1))
LONGEST_S = 3600
# What random weights are made to emit, and where the bias for it is looked for, in how many steps
# and then how near the best of these: what they emit jumps from bias to bias.
FRAMES_PER_TOKEN = 4
BIASES = (0.5, 2.5)
BIAS_STEPS = 8
NEAR_BIASES = (-0.03, -0.02, -0.01, -0.003, 0.003, 0.01, 0.02, 0.03)


def noise(duration_s: int, seed: int) -> bytes:
    """Return a recording of noise as a 16-bit FLAC file."""
    generator = np.random.default_rng(seed)
    file = io.BytesIO()
    samples = generator.normal(0, 0.1, duration_s * SAMPLE_RATE_HZ).astype(np.float32)
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


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


def benchmark_emformer(threads: int, long: bool) -> None:
    """Time encoder, search and whole requests against torchaudio's; with `long`, an hour."""
    config = read_configs()["emformer_asr"]
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace) / "bundle"
        folder.mkdir()
        network = write_bundle(folder)
        archives = {
            dtype: build_with_settings(
                config, folder, folder.parent, dtype=dtype, threads=threads, beam_width=None
            )
            for dtype in ("float32", "auto")
        }
        if torch.cuda.is_available():
            _time_emformer_on_gpu(archives)
            return
        models = {dtype: load_archive(archive) for dtype, archive in archives.items()}
        _time_encoders(network, models)
        _time_searches(network, models["float32"])
        _time_requests(folder, models)
        if long:
            _time_long(models["auto"])


@torch.inference_mode()
def _time_encoders(network: Any, models: Mapping[str, LocalModel]) -> None:
    rows = []
    for duration_s, repeats in ENCODED_S.items():
        frames = duration_s * FRAMES_PER_S
        features = torch.randn(frames + RIGHT_CONTEXT_FRAMES, MEL_BINS)
        length = torch.tensor([len(features)])
        runs: dict[str, Callable[[], Any]] = {
            "torchaudio, float32": lambda: network.transcribe(features[None], length)  # noqa: B023
        }
        for dtype, model in models.items():
            runs[dtype] = partial(encode_in_blocks, model.handler.model.encoder, features)
        medians = time_side_by_side(runs, repeats)
        slowest = medians["torchaudio, float32"]
        operations = frames / REDUCTION * FRAME_GFLOP
        rows += [
            (
                f"{duration_s} s, {name}",
                f"{each * 1000:.0f}",
                f"{slowest / each:.2f}",
                f"{operations / each:.0f}",
            )
            for name, each in medians.items()
        ]
    print(f"\nEmformer encoder of full size, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "ms", "times as fast", "GFLOP/s of matrix work"), rows)


def encode_in_blocks(encoder: Any, features: torch.Tensor) -> torch.Tensor:
    """Return the encodings of features of shape (frames + 4, 80), a block of segments at a time."""
    total = len(features) // encoder.stride - encoder.right
    left, parts = encoder.start(1), []
    step = CPU_SEGMENTS * encoder.segment
    for start in range(0, total, step):
        count = min(step, total - start)
        length = -(-count // encoder.segment) * encoder.segment + encoder.right
        piece = features[start * encoder.stride : (start + count + encoder.right) * encoder.stride]
        piece = torch.nn.functional.pad(piece, (0, 0, 0, length * encoder.stride - len(piece)))
        counts, done = torch.tensor([count]), torch.tensor([start])
        encoded, left = encoder(piece[None], counts, left, done)
        parts.append(encoded[0, :count])
    return torch.cat(parts)


@torch.inference_mode()
def _time_searches(network: Any, model: LocalModel) -> None:
    encodings = _encode(model, [noise(CLIP_S, seed=0)])[0][None]
    reference = torch.jit.script(torchaudio.models.RNNTBeamSearch(network, BUNDLE_PIECES))
    decoder = model.handler.model.decoder
    frames = [encodings.shape[1]]
    rows = []
    for width in (1, 4, 10):
        runs: dict[str, Callable[[], Any]] = {
            "torchaudio": partial(reference._search, encodings, None, width),
            "ours": lambda: decoder.beam(encodings, frames, [decoder.start()], width, 100),  # noqa: B023
        }
        medians = time_side_by_side(runs, 5)
        ratio = medians["torchaudio"] / medians["ours"]
        rows.append((str(width), *(f"{medians[each] * 1000:.0f}" for each in runs), f"{ratio:.2f}"))
    print(f"\nBeam search of full size, float32, {CLIP_S} s:\n")
    print_table(("width", "torchaudio, ms", "ours, ms", "times as fast"), rows)


def _encode(model: LocalModel, clips: Sequence[bytes]) -> list[torch.Tensor]:
    """Return the encodings of clips, shape (frames, dimension)."""
    recognizer = model.handler.recognizer
    encodings = []
    for clip in clips:
        recording = recognizer.start(
            decode_audio(clip, SAMPLE_RATE_HZ, LONGEST_S), keep_encodings=True
        )
        recognizer.recognize([recording])
        encodings.append(torch.cat(recording.encodings))
    return encodings


class BlankBias:
    """The blank's bias of a model, set so that it emits about a token for each four frames.

    Random weights emit what they please, and in bfloat16 something else than in float32: equal work
    needs a bias for each side and each length.
    """

    def __init__(self, bias: torch.Tensor, count: Callable[[torch.Tensor], int]) -> None:
        self._bias = bias
        self._count = count

    @torch.inference_mode()
    def fit(self, encodings: Sequence[torch.Tensor]) -> float:
        """Set the bias; return how many frames there are then for each token."""
        frames = sum(map(len, encodings))
        wanted = frames / FRAMES_PER_TOKEN
        low, high = BIASES
        found: dict[float, int] = {}
        for _ in range(BIAS_STEPS):
            middle = (low + high) / 2
            found[middle] = self._try(middle, encodings)
            low, high = (middle, high) if found[middle] > wanted else (low, middle)
        found |= {middle + off: self._try(middle + off, encodings) for off in NEAR_BIASES}
        best = min(found, key=lambda bias: abs(found[bias] - wanted))
        self._bias.data[BUNDLE_PIECES] = best
        return frames / max(1, found[best])

    def _try(self, bias: float, encodings: Sequence[torch.Tensor]) -> int:
        self._bias.data[BUNDLE_PIECES] = bias
        return sum(map(self._count, encodings))


def straightforward_handler(folder: Path) -> tuple[Callable[[bytes], str], BlankBias]:
    """Return the way that the common example goes: torchaudio's features, then its search."""
    bundle = local_bundle(folder)
    decoder = bundle.get_decoder()
    search = torch.jit.script(decoder)
    text_of = bundle.get_token_processor()

    def transcribe(recording: bytes) -> str:
        samples, _ = soundfile.read(io.BytesIO(recording), dtype="float32")
        features, length = bundle.get_feature_extractor()(torch.from_numpy(samples))
        with torch.no_grad():
            hypotheses = search(features, length, 1)
        text: str = text_of(hypotheses[0][0])
        return text

    def count(encodings: torch.Tensor) -> int:
        return len(search._search(encodings[None], None, 1)[0][0]) - 1

    return transcribe, BlankBias(search.model.joiner.linear.bias, count)


def our_bias(model: LocalModel) -> BlankBias:
    """Return the blank's bias of an archive."""
    decoder = model.handler.model.decoder

    def count(encodings: torch.Tensor) -> int:
        before = [decoder.start()]
        return len(decoder.greedy(encodings[None], [len(encodings)], before, 100)[0].tokens[0])

    return BlankBias(decoder.joiner.output.bias, count)


def _time_requests(folder: Path, models: Mapping[str, LocalModel]) -> None:
    competitor, competitors_bias = straightforward_handler(folder)
    biases = {"straightforward": competitors_bias}
    biases |= {dtype: our_bias(model) for dtype, model in models.items()}
    rows = []
    for duration_s, batch, repeats in REQUESTS:
        clips = [noise(duration_s, seed) for seed in range(batch)]
        encodings = {dtype: _encode(model, clips) for dtype, model in models.items()}
        share = {
            name: bias.fit(encodings.get(name, encodings["float32"]))
            for name, bias in biases.items()
        }
        runs: dict[str, Callable[[], Any]] = {
            "straightforward": lambda: [competitor(clip) for clip in clips]  # noqa: B023
        }
        for dtype, model in models.items():
            runs[dtype] = partial(model.answer, [{"body": clip} for clip in clips])
        medians = time_side_by_side(runs, repeats)
        slowest = medians["straightforward"]
        rows += [
            (
                f"{duration_s} s, batch {batch}, {name}",
                f"{share[name]:.1f}",
                f"{each * 1000:.0f}",
                f"{each / duration_s / batch:.4f}",
                f"{slowest / each:.2f}",
            )
            for name, each in medians.items()
        ]
    print(f"\nRequests, Emformer of full size, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "frames per token", "ms", "real-time factor", "times as fast"), rows)


def _time_emformer_on_gpu(archives: Mapping[str, Path]) -> None:
    clips = [{"body": noise(CLIP_S, seed)} for seed in range(max(GPU_BATCHES))]
    rows = []
    for dtype, archive in archives.items():
        model = load_archive(archive, gpu_id=0)
        for size in GPU_BATCHES:
            run = partial(model.answer, clips[:size])
            each = time_side_by_side({dtype: run}, REPEATS)[dtype]
            factor = each / (size * CLIP_S)
            rows.append((dtype, str(size), f"{each * 1000:.1f}", f"{factor:.5f}"))
    print(f"\nEmformer of full size on {torch.cuda.get_device_name()}, clips of {CLIP_S} s:\n")
    print_table(("dtype", "batch", "ms", "real-time factor"), rows)


def time_live_sessions(threads: int, _long: bool) -> None:
    """Print the delays of live sessions."""
    rows = benchmark_live(threads)
    cores = len(os.sched_getaffinity(0))
    print(f"\nLive sessions at the pace of speech, {threads} thread(s), {cores} cores:\n")
    print_table(("", "sessions", "median delay, ms", "95th percentile, ms", "keeps up"), rows)


def benchmark_text(threads: int, _long: bool) -> None:
    """Print the tables of the text tasks."""
    time_understanding(threads)
    time_generation(threads)
    time_explanations(threads)
    time_saturated_server(threads)


BENCHMARKS: dict[str, Callable[[int, bool], None]] = {
    "live": time_live_sessions,
    "wav2vec2": benchmark_wav2vec2,
    "emformer": benchmark_emformer,
    "text": benchmark_text,
}


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
