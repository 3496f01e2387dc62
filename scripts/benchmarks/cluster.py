"""Ray Serve beside TorchServe, one worker each, full-size models: answers a second, and p50."""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx2
import torch

from archives.configs import ArchiveConfig, read_configs
from benchmarks.full_size_models import write_base_960h
from benchmarks.recordings import CLIP_S, noise
from benchmarks.text_models import full_size_bert, texts_of
from repository import ROOT
from serving.local import build_with_settings
from speechtext.devices import CPU, choose_dtype
from tables import print_table
from trials.clusters import run_cluster
from trials.gateways import run_gateway
from trials.servers import run_server

TEXT_TOKENS = 16
TURNS = 3
TORCHSERVE, GATEWAY, RAY = "TorchServe", "TorchServe, gateway", "Ray Serve, gateway"
report = partial(print, file=sys.stderr, flush=True)


class Turn(NamedTuple):
    """What one server answered in a turn."""

    per_s: float
    p50_ms: float


def benchmark_cluster(threads: int, _long: bool) -> None:
    """Print both engines' answers a second; they take turns with the same requests."""
    configs = read_configs()
    small: dict[str, Any] = {"threads": threads, "dtype": "float32"}
    with tempfile.TemporaryDirectory() as name:
        config = configs["bert_seq_classification"]
        source = ROOT / config.source
        bodies = [text.encode() for text in ("The room was dirty.", "Great") for _ in range(8)]
        _compare("Demo BERT", config, source, Path(name), small, bodies, 60)
    for dtype in _dtypes():
        _compare_full_size(configs, small, dtype)


def _dtypes() -> list[str]:
    """Return what the processor multiplies fast."""
    fast = choose_dtype("auto", CPU) == torch.bfloat16
    return ["float32", *["bfloat16"] * fast]


def _compare_full_size(
    configs: Mapping[str, ArchiveConfig], small: Mapping[str, Any], dtype: str
) -> None:
    with full_size_bert() as (folder, tokenizer):
        own = {**small, "captum_explanation": False, "num_labels": None, "dtype": dtype}
        texts = [text.encode() for text in texts_of(tokenizer, TEXT_TOKENS, 16)]
        config = configs["bert_seq_classification"]
        _compare(f"BERT-base, {TEXT_TOKENS} tokens", config, folder, folder.parent, own, texts, 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "base"
        folder.mkdir()
        write_base_960h(folder)
        clips = [noise(CLIP_S, seed) for seed in range(8)]
        own = {**small, "dtype": dtype}
        _compare(
            f"Wav2Vec2-base, {CLIP_S} s", configs["wav2vec2"], folder, Path(name), own, clips, 1
        )


def _compare(
    title: str,
    config: ArchiveConfig,
    source: Path,
    workspace: Path,
    settings: Mapping[str, Any],
    bodies: Sequence[bytes],
    each: int,
) -> None:
    """Print a table: each body has a connection, over which it is sent `each` times a turn."""
    archive = build_with_settings(config, source, workspace, **settings)
    with _all_servers(archive, config.name) as addresses:
        urls = {name: f"{url}/predictions/{config.name}" for name, url in addresses.items()}
        turns = _take_turns(urls, bodies, each)
    base = median(turn.per_s for turn in turns[TORCHSERVE])
    rows = [
        (
            name,
            f"{(rate := median(turn.per_s for turn in found)):.4g}",
            f"{rate / base:.3f}",
            f"{median(turn.p50_ms for turn in found):.1f}",
        )
        for name, found in turns.items()
    ]
    print(f"\n{title}, {settings['dtype']}, {len(bodies)} connections:\n")
    print_table(("", "answers a second", "of TorchServe's", "p50 ms"), rows)


@contextmanager
def _all_servers(archive: Path, name: str) -> Iterator[Mapping[str, str]]:
    """Serve an unpacked archive with both engines; yield their addresses."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(run_server(report, [archive], archive.parent))
        gateway = stack.enter_context(run_gateway(folder / "gateway", server.properties))
        configs, store = folder / "configs", folder / "store"
        configs.mkdir()
        store.mkdir()
        (store / name).symlink_to(archive)
        (configs / f"{name}.yaml").symlink_to(next(archive.glob("*.yaml")).resolve())
        cluster = stack.enter_context(run_cluster(store, folder, configs=configs))
        yield {
            TORCHSERVE: server.properties["inference_address"],
            GATEWAY: gateway.url,
            RAY: cluster.url,
        }


def _take_turns(
    urls: Mapping[str, str], bodies: Sequence[bytes], each: int
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in urls}
    limits = httpx2.Limits(max_connections=len(bodies))
    with (
        httpx2.Client(timeout=300, limits=limits) as client,
        ThreadPoolExecutor(len(bodies)) as pool,
    ):

        def ask(url: str, body: bytes) -> list[float]:
            spent = []
            for _ in range(each):
                begun_s = time.perf_counter()
                headers = {"content-type": "application/octet-stream"}
                client.post(url, content=body, headers=headers).raise_for_status()
                spent.append(time.perf_counter() - begun_s)
            return spent

        for number in range(TURNS + 1):
            for name in sorted(urls, reverse=bool(number % 2)):
                begun_s = time.perf_counter()
                spent = [s for found in pool.map(partial(ask, urls[name]), bodies) for s in found]
                passed_s = time.perf_counter() - begun_s
                report(f"  {name}: turn {number} of {TURNS}")
                # The first is to warm up.
                turn = Turn(len(spent) / passed_s, median(spent) * 1000)
                turns[name] += [turn] * bool(number)
    return turns
