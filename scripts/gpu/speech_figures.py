"""How fast recognisers of full size are on the device, beside transformers' pipeline."""

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import pipeline

from archives.configs import read_configs
from benchmarks.full_size_models import write_base_960h, write_bundle
from benchmarks.recordings import SAMPLE_RATE_HZ, noise
from gpu.plan import Plan, Result, ignore
from gpu.timing import DTYPES, costs, power, seconds_of
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from trials.good_traffic import AUDIO, TIMEOUT_S, post
from trials.http_client import Request, send_alone
from trials.servers import run_server

# LibriSpeech's test-clean: 2,620 recordings of 1.3 to 35 s, 7.4 s on average.
SHORTEST_S, MEAN_S, LONGEST_S = 1.3, 7.4, 35.0
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
# The size of a checkpoint that only shows that the section runs.
TINY = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
}
# Requests that a handler is given at once, the workers that share the device, and clients that fill
# their batches: while one worker reads and writes, the others keep the device busy.
SPEECH_BATCH, WORKERS, CLIENTS = 64, 4, 256
SPEECH_BARS = {"Wav2Vec2-base": 3000, "Emformer": 2000}


def recordings(count: int, longest_s: float) -> list[bytes]:
    """Return recordings of noise, as long as LibriSpeech's are."""
    generator = np.random.default_rng(0)
    drawn = SHORTEST_S + generator.gamma(1.6, (MEAN_S - SHORTEST_S) / 1.6, count)
    return [noise(float(each), seed) for seed, each in enumerate(drawn.clip(max=longest_s))]


def measure_speech(plan: Plan) -> Iterator[Result]:
    """Yield how many seconds of audio each recogniser does in one."""
    waves = recordings(plan.amount(512, 2), plan.amount(LONGEST_S, 2.0))
    total_s = sum(len(each) for each in map(_samples, waves)) / SAMPLE_RATE_HZ
    sizes = {"Wav2Vec2-base": {}, "Wav2Vec2-large": LARGE}
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        for model, size in sizes.items():
            folder = workspace / model
            folder.mkdir()
            write_base_960h(folder, **{**size, **plan.amount({}, TINY)})
            yield from _speech(plan, model, "wav2vec2", folder, waves, total_s)
            yield _speech_peer(plan, model, folder, waves, total_s)
        folder = workspace / "emformer"
        folder.mkdir()
        if plan.amount(True, False):
            write_bundle(folder)
        source = plan.amount(folder, ROOT / "demo_models" / "emformer_asr")
        yield from _speech(plan, "Emformer", "emformer_asr", source, waves, total_s)


def _speech(
    plan: Plan, model: str, archive: str, source: Path, waves: Sequence[bytes], total_s: float
) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as name:
        for dtype in DTYPES:
            workers = plan.amount(WORKERS, 1)
            keys = {"batchSize": SPEECH_BATCH, "maxBatchDelay": 20}
            keys |= {"minWorkers": workers, "maxWorkers": workers}
            built = build_with_settings(
                read_configs()[archive],
                source,
                Path(name),
                keys,
                dtype=dtype,
                threads=plan.amount(None, 1),
            )
            plan.forget()
            loaded = load_archive(built, plan.gpu_id)
            with power(plan) as watts:
                spent_s = seconds_of(plan, partial(_answer_all, loaded, waves, SPEECH_BATCH))
            del loaded
            yield Result(
                f"{model}, {dtype}, in process: real-time factor", f"{total_s / spent_s:.0f}"
            )
            hour_s = spent_s / total_s * 3600
            yield from costs(plan, f"{model}, {dtype}", watts, hour_s, "an hour of audio")
            if dtype == DTYPES[-1] and plan.amount(True, model == "Emformer"):
                yield _served(plan, model, built, waves, total_s)


def _served(
    plan: Plan, model: str, archive: Path, waves: Sequence[bytes], total_s: float
) -> Result:
    """Return the same from bytes to texts, through TorchServe."""
    requests = [post(f"/predictions/{archive.name}", each, AUDIO) for each in waves]
    # All clients may wait at once.
    keys = {**plan.server_keys, "job_queue_size": str(CLIENTS)}
    with run_server(ignore, [archive], archive.parent, keys) as server:
        # The first round is the warm-up.
        for _ in range(2):
            answered, spent_s = _ask_all(plan, server.address, requests)
    what = f"{model}, {DTYPES[-1]}, served"
    if answered < len(waves):
        return Result(f"{what}: answered", f"{answered}", f"{len(waves)}", held=False)
    factor, bar = total_s / spent_s, SPEECH_BARS.get(model)
    what = f"{what}, {len(waves)} answered: real-time factor"
    if bar is None:
        return Result(what, f"{factor:.0f}")
    return Result(what, f"{factor:.0f}", f"{bar}", plan.judge(factor >= bar))


def _ask_all(
    plan: Plan, address: tuple[str, int], requests: Sequence[Request]
) -> tuple[int, float]:
    """Return how many of the requests were answered, and the seconds that all of them took."""

    def ask(request: Request) -> bool:
        return send_alone(address, request, TIMEOUT_S).status == HTTPStatus.OK

    with ThreadPoolExecutor(plan.amount(CLIENTS, 2)) as pool:
        started_s = time.perf_counter()
        answered = sum(pool.map(ask, requests))
        return answered, time.perf_counter() - started_s


def _speech_peer(
    plan: Plan, model: str, folder: Path, waves: Sequence[bytes], total_s: float
) -> Result:
    """Return the same of transformers' pipeline, which is given samples rather than files."""
    asked: Any = pipeline(
        "automatic-speech-recognition",
        model=str(folder),
        dtype=torch.bfloat16,
        device=plan.device,
    )
    # Similar lengths together, as users do who know that it pads.
    samples = sorted(map(_samples, waves), key=len)
    spent_s = seconds_of(plan, partial(asked, samples, batch_size=plan.amount(32, 1)))
    what = f"{model}, bfloat16, transformers' pipeline on samples: real-time factor"
    return Result(what, f"{total_s / spent_s:.0f}")


def _samples(recording: bytes) -> Any:
    return soundfile.read(io.BytesIO(recording), dtype="float32")[0]


def _answer_all(model: LocalModel, waves: Sequence[bytes], size: int) -> None:
    for start in range(0, len(waves), size):
        model.answer([{"body": each} for each in waves[start : start + size]])
