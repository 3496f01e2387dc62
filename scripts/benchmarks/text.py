"""The text tasks beside the way that the common example goes: full size, random weights."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from archives.configs import read_configs
from benchmarks.peak_memory import peak_mb, reset_peak_mb
from benchmarks.random_text_models import write_random_model
from benchmarks.saturated_server import time_saturated_server
from benchmarks.side_by_side import time_side_by_side
from benchmarks.text_baselines import (
    straightforward_classifier,
    straightforward_explainer,
    straightforward_generator,
)
from benchmarks.text_models import BATCH, VARIANTS, full_size_bert, load_variants, texts_of
from serving.local import LocalModel, build_with_settings, load_archive
from tables import print_table

# Tokens in each text, and how often its batch is timed.
LENGTHS = {16: 15, 150: 7}
PROMPTS, NEW_TOKENS, GENERATIONS = 4, 64, 5
GPU_BATCHES = (1, 8, 32)
# Steps of an explanation; tokens in its text, and how often each is timed.
STEPS = 50
EXPLAINED = {16: 5, 128: 2}


def benchmark_text(threads: int, _long: bool) -> None:
    """Print the tables of the text tasks."""
    time_understanding(threads)
    time_generation(threads)
    time_explanations(threads)
    time_saturated_server(threads)


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
        competitor = straightforward_generator(folder, NEW_TOKENS)
        runs: dict[str, Callable[[], Any]] = {"straightforward": partial(competitor, prompts)}
        parameters = {"max_new_tokens": NEW_TOKENS}
        for name, model in models.items():
            asked = [{"body": {"text": each, "parameters": parameters}} for each in prompts]
            runs[name] = partial(model.answer, asked)
        rows = _compare("", time_side_by_side(runs, GENERATIONS), PROMPTS * NEW_TOKENS)
    print(f"\nGPT-2, {NEW_TOKENS} new tokens for each of {PROMPTS} prompts:\n")
    print_table(("", "ms", "tokens a second", "times as fast"), rows)


def time_explanations(threads: int) -> None:
    """Print how fast a text is explained, how alike to float32, and the memory of a longer one."""
    with full_size_bert() as (folder, tokenizer):
        variants = {
            name: {**VARIANTS[name], "captum_explanation": True, "n_steps": STEPS}
            for name in ("float32", "auto")
        }
        models = load_variants("bert_seq_classification", folder, threads, variants)
        competitor = straightforward_explainer(folder, STEPS)
        rows = []
        for tokens, repeats in EXPLAINED.items():
            text = texts_of(tokenizer, tokens, 1)[0]
            runs: dict[str, Callable[[], torch.Tensor]] = {
                "straightforward": partial(competitor, text)
            }
            for name, model in models.items():
                runs[name] = partial(_importances, model, text)
            rows += _compare_explanations(f"{tokens} tokens", runs, repeats)
    print(f"\nExplanations, BERT-base, {STEPS} steps, {torch.get_num_threads()} thread(s):\n")
    print_table(("", "ms", "times as fast", "cosine to float32", "MB added at the peak"), rows)


def _importances(model: LocalModel, text: str) -> torch.Tensor:
    (reply,) = model.answer([{"body": text}], [{"explain": "True"}])
    return torch.tensor(reply.answer["importances"])


def _compare_explanations(
    name: str, runs: Mapping[str, Callable[[], torch.Tensor]], repeats: int
) -> list[tuple[str, ...]]:
    medians, exact = time_side_by_side(runs, repeats), runs["straightforward"]()
    rows: list[tuple[str, ...]] = []
    for way, run in runs.items():
        before_mb = reset_peak_mb()
        found = run()
        added_mb = peak_mb() - before_mb
        rows.append(
            (
                f"{name}, {way}",
                f"{medians[way] * 1000:.0f}",
                f"{medians['straightforward'] / medians[way]:.2f}",
                f"{float(torch.cosine_similarity(found, exact, dim=0)):.4f}",
                f"{added_mb:.0f}",
            )
        )
    return rows


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
