"""How fast texts of full-size models are on the device, beside transformers' pipeline."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, pipeline

from archives.configs import read_configs
from benchmarks.random_text_models import write_random_model
from benchmarks.text_models import texts_of
from gpu.plan import Plan, Result
from gpu.timing import DTYPES, costs, power, seconds_of
from serving.local import LocalModel, build_with_settings, load_archive

CLASSIFIER, GENERATOR = "bert_seq_classification", "gpt2_text_generation"
# Texts in a batch, and the tokens of each.
TEXTS, LENGTHS = 256, (16, 150)
# Weights of BERT-base's layers: each is multiplied and added once for a token.
BERT_WEIGHTS = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
RATE_SIZE = 8192
# A batch takes at most so much longer than its products at this share of the card's rate.
SHARE, SLOWER = 0.6, 1.2
PROMPTS, NEW_TOKENS = 32, 64
EXPLAINED_TOKENS, STEPS = 16, 50


def measure_texts(plan: Plan) -> Iterator[Result]:
    """Yield texts and explanations of BERT, and tokens of GPT-2, in a second."""
    with tempfile.TemporaryDirectory() as name:
        bert = write_random_model(
            Path(name) / "bert", "bert", "sequence_classification", tiny=plan.amount(False, True)
        )
        yield from _classify(plan, bert)
        yield from _explain(plan, bert)
        gpt2 = write_random_model(
            Path(name) / "gpt2", "gpt2", "text_generation", tiny=plan.amount(False, True)
        )
        yield from _generate(plan, gpt2)


def rate(plan: Plan) -> float:
    """Return how many operations a second the device makes of a large product in bfloat16."""
    size = plan.amount(RATE_SIZE, 256)
    # Zeros are multiplied faster than what models have.
    one, other = torch.randn(2, size, size, device=plan.device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds_of(plan, partial(torch.mm, one, other))


def _load(plan: Plan, archive: str, folder: Path, dtype: str, **settings: Any) -> LocalModel:
    own = {"captum_explanation": False, "num_labels": None, "threads": plan.amount(None, 1)}
    given: dict[str, Any] = {**own, "dtype": dtype, **settings}
    config = read_configs()[archive]
    plan.forget()
    return load_archive(build_with_settings(config, folder, folder.parent, **given), plan.gpu_id)


def _classify(plan: Plan, folder: Path) -> Iterator[Result]:
    tokenizer, count = AutoTokenizer.from_pretrained(folder), plan.amount(TEXTS, 4)
    per_s = rate(plan)
    yield Result("products in bfloat16, TFLOP/s", f"{per_s / 1e12:.1f}")
    for tokens in LENGTHS[: plan.amount(2, 1)]:
        texts = texts_of(tokenizer, tokens, count)
        for dtype in DTYPES:
            model = _load(plan, CLASSIFIER, folder, dtype)
            with power(plan) as watts:
                run = partial(model.answer, [{"body": each} for each in texts])
                spent_s = seconds_of(plan, run)
            what = f"BERT-base, {tokens} tokens, {dtype}"
            yield Result(f"{what}: texts a second", f"{count / spent_s:.0f}")
            yield from costs(plan, what, watts, spent_s / count * 1000, "1,000 texts")
        products_s = 2 * BERT_WEIGHTS * tokens * count / (SHARE * per_s)
        slower = spent_s / products_s
        what = f"the same, beside its products at {SHARE:.0%} of the rate"
        yield Result(what, f"{slower:.2f}", f"{SLOWER}", plan.judge(slower <= SLOWER))
        peer = _pipeline(plan, "text-classification", folder, tokenizer)
        spent_s = seconds_of(plan, partial(peer, texts, batch_size=count))
        yield Result("the same, transformers' pipeline", f"{count / spent_s:.0f}")


def _explain(plan: Plan, folder: Path) -> Iterator[Result]:
    (text,) = texts_of(AutoTokenizer.from_pretrained(folder), EXPLAINED_TOKENS, 1)
    for dtype in DTYPES:
        model = _load(plan, CLASSIFIER, folder, dtype, captum_explanation=True, n_steps=STEPS)
        run = partial(model.answer, [{"body": text}], [{"explain": "True"}])
        spent_s = seconds_of(plan, run)
        what = f"explanations of {EXPLAINED_TOKENS} tokens, {STEPS} steps, {dtype}: a second"
        yield Result(what, f"{1 / spent_s:.1f}")


def _generate(plan: Plan, folder: Path) -> Iterator[Result]:
    tokenizer, count = AutoTokenizer.from_pretrained(folder), plan.amount(PROMPTS, 2)
    tokens = plan.amount(NEW_TOKENS, 4)
    prompts = [texts_of(tokenizer, 8 + each % 12, 1)[0] for each in range(count)]
    parameters = {"max_new_tokens": tokens}
    rows = [{"body": {"text": each, "parameters": parameters}} for each in prompts]
    for dtype in DTYPES:
        model = _load(plan, GENERATOR, folder, dtype, do_sample=False)
        with power(plan) as watts:
            spent_s = seconds_of(plan, partial(model.answer, rows))
        what = f"GPT-2, {count} prompts, {dtype}"
        yield Result(f"{what}: tokens a second", f"{tokens * count / spent_s:.0f}")
        token_s = spent_s / (tokens * count)
        yield from costs(plan, what, watts, token_s * 1000, "1,000 tokens")
    peer = _pipeline(plan, "text-generation", folder, tokenizer)
    asked = partial(peer, prompts, batch_size=count, max_new_tokens=tokens, do_sample=False)
    yield Result(
        "the same, transformers' pipeline", f"{tokens * count / seconds_of(plan, asked):.0f}"
    )


def _pipeline(plan: Plan, task: str, folder: Path, tokenizer: Any) -> Any:
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # Its overloads know no task that is a variable.
    make: Any = pipeline
    return make(
        task, model=str(folder), tokenizer=tokenizer, dtype=torch.bfloat16, device=plan.device
    )
