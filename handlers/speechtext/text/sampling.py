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
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from speechtext.errors import RequestError
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
from speechtext.text.added_text import AddedText, is_complete

# Why a continuation ended of which nobody is told.
FAILED, CANCELLED = "failed", "cancelled"

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
    a request wants them; `dropped_tokens` of the prompt were too many for the model.
    """

    index: int
    token: GeneratedToken
    top_tokens: Sequence[GeneratedToken]
    generated_text: str | None
    ending: Ending | None
    dropped_tokens: int = 0


class Continuation:
    """What is added to one prompt, with its own parameters and its own chance.

    `processors` change the logits of each next token: those of the parameters, or others.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        parameters: GenerationParameters,
        tokenizer: Any,
        end_ids: Sequence[int],
        on_token: Callable[[TokenEvent], None] | None = None,
        processors: Sequence[LogitsProcessor] | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.tokens: list[GeneratedToken] = []
        self.top_tokens: list[list[GeneratedToken]] = []
        self.finish_reason: str | None = None
        self.error: RequestError | None = None
        self._prompt = list(prompt)
        self._text = ""
        self._parameters = parameters
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._on_token = on_token
        self._processors = parameters.processors() if processors is None else processors
        self._generator = torch.Generator()
        if parameters.seed is not None:
            self._generator.manual_seed(parameters.seed)
        self._added = AddedText(tokenizer, prompt)
        self._log_probability = 0.0
        self._top: list[tuple[int, float]] = []

    def __len__(self) -> int:
        """Return how many tokens the prompt and what was added have."""
        return len(self._prompt) + len(self.ids)

    @property
    def all_ids(self) -> list[int]:
        """Return the tokens of the prompt and those that were added."""
        return [*self._prompt, *self.ids]

    @property
    def most_tokens(self) -> int:
        """Return how many tokens there may be at the end."""
        return len(self._prompt) + self._parameters.max_new_tokens

    @property
    def plain(self) -> bool:
        """Tell whether the next token is simply the most probable one."""
        return not (self._processors or self._parameters.do_sample or self._parameters.watched)

    def weigh(self, logits: torch.Tensor) -> torch.Tensor:
        """Return numbers whose largest is that of the next token, like `logits` (1, vocabulary).

        A sample is the largest of logarithms with Gumbel noise added: Maddison et al. 2014, "A*
        Sampling". The noise is this prompt's own, whatever else is in its batch.
        """
        if self._processors:
            ids = torch.tensor([self.all_ids], device=logits.device)
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
        if self._is_read:
            self._read_on(token_id)
        else:
            self.finish_reason = self._find_end(token_id, "")
        if self._parameters.stream and self._on_token:
            self._on_token(self._event())

    @property
    def _is_read(self) -> bool:
        """Tell whether the text is read with each token, and not at the end alone."""
        return bool(self._parameters.stop) or self._parameters.watched

    def _read_on(self, token_id: int) -> None:
        """Read the text of a token that was added, and of those that may stand in its place."""
        others = [(each, self._added.read(each), value) for each, value in self._top]
        text = self._text + self._added.add(token_id)
        self.finish_reason = self._find_end(token_id, text)
        new = ""
        if self._is_told(text):
            new = self._cut(text)[len(self._text) :]
            self._text += new
            self._added.keep()
        if self._parameters.watched:
            self._note(token_id, new, others)

    def fail(self, error: RequestError) -> None:
        """End without an answer."""
        if not self.finish_reason:
            self.finish_reason, self.error = FAILED, error

    def cancel(self) -> None:
        """End, as nobody waits for the answer."""
        self.finish_reason = self.finish_reason or CANCELLED

    def _find_end(self, token_id: int, text: str) -> str | None:
        if token_id in self._end_ids:
            return "eos_token"
        if any(stop in text for stop in self._parameters.stop or ()):
            return "stop_sequence"
        return "length" if len(self.ids) == self._parameters.max_new_tokens else None

    def read(self) -> str:
        """Return the text that was added, up to what stops it."""
        return (
            self._text
            if self._is_read
            else AddedText(self._tokenizer, self._prompt).write(self.ids)
        )

    def _cut(self, text: str) -> str:
        """Return a text up to what stops it, that included."""
        ends = [text.find(stop) + len(stop) for stop in self._parameters.stop or () if stop in text]
        return text[: min(ends, default=len(text))]

    def _is_told(self, text: str) -> bool:
        """Tell whether a text is told now: not where a further token may complete a character."""
        return is_complete(text) or self.finish_reason is not None

    def _note(self, token_id: int, text: str, others: Sequence[tuple[int, str, float]]) -> None:
        """Keep a token with the text that it completes, and those that may stand in its place."""
        self.tokens.append(self._describe(token_id, text, self._log_probability))
        texts = {each: other if self._is_told(other) else "" for each, other, _ in others}
        texts[token_id] = text
        self.top_tokens.append(
            [self._describe(each, texts[each], value) for each, _, value in others]
        )

    def _describe(self, token_id: int, text: str, log_probability: float) -> GeneratedToken:
        special = token_id in self._tokenizer.all_special_ids
        return GeneratedToken(token_id, text, round(log_probability, 6), special)

    def _event(self) -> TokenEvent:
        told = (len(self.ids), self.tokens[-1], self.top_tokens[-1])
        if self.finish_reason is None:
            return TokenEvent(*told, None, None)
        return TokenEvent(*told, self._text, self.ending())

    def ending(self) -> Ending:
        """Return why the continuation ended."""
        return Ending(self.finish_reason, len(self.ids), self._parameters.seed, len(self._prompt))
