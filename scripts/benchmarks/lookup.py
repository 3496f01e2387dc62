"""Generation of one prompt with guesses of what follows (prompt lookup), and without."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.random_text_models import write_random_model
from benchmarks.side_by_side import time_side_by_side
from benchmarks.text_models import load_variants, texts_of
from serving.local import LocalModel
from speechtext.text.key_value_cache import make_cache
from tables import print_table

PROMPT_TOKENS, NEW_TOKENS, GENERATIONS = 64, 64, 5
# Tokens that are guessed at most, and how many are read at once to see what a step takes.
GUESSED, READ, STEPS = 8, (1, 2, 3, 5, 9, 17), 15
DTYPES = ("float32", "auto")
KEPT: Mapping[str, Mapping[str, Any]] = {
    **{dtype: {"dtype": dtype} for dtype in DTYPES},
    "OpenVINO, float32": {"save_mode": "openvino"},
    "OpenVINO, int8": {"save_mode": "openvino", "quantization": "int8_weight_only"},
}
VARIANTS = {
    f"{name}, {guessed or 'none'} guessed": {**kept, "prompt_lookup_num_tokens": guessed}
    for name, kept in KEPT.items()
    for guessed in (None, GUESSED)
}


def benchmark_lookup(threads: int, _long: bool) -> None:
    """Print what a step takes by the tokens that are read in it, and how long texts take."""
    with tempfile.TemporaryDirectory() as workspace:
        folder = write_random_model(Path(workspace) / "gpt2", "gpt2", "text_generation", tiny=False)
        models = load_variants("gpt2_text_generation", folder, threads, VARIANTS)
        time_steps(
            {
                dtype: models[f"{dtype}, none guessed"].handler.predictor.task.model.network
                for dtype in DTYPES
            }
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = texts_of(tokenizer, PROMPT_TOKENS, 1)[0]
        theirs = {
            **transformers_way(folder, tokenizer, prompt),
            **openvino_way(folder, tokenizer, prompt, threads),
        }
        time_texts(models, prompt, theirs)


def time_texts(
    models: Mapping[str, LocalModel], prompt: str, theirs: Mapping[str, Callable[[], Any]]
) -> None:
    """Print how long texts take that repeat themselves, and texts that do not."""
    # The most probable tokens of random weights soon repeat themselves; drawn ones do not.
    asked: dict[str, tuple[dict[str, Any], Mapping[str, Callable[[], Any]]]] = {
        "repeats itself": ({"do_sample": False}, theirs),
        "repeats nothing": ({"do_sample": True, "seed": 1, "top_k": 0, "top_p": 1.0}, {}),
    }
    for name, (chosen, others) in asked.items():
        parameters = {"max_new_tokens": NEW_TOKENS, **chosen}
        rows = [{"body": {"text": prompt, "parameters": parameters}}]
        ours = {f"ours, {way}": partial(model.answer, rows) for way, model in models.items()}
        medians = time_side_by_side({**others, **ours}, GENERATIONS)
        print(f"\nGPT-2, {NEW_TOKENS} new tokens for a prompt, a text that {name}:\n")
        print_table(("", "ms"), [(way, f"{each * 1000:.0f}") for way, each in medians.items()])


@torch.inference_mode()
def time_steps(networks: dict[str, Any]) -> None:
    """Print what a step takes that reads several tokens behind a prompt."""
    print(
        f"\nA step of GPT-2 behind {PROMPT_TOKENS} tokens, {torch.get_num_threads()} thread(s):\n"
    )
    rows = []
    for dtype, network in networks.items():
        cache = make_cache(network)
        network(torch.arange(PROMPT_TOKENS)[None], past_key_values=cache)
        runs = {f"{count}": partial(_step, network, cache, count) for count in READ}
        medians = time_side_by_side(runs, STEPS)
        rows += [
            (f"{dtype}, {count} read", f"{each * 1000:.1f}", f"{each / medians['1']:.2f}")
            for count, each in medians.items()
        ]
    print_table(("", "ms", "times one token's"), rows)


def _step(network: Any, cache: Any, count: int) -> None:
    network(torch.arange(count)[None], past_key_values=cache, logits_to_keep=count)
    cache.crop(-count)


def transformers_way(
    folder: Path, tokenizer: Any, prompt: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return `generate` of transformers in float32, without guesses and with them."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(prompt, return_tensors="pt")
    generate = partial(
        model.generate,
        **inputs,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return {
        "transformers, float32, none guessed": generate,
        f"transformers, float32, {GUESSED} guessed": partial(
            generate, prompt_lookup_num_tokens=GUESSED
        ),
    }


def openvino_way(
    folder: Path, tokenizer: Any, prompt: str, threads: int
) -> dict[str, Callable[[], Any]]:
    """Return what OpenVINO GenAI does with the same weights, without guesses and with them."""
    # Only there with the other engines.
    from benchmarks.openvino_generation import generator_run, write_generator

    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    written = {
        dtype: write_generator(network, dtype, folder.parent) for dtype in ("float32", "int8")
    }
    return {
        f"OpenVINO GenAI, {dtype}, {guessed or 'none'} guessed": generator_run(
            own, dtype, ids, NEW_TOKENS, threads, guessed
        )
        for dtype, own in written.items()
        for guessed in (None, GUESSED)
    }
