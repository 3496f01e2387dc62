"""The four text tasks: one class each, and the one table that names them.

A task parses a payload, encodes examples for the model, runs it and decodes its output into plain
answers. Nothing outside this module knows which task is which.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from tokenizers import Encoding
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from device_io import STRICT, DtypeName, RequestError, as_fields, explanation_unsupported

MAX_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class Example:
    """One request: a text, the context of a question, and what to explain if that was asked for."""

    text: str
    context: str | None = None
    target: int | str | None = None
    explain: bool = False


@dataclass(frozen=True)
class Target:
    """One number to explain: the model's output `head` at `index`, and the answer's key suffix."""

    head: int
    index: int
    suffix: str = ""


class EncodedBatch(tuple[torch.Tensor, torch.Tensor]):
    """`(input_ids, attention_mask)`, each of shape (rows, tokens), with what decoding also needs.

    `token_type_ids` has their shape, or is None for models without them. `context_tokens`, of the
    same shape, is true for the tokens of the second text; `encodings` know the words and characters
    of each row's tokens. Rows made elsewhere carry no `examples` and no `encodings`.
    """

    token_type_ids: torch.Tensor | None = None
    context_tokens: torch.Tensor
    encodings: Sequence[Encoding] = ()
    examples: Sequence[Example] = ()

    def __new__(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "EncodedBatch":
        """Pair the two tensors."""
        return super().__new__(cls, (input_ids, attention_mask))

    def inputs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the model's positional inputs on `device`; token types only where it has them."""
        tensors = (*self, self.token_type_ids)
        return tuple(tensor.to(device) for tensor in tensors if tensor is not None)


class TextTask(ABC):
    """What is special about a task; the rest is shared."""

    auto_model: ClassVar[Any]
    has_labels: ClassVar[bool] = False
    padding_side: ClassVar[str] = "right"
    truncation: ClassVar[str] = "longest_first"

    def __init__(self, tokenizer: Any, settings: "TextSettings", labels: Mapping[int, str]) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.labels = labels
        tokenizer.padding_side = self.padding_side
        # Prompts lose their beginning, other texts their end.
        tokenizer.truncation_side = self.padding_side
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def parse(self, payload: Any, declared_json: bool, explain: bool) -> Example:
        """Return the example of a payload: plain text, or an object with the field `text`.

        Raises `RequestError` 400 for a missing field and 422 for an explanation that the archive
        is not configured for.
        """
        self._check_explanation(explain)
        content = as_fields(payload, declared_json)
        if isinstance(content, str):
            return Example(content, explain=explain)
        return Example(_text_field(content, "text"), None, _target_field(content), explain)

    def _check_explanation(self, explain: bool) -> None:
        if explain and not (self.settings.captum_explanation and self.explains):
            raise explanation_unsupported()

    @property
    def explains(self) -> bool:
        """Tell whether the task has explanations at all."""
        return type(self).attribution_targets is not TextTask.attribution_targets

    @property
    def max_tokens(self) -> int:
        """Return the longest row that the model is given, special tokens included."""
        positions: int = self.tokenizer.model_max_length
        return min(self.settings.max_length, positions)

    def encode(self, examples: Sequence[Example]) -> EncodedBatch:
        """Tokenise examples in one call, padded to the longest of them."""
        contexts = [example.context for example in examples if example.context is not None]
        encoding = self.tokenizer(
            [example.text for example in examples],
            contexts or None,
            max_length=self.max_tokens,
            truncation=self.truncation,
            padding=True,
            return_tensors="pt",
            return_attention_mask=True,
        )
        batch = EncodedBatch(encoding["input_ids"], encoding["attention_mask"])
        batch.token_type_ids = encoding.get("token_type_ids")
        batch.encodings = encoding.encodings
        batch.context_tokens = torch.tensor(
            [[part == 1 for part in encoding.sequence_ids(row)] for row in range(len(examples))]
        )
        batch.examples = examples
        return batch

    def adopt(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> EncodedBatch:
        """Return a batch for rows that were encoded elsewhere; segments follow the separators."""
        batch = EncodedBatch(input_ids.cpu(), attention_mask.cpu())
        # No id is -1: a tokenizer without separators has single texts only.
        separator = self.tokenizer.sep_token_id
        separators = batch[0] == (-1 if separator is None else separator)
        in_second = (separators.cumsum(dim=1) - separators.int() == 1) & batch[1].bool()
        batch.context_tokens = in_second & ~separators
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch.token_type_ids = in_second.long()
        return batch

    def run(
        self, model: Any, batch: EncodedBatch, device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        """Return the model's output heads, float32, each of shape (rows, ...)."""
        heads = model(*batch.inputs(device))
        heads = heads.to_tuple() if hasattr(heads, "to_tuple") else heads
        return tuple(head.float() for head in heads)

    @abstractmethod
    def decode(self, heads: tuple[torch.Tensor, ...], batch: EncodedBatch) -> list[Any]:
        """Return the plain answer of each row."""

    def attribution_targets(
        self, target: int | str | None, heads: tuple[torch.Tensor, ...], batch: EncodedBatch
    ) -> list[Target]:
        """Return what to explain for the only row of a batch; no task does unless it says so."""
        raise NotImplementedError

    def boundary_ids(self) -> set[int]:
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


class SequenceClassification(TextTask):
    """One label for a text."""

    auto_model = AutoModelForSequenceClassification
    has_labels = True

    def decode(self, heads: tuple[torch.Tensor, ...], batch: EncodedBatch) -> list[str]:
        """Return the label of the highest logit of each row; logits are (rows, labels)."""
        return [self.labels[index] for index in heads[0].argmax(dim=1).tolist()]

    def attribution_targets(
        self, target: int | str | None, heads: tuple[torch.Tensor, ...], batch: EncodedBatch
    ) -> list[Target]:
        """Return the label asked for, by index or name, else the predicted one."""
        return [Target(head=0, index=self._label_index(target, heads[0][0]))]

    def _label_index(self, target: int | str | None, logits: torch.Tensor) -> int:
        if target is None:
            return int(logits.argmax())
        for index, label in self.labels.items():
            if str(target) in (str(index), label):
                return index
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "UnknownTarget",
            f"Expected target to be one of {dict(self.labels)}, by index or name.",
        )


class TokenClassification(TextTask):
    """A label for each token of a text."""

    auto_model = AutoModelForTokenClassification
    has_labels = True

    def decode(self, heads: tuple[torch.Tensor, ...], batch: EncodedBatch) -> list[list[list[str]]]:
        """Return the text's own `[token, label]` pairs; logits are (rows, tokens, labels)."""
        input_ids, attention_mask = batch
        frame = self.boundary_ids()
        return [
            [
                [self.tokenizer.convert_ids_to_tokens(token_id), self.labels[label]]
                for token_id, used, label in zip(*row, strict=True)
                if used and token_id not in frame
            ]
            for row in zip(
                input_ids.tolist(),
                attention_mask.tolist(),
                heads[0].argmax(dim=2).tolist(),
                strict=True,
            )
        ]


class QuestionAnswering(TextTask):
    """The span of a context that answers a question."""

    auto_model = AutoModelForQuestionAnswering
    truncation = "only_second"

    def parse(self, payload: Any, declared_json: bool, explain: bool) -> Example:
        """Return the example of an object with the fields `question` and `context`."""
        self._check_explanation(explain)
        content = as_fields(payload, declared_json)
        if isinstance(content, str):
            raise _missing_field("question")
        question, context = _text_field(content, "question"), _text_field(content, "context")
        self._check_question(question)
        return Example(question, context, None, explain)

    def _check_question(self, question: str) -> None:
        """Leave room for the context: a question that fills the row cannot be answered."""
        tokens = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        limit = self.max_tokens // 2
        if tokens > limit:
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "TextTooLong",
                f"Expected at most {limit} tokens in question, got {tokens}.",
            )

    def decode(self, heads: tuple[torch.Tensor, ...], batch: EncodedBatch) -> list[str]:
        """Return the best span's text; start and end logits are (rows, tokens)."""
        starts, ends = (head.cpu() for head in heads[:2])
        spans = map(best_span, starts, ends, batch.context_tokens)
        return [self._span_text(batch, row, span) for row, span in enumerate(spans)]

    def _span_text(self, batch: EncodedBatch, row: int, span: tuple[int, int]) -> str:
        context = batch.examples[row].context if batch.examples else None
        if context is None:
            start, end = span
            text: str = self.tokenizer.decode(batch[0][row, start : end + 1])
            return text
        return context[slice(*whole_words(batch.encodings[row], span))]

    def attribution_targets(
        self, target: int | str | None, heads: tuple[torch.Tensor, ...], batch: EncodedBatch
    ) -> list[Target]:
        """Return the start and the end of the predicted answer."""
        start, end = best_span(heads[0][0].cpu(), heads[1][0].cpu(), batch.context_tokens[0])
        return [Target(0, start, "_answer_start"), Target(1, end, "_answer_end")]


class TextGeneration(TextTask):
    """A text that goes on from a prompt."""

    auto_model = AutoModelForCausalLM
    # The new tokens follow the prompt, so its padding goes in front.
    padding_side = "left"

    @property
    def max_tokens(self) -> int:
        """Return the longest prompt that leaves room for the new tokens."""
        positions: int = self.tokenizer.model_max_length
        return min(self.settings.max_length, max(1, positions - self.settings.max_new_tokens))

    def run(
        self, model: Any, batch: EncodedBatch, device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        """Return the prompts and what the model adds greedily, shape (rows, tokens)."""
        input_ids, attention_mask = (tensor.to(device) for tensor in batch)
        generated: torch.Tensor = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=self.settings.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return (generated,)

    def decode(self, heads: tuple[torch.Tensor, ...], batch: EncodedBatch) -> list[str]:
        """Return each prompt with its continuation, as text."""
        texts: list[str] = self.tokenizer.batch_decode(heads[0], skip_special_tokens=True)
        return texts


TASKS: dict[str, type[TextTask]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "text_generation": TextGeneration,
}


def best_span(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    allowed: torch.Tensor,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> tuple[int, int]:
    """Return the first and last token of the most probable answer; all inputs are (tokens,).

    Start and end are scored jointly, both among the `allowed` tokens, the end not before the start
    and the answer at most `max_tokens` long. Devlin et al. 2019, "BERT", section 4.2.
    """
    if not bool(allowed.any()):
        raise RequestError(
            HTTPStatus.BAD_REQUEST, "EmptyContext", "Expected words in context, got none."
        )
    scores = start_logits[:, None] + end_logits[None, :]
    possible = (allowed[:, None] & allowed[None, :]).triu().tril(max_tokens - 1)
    best = int(scores.masked_fill(~possible, -torch.inf).argmax())
    return divmod(best, len(allowed))


def whole_words(encoding: Encoding, span: tuple[int, int]) -> tuple[int, int]:
    """Return the characters, end exclusive, of the words that a span of tokens touches.

    A word is what the model's tokenizer cuts into pieces; the answer "Siber" for "Siberia" helps
    nobody. The question answering pipeline of transformers 4 did the same (`align_to_words`).
    """
    words, (first, last) = encoding.word_ids, span
    while first > 0 and words[first - 1] == words[first]:
        first -= 1
    while last + 1 < len(words) and words[last + 1] == words[last]:
        last += 1
    return encoding.offsets[first][0], encoding.offsets[last][1]


def _text_field(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _missing_field(name)
    return value


def _missing_field(name: str) -> RequestError:
    return RequestError(
        HTTPStatus.BAD_REQUEST,
        "MissingField",
        f"Expected a JSON object with text in the field {name}, got none or something else there.",
    )


def _target_field(fields: Mapping[str, Any]) -> int | str | None:
    target = fields.get("target")
    if target is None or isinstance(target, int | str):
        return target
    raise RequestError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "UnknownTarget",
        "Expected target to be the index or the name of a label.",
    )


def _known_mode(mode: str) -> str:
    if mode not in TASKS:
        raise ValueError(f"expected one of {', '.join(TASKS)}")
    return mode


@dataclass(frozen=True, config=STRICT)
class TextSettings:
    """The `handler` keys of a text archive's YAML."""

    model_name: str = ""
    mode: Annotated[str, AfterValidator(_known_mode)] = "sequence_classification"
    do_lower_case: bool | None = None
    num_labels: int | None = None
    save_mode: Annotated[str, KeyOptions(pattern="^(pretrained|torchscript)$")] = "pretrained"
    max_length: Annotated[int, KeyOptions(ge=8)] = 150
    max_new_tokens: Annotated[int, KeyOptions(ge=1)] = 50
    captum_explanation: bool = False
    n_steps: Annotated[int, KeyOptions(ge=1)] = 50
    embedding_name: str | None = None
    BetterTransformer: bool = False
    model_parallel: bool = False
    dtype: DtypeName = "float32"
    threads: int | None = None
