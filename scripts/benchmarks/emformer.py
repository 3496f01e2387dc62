"""The Emformer RNN-T beside torchaudio's own encoder, search and example."""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import torch
import torchaudio

from archives.configs import read_configs
from archives.emformer import local_bundle
from benchmarks.blank_bias import BlankBias
from benchmarks.full_size_models import BUNDLE_PIECES, write_bundle
from benchmarks.recordings import CLIP_S, SAMPLE_RATE_HZ, noise, time_long, time_on_gpu
from benchmarks.side_by_side import time_side_by_side
from serving.local import LocalModel, build_with_settings, load_archive
from speechtext.speech.audio import decode_audio
from speechtext.speech.rnnt.features import MEL_BINS, RIGHT_CONTEXT_FRAMES
from speechtext.speech.rnnt.transducer import CPU_SEGMENTS
from tables import print_table

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {"dtype": "auto"},
    "float32, int8": {"dtype": "float32", "quantization": "int8_dynamic"},
    "auto, int8": {"dtype": "auto", "quantization": "int8_dynamic"},
}
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


def benchmark_emformer(threads: int, long: bool) -> None:
    """Time encoder, search and whole requests against torchaudio's; with `long`, an hour."""
    config = read_configs()["emformer_asr"]
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace) / "bundle"
        folder.mkdir()
        network = write_bundle(folder)
        archives = {
            name: build_with_settings(
                config, folder, folder.parent, threads=threads, beam_width=None, **settings
            )
            for name, settings in VARIANTS.items()
        }
        if torch.cuda.is_available():
            print(
                f"\nEmformer of full size on {torch.cuda.get_device_name()}, clips of {CLIP_S} s:\n"
            )
            time_on_gpu({name: archives[name] for name in ("float32", "auto")})
            return
        models = {dtype: load_archive(archive) for dtype, archive in archives.items()}
        _time_encoders(network, models)
        _time_searches(network, models["float32"])
        _time_requests(folder, models)
        if long:
            time_long(models["auto"])


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
    left, parts = encoder.start(), []
    step = CPU_SEGMENTS * encoder.segment
    for start in range(0, total, step):
        count = min(step, total - start)
        length = -(-count // encoder.segment) * encoder.segment + encoder.right
        piece = features[start * encoder.stride : (start + count + encoder.right) * encoder.stride]
        piece = torch.nn.functional.pad(piece, (0, 0, 0, length * encoder.stride - len(piece)))
        counts, done = torch.tensor([count]), torch.tensor([start])
        encoded, made = encoder(piece[None], counts, [left], done)
        encoder.keep(left, made[:, 0], count, start)
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
    transducer = model.handler.recognizer.transducer
    encodings = []
    for clip in clips:
        recording = transducer.start(
            decode_audio(clip, SAMPLE_RATE_HZ, LONGEST_S), keep_encodings=True
        )
        transducer.recognize([recording])
        encodings.append(torch.cat(recording.encodings))
    return encodings


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
    rows: list[tuple[str, ...]] = []
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
        rows += _request_rows(duration_s, batch, share, time_side_by_side(runs, repeats))
    print(f"\nRequests, Emformer of full size, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "frames per token", "ms", "real-time factor", "times as fast"), rows)


def _request_rows(
    duration_s: int, batch: int, frames_per_token: Mapping[str, float], medians: Mapping[str, float]
) -> list[tuple[str, ...]]:
    slowest = medians["straightforward"]
    return [
        (
            f"{duration_s} s, batch {batch}, {name}",
            f"{frames_per_token[name]:.1f}",
            f"{each * 1000:.0f}",
            f"{each / duration_s / batch:.4f}",
            f"{slowest / each:.2f}",
        )
        for name, each in medians.items()
    ]
