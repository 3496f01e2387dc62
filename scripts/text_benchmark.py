"""The text tasks beside the way that the common example goes: full size, random weights."""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from build_archives import read_configs
from local_serving import LocalModel, build_with_settings, load_archive
from random_text_models import write_line, write_random_model
from side_by_side import peak_mb, print_table, reset_peak_mb, time_side_by_side
from torchserve_process import free_properties, start_server, stop_server, wait_until_ready

# Tokens in each text, and how often its batch is timed.
LENGTHS = {16: 15, 150: 7}
BATCH = 8
# What the common example pads each text to.
PADDED_LENGTH = 150
PROMPTS, NEW_TOKENS, GENERATIONS = 4, 64, 5
GPU_BATCHES = (1, 8, 32)
# Steps of an explanation; tokens in its text, and how often each is timed.
STEPS = 50
EXPLAINED = {16: 5, 128: 2}
# A server is saturated by twice as many clients as fit in a batch and one in the making.
CLIENTS = 4 * BATCH
WARM_UP_S, SATURATED_S, SAMPLE_EVERY_S = 5.0, 20.0, 0.5
START_TIMEOUT_S = 300.0
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {"dtype": "auto"},
    "int8_dynamic": {"quantization": "int8_dynamic"},
}


@contextmanager
def full_size_bert() -> Iterator[tuple[Path, Any]]:
    """Write a BERT of the published size; yield its folder, in an empty one, and its tokenizer."""
    with tempfile.TemporaryDirectory() as workspace:
        folder = write_random_model(
            Path(workspace) / "bert", "bert", "sequence_classification", tiny=False
        )
        yield folder, AutoTokenizer.from_pretrained(folder)


def texts_of(tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Return texts that have that many tokens, special ones included."""
    chance = random.Random(0)
    texts: list[str] = []
    own = tokens - tokenizer.num_special_tokens_to_add()
    while len(texts) < count:
        words = write_line(chance, tokens)
        pieces = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        text = words[: pieces["offset_mapping"][own - 1][1]]
        if len(tokenizer(text)["input_ids"]) == tokens:
            texts.append(text)
    return texts


def _pad_all(tokenizer: Any, texts: list[str]) -> Any:
    length = {"padding": "max_length", "max_length": PADDED_LENGTH, "truncation": True}
    return tokenizer(texts, return_tensors="pt", **length)


def straightforward_classifier(folder: Path) -> Callable[[list[str]], list[int]]:
    """Return the way that the common example goes: every text padded, float32, one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def classify(texts: list[str]) -> list[int]:
        inputs = _pad_all(tokenizer, texts)
        with torch.no_grad():
            logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
        labels: list[int] = logits.argmax(dim=1).tolist()
        return labels

    return classify


def straightforward_generator(folder: Path) -> Callable[[list[str]], list[str]]:
    """Return the way that the common example goes: prompts padded to one length, and no mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    def generate(prompts: list[str]) -> list[str]:
        inputs = _pad_all(tokenizer, prompts)
        made = model.generate(
            inputs["input_ids"],
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        texts: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts

    return generate


def time_understanding(threads: int) -> None:
    """Print how fast a batch of texts is classified, on the CPU or on a GPU."""
    with full_size_bert() as (folder, tokenizer):
        if torch.cuda.is_available():
            _time_on_gpu(folder, tokenizer)
            return
        models = load_variants("bert_seq_classification", folder, threads, VARIANTS)
        competitor = straightforward_classifier(folder)
        rows = []
        for tokens, repeats in LENGTHS.items():
            texts = texts_of(tokenizer, tokens, BATCH)
            runs: dict[str, Callable[[], Any]] = {"straightforward": partial(competitor, texts)}
            for name, model in models.items():
                runs[name] = partial(model.answer, [{"body": text} for text in texts])
            rows += _compare(f"{tokens} tokens", time_side_by_side(runs, repeats), BATCH)
    print(f"\nBERT-base, batch of {BATCH}, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "ms", "texts a second", "times as fast"), rows)


def time_generation(threads: int) -> None:
    """Print how fast prompts of unlike length are gone on from."""
    if torch.cuda.is_available():
        return
    with tempfile.TemporaryDirectory() as workspace:
        folder = write_random_model(Path(workspace) / "gpt2", "gpt2", "text_generation", tiny=False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        variants = {name: {**settings, "do_sample": False} for name, settings in VARIANTS.items()}
        models = load_variants("gpt2_text_generation", folder, threads, variants)
        prompts = [texts_of(tokenizer, tokens, 1)[0] for tokens in (8, 12, 16, 20)]
        competitor = straightforward_generator(folder)
        runs: dict[str, Callable[[], Any]] = {"straightforward": partial(competitor, prompts)}
        parameters = {"max_new_tokens": NEW_TOKENS}
        for name, model in models.items():
            asked = [{"body": {"text": each, "parameters": parameters}} for each in prompts]
            runs[name] = partial(model.answer, asked)
        rows = _compare("", time_side_by_side(runs, GENERATIONS), PROMPTS * NEW_TOKENS)
    print(f"\nGPT-2, {NEW_TOKENS} new tokens for each of {PROMPTS} prompts:\n")
    print_table(("", "ms", "tokens a second", "times as fast"), rows)


def straightforward_explainer(folder: Path) -> Callable[[str], torch.Tensor]:
    """Return the way that the common example goes: Captum as its tutorial calls it, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def explain(text: str) -> torch.Tensor:
        inputs = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        ids, special = inputs["input_ids"], inputs["special_tokens_mask"].bool()
        baseline = torch.where(special, ids, tokenizer.pad_token_id)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            target = int(model(ids, mask).logits.argmax())
        method = LayerIntegratedGradients(
            lambda rows, mask: model(rows, mask).logits, model.get_input_embeddings()
        )
        found = method.attribute(
            ids, baseline, target=target, additional_forward_args=(mask,), n_steps=STEPS
        )
        return torch.as_tensor(found).detach().sum(dim=-1)[0]

    return explain


def time_explanations(threads: int) -> None:
    """Print how fast a text is explained, how alike to float32, and the memory of a longer one."""
    with full_size_bert() as (folder, tokenizer):
        variants = {
            name: {**VARIANTS[name], "captum_explanation": True, "n_steps": STEPS}
            for name in ("float32", "auto")
        }
        models = load_variants("bert_seq_classification", folder, threads, variants)
        competitor = straightforward_explainer(folder)
        rows = []
        for tokens, repeats in EXPLAINED.items():
            text = texts_of(tokenizer, tokens, 1)[0]
            runs: dict[str, Callable[[], Any]] = {"straightforward": partial(competitor, text)}
            for name, model in models.items():
                runs[name] = partial(model.answer, [{"body": text}], [{"explain": "True"}])
            medians, exact = time_side_by_side(runs, repeats), competitor(text)
            for name, run in runs.items():
                before_mb = reset_peak_mb()
                found = run()
                added_mb = peak_mb() - before_mb
                if name in models:
                    found = torch.tensor(found[0].answer["importances"])
                cosine = float(torch.cosine_similarity(found, exact, dim=0))
                rows.append(
                    (
                        f"{tokens} tokens, {name}",
                        f"{medians[name] * 1000:.0f}",
                        f"{medians['straightforward'] / medians[name]:.2f}",
                        f"{cosine:.4f}",
                        f"{added_mb:.0f}",
                    )
                )
    print(f"\nExplanations, BERT-base, {STEPS} steps, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "ms", "times as fast", "cosine to float32", "MB added at the peak"), rows)


def load_variants(
    archive: str, folder: Path, threads: int, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, LocalModel]:
    """Return an archive's model with each of the settings."""
    config = read_configs()[archive]
    own = {"captum_explanation": False, "num_labels": None, "threads": threads}
    return {
        name: load_archive(
            build_with_settings(config, folder, folder.parent, **{**own, **settings})
        )
        for name, settings in variants.items()
    }


def _compare(name: str, medians: Mapping[str, float], count: int) -> list[tuple[str, ...]]:
    slowest = medians["straightforward"]
    return [
        (
            f"{name}, {way}".removeprefix(", "),
            f"{each * 1000:.0f}",
            f"{count / each:.0f}",
            f"{slowest / each:.2f}",
        )
        for way, each in medians.items()
    ]


def _time_on_gpu(folder: Path, tokenizer: Any) -> None:
    config = read_configs()["bert_seq_classification"]
    rows = []
    for dtype in ("float32", "bfloat16"):
        archive = build_with_settings(
            config, folder, folder.parent, dtype=dtype, threads=None, captum_explanation=False
        )
        model = load_archive(archive, gpu_id=0)
        for tokens in LENGTHS:
            for batch in GPU_BATCHES:
                asked = [{"body": text} for text in texts_of(tokenizer, tokens, batch)]
                each = time_side_by_side({dtype: partial(model.answer, asked)}, 9)[dtype]
                rows.append(
                    (
                        f"{tokens} tokens, {dtype}",
                        str(batch),
                        f"{each * 1000:.1f}",
                        f"{batch / each:.0f}",
                    )
                )
    print(f"\nBERT-base on {torch.cuda.get_device_name()}:\n")
    print_table(("", "batch", "ms", "texts a second"), rows)


def time_saturated_server(threads: int) -> None:
    """Print how much of a saturated server's time its model works.

    One worker, batches of 8 texts of 16 tokens, clients on the same machine. TorchServe's metric
    PredictionTime says how long the handler takes for a batch while it serves; of that, what
    reading and writing texts takes is measured alone.
    """
    with full_size_bert() as (folder, tokenizer):
        texts = texts_of(tokenizer, 16, BATCH)
        own = {"captum_explanation": False, "num_labels": None, "dtype": "auto", "threads": threads}
        config = read_configs()["bert_seq_classification"]
        archive = build_with_settings(config, folder, folder.parent, {"maxBatchDelay": 5}, **own)
        properties = free_properties()
        with _server(folder.parent / "server", archive, properties):
            answered, handler_s = _saturate(properties, texts)
        around_s = _seconds_around_the_model(load_archive(archive), texts)
    batch_s = BATCH * SATURATED_S / answered
    model_s = handler_s - around_s
    row = (
        f"{answered / SATURATED_S:.0f}",
        f"{batch_s * 1000:.1f}",
        f"{handler_s * 1000:.1f}",
        f"{model_s * 1000:.1f}",
        f"{1 - model_s / batch_s:.1%}",
    )
    print(f"\nA server of one worker, {CLIENTS} clients, texts of 16 tokens, dtype auto, for 8:\n")
    header = ("texts a second", "ms", "in the handler", "in the model", "outside the model")
    print_table(header, [row])


@contextmanager
def _server(folder: Path, archive: Path, properties: Mapping[str, str]) -> Iterator[None]:
    start_server(folder, archive.parent, [archive.name], properties)
    try:
        report = partial(print, file=sys.stderr, flush=True)
        wait_until_ready(folder, [archive.name], START_TIMEOUT_S, report)
        yield
    finally:
        stop_server(folder)


def _saturate(properties: Mapping[str, str], texts: list[str]) -> tuple[int, float]:
    """Ask as fast as the server answers, for a while.

    Return how many answers came, and the median of the seconds that the handler took for a batch.
    """
    url = f"{properties['inference_address']}/predictions/bert_seq_classification"
    started_s = time.monotonic() + WARM_UP_S

    def ask(number: int) -> int:
        answered = 0
        with httpx2.Client(timeout=60, headers={"Content-Type": "text/plain"}) as client:
            while time.monotonic() < started_s + SATURATED_S:
                client.post(url, content=texts[number % BATCH]).raise_for_status()
                answered += time.monotonic() > started_s
        return answered

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = pool.map(ask, range(CLIENTS))
        handler_s = []
        while time.monotonic() < started_s + SATURATED_S - 1:
            time.sleep(SAMPLE_EVERY_S)
            if time.monotonic() > started_s:
                handler_s.append(_prediction_seconds(properties["metrics_address"]))
        return sum(asking), statistics.median(handler_s)


def _prediction_seconds(metrics_address: str) -> float:
    lines = httpx2.get(f"{metrics_address}/metrics").text.splitlines()
    line = next(line for line in lines if line.startswith("PredictionTime{"))
    return float(line.split()[-1]) / 1000


def _seconds_around_the_model(model: LocalModel, texts: list[str]) -> float:
    """Return what the handler does for a batch beside running its network."""
    task = model.handler.predictor.task
    batch = task.encode([task.read(text) for text in texts])
    runs: dict[str, Callable[[], Any]] = {
        "all": partial(model.answer, [{"body": text} for text in texts]),
        "network": partial(task.score, batch),
    }
    medians = time_side_by_side(runs, 40)
    return medians["all"] - medians["network"]
