"""What all text tasks share: from a payload to rows of tokens, and from the model's heads back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch

from device_io import Answer
from speechtext.errors import RequestError, RequestTooLargeError, explanation_unsupported
from speechtext.measurements import note_size, stage
from speechtext.text.explanation.targets import (
    EXPLANATION_KEYS,
    Explained,
    ExplanationParameters,
    Target,
)
from speechtext.text.payloads import (
    NO_ENVELOPE,
    Content,
    Envelope,
    Example,
    impossible,
    read_content,
    read_parameters,
    target_of,
    text_of,
)
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Row, Tokens, adopt_tokens, cut_end, tokenize
from speechtext.text.windows import EncodedBatch, Scored, score_rows

EVENT_STREAM = "text/event-stream"
TRUNCATED_HEADER = "X-Truncated-Tokens"
# Windows over a text move on by this part of their room, or more.
LEAST_ADVANCE = 4


@dataclass(frozen=True)
class LoadedModel:
    """A model of transformers or a TorchScript one, and what goes with it.

    `labels` name the model's outputs; `positions` is the longest row that it takes, `input_names`
    are those of the tokenizer's outputs that it takes.
    """

    network: Any
    tokenizer: Any
    config: Any
    labels: Mapping[int, str]
    device: torch.device
    positions: int
    input_names: Sequence[str]


class TextTask(ABC):
    """What is special about a task is in its class; what is here, the tasks share."""

    auto_model: ClassVar[Any]
    parameters: ClassVar[type[Any]]
    has_labels: ClassVar[bool] = False
    # Whether a TorchScript file can hold the model.
    scriptable: ClassVar[bool] = False
    padding_side: ClassVar[str] = "right"
    # Whether what is explained follows one another, as the tokens of a continuation do.
    as_matrix: ClassVar[bool] = False

    def __init__(self, model: LoadedModel, settings: TextSettings) -> None:
        self.model = model
        self.tokenizer = model.tokenizer
        self.settings = settings

    def parse(self, payload: Any, envelope: Envelope = NO_ENVELOPE) -> Example:
        """Return the example of a payload.

        Raises `RequestError` 400 for a missing field and 422 for parameters that cannot be, and for
        an explanation that the archive is not configured for.
        """
        content = read_content(payload, envelope)
        text, second = self.read_texts(content)
        asked = content.parameters
        if not envelope.explain:
            return Example(text, second, self._parameters(asked), content.form, envelope)
        own = {name: value for name, value in asked.items() if name not in EXPLANATION_KEYS}
        return Example(
            text,
            second,
            self._parameters(own),
            content.form,
            envelope,
            target_of(content),
            self.explanation({name: asked[name] for name in asked if name in EXPLANATION_KEYS}),
        )

    def explanation(self, asked: Mapping[str, Any]) -> ExplanationParameters:
        """Return how to explain; raises `RequestError` 422 where the archive does not allow it."""
        settings = self.settings
        if not settings.captum_explanation:
            raise explanation_unsupported()
        given = read_parameters(ExplanationParameters, asked, {"n_steps": settings.n_steps})
        if given.n_steps > settings.max_explanation_steps:
            most = f"at most {settings.max_explanation_steps}"
            raise impossible("parameters.n_steps", most, str(given.n_steps))
        return given

    def _parameters(self, given: Mapping[str, Any]) -> Any:
        return read_parameters(self.parameters, given, self.default_parameters(given))

    def read_texts(self, content: Content) -> tuple[str, str | None]:
        """Return the text of a payload, and the one that goes with it."""
        return text_of(content), None

    def default_parameters(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the YAML sets for a request with the parameters `given`."""
        return {}

    @cached_property
    def max_tokens(self) -> int:
        """Return the longest row that the model is given, special tokens included."""
        return min(self.settings.max_length, self.model.positions)

    def encode(self, examples: Sequence[Example]) -> EncodedBatch:
        """Tokenise examples, in one call, and cut them into rows, padded to the longest."""
        texts = [
            each.text if each.second is None else (each.text, each.second) for each in examples
        ]
        rows: list[Row] = []
        for owner, tokens in enumerate(tokenize(self.tokenizer, texts)):
            own = self.cut(owner, tokens, examples[owner])
            note_size(examples[owner].envelope.place, "tokens_in", sum(map(len, own)))
            rows += own
        return self._batch(rows, examples)

    def _batch(self, rows: Sequence[Row], examples: Sequence[Example]) -> EncodedBatch:
        return EncodedBatch(rows, examples, self.tokenizer.pad_token_id, self.padding_side)

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Row]:
        """Return the rows of an example: one, without the end of a text that is too long.

        Raises `RequestError` 413 for such a text where the YAML does not allow that.
        """
        return [self._cut_end(owner, tokens, self.max_tokens)]

    def _cut_end(self, owner: int, tokens: Tokens, most: int) -> Row:
        dropped = max(0, len(tokens.ids) - most)
        if not dropped:
            return Row(tokens, range(len(tokens.ids)), owner)
        if not self.settings.truncation:
            raise too_long("the text", most, len(tokens.ids))
        return Row(tokens, cut_end(tokens, most, self.padding_side), owner, dropped)

    def choose_stride(self, asked: int | None, default: int, room: int) -> int:
        """Return how many of the `room` tokens of a window it shares with the next.

        What the request asks for goes before the YAML's and the task's own. Raises `RequestError`
        422 where windows would hardly move on.
        """
        most = room - room // LEAST_ADVANCE
        if asked is not None and asked > most:
            raise impossible(
                "the stride", f"at most {most} of a window's {room} tokens", str(asked)
            )
        wanted = (asked, self.settings.stride, default)
        return min(most, next(each for each in wanted if each is not None))

    def adopt(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> EncodedBatch:
        """Return a batch of rows that were encoded elsewhere."""
        rows = []
        for owner, (ids, used) in enumerate(
            zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
        ):
            own = [token_id for token_id, here in zip(ids, used, strict=True) if here]
            tokens = adopt_tokens(own, self._special_ids(), self.tokenizer.sep_token_id)
            rows.append(Row(tokens, range(len(own)), owner))
        return self._batch(rows, [Example("", parameters=self._parameters({}))] * len(rows))

    def _special_ids(self) -> set[int]:
        """Return the ids that frame a text and carry none of it (the unknown token does)."""
        tokenizer = self.tokenizer
        frame = (
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        return {token_id for token_id in frame if token_id is not None}

    @abstractmethod
    def answer(self, batch: EncodedBatch) -> list[Any]:
        """Return the answer to each example of a batch."""

    @abstractmethod
    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return what to explain of each example of a batch, or why that cannot be."""

    def try_targets(self, choose: Callable[[], list[Target]]) -> list[Target] | RequestError:
        """Return the targets chosen, or the error: 413 where a row would take too long."""
        most = self.settings.max_explanation_tokens
        try:
            targets = choose()
            for target in targets:
                if len(target.row) > most:
                    raise too_long("a text to explain", most, len(target.row))
        except RequestError as error:
            return error
        return targets

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what an answer tells about its only target."""
        (only,) = explained
        return {"importances": only.importances, "delta": only.delta, **only.facts()}


class UnderstandingTask(TextTask):
    """A task whose model reads each row once."""

    scriptable = True

    # Whether the model says something about each token.
    per_token: ClassVar[bool] = False

    def answer(self, batch: EncodedBatch) -> list[Any]:
        """Return the answer to each example of a batch."""
        scored = list(self._score_examples(batch))
        with stage("decode"):
            return [self.decode(*each) for each in scored]

    def _score_examples(self, batch: EncodedBatch) -> Iterator[tuple[Example, list[Scored]]]:
        """Return each example with what the model says about its rows."""
        owned: list[list[Scored]] = [[] for _ in batch.examples]
        for each in self.score(batch):
            owned[each.row.owner].append(each)
        return zip(batch.examples, owned, strict=True)

    @torch.inference_mode()
    def score(self, batch: EncodedBatch) -> list[Scored]:
        """Return what the model says about each row."""
        return score_rows(
            self.model.network,
            batch,
            self.model.input_names,
            self.model.device,
            self.settings.max_batch_tokens,
            self.per_token,
        )

    @abstractmethod
    def decode(self, example: Example, scored: Sequence[Scored]) -> Any:
        """Return the answer to an example, of which the model scored these rows."""

    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return what to explain of each example of a batch, or why that cannot be."""
        return [
            self.try_targets(partial(self.choose_targets, example, scored))
            for example, scored in self._score_examples(batch)
        ]

    @abstractmethod
    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return what to explain of an example: what it asks for, else what the model answers."""


def too_long(field: str, most: int, tokens: int) -> RequestError:
    """Return the error of a text with more tokens than the model takes."""
    return RequestTooLargeError(
        "TextTooLong",
        f"Expected at most {most} tokens in {field}, got {tokens}.",
    )


def answer_row(content: Any, row: Row) -> Any:
    """Return an answer, with a header where tokens of its text were dropped."""
    if not row.dropped:
        return content
    return Answer(content, headers={TRUNCATED_HEADER: str(row.dropped)})


def own_tokens(row: Row) -> list[bool]:
    """Return which tokens of a row are the texts' own, and not special ones."""
    return [sequence is not None for sequence in row.pick(row.tokens.sequences)]
