"""A text that goes on from a prompt."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from device_io import Answer
from speechtext.batching import plan_groups
from speechtext.errors import RequestError
from speechtext.measurements import note_padding, note_size, stage
from speechtext.text.base import EVENT_STREAM, LoadedModel, TextTask, answer_row, own_tokens
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.payloads import AnswerForm, Example, impossible, unknown_target
from speechtext.text.sampling import Continuation, GenerationParameters, ReadTokens, WeighTokens
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Row, Tokens
from speechtext.text.windows import EncodedBatch

# What asks for sampling where a request says neither that nor the contrary.
SAMPLING = ("temperature", "top_k", "top_p")
# Tokens of prompts and of their continuations that are in memory together, at most, and what a call
# costs beside them, counted in tokens: it has a step for each new one.
MOST_TOKENS, CALL_TOKENS = 32_768, 4096


class TextGeneration(TextTask):
    """A text that goes on from a prompt, whole or as a stream of its tokens."""

    auto_model = AutoModelForCausalLM
    parameters = GenerationParameters
    # The new tokens follow the prompt, so its padding goes in front; it loses its beginning.
    padding_side = "left"
    as_matrix = True

    def __init__(self, model: LoadedModel, settings: TextSettings) -> None:
        super().__init__(model, settings)
        # What a checkpoint has for defaults, the YAML decides here; its special tokens stay.
        given = model.network.generation_config
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.network.generation_config = GenerationConfig(
            **{name: getattr(given, name) for name in names}
        )

    def default_parameters(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the YAML sets, with a seed where the request has none."""
        settings = self.settings
        return {
            "max_new_tokens": settings.max_new_tokens,
            "do_sample": settings.do_sample or any(given.get(name) for name in SAMPLING),
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "repetition_penalty": settings.repetition_penalty,
            "seed": secrets.randbits(32),
        }

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Row]:
        """Return the prompt, so much of it as leaves room for the new tokens.

        Raises `RequestError` 413 for a longer one where the YAML does not allow to cut it, and 422
        for more new tokens than the model has positions or the YAML allows.
        """
        wanted = example.parameters.max_new_tokens
        most = min(self.settings.max_new_tokens_limit, self.model.positions - 1)
        if wanted > most:
            raise impossible("parameters.max_new_tokens", f"at most {most}", str(wanted))
        return [self._cut_end(owner, tokens, min(self.max_tokens, self.model.positions - wanted))]

    def answer(self, batch: EncodedBatch) -> list[Any]:
        """Return each prompt with what the model adds to it."""
        found = self._continue_all(batch)
        with stage("decode"):
            return [
                self._write(row, example, each)
                for row, example, each in zip(batch.rows, batch.examples, found, strict=True)
            ]

    @torch.inference_mode()
    def _continue_all(self, batch: EncodedBatch) -> list[Continuation]:
        """Return the continuation of each prompt, those of like length made together."""
        lengths = [
            len(row) + example.parameters.max_new_tokens
            for row, example in zip(batch.rows, batch.examples, strict=True)
        ]
        most = self.settings.max_batch_tokens or MOST_TOKENS
        found: dict[int, Continuation] = {}
        for group in plan_groups(lengths, most, CALL_TOKENS):
            rows = [batch.rows[index] for index in group]
            examples = [batch.examples[index] for index in group]
            found.update(zip(group, self._continue(rows, examples), strict=True))
        return [found[index] for index in range(len(lengths))]

    def _continue(self, rows: Sequence[Row], examples: Sequence[Example]) -> list[Continuation]:
        batch = self._batch(rows, examples)
        end = self.model.network.generation_config.eos_token_id
        end_ids = [] if end is None else end if isinstance(end, list) else [end]
        continuations = [
            Continuation(
                row.pick(row.tokens.ids),
                example.parameters,
                self.tokenizer,
                end_ids,
                example.envelope.send,
            )
            for row, example in zip(rows, examples, strict=True)
        ]
        width = batch[0].shape[1]
        starts = [width - len(row) for row in rows]
        note_padding(width * len(rows), sum(map(len, rows)))
        config = GenerationConfig(
            max_new_tokens=max(each.parameters.max_new_tokens for each in examples),
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with stage("model"):
            self.model.network.generate(
                **batch.inputs(["input_ids", "attention_mask"], self.model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([WeighTokens(continuations, starts)]),
                stopping_criteria=StoppingCriteriaList([ReadTokens(continuations)]),
            )
        for example, each in zip(examples, continuations, strict=True):
            note_size(example.envelope.place, "tokens_out", len(each.ids))
        return continuations

    def _write(self, row: Row, example: Example, found: Continuation) -> Any:
        if example.parameters.stream:
            return Answer(found.unsent, EVENT_STREAM)
        before = example.text if example.parameters.return_full_text else ""
        text = before + found.read()
        if example.form is AnswerForm.PLAIN:
            return answer_row(text, row)
        details = {"details": found.details()} if example.parameters.details else {}
        return answer_row([{"generated_text": text, **details}], row)

    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return the tokens that the model adds to each prompt, the first of them."""
        # No more tokens than are explained, and no stream of them.
        most = self.settings.max_explanation_targets
        batch.examples = [
            replace(
                each,
                parameters=replace(
                    each.parameters,
                    max_new_tokens=min(most, each.parameters.max_new_tokens),
                    stream=False,
                ),
            )
            for each in batch.examples
        ]
        found = zip(batch.rows, batch.examples, self._continue_all(batch), strict=True)
        return [
            self.try_targets(partial(self._choose_targets, row, example, each.ids))
            for row, example, each in found
        ]

    def _choose_targets(self, row: Row, example: Example, added: Sequence[int]) -> list[Target]:
        if example.target is not None:
            raise unknown_target("absent: each token that the model adds is explained")
        whole = extend_row(row, added)
        explained = [*own_tokens(row), *[False] * len(added)]
        # The token at a place follows from the one before it.
        vocabulary = self.model.config.get_text_config().vocab_size
        return [
            Target(
                whole,
                0,
                (len(row) + place - 1) * vocabulary + token_id,
                name,
                explained,
                shown=len(row),
                about={"text": self.tokenizer.decode([token_id])},
            )
            for place, (token_id, name) in enumerate(
                zip(added, self.tokenizer.convert_ids_to_tokens(list(added)), strict=True)
            )
        ]

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what each token of the prompt adds to each that follows, as a matrix."""
        return {
            "generated": [each.target.name for each in explained],
            "importances": [each.importances for each in explained],
            "delta": [each.delta for each in explained],
            "n_steps": max((each.n_steps for each in explained), default=0),
        }


def extend_row(row: Row, added: Sequence[int]) -> Row:
    """Return a prompt with the tokens that follow it, which are of no text."""
    ids = [*row.pick(row.tokens.ids), *added]
    rest = len(added)
    tokens = Tokens(
        ids,
        [0] * len(ids),
        [*row.pick(row.tokens.sequences), *[None] * rest],
        [*row.pick(row.tokens.words), *[None] * rest],
        [*row.pick(row.tokens.offsets), *[(0, 0)] * rest],
    )
    return Row(tokens, range(len(ids)), row.owner)
