"""Choices in OpenAI's shape, out of what the engine tells of a continuation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.openai.completion_request import CompletionRequest

# The reasons of the engine for an end, and OpenAI's.
FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class Continuation(NamedTuple):
    """What was added to a prompt; `tokens` are the engine's, with logprobs and alternatives."""

    prompt: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tokens: Sequence[dict[str, Any]]
    top_tokens: Sequence[Sequence[dict[str, Any]]]

    @property
    def mean_logprob(self) -> float:
        """Return the mean logarithm of the tokens' probabilities."""
        return float(sum(each["logprob"] for each in self.tokens) / max(1, len(self.tokens)))


def read_continuation(prompt: str, content: Any, stops: Sequence[str]) -> Continuation:
    """Return a continuation out of the engine's answer, without what stopped it."""
    (found,) = content
    details = found["details"]
    text, tokens = found["generated_text"], details["tokens"]
    if details["finish_reason"] == "stop_sequence":
        text = cut_stop(text, stops)
    return Continuation(
        prompt,
        text,
        FINISH_REASONS[details["finish_reason"]],
        details["input_length"],
        details["generated_tokens"],
        tokens,
        # As in a stream, where each token comes with those beside it, or with none.
        details.get("top_tokens") or [[]] * len(tokens),
    )


def cut_stop(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the stop sequence that it ends with, the longest of them."""
    ends = [stop for stop in stops if text.endswith(stop)]
    return text.removesuffix(max(ends, key=len, default=""))


def choose_best(found: Sequence[Continuation], request: CompletionRequest) -> list[Continuation]:
    """Return the `n` most probable of those made for each prompt, the best first."""
    if request.made == request.n:
        return list(found)
    groups = (found[at : at + request.made] for at in range(0, len(found), request.made))
    return [
        each
        for group in groups
        for each in sorted(group, key=lambda one: -one.mean_logprob)[: request.n]
    ]


def write_choice(index: int, found: Continuation, request: CompletionRequest) -> dict[str, Any]:
    """Return a choice, with its prompt and log-probabilities where they are wanted."""
    logprobs = None
    if request.logprobs is not None:
        logprobs = write_logprobs(found.tokens, found.top_tokens, 0, len(found.text))
    return {
        "index": index,
        "text": (found.prompt if request.echo else "") + found.text,
        "logprobs": logprobs,
        "finish_reason": found.finish_reason,
    }


def write_logprobs(
    tokens: Sequence[dict[str, Any]],
    top_tokens: Sequence[Sequence[dict[str, Any]]],
    start: int,
    end: int,
) -> dict[str, Any]:
    """Return the tokens of a text that goes from `start` to `end` of its choice, in characters.

    Those that begin behind it, which stopped it or are special, are left out.
    """
    offsets, offset = [], start
    for token in tokens:
        if offset >= end:
            break
        offsets.append(offset)
        offset += len(token["text"])
    kept = tokens[: len(offsets)]
    tops = list(map(_name_likely, kept, top_tokens))
    return {
        "tokens": [each["text"] for each in kept],
        "token_logprobs": [each["logprob"] for each in kept],
        "top_logprobs": tops or None,
        "text_offset": offsets,
    }


def _name_likely(token: dict[str, Any], alternatives: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the log-probabilities of a token and of those that were likely in its place, by text.

    Of several with one text, as those that end inside a character, the most probable is told.
    """
    named: dict[str, float] = {}
    for each in alternatives:
        named.setdefault(each["text"], each["logprob"])
    return named | {token["text"]: token["logprob"]}


def write_usage(prompt_tokens: Sequence[int], completion_tokens: int) -> dict[str, int]:
    """Return what a request took; each prompt counts once, however many choices it has."""
    prompts = sum(prompt_tokens)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": completion_tokens,
        "total_tokens": prompts + completion_tokens,
    }
