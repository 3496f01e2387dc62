"""The handlers beside the engines that a user could pick instead, on the same processor.

Ours is the whole handler: decoding, tokenising, the network and the answer. Of a peer it is the
call of the network alone, of the same weights, on the same batch.
"""

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.full_size_models import write_base_960h
from benchmarks.random_text_models import write_random_model
from benchmarks.recordings import SAMPLE_RATE_HZ
from benchmarks.side_by_side import time_side_by_side
from benchmarks.text_models import VARIANTS, load_variants, texts_of
from speechtext.cpu.packed import PackedLinear
from speechtext.speech.encoders import fix_weights
from tables import print_table

SAMPLES = 166_400
TEXTS, LENGTHS = 8, (16, 150)
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 16, 64
REPEATS = 7
OURS = ("ours", "ours in OpenVINO")
NAMES = (*OURS, "OpenVINO", "ONNX Runtime", "CTranslate2")
# What the table calls the settings that `load_variants` loads.
DTYPES = {
    "float32": "float32",
    "auto": "bfloat16",
    "int8_dynamic": "int8",
    "int8_static": "int8",
    "int8_weight_only": "int8",
    "int4_weight_only": "int4",
}
IN_OPENVINO: Mapping[str, Any] = {"save_mode": "openvino"}
UNQUANTIZED: Mapping[str, Mapping[str, Any]] = {
    "float32": IN_OPENVINO,
    "auto": {**IN_OPENVINO, "dtype": "auto"},
}
Runs = Mapping[str, Callable[[], Any]]


class Work(NamedTuple):
    """Something to be computed, with what computes it, by engine and dtype.

    `operations` are those of matrix products and convolutions.
    """

    name: str
    operations: float
    runs: Mapping[str, Runs]


def benchmark_peers(threads: int, _long: bool) -> None:
    """Print how long each engine takes for the same work, and how much of the rate ours uses."""
    torch.set_num_threads(threads)
    rates = {"float32": measure_rate(torch.float32), "bfloat16": measure_rate(torch.bfloat16)}
    rows = [row for work in _works(threads) for row in _time(work, rates)]
    print(f"\nMilliseconds; ours is the whole handler, {threads} thread(s):\n")
    print_table(("", *NAMES, "our best / theirs", "share of the rate"), rows)
    found = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"\nThe rate is that of a 768 x 3072 product of 520 rows, GFLOP/s: {found}.\n")


def measure_rate(dtype: torch.dtype) -> float:
    """Return the operations a second at which this processor multiplies large matrices."""
    layer = PackedLinear(torch.randn(3072, 768).to(dtype), None)
    rows = torch.randn(520, 768).to(dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(20):
            started_s = time.perf_counter()
            layer(rows)
            seconds.append(time.perf_counter() - started_s)
    return 2 * 520 * 768 * 3072 / statistics.median(seconds)


def _works(threads: int) -> Iterator[Work]:
    with tempfile.TemporaryDirectory() as name:
        yield _wav2vec2(Path(name), threads)
    with tempfile.TemporaryDirectory() as name:
        folder = write_random_model(
            Path(name) / "bert", "bert", "sequence_classification", tiny=False
        )
        _name_positions(folder)
        for tokens in LENGTHS:
            yield _bert(folder, tokens, threads)
    with tempfile.TemporaryDirectory() as name:
        yield _gpt2(Path(name), threads)


def _wav2vec2(workspace: Path, threads: int) -> Work:
    from benchmarks.peer_engines import onnxruntime_runs, openvino_runs

    folder = workspace / "wav2vec2-base-960h"
    folder.mkdir()
    network = write_base_960h(folder)
    fix_weights(network)
    waveform = torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0)) * 0.1
    file = io.BytesIO()
    soundfile.write(file, waveform[0].numpy(), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    shown = workspace / "shown"
    shown.mkdir()
    (shown / "one.flac").write_bytes(file.getvalue())
    load = partial(_our_models, "wav2vec2", folder, [{"body": file.getvalue()}], threads)
    inputs = (waveform,)
    runs: dict[str, Runs] = {
        "ours": load({name: VARIANTS[name] for name in ("float32", "auto")}),
        "ours in OpenVINO": load(_in_openvino(shown)),
        "OpenVINO": openvino_runs(network, inputs, threads),
        "ONNX Runtime": onnxruntime_runs(network, inputs, threads, workspace),
    }
    return Work("Wav2Vec2-base, 10.4 s", _count(partial(network, *inputs)), runs)


def _bert(folder: Path, tokens: int, threads: int) -> Work:
    from benchmarks.peer_engines import (
        ctranslate2_encoder_runs,
        onnxruntime_runs,
        openvino_runs,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = texts_of(tokenizer, tokens, TEXTS)
    calibration = folder.parent / "calibration.txt"
    calibration.write_text("\n".join(texts), encoding="utf-8")
    network: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    asked = tokenizer(texts, return_tensors="pt")
    inputs = (asked["input_ids"], asked["attention_mask"])
    asked_ours = [{"body": text} for text in texts]
    load = partial(_our_models, "bert_seq_classification", folder, asked_ours, threads)
    with tempfile.TemporaryDirectory() as files:
        runs: dict[str, Runs] = {
            "ours": load(VARIANTS),
            "ours in OpenVINO": load(_in_openvino(calibration)),
            "OpenVINO": openvino_runs(network, inputs, threads),
            "ONNX Runtime": onnxruntime_runs(network, inputs, threads, Path(files)),
            "CTranslate2": ctranslate2_encoder_runs(folder, inputs[0], threads),
        }
    operations = _count(partial(network, *inputs))
    return Work(f"BERT-base, {TEXTS} texts of {tokens} tokens", operations, runs)


def _in_openvino(calibration: Path) -> Mapping[str, Mapping[str, Any]]:
    int8 = {"quantization": "int8_static", "calibration": str(calibration)}
    return {**UNQUANTIZED, "int8_static": {**UNQUANTIZED["auto"], **int8}}


def _our_models(
    archive: str,
    folder: Path,
    asked: list[dict[str, Any]],
    threads: int,
    variants: Mapping[str, Mapping[str, Any]],
) -> Runs:
    models = load_variants(archive, folder, threads, variants)
    return {DTYPES[name]: partial(model.answer, asked) for name, model in models.items()}


def _gpt2(workspace: Path, threads: int) -> Work:
    from benchmarks.openvino_generation import openvino_generator_runs
    from benchmarks.peer_engines import ctranslate2_generator_runs

    folder = write_random_model(workspace / "gpt2", "gpt2", "text_generation", tiny=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = texts_of(tokenizer, PROMPT_TOKENS, PROMPTS)
    weight_only = {
        name: {**IN_OPENVINO, "quantization": name}
        for name in ("int8_weight_only", "int4_weight_only")
    }
    parameters = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    asked = [{"body": {"text": each, "parameters": parameters}} for each in prompts]
    load = partial(_our_models, "gpt2_text_generation", folder, asked, threads)
    tokens = [tokenizer.convert_ids_to_tokens(tokenizer(each)["input_ids"]) for each in prompts]
    network: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    _name_every_token(folder, tokenizer, network.config.vocab_size)
    ids = torch.tensor([tokenizer(each)["input_ids"] for each in prompts])
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    operations = _count(partial(network.generate, ids, **options))
    files = workspace / "openvino"
    files.mkdir()
    runs: dict[str, Runs] = {
        "ours": load(VARIANTS),
        "ours in OpenVINO": load({**UNQUANTIZED, **weight_only}),
        "OpenVINO": openvino_generator_runs(network, ids, NEW_TOKENS, threads, files),
        "CTranslate2": ctranslate2_generator_runs(folder, tokens, NEW_TOKENS, threads),
    }
    name = f"GPT-2, {NEW_TOKENS} new tokens for {PROMPTS} prompts of {PROMPT_TOKENS}"
    return Work(name, operations, runs)


def _name_positions(folder: Path) -> None:
    """Say in a configuration what CTranslate2 looks for and transformers 5 leaves out."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "position_embedding_type": "absolute"}))


def _name_every_token(folder: Path, tokenizer: Any, count: int) -> None:
    """Give a tokenizer as many tokens as the model has, and all that CTranslate2 expects."""
    tokenizer.unk_token = tokenizer.eos_token
    tokenizer.add_tokens([f"<{number}>" for number in range(count - len(tokenizer))])
    tokenizer.save_pretrained(folder)


def _count(run: Callable[[], Any]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _time(work: Work, rates: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    for dtype in dict.fromkeys(dtype for runs in work.runs.values() for dtype in runs):
        runs = {name: each[dtype] for name, each in work.runs.items() if dtype in each}
        seconds = time_side_by_side(runs, REPEATS)
        ours = min(each for name, each in seconds.items() if name in OURS)
        best = min((each for name, each in seconds.items() if name not in OURS), default=None)
        written = [f"{seconds[name] * 1000:.0f}" if name in seconds else "-" for name in NAMES]
        share = work.operations / ours / rates.get(dtype, float("inf"))
        row = (
            f"{work.name}, {dtype}",
            *written,
            f"{ours / best:.2f}" if best else "-",
            f"{share:.2f}" if dtype in rates else "-",
        )
        print(*row, sep=" | ", file=sys.stderr)
        yield row
