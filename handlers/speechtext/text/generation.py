"""A text that goes on from a prompt."""

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from speechtext.allowance import Work
from speechtext.errors import MalformedRequestError, RequestError
from speechtext.measurements import stage
from speechtext.parameters import impossible
from speechtext.text.base import (
    Answer,
    TextTask,
    TokenListener,
    own_tokens,
    write_words,
)
from speechtext.text.decoding import Decoder
from speechtext.text.explanation.attribution import Value, value_of_tokens
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.generation_rules import GenerationRules, find_ends
from speechtext.text.payloads import AnswerForm, Content, Example, text_of, unknown_target
from speechtext.text.sampling import (
    Continuation,
    GenerationParameters,
    TokenEvent,
)
from speechtext.text.tokens import Tokens, Window
from speechtext.text.windows import EncodedBatch

# What asks for sampling where a request says neither that nor the contrary.
SAMPLING = ("temperature", "top_k", "top_p")
# Tokens that a model adds when it is tried.
SAMPLE_TOKENS = 8
# Tokens whose logits tell what padding does: that of the prompt's own step, and those behind it.
WATCHED_TOKENS = 3


class WatchedContinuation(Continuation):
    """Keeps the logits of each next token, and goes on with one token whatever they are."""

    def __init__(self, prompt: Sequence[int], tokenizer: Any) -> None:
        super().__init__(prompt, GenerationParameters(max_new_tokens=WATCHED_TOKENS), tokenizer, ())
        # Each of shape (vocabulary,).
        self.logits: list[torch.Tensor] = []

    @property
    def plain(self) -> bool:
        """Tell that the next token is not simply the most probable one."""
        return False

    def weigh(self, logits: torch.Tensor) -> torch.Tensor:
        """Return numbers whose largest is that of the last token, like `logits` (1, vocabulary)."""
        # OpenVINO's are there until the next call.
        self.logits.append(logits[0].to("cpu", copy=True))
        weights = torch.zeros_like(logits)
        weights[0, self.all_ids[-1]] = 1
        return weights


class TextGeneration(TextTask):
    """A text that goes on from a prompt, whole or as a stream of its tokens."""

    auto_model = AutoModelForCausalLM
    parameters = GenerationParameters
    # The new tokens follow the prompt, so its padding goes in front; it loses its beginning.
    padding_side = "left"
    as_matrix = True

    def read_texts(self, content: Content) -> tuple[str, str | None]:
        """Return the prompt of a payload, which may be white space."""
        return text_of(content, may_be_blank=True), None

    def read_target(self, target: Any) -> Any:
        """Return the target, but for a number: it never meant anything of a continuation."""
        return None if type(target) is int else target

    def streams(self, example: Example) -> bool:
        """Tell whether an example is to be answered token by token."""
        return bool(example.parameters.stream)

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

    def sample(self, words: int) -> dict[str, Any]:
        """Return a prompt of so many words, and a few tokens to add."""
        parameters = {"max_new_tokens": SAMPLE_TOKENS, "do_sample": False, "details": True}
        return {"inputs": write_words(words), "parameters": parameters}

    def measure_work(self, example: Example, windows: Sequence[Window]) -> Work:
        """Return the work of going on from a prompt, which is but one window."""
        prompt, added = len(windows[0]), example.parameters.max_new_tokens
        cost_s = prompt * self.costs.token_s + added * self.costs.new_token_s
        return Work(added, f"new tokens after {prompt} of the prompt", cost_s)

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Window]:
        """Return the prompt, so much of it as leaves room for the new tokens.

        Raises `RequestTooLargeError` for a longer one where the settings do not allow to cut it,
        `ImpossibleRequestError` for more new tokens than the model or the settings allow, and
        `MalformedRequestError` for a prompt of which the tokenizer makes nothing.
        """
        if not tokens.ids:
            raise MalformedRequestError(
                "EmptyText", "Expected a prompt of at least one token, got one without tokens."
            )
        wanted = example.parameters.max_new_tokens
        most = min(self.settings.max_new_tokens_limit, self.model.positions - 1)
        if wanted > most:
            raise impossible("parameters.max_new_tokens", f"at most {most}", str(wanted))
        return [self._cut_end(owner, tokens, min(self.max_tokens, self.model.positions - wanted))]

    def answer(self, batch: EncodedBatch, on_token: TokenListener | None = None) -> list[Answer]:
        """Return each prompt with what the model adds to it."""
        found = self._continue_all(batch, on_token)
        return list(map(self.finish, batch.windows, batch.examples, found))

    def finish(self, window: Window, example: Example, row: Continuation) -> Answer:
        """Return the answer to an example whose continuation has ended."""
        with stage("decode"):
            written = self._write(example, row)
        return Answer(written, len(window), len(row.ids), window.dropped_tokens)

    def _continue_all(
        self, batch: EncodedBatch, on_token: TokenListener | None = None
    ) -> list[Continuation]:
        """Return the continuation of each prompt, ended; raises the error of the first that fails.

        Raises `DeadlineError`, too.
        """
        rows = self.begin(batch, on_token)
        _run_to_ends(self.make_decoder(), rows)
        return rows

    def make_decoder(self) -> Decoder:
        """Return what continues prompts together."""
        settings = self.settings
        return Decoder(
            self.model.network,
            self.tokenizer.pad_token_id,
            settings.max_batch_tokens,
            settings.prompt_lookup_num_tokens,
            self.pads,
            self.takes_turns,
        )

    def compute_together(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the logits of tokens that follow each prompt, shape (tokens, vocabulary)."""
        return self._compute(examples, pads=True)

    def compute_by_turns(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the same of prompts that are continued one beside the other, without padding."""
        return self._compute(examples, pads=False)

    def _compute(self, examples: Sequence[Example], pads: bool) -> list[torch.Tensor]:
        rows = [
            WatchedContinuation(window.pick(window.tokens.ids), self.tokenizer)
            for window in self.encode(examples).windows
        ]
        _run_to_ends(Decoder(self.model.network, self.tokenizer.pad_token_id, pads=pads), rows)
        return [torch.stack(row.logits) for row in rows]

    def begin(self, batch: EncodedBatch, on_token: TokenListener | None) -> list[Continuation]:
        """Return the continuation of each prompt of a batch, of which there is nothing yet."""
        prompts = zip(batch.windows, batch.examples, strict=True)
        return [
            self._begin(prompt, example, on_token and partial(on_token, index))
            for index, (prompt, example) in enumerate(prompts)
        ]

    def _begin(
        self,
        prompt: Window,
        example: Example,
        on_token: Callable[[TokenEvent], None] | None = None,
        ruled: GenerationParameters | None = None,
    ) -> Continuation:
        """Return a continuation by the checkpoint's rules for `ruled`, else the example's own."""

        def tell(event: TokenEvent) -> None:
            if on_token is not None:
                on_token(replace(event, dropped_tokens=prompt.dropped_tokens))

        ids = prompt.pick(prompt.tokens.ids)
        return Continuation(
            ids,
            example.parameters,
            self.tokenizer,
            find_ends(self.model.network.generation_config),
            tell,
            self._rules.choose(ruled or example.parameters, len(ids)),
        )

    @cached_property
    def _rules(self) -> GenerationRules:
        """Return what the checkpoint asks of each next token: read when the model is tried."""
        return GenerationRules(self.model.network, self.settings)

    def _write(self, example: Example, found: Continuation) -> Any:
        before = example.text if example.parameters.return_full_text else ""
        text = before + found.read()
        if example.form is AnswerForm.PLAIN:
            return text
        if not example.parameters.details:
            return [{"generated_text": text}]
        tokens = [token._asdict() for token in found.tokens]
        details = {**found.ending()._asdict(), "prefill": [], "tokens": tokens}
        if example.parameters.top_n_tokens:
            details["top_tokens"] = [
                [each._asdict() for each in alternatives] for alternatives in found.top_tokens
            ]
        return [{"generated_text": text, "details": details}]

    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return the tokens that the model adds to each prompt, the first of them."""
        # No more tokens than are explained, and no stream of them.
        most = self.settings.max_explanation_targets
        examples = [
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
        # By the rules of the whole answer, of which only the beginning is explained.
        rows = [
            self._begin(prompt, example, ruled=whole.parameters)
            for prompt, example, whole in zip(batch.windows, examples, batch.examples, strict=True)
        ]
        _run_to_ends(self.make_decoder(), rows)
        return [
            self.try_targets(partial(self._choose_targets, prompt, example, each.ids))
            for prompt, example, each in zip(batch.windows, examples, rows, strict=True)
        ]

    def value_of(self, network: Any, names: Sequence[str]) -> Value:
        """Return the numbers to explain of a model, from no more logits than are asked for."""
        if "logits_to_keep" in inspect.signature(network.forward).parameters:
            return value_of_tokens(network, names, self.model.config.get_text_config().vocab_size)
        return super().value_of(network, names)

    def _choose_targets(
        self, prompt: Window, example: Example, added: Sequence[int]
    ) -> list[Target]:
        if example.target is not None:
            raise unknown_target("absent: each token that the model adds is explained")
        whole = extend_window(prompt, added)
        explained = [*own_tokens(prompt), *[False] * len(added)]
        # The token at a position follows from the one before it.
        vocabulary = self.model.config.get_text_config().vocab_size
        names = self.tokenizer.convert_ids_to_tokens(list(added))
        return [
            Target(
                whole,
                0,
                (len(prompt) + index - 1) * vocabulary + token_id,
                name,
                explained,
                shown=len(prompt),
                about={"text": self.tokenizer.decode([token_id])},
            )
            for index, (token_id, name) in enumerate(zip(added, names, strict=True))
        ]

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what each token of the prompt adds to each that follows, as a matrix."""
        return {
            "generated": [each.target.name for each in explained],
            "importances": [each.importances for each in explained],
            "delta": [each.delta for each in explained],
            "n_steps": max((each.n_steps for each in explained), default=0),
        }


def extend_window(prompt: Window, added: Sequence[int]) -> Window:
    """Return a prompt with the tokens that follow it, which are of no text."""
    ids = [*prompt.pick(prompt.tokens.ids), *added]
    rest = len(added)
    tokens = Tokens(
        ids,
        [0] * len(ids),
        [*prompt.pick(prompt.tokens.sequences), *[None] * rest],
        [*prompt.pick(prompt.tokens.words), *[None] * rest],
        [*prompt.pick(prompt.tokens.offsets), *[(0, 0)] * rest],
    )
    return Window(tokens, range(len(ids)), prompt.owner)


def _run_to_ends(decoder: Decoder, rows: Sequence[Continuation]) -> None:
    """Continue rows to their ends; raises the error of the first that fails, or `DeadlineError`."""
    decoder.add(rows)
    decoder.run()
    for row in rows:
        if row.error is not None:
            raise row.error
