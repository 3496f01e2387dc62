"""What a model adds to a prompt: drawn token by token, read, stopped, and told as it is made."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from speechtext.allowance import check_time
from speechtext.finite import find_finite, not_finite
from speechtext.ranges import (
    Count,
    PositiveCount,
    RepetitionPenalty,
    Seed,
    Temperature,
    TopP,
    TopTokens,
)
from speechtext.settings import STRICT

# A tokenizer writes a token as the ones before it ask for; those further away do not matter.
PROMPT_TAIL = 16
# What a tokenizer writes for bytes that do not make up a character yet.
UNFINISHED = "\ufffd"

StopText = Annotated[str, KeyOptions(min_length=1, max_length=100)]


@settings_dataclass(frozen=True, config=STRICT)
class GenerationParameters:
    """What a request may ask for, under the names that transformers and its servers use."""

    max_new_tokens: PositiveCount = 50
    do_sample: bool = False
    temperature: Temperature = 1.0
    top_k: Count = 0
    top_p: TopP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Annotated[list[StopText], KeyOptions(max_length=16)] | None = None
    seed: Seed | None = None
    return_full_text: bool = True
    details: bool = False
    top_n_tokens: TopTokens = 0
    stream: bool = False

    @property
    def watched(self) -> bool:
        """Tell whether each token is wanted, and not the text alone."""
        return self.stream or self.details

    def processors(self) -> list[LogitsProcessor]:
        """Return what transformers does to the logits of a next token, in its own order."""
        chosen: list[LogitsProcessor] = []
        if self.repetition_penalty != 1:
            chosen.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample and self.temperature != 1:
            chosen.append(TemperatureLogitsWarper(self.temperature))
        if self.do_sample and self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.do_sample and self.top_p < 1:
            chosen.append(TopPLogitsWarper(self.top_p))
        return chosen


class GeneratedToken(NamedTuple):
    """A token that was added, the text it completes, and its log-probability."""

    id: int
    text: str
    logprob: float
    special: bool


class Ending(NamedTuple):
    """Why and after how many tokens a continuation ended, its seed, and the prompt's tokens."""

    finish_reason: str | None
    generated_tokens: int
    seed: int | None
    input_length: int


@dataclass(frozen=True)
class TokenEvent:
    """A token as it is made; with the last one all the text, and how it ended.

    `index` counts the tokens from 1; `top_tokens` are the most probable ones in its place, where
    a request wants them.
    """

    index: int
    token: GeneratedToken
    top_tokens: Sequence[GeneratedToken]
    generated_text: str | None
    ending: Ending | None


class Continuation:
    """What is added to one prompt, with its own parameters and its own chance."""

    def __init__(
        self,
        prompt: Sequence[int],
        parameters: GenerationParameters,
        tokenizer: Any,
        end_ids: Sequence[int],
        on_token: Callable[[TokenEvent], None] | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.tokens: list[GeneratedToken] = []
        self.top_tokens: list[list[GeneratedToken]] = []
        self.finish_reason: str | None = None
        self._text = ""
        self._parameters = parameters
        self._prompt_tokens = len(prompt)
        self._prompt_tail = list(prompt[-PROMPT_TAIL:])
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._on_token = on_token
        self._processors = parameters.processors()
        self._generator = torch.Generator()
        if parameters.seed is not None:
            self._generator.manual_seed(parameters.seed)
        self._before = len(self._decode(self._prompt_tail))
        self._log_probability = 0.0
        self._top: list[tuple[int, float]] = []

    @property
    def plain(self) -> bool:
        """Tell whether the next token is simply the most probable one."""
        return not (self._processors or self._parameters.do_sample or self._parameters.watched)

    def weigh(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return numbers whose largest is that of the next token.

        `ids` of shape (1, tokens) are the prompt and what was added to it, `logits` have the shape
        (1, tokens). A sample is the largest of logarithms with Gumbel noise added: Maddison et al.
        2014, "A* Sampling". The noise is this prompt's own, whatever else is in its batch.
        """
        for process in self._processors:
            logits = process(ids, logits)
        if not self._parameters.do_sample:
            weights = logits
        else:
            noise = torch.empty(logits.shape).exponential_(generator=self._generator).log()
            weights = logits - noise.to(logits.device)
        if self._parameters.watched:
            self._score(logits.log_softmax(dim=-1)[0], weights.argmax(dim=-1))
        return weights

    def _score(self, log_probabilities: torch.Tensor, chosen: torch.Tensor) -> None:
        """Keep the log-probability of the next token, and the largest ones, of shape (tokens,)."""
        self._log_probability = float(log_probabilities[chosen])
        count = min(self._parameters.top_n_tokens, len(log_probabilities))
        values, ids = log_probabilities.topk(count)
        found = zip(ids.tolist(), values.tolist(), strict=True)
        # What was cut off by top_k or top_p has none.
        self._top = [(token_id, value) for token_id, value in found if value > -math.inf]

    def take(self, token_id: int) -> None:
        """Add a token, and find out whether it is the last."""
        if self.finish_reason:
            return
        self.ids.append(token_id)
        stops, watched = self._parameters.stop or (), self._parameters.watched
        text = self.read() if stops or watched else ""
        self.finish_reason = self._find_end(token_id, text)
        if watched:
            self._note(token_id, text)
        if self._parameters.stream and self._on_token:
            self._on_token(self._event())

    def _find_end(self, token_id: int, text: str) -> str | None:
        if token_id in self._end_ids:
            return "eos_token"
        if any(stop in text for stop in self._parameters.stop or ()):
            return "stop_sequence"
        return "length" if len(self.ids) == self._parameters.max_new_tokens else None

    def read(self) -> str:
        """Return the text that was added, up to what stops it."""
        text = self._decode([*self._prompt_tail, *self.ids])[self._before :]
        ends = [text.find(stop) + len(stop) for stop in self._parameters.stop or () if stop in text]
        return text[: min(ends, default=len(text))]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _note(self, token_id: int, text: str) -> None:
        unfinished = text.endswith(UNFINISHED) and not self.finish_reason
        new = "" if unfinished else text[len(self._text) :]
        self._text += new
        self.tokens.append(self._describe(token_id, new, self._log_probability))
        self.top_tokens.append(
            [self._describe(each, self._write(each), value) for each, value in self._top]
        )

    def _describe(self, token_id: int, text: str, log_probability: float) -> GeneratedToken:
        special = token_id in self._tokenizer.all_special_ids
        return GeneratedToken(token_id, text, round(log_probability, 6), special)

    def _write(self, token_id: int) -> str:
        """Return the text of a token that might stand in the place of the last one."""
        before = [*self._prompt_tail, *self.ids[:-1]][-PROMPT_TAIL:]
        return self._decode([*before, token_id])[len(self._decode(before)) :]

    def _event(self) -> TokenEvent:
        told = (len(self.ids), self.tokens[-1], self.top_tokens[-1])
        if self.finish_reason is None:
            return TokenEvent(*told, None, None)
        return TokenEvent(*told, self._text, self.ending())

    def ending(self) -> Ending:
        """Return why the continuation ended."""
        return Ending(self.finish_reason, len(self.ids), self._parameters.seed, self._prompt_tokens)


class PerRowSampler(LogitsProcessor):
    """Lets each row of a batch weigh its own next token."""

    def __init__(self, rows: Sequence[Continuation], starts: Sequence[int]) -> None:
        self._rows = rows
        self._starts = starts
        # Which rows have numbers as logits, shape (rows,), fetched with the tokens chosen.
        self.finite = torch.ones(len(rows), dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the weights of all rows, shape (rows, tokens); a row's padding is not its own."""
        self.finite = find_finite(scores)
        if all(row.plain for row in self._rows):
            return scores
        weights = scores.clone()
        for index, (row, start) in enumerate(zip(self._rows, self._starts, strict=True)):
            if not row.plain and row.finish_reason is None:
                own = slice(index, index + 1)
                weights[own] = row.weigh(input_ids[own, start:], scores[own])
        return weights


class PerRowStop(StoppingCriteria):
    """Gives each row its new token, and tells which rows are done."""

    def __init__(self, rows: Sequence[Continuation], sampler: PerRowSampler) -> None:
        self._rows = rows
        self._sampler = sampler

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are done, shape (rows,).

        Raises `NonFiniteOutputError` and `DeadlineError`.
        """
        check_time()
        # In one copy: a GPU is waited for once a step.
        chosen = torch.stack([input_ids[:, -1], self._sampler.finite.to(input_ids)], dim=1)
        for row, (token_id, finite) in zip(self._rows, chosen.tolist(), strict=True):
            if not finite and row.finish_reason is None:
                raise not_finite()
            row.take(token_id)
        done = [row.finish_reason is not None for row in self._rows]
        return torch.tensor(done, device=input_ids.device)
