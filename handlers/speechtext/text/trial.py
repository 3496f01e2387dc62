"""A text model tried when it is loaded: what loads answers, and what that takes is known."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from speechtext.allowance import run_timed
from speechtext.devices import choose_dtype
from speechtext.errors import RequestError
from speechtext.failures import as_request_error, is_out_of_memory
from speechtext.text.base import Answer, TextCosts, TextTask, write_words
from speechtext.text.explanation.explainer import Explainer, count_tokens
from speechtext.text.payloads import Example
from speechtext.text.tokens import tokenize

# Words of a short text and of a long one, whose difference shows what a token takes.
SHORT_WORDS, LONG_WORDS = 2, 256
# Words that are tokenised to see what a character takes.
TOKENIZED_WORDS = 2000
# Words of texts that are padded to the longest of them, of which some models see an even number
# otherwise than an odd one. And what rounding may change of a number: in float32 it changes a few
# millionths, in bfloat16 up to 0.06.
PADDED_WORDS = (2, 3, 32)
EXACT_TOLERANCE, TOLERANCE = 1e-3, 0.1
FRAME_TOKENS = 4
EXPLAINED_WORDS, EXPLAINED_STEPS = 48, 4
# The share of a long text's time from which on it shows what a token takes.
LEAST_DIFFERENCE = 0.2


def try_task(task: TextTask) -> TextCosts:
    """Answer a short and a long text; return what this worker takes.

    Raises `ValueError` for a model that cannot answer.
    """
    # What the settings say of a request without parameters is only looked at.
    encode_defaults(task)
    short_s, short = _time(task, SHORT_WORDS)
    long_s, long = _time(task, min(LONG_WORDS, count_words(task.max_tokens)))
    tokens = long.tokens_in - short.tokens_in
    # With a small model, most of the time is overhead, not tokens.
    differs = tokens > 0 and long_s - short_s > LEAST_DIFFERENCE * long_s
    token_s = (long_s - short_s) / tokens if differs else long_s / long.tokens_in
    return TextCosts(
        character_s=_measure_characters(task),
        token_s=token_s,
        new_token_s=long_s / max(1, long.tokens_out),
        window_tokens=max(0, int(short_s / token_s) - short.tokens_in),
    )


class Tolerances(NamedTuple):
    """Whether texts get the same with padding, and where others are continued meanwhile."""

    padding: bool
    turns: bool


def find_tolerances(task: TextTask) -> Tolerances:
    """Compare short texts beside a longer one with the same texts alone.

    Models without a mask, or with one that convolutions and pooling do not heed, do not bear
    padding. Models that keep on themselves, and in no cache, what they have read do not bear turns.
    """
    longest = count_words(task.max_tokens)
    texts = [task.read(task.sample(min(each, longest))) for each in PADDED_WORDS]
    try:
        alone = [task.compute_together([each])[0] for each in texts]
    except Exception as error:
        # It answers, but not all of them; the log gets where.
        as_request_error(error)
        borne = is_out_of_memory(error)
        return Tolerances(borne, borne or task.single_call)
    turns = task.single_call or _is_same(task, task.compute_by_turns, texts, alone)
    return Tolerances(_is_same(task, task.compute_together, texts, alone), turns)


def _is_same(
    task: TextTask,
    compute: Callable[[Sequence[Example]], list[torch.Tensor]],
    texts: Sequence[Example],
    alone: Sequence[torch.Tensor],
) -> bool:
    try:
        together = compute(texts)
    except Exception as error:
        as_request_error(error)
        return is_out_of_memory(error)
    tolerance = _find_tolerance(task)
    return all(_differ_by(*pair) <= tolerance for pair in zip(together, alone, strict=True))


def _differ_by(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, as a share of the largest number where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _find_tolerance(task: TextTask) -> float:
    """Return by how much of a number rounding may change it, as the model computes."""
    settings = task.settings
    dtype = choose_dtype(settings.dtype, task.model.device)
    exact = dtype == torch.float32 and settings.quantization is None
    return EXACT_TOLERANCE if exact else TOLERANCE


def try_explainer(task: TextTask, explainer: Explainer) -> float:
    """Explain a text; return the seconds that a token takes in a step.

    Raises `ValueError` for a model that cannot be explained.
    """
    most = min(task.max_tokens, task.settings.max_explanation_tokens)
    sample = task.sample(min(EXPLAINED_WORDS, count_words(most)))
    parameters = {**sample.get("parameters", {}), "n_steps": EXPLAINED_STEPS}
    example = task.read({**sample, "parameters": parameters}, explain=True)
    batch = task.encode([example])
    seconds, (found,) = run_timed(lambda: explainer.explain(batch), task.model.device)
    if isinstance(found, RequestError):
        raise ValueError(f"handler: expected settings under which texts are explained. {found}")
    targets = [each.target for each in found.explained]
    return seconds / max(1, count_tokens(example.explanation, targets))


def count_words(tokens: int) -> int:
    """Return how many words have no more tokens than that, at two for each and a frame."""
    return max(1, tokens // 2 - FRAME_TOKENS)


def encode_defaults(task: TextTask) -> None:
    """Raise `ValueError` where the settings refuse a request that asks for nothing special."""
    payload = task.sample(SHORT_WORDS)
    payload.pop("parameters", None)
    try:
        task.encode([task.read(payload)])
    except RequestError as error:
        raise ValueError(
            f"handler: expected settings under which requests are answered. {error}"
        ) from error


def _time(task: TextTask, words: int) -> tuple[float, Answer]:
    """Return the seconds of an answer to a text of so many words, and the answer."""
    example = task.read(task.sample(words))
    # The first run is slower than all others.
    task.answer(task.encode([example]))
    seconds, (answer,) = run_timed(lambda: task.answer(task.encode([example])), task.model.device)
    return seconds, answer


def _measure_characters(task: TextTask) -> float:
    text = write_words(TOKENIZED_WORDS)
    seconds, _ = run_timed(lambda: tokenize(task.tokenizer, [text]))
    return seconds / len(text)
