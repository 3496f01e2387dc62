"""A text that goes on from a prompt."""

import secrets
from collections.abc import Callable, Mapping, Sequence
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

from speechtext.allowance import Work
from speechtext.batching import plan_groups
from speechtext.errors import RequestError
from speechtext.measurements import note_padding, stage
from speechtext.parameters import impossible
from speechtext.text.base import (
    Answer,
    LoadedModel,
    TextTask,
    TokenListener,
    own_tokens,
    write_words,
)
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.payloads import AnswerForm, Example, unknown_target
from speechtext.text.sampling import (
    Continuation,
    GenerationParameters,
    PerRowSampler,
    PerRowStop,
    TokenEvent,
)
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Tokens, Window
from speechtext.text.windows import EncodedBatch

# What asks for sampling where a request says neither that nor the contrary.
SAMPLING = ("temperature", "top_k", "top_p")
# Tokens of prompts and of their continuations that are in memory together, at most, and what a call
# costs beside them, counted in tokens: it has a step for each new one.
MOST_TOKENS, CALL_TOKENS = 32_768, 4096
# Tokens that a model adds when it is tried.
SAMPLE_TOKENS = 8


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
        and `ImpossibleRequestError` for more new tokens than the model or the settings allow.
        """
        wanted = example.parameters.max_new_tokens
        most = min(self.settings.max_new_tokens_limit, self.model.positions - 1)
        if wanted > most:
            raise impossible("parameters.max_new_tokens", f"at most {most}", str(wanted))
        return [self._cut_end(owner, tokens, min(self.max_tokens, self.model.positions - wanted))]

    def answer(self, batch: EncodedBatch, on_token: TokenListener | None = None) -> list[Answer]:
        """Return each prompt with what the model adds to it."""
        found = self._continue_all(batch.windows, batch.examples, on_token)
        with stage("decode"):
            return [
                Answer(
                    self._write(example, each), len(window), len(each.ids), window.dropped_tokens
                )
                for window, example, each in zip(batch.windows, batch.examples, found, strict=True)
            ]

    @torch.inference_mode()
    def _continue_all(
        self,
        prompts: Sequence[Window],
        examples: Sequence[Example],
        on_token: TokenListener | None = None,
    ) -> list[Continuation]:
        """Return the continuation of each prompt, those of like length made together."""
        continuations = [
            self._begin(prompt, example, on_token and partial(on_token, index))
            for index, (prompt, example) in enumerate(zip(prompts, examples, strict=True))
        ]
        new_tokens = [example.parameters.max_new_tokens for example in examples]
        lengths = [len(prompt) + new for prompt, new in zip(prompts, new_tokens, strict=True)]
        most = self.settings.max_batch_tokens or MOST_TOKENS
        for group in plan_groups(lengths, most, CALL_TOKENS):
            self._generate(
                self.pad([prompts[index] for index in group], []),
                [continuations[index] for index in group],
                max(new_tokens[index] for index in group),
            )
        return continuations

    def _begin(
        self, prompt: Window, example: Example, on_token: Callable[[TokenEvent], None] | None
    ) -> Continuation:
        end = self.model.network.generation_config.eos_token_id
        end_ids = [] if end is None else end if isinstance(end, list) else [end]
        ids = prompt.pick(prompt.tokens.ids)
        return Continuation(ids, example.parameters, self.tokenizer, end_ids, on_token)

    def _generate(
        self, batch: EncodedBatch, continuations: Sequence[Continuation], new_tokens: int
    ) -> None:
        """Add up to `new_tokens` to the prompts of a batch, each until its continuation ends."""
        width = batch.input_ids.shape[1]
        starts = [width - len(prompt) for prompt in batch.windows]
        note_padding(width * len(starts), sum(map(len, batch.windows)))
        config = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
        )
        sampler = PerRowSampler(continuations, starts)
        with stage("model"):
            self.model.network.generate(
                **batch.inputs(["input_ids", "attention_mask"], self.model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([PerRowStop(continuations, sampler)]),
            )

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
        found = zip(
            batch.windows, examples, self._continue_all(batch.windows, examples), strict=True
        )
        return [
            self.try_targets(partial(self._choose_targets, prompt, example, each.ids))
            for prompt, example, each in found
        ]

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
